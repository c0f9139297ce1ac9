"""Data files by their names, and patterns of names: on disk and in a repository of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePath

COMPRESSIONS = frozenset({".gz", ".zst"})
LINES = frozenset({".jsonl", ".ndjson"})
DELIMITED = frozenset({".csv", ".tsv"})
COLUMNS = frozenset({".parquet", ".arrow", ".feather"})
DATA = frozenset({".json"}) | LINES | DELIMITED | COLUMNS
WANTED = (
    "wanted .json, .jsonl, .ndjson, .csv, .tsv or a WhatsApp chat's .txt (also with .gz or .zst), "
    ".parquet or .arrow"
)

_RECORDS_OF_A_LIBRARY = frozenset({"dataset_info.json", "dataset_infos.json", "state.json"})
"""Written by Hugging Face's ``datasets`` beside the data, about them."""


def suffix_of(path: PurePath) -> str:
    """The file's suffix without that of a compression: ``.jsonl`` of ``x.jsonl.gz``."""
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return name.suffix.lower()


def is_data(path: PurePath) -> bool:
    """Tell by its name whether a file is one of those that are read."""
    return suffix_of(path) in DATA and path.name not in _RECORDS_OF_A_LIBRARY


def matches(path: PurePath, pattern: str) -> bool:
    """Tell whether a path fits a pattern: ``*`` stays within a name, ``**`` is any folders."""
    return _match(path.parts, [part for part in pattern.split("/") if part not in ("", ".")])


def _match(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    first, *rest = patterns
    if first == "**" and _match(names, rest):
        return True
    if not names:
        return False
    if first == "**":
        return _match(names[1:], patterns)
    return fnmatchcase(names[0], first) and _match(names[1:], rest)
