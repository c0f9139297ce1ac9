"""What the last prep and encode found, held against the parameters of the next run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import islice
from operator import getitem
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tools.preflight.finding import Finding
from tuning.dialogue import LOSS_ON, read_dialogues
from tuning.run.params import PARAMS_FILE, ModelParams, Params
from tuning.run.pipeline import own_stages

TO_ENCODE = ("fetch", "prep", "encode")
"""encode and the stages before it."""
CUTTING = {"encoding.max_length", "encoding.min_context"}
"""Parameters that say how windows are cut, and not what is read in them."""
NUM_READ = 10_000
"""Dialogues that are looked into."""
NUM_NAMED = 5


def check_windows(runs: Sequence[Params]) -> Iterator[Finding]:
    """Find windows that cut off what stands before the targets, as the last encode counted it.

    That holds for the parameters that it ran with, and in part for others that differ only in how
    windows are cut.
    """
    from tuning.encoding.totals import cut_message

    if (found := _last_encode()) is None:
        return
    values, ledger = found
    enough = ledger["max_length_enough"]
    said: set[str] = set()
    for params in runs:
        length, text = params.encoding.max_length, ""
        changed = _changed(values, params)
        if not changed:
            text = cut_message(ledger, length)
        elif changed <= CUTTING and length < enough:
            text = (
                f"more than 2 % of the target tokens are in dialogues of more than {length:,} "
                "tokens, which are cut; encode counts those that do not see the whole turn before "
                f"them. encoding.max_length: {enough} would read all but 2 % of them in one window"
            )
        if text and text not in said:
            said.add(text)
            yield Finding("warning", f"{text}, by the last encode.")


def check_loss_on(runs: Sequence[Params]) -> Iterator[Finding]:
    """Find values of ``encoding.loss_on`` that no turn of the last prep's dialogues has."""
    prepared = Path(own_stages()["prep"]["outs"][0]) / "train.jsonl"
    values = last_values(["prep"])
    if not (prepared.exists() and values):
        return
    dialogues = list(islice(read_dialogues(prepared), NUM_READ))
    has_all = len(dialogues) < NUM_READ
    known = {turn.speaker for each in dialogues for turn in each.turns} | LOSS_ON
    known |= {turn.role for each in dialogues for turn in each.turns if turn.role}
    said: set[str] = set()
    for params in runs:
        loss_on = params.encoding.loss_on
        names = {loss_on} if isinstance(loss_on, str) else {*loss_on}
        for name in sorted(names - known - said) if not _changed(values, params) else ():
            said.add(name)
            some = ", ".join(sorted(known - LOSS_ON)[:NUM_NAMED])
            yield Finding(
                "error" if has_all else "warning",
                f"encoding.loss_on: {name!r} trains no turn of "
                f"{'the' if has_all else f'the first {NUM_READ:,}'} training dialogues; wanted "
                f"auto, all, last, a role, or one of the speakers ({some}, …).",
            )


def _last_encode() -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the parameters that encode and the stages before it last ran with, and its ledger.

    None where encode has not run, or the ledger is not the one that it left then.
    """
    metrics = Path(next(iter(own_stages()["encode"]["metrics"][0])))
    if not metrics.exists():
        return None
    content = metrics.read_bytes()
    written = {"path": str(metrics), "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
    outs = _locked().get("encode", {}).get("outs", [])
    if not any(written.items() <= out.items() for out in outs):
        return None
    ledger = json.loads(content)
    if "max_length_enough" not in ledger:  # an older encode's
        return None
    return last_values(TO_ENCODE), ledger


def _locked() -> dict[str, Any]:
    """Return what dvc.lock says of each stage; nothing where there is none, or one in conflict."""
    try:
        content = Path("dvc.lock").read_text(encoding="utf-8")
        found: dict[str, Any] = YAML(typ="safe", pure=True).load(content)["stages"]
    except (FileNotFoundError, YAMLError, KeyError, TypeError):  # dvc says what it wants
        return {}
    return found


def last_values(stages: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that some stages last ran with, by their keys."""
    values: dict[str, Any] = {}
    for name in stages:
        values |= _locked().get(name, {}).get("params", {}).get(PARAMS_FILE.name, {})
    return values


def is_fetched(model: ModelParams, base: Path | None) -> bool:
    """Return whether a folder holds the model that a run takes, as fetch left it."""
    here = base is not None and (base / "config.json").exists()
    return here and last_values(["fetch"]).get("model") == model.model_dump()


def is_prepared(params: Params) -> bool:
    """Return whether prep ran last with the parameters of a run, and left its ledger."""
    ledger = Path(next(iter(own_stages()["prep"]["metrics"][0])))
    values = last_values(["prep"])
    return ledger.exists() and bool(values) and not _changed(values, params)


def _changed(values: Mapping[str, Any], params: Params) -> set[str]:
    """Return the keys whose values are others now; of ``encoding`` by themselves."""
    now = params.model_dump()
    changed = {
        name for name, value in values.items() if value != reduce(getitem, name.split("."), now)
    }
    if "encoding" in changed:
        changed.remove("encoding")
        sections = (values["encoding"], now["encoding"])
        changed |= {
            f"encoding.{key}"
            for key in sections[0].keys() | sections[1].keys()
            if sections[0].get(key) != sections[1].get(key)
        }
    return changed
