"""Evaluations of other commits, branches, tags and experiments, read as data alone."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import RevError, resolve_rev
from scmrepo.exceptions import SCMError

from tuning.results.dialogue_table import Table, from_csv
from tuning.run.errors import UserError

WORKING_TREE = "workspace"
"""DVC's name for the files as they are now."""
MAX_YAML_LEVELS = 100


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
    Nothing else of it is obeyed: a stranger's branch may hold a ``.dvc/config`` that names servers
    and programs, so files come from git and from the workspace's own cache alone, and nothing is
    fetched.

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
    files = Files(repo, name, _commit(repo, name))
    paths = _paths(name, files.text("dvc.yaml"))
    metrics = _metrics(name, paths.metrics, files.text(paths.metrics))
    try:
        ids, columns = from_csv(files.text(paths.dialogues))
    except ValueError as error:
        raise UserError(f"{paths.dialogues} of {name} cannot be read: {error}.") from None
    if name == WORKING_TREE:
        label = "the working tree"
    else:
        label = name if files.commit.startswith(name) else f"{name} ({files.commit[:7]})"
    samples = files.text_if_there(paths.samples)
    return Evaluation(label, files.commit, metrics, ids, columns, samples)


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


@dataclass(frozen=True)
class Files:
    """The files of one revision: what git has of it, else what ``dvc.lock`` says is in the cache.

    Paths are relative to the folder of ``dvc.yaml``.
    """

    repo: Any
    name: str
    """The revision as it was named."""
    commit: str

    def text(self, path: str) -> str:
        """Read a file; its line ends stay as they are.

        Raises:
            UserError: it is not there, or no UTF-8 text.
        """
        content = self._tracked(path)
        if content is None:
            content = self._cached(path)
        if content is None:
            raise UserError(
                f"{self.name} has no {path} that can be read. Evaluate it first (dvc repro), "
                "commit the result, or name another revision."
            )
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path} of {self.name} is no UTF-8 text.") from None

    def text_if_there(self, path: str | None) -> str | None:
        """Read a file that may be missing, or not be known at all."""
        try:
            return None if path is None else self.text(path)
        except UserError:
            return None

    def _tracked(self, path: str) -> bytes | None:
        root = Path(self.repo.root_dir)
        if self.commit == WORKING_TREE:
            return (root / path).read_bytes() if (root / path).is_file() else None
        top = self.repo.scm.root_dir
        blob = f"{self.commit}:{(root.relative_to(top) / path).as_posix()}"
        found = subprocess.run(["git", "-C", top, "cat-file", "blob", blob], capture_output=True)
        return found.stdout if found.returncode == 0 else None

    def _cached(self, path: str) -> bytes | None:
        lock = (self._tracked("dvc.lock") or b"").decode(errors="replace")
        outs = _below(_parsed(lock), "stages", "eval", "outs")
        for out in outs.value if isinstance(outs, yaml.SequenceNode) else []:
            md5 = _word(_below(out, "md5"))
            if _word(_below(out, "path")) == path and re.fullmatch("[0-9a-f]{32}", md5):
                cached = Path(self.repo.cache.local.oid_to_path(md5))
                return cached.read_bytes() if cached.is_file() else None
        return None


def _parsed(text: str) -> yaml.Node | None:
    """Return YAML as nodes; None where it is none.

    No value is made of them, so aliases of aliases take no more room than their text. Deeper than
    so many levels, libyaml's reader would overflow the stack.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_LEVELS:
                return None
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):
        return None
    return node


def _below(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    """Return what stands under the last of these keys, each within the one before; else None."""
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in pairs if _word(name) == key), None)
    return node


def _word(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _paths(name: str, pipeline: str) -> argparse.Namespace:
    """Find the files that a revision's eval stage writes, by the flags of its command."""
    try:
        words = shlex.split(_word(_below(_parsed(pipeline), "stages", "eval", "cmd")))
    except ValueError:
        words = []
    if not words:
        raise UserError(f"dvc.yaml of {name} has no stage named eval with a command.")
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
        sections = metrics["set"], metrics["tuned"]
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
            "text_sha256) and tuned, of texts and numbers."
        )
    checked: Mapping[str, Any] = metrics
    return checked
