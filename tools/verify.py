"""The check that a model's receipt still holds: ``python -m tools.verify MODEL``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuning.release.parity import parity
from tuning.release.receipt import compare_entries, differences, read_receipt
from tuning.run.files import sha256_of
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.visible import visible
from tuning.tokens.templates import template_of


def main() -> None:
    """Take every hash of the receipt again, ask engines for every prompt; exit 1 if one differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__)
    parser.add_argument("model", type=Path, help="the fine-tuned model's folder")
    model = parser.parse_args().model
    found = differences(model, declared_params("release"))
    try:
        found += different_prompts(model, read_receipt(model))
    except (LookupError, TypeError, AttributeError):  # of what a touched receipt may hold
        found.append("prompts: the receipt's are not in the form that release writes")
    if found:
        print("\n".join(map(visible, found)))
        many = f"{len(found)} entries" if len(found) > 1 else "1 entry"
        verb = "do" if len(found) > 1 else "does"
        print(f"verify: {many} of the receipt of {model} {verb} not hold here.")
        sys.exit(1)
    print(f"verify: {model} is what its receipt says, made from what is here.")


def different_prompts(model: Path, receipt: dict[str, Any]) -> Iterator[str]:
    """Print what was compared, and yield a line per engine or entry that is not as recorded."""
    recorded = receipt["prompts"]
    validation = Path(recorded["dialogues"])
    wanted = receipt["inputs"][validation.as_posix()]
    if not validation.is_file() or sha256_of(validation) != wanted:
        print(f"verify: prompts were not compared, for {validation} is not that of the receipt.")
        return
    try:
        template = template_of(model)
    except Exception as error:  # whatever is wrong in a file that was touched
        yield f"prompts: not compared, for the model's tokenizer cannot be used ({error})"
        return
    found = parity(model, template, validation, loss_on=receipt["params"]["encoding.loss_on"])
    print("\n".join(f"verify: {visible(line)}" for line in (str(found), *found.lacks)))
    yield from found.differences
    now = found.record()
    engines = now.pop("engines")
    was = {name: value for name, value in recorded.items() if name != "engines"}
    yield from compare_entries("prompts", was, now)
    for name, engine in engines.items():
        if engine["version"] == recorded["engines"][name]["version"]:
            yield from compare_entries(f"prompts of {name}", recorded["engines"][name], engine)


if __name__ == "__main__":
    run_stage("verify", main)
