"""A fingerprint follows content; what is edited during a run is named and nothing is published."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tuning.run.errors import UserError
from tuning.run.inputs import Inputs

PARAMS = {"seed": 1337, "data": {"path": "x.json", "max_dialogues": None}}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """A file, and a folder with a file in a folder."""
    (tmp_path / "base" / "tokenizer").mkdir(parents=True)
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "tokenizer" / "tokenizer.json").write_text("[]")
    (tmp_path / "mine.json").write_text("hello")
    return [tmp_path / "mine.json", tmp_path / "base"]


def fingerprint(paths: list[Path], params: dict[str, Any] = PARAMS) -> str:
    return Inputs(paths, lambda: params).fingerprint


def test_equal_inputs_have_equal_fingerprints(paths: list[Path]) -> None:
    first = fingerprint(paths)
    assert len(first) == 64
    assert fingerprint(paths) == first
    data = {"max_dialogues": None, "path": "x.json"}
    assert fingerprint(paths, {"data": data, "seed": 1337}) == first


def test_time_stamps_do_not_count(paths: list[Path]) -> None:
    first = fingerprint(paths)
    os.utime(paths[0], (0, 0))
    os.utime(paths[1], (0, 0))
    (paths[1] / "config.json").write_text("{}")
    assert fingerprint(paths) == first


@pytest.mark.parametrize(
    "edit",
    [
        lambda tmp: (tmp / "mine.json").write_text("hallo"),
        lambda tmp: (tmp / "mine.json").unlink(),
        lambda tmp: (tmp / "base" / "tokenizer" / "tokenizer.json").write_text("{}"),
        lambda tmp: (tmp / "base" / "tokenizer" / "new").touch(),
        lambda tmp: (tmp / "base" / "config.json").rename(tmp / "base" / "config2.json"),
    ],
)
def test_content_names_and_new_files_count(paths: list[Path], tmp_path: Path, edit: Any) -> None:
    first = fingerprint(paths)
    edit(tmp_path)
    assert fingerprint(paths) != first


@pytest.mark.parametrize(
    "params",
    [
        {**PARAMS, "seed": 1338},
        {**PARAMS, "data": {"path": "x.json", "max_dialogues": 10}},
        {**PARAMS, "more": 1},
        {"seed": 1337},
    ],
)
def test_parameters_count(paths: list[Path], params: dict[str, Any]) -> None:
    assert fingerprint(paths, params) != fingerprint(paths)


def test_the_code_counts() -> None:
    """These tests have loaded ``tuning.run.inputs``; a stage loads all that it runs."""
    source = Path(__file__).parents[2] / "tuning" / "run" / "inputs.py"
    inputs = Inputs([], dict)
    assert inputs.fingerprint == Inputs([source], dict).fingerprint
    assert inputs.fingerprint != Inputs([source.parents[2] / "params.yaml"], dict).fingerprint


def test_a_clone_elsewhere_has_the_same_fingerprint(tmp_path: Path) -> None:
    """A queued experiment runs in a copy of the project, and continues what was begun here."""
    root = Path(__file__).parents[2]
    clone = tmp_path / "clone"
    shutil.copytree(root / "tuning", clone / "tuning", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "params.yaml", clone)
    program = (
        "from pathlib import Path; from tuning.run.inputs import Inputs;"
        "print(Inputs([Path('params.yaml'), Path('params.yaml').absolute()], dict).fingerprint)"
    )
    here, there = (
        subprocess.run(
            [sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, check=True
        ).stdout
        for folder in (root, clone)
    )
    assert here == there


def test_nothing_changed_is_no_error(paths: list[Path]) -> None:
    inputs = Inputs(paths, lambda: PARAMS)
    os.utime(paths[0], (0, 0))
    inputs.check_unchanged()


def test_a_check_names_all_that_changed_and_nothing_else(paths: list[Path]) -> None:
    params = dict(PARAMS)
    inputs = Inputs(paths, lambda: params)
    before = inputs.fingerprint
    params["seed"] = 1
    paths[0].write_text("hallo")
    (paths[1] / "config.json").unlink()
    (paths[1] / "new.json").touch()
    with pytest.raises(UserError) as caught:
        inputs.check_unchanged()
    names = [paths[0], paths[1] / "config.json", paths[1] / "new.json", "parameter seed"]
    found = str(caught.value).removeprefix("changed while this stage ran: ").split(". Nothing was")
    assert sorted(found[0].split(", ")) == sorted(map(str, names))
    assert inputs.fingerprint == before


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a device"])
def test_what_has_no_end_is_refused(paths: list[Path], kind: str) -> None:
    file = paths[1] / "x"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        os.mknod(file, stat.S_IFSOCK)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="base/x: wanted a file to read, found a pipe, a socket or"):
        fingerprint(paths)
