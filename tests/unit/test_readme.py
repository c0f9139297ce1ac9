"""The tables are true: every parameter, in docs/; every file, in the README."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tools.parameters import NAMED, as_markdown
from tuning.run.files import flattened

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PARAMETERS = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")


def test_every_parameter_is_listed_with_its_default() -> None:
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    expected = flattened(params, ".")
    listed = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", PARAMETERS, re.MULTILINE))
    found = {
        key: YAML(typ="safe", pure=True).load(value)
        for key, value in listed.items()
        if NAMED not in key
    }
    assert found == expected


def test_the_page_of_parameters_is_what_make_docs_makes() -> None:
    assert as_markdown() == PARAMETERS, "run make docs"


@pytest.mark.parametrize(
    ("key", "allowed", "reruns"),
    [
        ("seed", "whole number ≥ 0, < 4,294,967,296", "train, score, eval, release"),
        ("data.on_invalid", "`error`, `skip`", "prep, encode, release"),
        ("data.hub", "names, each with the keys below", "fetch, prep, release"),
        ("data.sources.NAME.files", "list of text", "prep, release"),
        ("data.sources.NAME.columns", "keys as of `data.columns` or `null`", "prep, release"),
        ("encoding.max_length", "whole number ≥ 16", "encode, train, release"),
        ("encoding.loss_on", "text or list of text", "encode, score, eval, release"),
        ("train.lora.rank", "whole number ≥ 1 or `null`", "train, release"),
        ("score.top_p", "number > 0, ≤ 1", "score, eval, release"),
        ("eval.relevance", "`true`, `false`", "eval, release"),
        ("runtime.shard_model", "`true`, `false`", "–"),
    ],
)
def test_a_row_says_what_is_allowed_and_what_a_change_reruns(
    key: str, allowed: str, reruns: str
) -> None:
    (line,) = (line for line in PARAMETERS.splitlines() if line.startswith(f"| `{key}` |"))
    cells = line.strip("| ").split(" | ")
    assert (cells[2], cells[4]) == (allowed, reruns)


def test_every_file_is_listed_and_every_listed_file_exists() -> None:
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    table = README[README.index("## Files") :]
    first_cells = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    listed = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    covered = {name for name in files if any(name == e or name.startswith(e) for e in listed)}
    own = {name for name in files if not name.endswith("/__init__.py")}
    assert own - covered == set()
    assert {entry for entry in listed if not (ROOT / entry).exists()} == set()


def test_a_clone_brings_the_base_models_scores_of_the_committed_run() -> None:
    """The one object of the remote ``shipped``, by the hash that ``dvc.lock`` has."""
    lock = YAML(typ="safe").load(ROOT / "dvc.lock")
    (out,) = lock["stages"]["score@base"]["outs"]
    (file,) = [path for path in (ROOT / "shipped").rglob("*") if path.is_file()]
    assert file.parent.name + file.name == out["md5"]
    assert hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == out["md5"]
    assert b"shipped" in (ROOT / ".dvc/config").read_bytes()
