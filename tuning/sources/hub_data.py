"""A data set of the hub: which of its files a config and a split are, by the hub's conventions.

Where the README's header lists ``configs`` with ``data_files``, it decides; else names do, as in
``data/train-00000-of-00002.parquet``, ``german/test.jsonl`` or ``train/part-1.json``.
https://huggingface.co/docs/hub/datasets-data-files-configuration
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from tuning.data_names import WANTED, is_data, matches
from tuning.run.errors import UserError
from tuning.run.params import HubParams
from tuning.sources.hub import HUB_ID, Repository, checked_commit

_CARD: Final = "README.md"
_SHARD: Final = re.compile(r"(.+?)-\d{5,}-of-\d{5,}")
_SPLIT_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words in names that tell a split."""
_MAX_SHOWN: Final = 8
_OR_FILES: Final = "Name its files by patterns instead: files: ['data/*.parquet']."


def hub_repository(key: str, asked: HubParams) -> Repository:
    """The repository that an entry of ``data.hub`` names.

    Raises:
        UserError: its name or its revision cannot be one.
    """
    if not HUB_ID.fullmatch(asked.name):
        raise UserError(
            f"{key}.name: found {asked.name!r}; wanted owner/name, such as "
            "HuggingFaceH4/ultrachat_200k, as the data set's page has it."
        )
    return Repository(
        kind="dataset",
        name=asked.name,
        revision=checked_commit(asked.revision, asked.name, key),
        key=key,
        instead=f"bring its files yourself, take {key} out and set data.path to them",
    )


def fetch_data_set(repository: Repository, asked: HubParams, folder: Path) -> list[str]:
    """Download exactly the files that were asked for into ``folder``; their names.

    Raises:
        UserError: there are none, or not in a form that is read, or the hub does not give them.
    """
    try:
        names = chosen_files(sorted(repository.files), _header(repository, asked), asked)
        if unread := [name for name in names if not is_data(PurePosixPath(name))]:
            raise ValueError(f"{_listed(unread)}: not in a form that is read; {WANTED}.")
    except ValueError as error:
        raise UserError(f"{repository.title} ({repository.key}): {error}") from None
    repository.download([escape(name) for name in names], folder)
    return names


def _header(repository: Repository, asked: HubParams) -> Mapping[str, Any]:
    """The YAML at the beginning of the README; nothing where files are named."""
    if asked.files is not None or _CARD not in repository.files:
        return {}
    with TemporaryDirectory() as temporary:
        repository.download([_CARD], Path(temporary))
        try:
            return metadata_load(Path(temporary) / _CARD) or {}
        except (ValueError, YAMLError):
            raise ValueError(
                f"the header of its {_CARD} is no YAML, so its splits are not known. {_OR_FILES}"
            ) from None


def chosen_files(names: Sequence[str], header: Mapping[str, Any], asked: HubParams) -> list[str]:
    """Return which of a repository's files were asked for, sorted.

    Args:
        names: All its files.
        header: The YAML at the beginning of its README.
        asked: A config and a split, or patterns.

    Raises:
        ValueError: none are what was asked for; the message says what there is.
    """
    if asked.files is not None:
        of_pattern = {pattern: _fitting(names, [pattern]) for pattern in asked.files}
        if nothing := [pattern for pattern, found in of_pattern.items() if not found]:
            raise ValueError(f"no file fits {_listed(nothing)}; there are {_listed(names)}.")
        return sorted({name for found in of_pattern.values() for name in found})
    config, splits, others = _splits(names, header, asked.config)
    where = f"config {config!r}" if config else "the data set"
    if asked.split is None:
        chosen = {*others, *(name for found in splits.values() for name in found)}
    elif asked.split in splits:
        chosen = {*splits[asked.split]}
    else:
        there = f"its splits: {', '.join(splits)}" if splits else f"there are {_listed(names)}"
        raise ValueError(f"{where} has no split {asked.split!r}; {there}. {_OR_FILES}")
    if not chosen:
        raise ValueError(f"{where} has no data file; there are {_listed(names)}. {_OR_FILES}")
    return sorted(chosen)


def _splits(
    names: Sequence[str], header: Mapping[str, Any], config: str | None
) -> tuple[str | None, dict[str, list[str]], list[str]]:
    """The config's name, its files by split, and its data files that no split claims."""
    entries = header.get("configs")
    listed = {
        str(entry["config_name"]): entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and "config_name" in entry
    }
    if not listed:
        below = [name for name in names if config is None or config in name.split("/")[:-1]]
        if not below:
            raise ValueError(
                f"no config {config!r}: its {_CARD} lists none, and no file is in a folder of that "
                f"name; there are {_listed(names)}. {_OR_FILES}"
            )
        return config, *_splits_by_name(below)
    if config is None:
        config = next((n for n, entry in listed.items() if entry.get("default") is True), None)
        config = config or ("default" if "default" in listed else None)
        if config is None and len(listed) > 1:
            raise ValueError(f"config: wanted one of {', '.join(listed)}; found null.")
        config = config or next(iter(listed))
    if config not in listed:
        raise ValueError(f"no config {config!r}; there are {', '.join(listed)}.")
    folder = str(listed[config].get("data_dir") or "").strip("/")
    files = listed[config].get("data_files")
    if not files:
        below = [n for n in names if not folder or n.startswith(f"{folder}/")]
        return config, *_splits_by_name(below)
    splits = {
        split: _fitting(names, [f"{folder}/{pattern}" for pattern in patterns])
        for split, patterns in _patterns(files)
    }
    return config, {split: found for split, found in splits.items() if found}, []


def _patterns(files: Any) -> Iterator[tuple[str, list[str]]]:
    """Each split that a header lists, with the patterns of its files."""
    if isinstance(files, dict):
        pairs: Iterable[tuple[Any, Any]] = files.items()
    elif isinstance(files, list) and files and all(isinstance(item, dict) for item in files):
        pairs = [(item.get("split", "train"), item.get("path")) for item in files]
    else:
        pairs = [("train", files)]
    for split, paths in pairs:
        yield str(split), [str(path) for path in (paths if isinstance(paths, list) else [paths])]


def _splits_by_name(names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Data files by the split that each one's name tells; all are ``train`` if none tells any."""
    data = [name for name in names if is_data(PurePosixPath(name))]
    splits: dict[str, list[str]] = {}
    others = []
    for name in data:
        if split := _split_told(name):
            splits.setdefault(split, []).append(name)
        else:
            others.append(name)
    return (splits, others) if splits or not others else ({"train": others}, [])


def _split_told(name: str) -> str | None:
    """``train_sft`` of ``data/train_sft-00000-of-00003.parquet``; else the last word that tells."""
    path = PurePosixPath(name)
    shard = _SHARD.match(path.name)
    if shard and (path.parent.name == "data" or _split_words(shard[1])):
        return _SPLIT_WORDS.get(shard[1], shard[1])
    return next(reversed(_split_words(name)), None)


def _split_words(name: str) -> list[str]:
    """The splits that words of a name tell, in their order."""
    words = re.split("[^a-z]+", name.lower())
    return [_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS]


def _fitting(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [n for n in names if any(matches(PurePosixPath(n), pattern) for pattern in patterns)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN:,} more" if len(names) > _MAX_SHOWN else ""
    return (", ".join(names[:_MAX_SHOWN]) or "no files") + more
