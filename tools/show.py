"""One prepared dialogue as the tokens that the model sees, in the terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from tools.preview_text import as_text
from tuning.dialogue import Dialogue, from_line
from tuning.encoding.preview import show_dialogue
from tuning.reading.accounts import SIDES
from tuning.run.errors import UserError
from tuning.run.params import load_params
from tuning.run.process import run_stage
from tuning.tokens.templates import template_of

PARTS = (*SIDES, "dropped")
NUM_COMPARED = 20_000
"""Ids, from the first, among which an unknown one's like are sought."""


def main() -> None:
    """Find the dialogue, cut it as encode does, print it."""
    parser = argparse.ArgumentParser(prog="python -m tools.show", description=__doc__)
    parser.add_argument("dialogue_id", help="as in prep's files")
    parser.add_argument("--prepared", type=Path, required=True, help="prep's folder")
    parser.add_argument("--tokenizer", type=Path, required=True, help="encode's, with template")
    args = parser.parse_args()
    encoding = load_params().encoding
    dialogue, fate = find(args.dialogue_id, args.prepared)
    if not args.tokenizer.is_dir():
        raise UserError(f"{args.tokenizer} not found; encode writes it: run dvc repro first.")
    shown = show_dialogue(
        dialogue,
        fate,
        template_of(args.tokenizer),
        max_length=encoding.max_length,
        context_turns=encoding.context_turns,
        loss_on=encoding.loss_on,
    )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(as_text(shown, colour=colour), end="")


def find(dialogue_id: str, prepared: Path) -> tuple[Dialogue, str]:
    """The first dialogue of that id, and its side or the reason that it was dropped.

    Raises:
        UserError: prep has not run, or there is no such dialogue.
    """
    if not prepared.is_dir():
        raise UserError(f"{prepared} not found; prep writes it: run dvc repro first.")
    spelled = json.dumps(dialogue_id, ensure_ascii=False).encode()
    for part, line in lines(prepared):
        if spelled in line:  # most lines need not be parsed
            dialogue = from_line(line)
            if dialogue.dialogue_id == dialogue_id:
                return dialogue, json.loads(line)["reason"] if part == "dropped" else part
    ids = [from_line(line).dialogue_id for _, line in islice(lines(prepared), NUM_COMPARED)]
    raise UserError(unknown_id_message(dialogue_id, ids, prepared))


def lines(prepared: Path) -> Iterator[tuple[str, bytes]]:
    """Every dialogue's line, with the name of the part that it is in."""
    for part in PARTS:
        path = prepared / f"{part}.jsonl"
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    yield part, line


def unknown_id_message(dialogue_id: str, ids: list[str], prepared: Path) -> str:
    """Which ids are like it: those that contain it, else those that are spelled much like it."""
    close = [name for name in ids if dialogue_id and dialogue_id in name][:3]
    close = close or get_close_matches(dialogue_id, ids, n=3)
    first = f"The first one's is {ids[0]!r}." if ids else "It holds none at all."
    named = f"Did you mean {' or '.join(map(repr, close))}?" if close else first
    return f"{prepared} holds no dialogue with the id {dialogue_id!r}. {named}"


if __name__ == "__main__":
    run_stage("preview", main)
