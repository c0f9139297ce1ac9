"""The check that a model's receipt still holds: ``python -m tools.verify MODEL``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuning.release.receipt import differences
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage


def main() -> None:
    """Take every hash of the receipt again; exit 1 if one differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__)
    parser.add_argument("model", type=Path, help="the fine-tuned model's folder")
    model = parser.parse_args().model
    found = differences(model, declared_params("release"))
    if found:
        print("\n".join(found))
        many = f"{len(found)} entries" if len(found) > 1 else "1 entry"
        verb = "do" if len(found) > 1 else "does"
        print(f"verify: {many} of the receipt of {model} {verb} not hold here.")
        sys.exit(1)
    print(f"verify: {model} is what its receipt says, made from what is here.")


if __name__ == "__main__":
    run_stage("verify", main)
