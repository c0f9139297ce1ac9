"""What ``dvc repro`` is going to run: a line per stage, with the time that it took last."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from ruamel.yaml import YAML

from tools.preflight.last_run import last_values
from tuning.run.params import PARAMS_FILE
from tuning.run.pipeline import own_stages
from tuning.run.process import run_stage
from tuning.run.timing import read_timing

NUM_NAMED = 2
"""Parameters and data that a line names."""


@dataclass(frozen=True)
class Upcoming:
    """A stage that is going to run."""

    name: str
    others: tuple[str, ...]
    """Its parameters and data that are others than the last time."""
    may_differ: bool
    """Whether it may write something else than the last time."""


def upcoming() -> list[Upcoming]:
    """Return the stages that dvc is going to run, in order.

    One that runs because its outputs are not here writes the same again, so nothing follows from
    that alone.

    Raises:
        DvcException: dvc cannot tell, so it could not run them either.
    """
    with Repo() as repo:
        graph, status = repo.index.graph, repo.status()
        written = {out.def_path for stage in graph if stage.cmd for out in stage.outs}
        found: dict[Any, Upcoming] = {}
        for stage in plan_repro(graph):
            changes = status.get(stage.addressing, [])
            follows = any(each in found and found[each].may_differ for each in graph[stage])
            differs = follows or any(_differs(change, written) for change in changes)
            if stage.cmd and (differs or any(_lacks_outputs(change) for change in changes)):
                others = _others(stage.name, changes, written)
                found[stage] = Upcoming(stage.name, others, differs)
        return [*found.values()]


def _differs(change: Any, written: Collection[str]) -> bool:
    """Tell whether it is another command, or something to read that is other, or gone for good."""
    if not isinstance(change, Mapping):
        return True
    deps = change.get("changed deps", {})
    return any(how != "deleted" or not _is_in(path, written) for path, how in deps.items())


def _is_in(path: str, written: Collection[str]) -> bool:
    """Tell whether a path is an output, or a file of one that is a folder."""
    return any(Path(path).is_relative_to(out) for out in written)


def _lacks_outputs(change: Any) -> bool:
    return isinstance(change, Mapping) and "changed outs" in change


def _others(name: str, changes: Sequence[Any], written: Collection[str]) -> tuple[str, ...]:
    """Return the parameters and the data among what dvc finds changed of a stage."""
    known = {*own_stages()[name.partition("@")[0]]["deps"], *written, PARAMS_FILE.name}
    deps: dict[str, Any] = {}
    for change in changes:
        deps |= change.get("changed deps", {}) if isinstance(change, Mapping) else {}
    before = last_values([name])
    now = YAML(typ="safe", pure=True).load(PARAMS_FILE)
    keys = [
        leaf
        for key in deps.get(PARAMS_FILE.name, {})
        for leaf in _other_keys(key, before.get(key), _value(now, key))
    ]
    return (*keys, *(path for path in deps if path not in known))


def _other_keys(key: str, before: Any, now: Any) -> list[str]:
    """Return the innermost keys of which the values differ."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [key] if before != now else []
    names = dict.fromkeys([*before, *now])
    return [
        leaf
        for name in names
        for leaf in _other_keys(f"{key}.{name}", before.get(name), now.get(name))
    ]


def _value(params: Any, key: str) -> Any:
    for name in key.split("."):
        params = params.get(name) if isinstance(params, Mapping) else None
    return params


def _lines(stages: Sequence[Upcoming], timing: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line per stage, and one for all of them if none reads other data or parameters."""
    lines: list[str] = []
    known: list[float] = []
    is_other = False
    for stage in stages:
        seconds = timing.get(stage.name.replace("@", "_"), {}).get("seconds")
        took = f"{seconds / 60:4.1f} min" if isinstance(seconds, float) else "   ?    "
        known += [seconds] if isinstance(seconds, float) else []
        named = ", ".join(stage.others[:NUM_NAMED])
        if len(stage.others) > NUM_NAMED:
            named += f" and {len(stage.others) - NUM_NAMED} more"
        why = f" with another {named}" if named else ""
        if is_other and stage.may_differ and not why:
            why = " after that"
        is_other = is_other or bool(named)
        lines.append(f"  {stage.name:<12} {took}{why}")
    if len(known) == len(stages) and not is_other:
        lines.append(f"  {'together':<12} {sum(known) / 60:4.1f} min")
    return lines


def main() -> None:
    """Print the lines; nothing if nothing is to be done."""
    parser = argparse.ArgumentParser(prog="python -m tools.upcoming", description=__doc__)
    parser.add_argument("timing", type=Path, help="wall-clock figures of the last run, JSON")
    path = parser.parse_args().timing
    try:
        stages = upcoming()
    except DvcException:  # dvc repro says it
        return
    if stages:
        print(f"To run, with the time of the last run, here or elsewhere ({path}):")
        print("\n".join(_lines(stages, read_timing(path))), flush=True)


if __name__ == "__main__":
    run_stage("upcoming", main)
