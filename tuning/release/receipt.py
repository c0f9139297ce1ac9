"""The receipt of a model: SHA-256 hashes of what it was made from, and of its own files.

The receipt holds nothing that differs between two equal runs (no time, host, path outside the
project, or commit: those are in ``metrics/timing.json``), so equal runs give equal receipts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuning.run.errors import UserError
from tuning.run.files import flattened, raise_if_no_file, sha256_of
from tuning.run.pipeline import CODE, CODE_SUFFIXES, ROOT

RECEIPT = "receipt.json"
VERSION = 2
_SECTIONS = ("files", "inputs", "code", "params", "run", "prompts")


def make_receipt(
    model: Path,
    inputs: Iterable[Path],
    params: Mapping[str, Any],
    run: Mapping[str, Any],
    prompts: Mapping[str, Any],
) -> dict[str, Any]:
    """The receipt of a model folder that is otherwise complete.

    Args:
        model: Folder of which every file but the receipt is hashed.
        inputs: Files, and folders with all files below them, relative to the project.
        params: Nested sections of parameters.
        run: Facts of the machine and the libraries, as far as they can change a result.
        prompts: What engines are fed, against what was trained.
    """
    return {
        "version": VERSION,
        "files": hashes_below(model, but=RECEIPT),
        "inputs": {name: sha256 for path in inputs for name, sha256 in _hashes(path)},
        "code": code_hashes(),
        "params": flattened(params, "."),
        "run": dict(run),
        "prompts": dict(prompts),
    }


def differences(model: Path, params: Mapping[str, Any]) -> list[str]:
    """List, one line each, the entries of a model's receipt that do not hold here and now.

    Raises:
        UserError: the folder has no receipt, or one that cannot be read.
    """
    receipt = read_receipt(model)
    found = {name: sha256_of(Path(name)) for name in receipt["inputs"] if Path(name).is_file()}
    return [
        *compare_entries("model file", receipt["files"], hashes_below(model, but=RECEIPT)),
        *compare_entries("input", receipt["inputs"], found),
        *compare_entries("code", receipt["code"], code_hashes()),
        *compare_entries("parameter", receipt["params"], flattened(params, ".")),
    ]


def hashes_below(folder: Path, *, but: str = "") -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it."""
    return {
        file.relative_to(folder).as_posix(): sha256_of(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.relative_to(folder).as_posix() != but
    }


def code_hashes() -> dict[str, str]:
    """SHA-256 of each module and template that can change a result."""
    files = sorted(file for folder in CODE for file in (ROOT / folder).rglob("*"))
    return {
        file.relative_to(ROOT).as_posix(): sha256_of(file)
        for file in files
        if file.suffix in CODE_SUFFIXES
    }


def _hashes(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_dir():
        yield path.as_posix(), sha256_of(path)
        return
    for name, sha256 in hashes_below(path).items():
        yield (path / name).as_posix(), sha256


def read_receipt(model: Path) -> dict[str, Any]:
    """Return the receipt of a model folder.

    Raises:
        UserError: the folder has no receipt, or one that cannot be read.
    """
    path = model / RECEIPT
    raise_if_no_file(path)
    try:
        receipt: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there: that folder was not made by this pipeline, or only in part. Get "
            "it with dvc pull, or make it with dvc repro."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no receipt: {error}. Get it again with dvc checkout.") from None
    if not isinstance(receipt, dict) or receipt.get("version") != VERSION:
        raise UserError(
            f"{path} is no receipt of version {VERSION}; use the code of the commit that made it."
        )
    if missing := [name for name in _SECTIONS if not isinstance(receipt.get(name), dict)]:
        raise UserError(
            f"{path} is no receipt: it has no {', '.join(missing)}. Get it again with dvc checkout."
        )
    return receipt


def compare_entries(
    kind: str, recorded: Mapping[str, Any], found: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a line per name that is not the same on both sides."""
    for name in sorted(recorded.keys() | found.keys()):
        if name not in recorded:
            yield f"{kind} {name}: not in the receipt"
        elif name not in found:
            yield f"{kind} {name}: not here"
        elif recorded[name] != found[name]:
            then, now = (_abbreviated(values[name]) for values in (recorded, found))
            yield f"{kind} {name}: was {then}, is {now}"


def _abbreviated(value: Any) -> str:
    """Return a value as JSON, or the beginning of a SHA-256."""
    text = json.dumps(value)
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else text
