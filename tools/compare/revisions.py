"""Evaluations of other commits, branches, tags and experiments, read through DVC."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import RevError
from scmrepo.exceptions import SCMError

from tuning.results.dialogue_table import Table, from_csv
from tuning.run.errors import UserError
from tuning.run.pipeline import read_stages

WORKING_TREE = "workspace"
"""DVC's name for the files as they are now."""


@dataclass(frozen=True)
class Evaluation:
    """The files that one revision's evaluation left behind."""

    label: str
    """The revision as it was named, with its commit."""
    commit: str
    metrics: Mapping[str, Any]
    """``metrics/eval.json``."""
    dialogue_ids: Sequence[str]
    table: Table
    """Sums per dialogue, in the order of the ids."""
    samples: str | None
    """Continued dialogues in Markdown, if DVC's cache has them."""


def read_evaluations(names: Sequence[str]) -> list[Evaluation]:
    """Read the evaluation of each revision; ``workspace`` is the working tree.

    Where the files are is read from the command of that revision's eval stage in ``dvc.yaml``.

    Raises:
        UserError: this is no DVC repository, there is no such revision, or it holds no evaluation
            that can be read.
    """
    try:
        with Repo() as repo:
            return [_read(repo, name) for name in names]
    except NotDvcRepoError:
        raise UserError(
            f"{Path.cwd()} is in no DVC repository; run this in the project's folder."
        ) from None
    except (DvcException, SCMError) as error:
        raise UserError(f"DVC cannot read {', '.join(names)}: {error}") from None


def _read(repo: Any, name: str) -> Evaluation:
    try:
        if ":" in name or "^{" in name:  # git's syntax for a folder or file, which DVC trips over
            raise RevError(name)
        with repo.switch(name) as commit:
            paths = _paths(name, _text(repo, name, "dvc.yaml"))
            metrics = _metrics(name, paths.metrics, _text(repo, name, paths.metrics))
            table = _text(repo, name, paths.dialogues)
            samples = _text_if_there(repo, paths.samples)
    except RevError:
        raise UserError(
            f"{name!r} is no commit, branch, tag or experiment of this repository; git log and "
            "dvc exp list show them."
        ) from None
    try:
        ids, columns = from_csv(table)
    except ValueError as error:
        raise UserError(f"{paths.dialogues} of {name} cannot be read: {error}.") from None
    if name == WORKING_TREE:
        label = "the working tree"
    else:
        label = name if commit.startswith(name) else f"{name} ({commit[:7]})"
    return Evaluation(label, commit, metrics, ids, columns, samples)


def _text(repo: Any, name: str, path: str) -> str:
    """Read a file from the repository or DVC's cache; its line ends stay as they are."""
    try:
        content: bytes = repo.dvcfs.read_bytes(f"/{path}")
        return content.decode("utf-8")
    except (OSError, DvcException):
        raise UserError(
            f"{name} has no {path} that can be read. Evaluate it first (dvc repro), commit the "
            "result, or name another revision."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} of {name} is no UTF-8 text.") from None


def _text_if_there(repo: Any, path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return _text(repo, "", path)
    except UserError:
        return None


def _paths(name: str, pipeline: str) -> argparse.Namespace:
    """Find the files that a revision's eval stage writes, by the flags of its command."""
    try:
        words = shlex.split(read_stages(pipeline)["eval"]["cmd"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"dvc.yaml of {name} has no stage named eval with a command.") from None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--metrics", "--dialogues", "--samples"):
        parser.add_argument(option, nargs="?")
    paths, _ = parser.parse_known_args(words)
    if paths.metrics is None or paths.dialogues is None:
        raise UserError(
            f"{name} is from before evaluations kept their sums per dialogue: the command of its "
            "eval stage has no --metrics and --dialogues."
        )
    return paths


def _metrics(name: str, path: str, text: str) -> Mapping[str, Any]:
    try:
        metrics = json.loads(text)
        complete = "text_sha256" in metrics["set"] and isinstance(metrics["tuned"], dict)
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise UserError(
            f"{path} of {name} is no evaluation: wanted JSON with the sections set (with a "
            "text_sha256) and tuned."
        )
    checked: Mapping[str, Any] = metrics
    return checked
