"""A path of data, an id, an override: nothing that they hold is run by a shell or by make."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.corpora import as_record, generated
from tests.pipeline.test_pipeline import ROOT, Repository, copy_project
from tuning.run.pipeline import own_stages

NAME = (
    """it's "my" chats (1) [x] {y} $(touch RUN) `touch RUN` ${seed} $HOME ;touch RUN; & | > RUN é"""
)


def test_no_command_holds_a_parameter() -> None:
    commands = {name: stage["cmd"] for name, stage in own_stages().items()}
    inserted = {name for cmd in commands.values() for name in re.findall(r"\$\{(.*?)\}", cmd)}
    assert inserted == {"item", "key"}  # of dvc.yaml's own list


@pytest.mark.parametrize("is_folder", [False, True])
def test_dvc_reads_data_whatever_its_path_is(tmp_path: Path, is_folder: bool) -> None:
    repository = Repository(tmp_path / "clone")
    copy_project(repository.path, ["hello"] * 9)
    path = repository.path / "data" / NAME / f"{NAME}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(json.dumps(as_record(dialogue)) for dialogue in generated(12)))
    data = path.parent if is_folder else path
    repository.change(
        "data", path=str(data.relative_to(repository.path)), max_dialogues=None, min_turns=1
    )
    repository.run("git", "init", "--quiet")
    assert repository.repro("prep") == ["prep"]
    assert repository.json("metrics/prep.json")["num_dialogues"]["input"] == 12
    assert repository.repro("prep") == []
    assert not list(repository.path.rglob("RUN"))


@pytest.mark.parametrize("value", [NAME, "$(shell touch RUN)", "x$(error RUN)", "a=1;touch RUN"])
def test_make_hands_on_what_was_typed(tmp_path: Path, value: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    setup = tmp_path / "setup.sh"
    setup.write_text("#!/bin/sh\n")
    for script in (python, setup):
        script.chmod(0o755)

    def said(*arguments: str) -> list[str]:
        made = subprocess.run(
            ["make", "--silent", *arguments],
            cwd=tmp_path,
            env=os.environ | {"TUNING_VENV": str(tmp_path / "venv")},
            capture_output=True,
            text=True,
            check=True,
        )
        return made.stdout.splitlines()

    assert said("show", f"ID={value}")[-2:] == ["--", value]
    assert said("preflight", f"S={value}")[-1 - len(value.split()) :] == ["-S", *value.split()]
    assert said("preflight")[-1] == "models/base"
    subprocess.run(
        ["make", "--just-print", "test"],
        cwd=tmp_path,
        env=os.environ | {"THOROUGH": value},
        capture_output=True,
        check=True,
    )
    assert not (tmp_path / "RUN").exists()
