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

from tuning.run.params import PARAMS_FILE
from tuning.run.pipeline import own_stages
from tuning.run.process import run_stage
from tuning.run.timing import read_timing


@dataclass(frozen=True)
class Upcoming:
    """A stage that runs, unless what runs before it writes the same as the last time."""

    name: str
    differs_in: tuple[str, ...]
    """Parameters and data that were others the last time, of it or of stages before it."""


def upcoming() -> list[Upcoming]:
    """Return the stages of which something has changed, and what follows from them, in order.

    Raises:
        DvcException: dvc cannot tell, so it could not run them either.
    """
    with Repo() as repo:
        graph, status = repo.index.graph, repo.status()
        written = {out.def_path for stage in graph if stage.cmd for out in stage.outs}
        found: dict[Any, tuple[str, ...]] = {}
        for stage in plan_repro(graph):
            before = [found[each] for each in graph.successors(stage) if each in found]
            changes = status.get(stage.addressing, [])
            if stage.cmd and (before or changes):
                own = _inputs(stage.name, changes, written)
                found[stage] = tuple(dict.fromkeys(sum(before, ()) + own))
        return [Upcoming(stage.name, differs_in) for stage, differs_in in found.items()]


def _inputs(name: str, changes: Sequence[Any], written: Collection[str]) -> tuple[str, ...]:
    """Return the parameters and the data among what dvc finds changed of a stage."""
    known = {*own_stages()[name.partition("@")[0]]["deps"], *written}
    names: list[str] = []
    for change in changes:
        deps = change.get("changed deps", {}) if isinstance(change, Mapping) else {}
        names += deps.get(PARAMS_FILE.name, {})
        names += [path for path in deps if path not in known and path != PARAMS_FILE.name]
    return tuple(names)


def _lines(stages: Sequence[Upcoming], timing: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line per stage, and one for all if each did the same the last time."""
    seconds = [timing.get(each.name.replace("@", "_"), {}).get("seconds") for each in stages]
    lines = [
        f"  {each.name:<12} {_minutes(value)}"
        + (f" with another {' and '.join(each.differs_in)}" if each.differs_in else "")
        for each, value in zip(stages, seconds, strict=True)
    ]
    known = [value for value in seconds if value is not None]
    if len(known) == len(stages) and not any(each.differs_in for each in stages):
        lines.append(f"  {'together':<12} {_minutes(sum(known))}")
    return lines


def _minutes(seconds: float | None) -> str:
    return "   ?    " if seconds is None else f"{seconds / 60:4.1f} min"


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
        print(f"To run, with the time that it took in the last run ({path}), wherever that was:")
        print("\n".join(_lines(stages, read_timing(path))), flush=True)


if __name__ == "__main__":
    run_stage("upcoming", main)
