"""The checks before an hour is spent: would this run, or this experiment, do what is meant?

It prints a line per finding: an error (exit 1) for what would fail or do nothing, a warning for
the rest.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.preflight.files import check_files
from tools.preflight.last_run import check_loss_on, check_windows
from tools.preflight.machine import check_device, check_disk, check_packages
from tools.preflight.parameters import check_params, runs_of
from tuning.run.params import load_params
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
    parser.add_argument("--base", type=Path, help="the base model's folder, for the disk's sake")
    args = parser.parse_args()
    params = load_params()
    findings = [*check_params(args.set_param)]
    if not any(finding.kind == "error" for finding in findings):
        runs = runs_of(args.set_param)
        findings += [*check_windows(runs), *check_loss_on(runs)]
    findings += [
        *check_files(params.data.path),
        *check_device(params),
        *check_packages(params),
    ]
    if args.base is not None:
        findings += check_disk(args.base, params)
    for finding in findings:
        print(f"{finding.kind}: {visible(finding.text, keep=chr(10))}")
    if not findings:
        print("preflight: nothing is in the way.")
    sys.exit(any(finding.kind == "error" for finding in findings))


if __name__ == "__main__":
    run_stage("preflight", main)
