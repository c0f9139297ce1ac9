"""The files of one revision, read as data alone: from git, or from DVC's cache by its lock."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tuning.run.errors import UserError

WORKING_TREE = "workspace"
"""DVC's name for the files as they are now."""
MAX_YAML_LEVELS = 100


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
                f"{self.name} has no {path} that can be read, in git or in DVC's cache here. "
                "Evaluate it first (dvc repro) and commit the result, bring its files (dvc pull), "
                "or name another revision."
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

    def figures_if_there(self, path: str | None) -> Mapping[str, Any]:
        """Read figures in JSON; a file that is missing or holds something else has none."""
        try:
            figures = json.loads(self.text_if_there(path) or "{}")
        except (ValueError, RecursionError):
            return {}
        return figures if isinstance(figures, dict) else {}

    def params(self) -> dict[str, str]:
        """Return the parameters of all stages that an evaluation rests on, by full key."""
        found: dict[str, str] = {}
        stages = _below(self._lock, "stages")
        for name, stage in stages.value if isinstance(stages, yaml.MappingNode) else []:
            files = _below(stage, "params")
            if _word(name) != "release" and isinstance(files, yaml.MappingNode):
                for _, values in files.value:
                    found |= dict(_flattened(values, set()))
        return found

    def flags(self, stage: str, *options: str) -> argparse.Namespace:
        """Return the values of options in a stage's command (None: it has none), and its words."""
        try:
            words = shlex.split(_word(_below(self._pipeline, "stages", stage, "cmd")))
        except ValueError:
            words = []
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for option in options:
            parser.add_argument(option, nargs="?")
        return parser.parse_known_args(words, argparse.Namespace(words=words))[0]

    @cached_property
    def _pipeline(self) -> yaml.Node | None:
        return _parsed(self.text("dvc.yaml"))

    @cached_property
    def _lock(self) -> yaml.Node | None:
        return _parsed((self._tracked("dvc.lock") or b"").decode(errors="replace"))

    def _tracked(self, path: str) -> bytes | None:
        root = Path(self.repo.root_dir)
        if self.commit == WORKING_TREE:
            return (root / path).read_bytes() if (root / path).is_file() else None
        top = self.repo.scm.root_dir
        blob = f"{self.commit}:{(root.relative_to(top) / path).as_posix()}"
        found = subprocess.run(["git", "-C", top, "cat-file", "blob", blob], capture_output=True)
        return found.stdout if found.returncode == 0 else None

    def _cached(self, path: str) -> bytes | None:
        """Read what evaluation or release wrote, or evaluation was made from."""
        for stage, kind in (("eval", "outs"), ("release", "outs"), ("eval", "deps")):
            files = _below(self._lock, "stages", stage, kind)
            for file in files.value if isinstance(files, yaml.SequenceNode) else []:
                md5 = _word(_below(file, "md5"))
                if _word(_below(file, "path")) == path and re.fullmatch("[0-9a-f]{32}", md5):
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


def _flattened(node: yaml.Node, seen: set[int], name: str = "") -> Iterator[tuple[str, str]]:
    """Yield what stands below a node by full key; numbers that are equal have one spelling.

    A node that an alias names again is passed over: DVC writes none, and aliases of aliases would
    have no end.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in node.value:
            yield from _flattened(value, seen, f"{name}.{_word(key)}" if name else _word(key))
    elif isinstance(node, yaml.SequenceNode):
        items = (_flattened(item, seen) for item in node.value)
        texts = [f"{key}: {text}" if key else text for item in items for key, text in item]
        yield name, f"[{', '.join(texts)}]"
    else:
        yield name, _value(node)


def _value(node: yaml.Node) -> str:
    text = "{}" if isinstance(node, yaml.MappingNode) else _word(node)
    if not isinstance(node, yaml.ScalarNode) or node.style:  # in quotes: text
        return text
    for kind in (int, float):
        with suppress(ValueError):
            return repr(kind(text))
    return "null" if text in ("", "~") else text
