"""Evaluations of other commits, branches, tags and experiments, read as data alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.repo.experiments.utils import exp_refs_by_baseline
from dvc.scm import RevError, resolve_rev
from scmrepo.exceptions import SCMError

from tools.compare.files import WORKING_TREE, Files
from tuning.results.dialogue_table import Table, from_csv
from tuning.run.errors import UserError


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
    params: Mapping[str, str] = field(default_factory=dict)
    """The parameters with which its stages ran, by full key, as ``dvc.lock`` has them; a later
    edit of ``params.yaml`` changes none, and what no stage declares (``runtime``) is not there."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """``metrics/train.json``; empty where there is none."""
    timing: Mapping[str, Any] = field(default_factory=dict)
    """``metrics/timing.json``; empty where there is none."""


def read_evaluations(names: Sequence[str], *, test: bool = False) -> list[Evaluation]:
    """Read each revision's evaluation, or that of its test set; ``workspace`` is the working tree.

    Where the files are is read from the command of that revision's eval (or release) stage in
    ``dvc.yaml``.
    Nothing else of it is obeyed: a stranger's branch may hold a ``.dvc/config`` that names servers
    and programs, so files come from git and from the workspace's own cache alone, and nothing is
    fetched.

    Raises:
        UserError: this is no DVC repository, there is no such revision, or it holds no evaluation
            that can be read.
    """
    with revision_files(names) as revisions:
        return [_read(files, test=test) for files in revisions]


@contextmanager
def revision_files(names: Sequence[str]) -> Iterator[list[Files]]:
    """Open the files of each revision, by the same rules.

    Raises:
        UserError: this is no DVC repository, or there is no such revision.
    """
    with _repository(names) as repo:
        yield [Files(repo, name, _commit(repo, name)) for name in names]


def read_runs(names: Sequence[str]) -> tuple[list[Evaluation], list[str]]:
    """Do as ``read_evaluations``, yet say of each revision without an evaluation why it has none.

    A single name (``HEAD``, where there is none) stands for that commit and all its experiments.

    Raises:
        UserError: this is no DVC repository, or there is no such revision.
    """
    found: list[Evaluation] = []
    reasons: list[str] = []
    with _repository(names) as repo:
        revisions = [(name, _commit(repo, name)) for name in names or ["HEAD"]]
        if len(revisions) == 1:
            revisions += _experiments(repo, revisions[0][1])
        for name, commit in revisions:
            try:
                found.append(_read(Files(repo, name, commit)))
            except UserError as error:
                reasons.append(str(error))
    return found, reasons


@contextmanager
def _repository(names: Sequence[str]) -> Iterator[Any]:
    try:
        with Repo() as repo:
            yield repo
    except NotDvcRepoError:
        raise UserError(
            f"{Path.cwd()} is in no DVC repository; run this in the project's folder."
        ) from None
    except (DvcException, SCMError) as error:
        raise UserError(f"DVC cannot read {', '.join(names)}: {error}") from None


def _experiments(repo: Any, commit: str) -> list[tuple[str, str]]:
    """Return name and commit of each experiment that began at a commit."""
    refs = exp_refs_by_baseline(repo.scm, {commit}).get(commit, [])
    return [(ref.name, repo.scm.get_ref(str(ref))) for ref in refs]


def _read(files: Files, *, test: bool = False) -> Evaluation:
    name = files.name
    paths = _paths_of_test(files) if test else _paths(files)
    metrics = _metrics(name, paths.metrics, files.text(paths.metrics))
    try:
        ids, columns = from_csv(files.text(paths.dialogues))
    except ValueError as error:
        raise UserError(f"{paths.dialogues} of {name} cannot be read: {error}.") from None
    if name == WORKING_TREE:
        label = "the working tree"
    else:
        label = name if files.commit.startswith(name) else f"{name} ({files.commit[:7]})"
    return Evaluation(
        label,
        files.commit,
        metrics,
        ids,
        columns,
        "" if test else files.text_if_there(paths.samples),  # of the test set there are none
        files.params(),
        files.figures_if_there(files.flags("train", "--metrics").metrics),
        files.figures_if_there(paths.timing),
    )


def _commit(repo: Any, name: str) -> str:
    if name == WORKING_TREE:
        return name
    try:
        if ":" in name or "^{" in name:  # git's syntax for a folder or file
            raise RevError(name)
        commit: str = resolve_rev(repo.scm, name)
    except RevError:
        raise UserError(
            f"{name!r} is no commit, branch, tag or experiment of this repository; git log and "
            "dvc exp list show them."
        ) from None
    return commit


def _paths(files: Files) -> argparse.Namespace:
    """Find the files that a revision's eval stage writes, by the flags of its command."""
    paths = files.flags("eval", "--metrics", "--dialogues", "--samples", "--timing")
    if not paths.words:
        raise UserError(f"dvc.yaml of {files.name} has no stage named eval with a command.")
    if paths.metrics is None or paths.dialogues is None:
        raise UserError(
            f"{files.name} is from before evaluations kept their sums per dialogue: the command of "
            "its eval stage has no --metrics and --dialogues."
        )
    return paths


def _paths_of_test(files: Files) -> argparse.Namespace:
    """Find what a revision's release stage writes of the test set."""
    paths = files.flags("release", "--test-metrics", "--test-dialogues")
    if paths.test_metrics is None or paths.test_dialogues is None:
        raise UserError(f"{files.name} is from before there were test sets.")
    files.text(paths.test_metrics)  # which says so if it is not there
    if not files.figures_if_there(paths.test_metrics).get("tuned"):
        raise UserError(
            f"{files.name} has no scores of a test set: set data.test_fraction above 0, run dvc "
            "repro, and commit the result."
        )
    return argparse.Namespace(
        metrics=paths.test_metrics, dialogues=paths.test_dialogues, samples=None, timing=None
    )


def _metrics(name: str, path: str, text: str) -> Mapping[str, Any]:
    try:
        metrics = json.loads(text)
        sections = metrics["set"], metrics["tuned"], metrics.get("base", {})
        complete = "text_sha256" in metrics["set"] and all(
            isinstance(section, dict)
            and not any(isinstance(value, (dict, list)) for value in section.values())
            for section in sections
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        complete = False
    if not complete:
        raise UserError(
            f"{path} of {name} is no evaluation: wanted JSON with the sections set (with a "
            "text_sha256), tuned and base, of texts and numbers."
        )
    checked: Mapping[str, Any] = metrics
    return checked
