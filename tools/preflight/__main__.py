"""The checks before an hour is spent: would this run, or this experiment, do what is meant?

It prints a line per finding: an error (exit 1) for what would fail or do nothing, a warning for
the rest, and what the run is going to take.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.preflight.files import check_files
from tools.preflight.finding import Finding
from tools.preflight.last_run import check_loss_on, check_windows
from tools.preflight.machine import check_device, check_packages
from tools.preflight.parameters import check_params, runs_of
from tools.preflight.refusals import check_stages
from tuning.run.params import Params, load_params
from tuning.run.process import run_stage
from tuning.run.visible import visible


def main() -> None:
    """Check everything and print the findings; exit 1 if one is an error."""
    parser = argparse.ArgumentParser(prog="python -m tools.preflight", description=__doc__)
    parser.add_argument(
        "-S",
        "--set-param",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="what dvc exp run is going to be given",
    )
    parser.add_argument("--base", type=Path, help="the base model's folder")
    args = parser.parse_args()
    params = load_params()
    findings = [*check_params(args.set_param)]
    if not any(finding.kind == "error" for finding in findings):
        runs = runs_of(args.set_param)
        findings += [*check_stages(runs, args.base), *check_windows(runs), *check_loss_on(runs)]
        findings += _plans(runs, args.base)
    findings += [
        *check_files(params.data.path),
        *check_device(params),
        *check_packages(params),
    ]
    for finding in findings:
        print(f"{finding.kind}: {visible(finding.text, keep=chr(10))}")
    if all(finding.kind == "plan" for finding in findings):
        print("preflight: nothing is in the way of what can be told before prep reads the data.")
    sys.exit(any(finding.kind == "error" for finding in findings))


def _plans(runs: Sequence[Params], base: Path | None) -> Iterator[Finding]:
    """Plan the runs; what that needs takes seconds to load."""
    from tools.preflight.fit import check_plan

    yield from check_plan(runs, base)


if __name__ == "__main__":
    run_stage("preflight", main)
