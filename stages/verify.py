"""Does a model's receipt still hold? Says what differs: ``python -m stages.verify MODEL``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stages.process import run_stage
from stages.receipt import differences, recorded_params


def main() -> None:
    """Take every hash of the receipt again; exit 1 if one differs."""
    parser = argparse.ArgumentParser(prog="python -m stages.verify", description=__doc__)
    parser.add_argument("model", type=Path, help="the fine-tuned model's folder")
    model = parser.parse_args().model
    found = differences(model, recorded_params())
    if found:
        print("\n".join(found))
        many = f"{len(found)} entries" if len(found) > 1 else "1 entry"
        verb = "do" if len(found) > 1 else "does"
        print(f"verify: {many} of the receipt of {model} {verb} not hold here.")
        sys.exit(1)
    print(f"verify: {model} is what its receipt says, made from what is here.")


if __name__ == "__main__":
    run_stage("verify", main)
