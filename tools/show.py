"""One prepared dialogue as the tokens that the model sees, in the terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from tuning.dialogue import Dialogue, from_line
from tuning.encoding.preview import (
    Kind,
    ShownDialogue,
    ShownToken,
    show_dialogue,
)
from tuning.pages.words import counted
from tuning.reading.accounts import SIDES
from tuning.run.errors import UserError
from tuning.run.params import load_params
from tuning.run.process import run_stage
from tuning.run.visible import as_name, visible, visible_characters
from tuning.tokens.templates import template_of

PARTS = (*SIDES, "dropped")
NUM_COMPARED = 20_000
"""Ids, from the first, among which an unknown one's like are sought."""
_MARKS: dict[Kind, str] = {"trained": "+", "context": ".", "held_out": "=", "dropped": "-"}
_COLOURS: dict[Kind, str] = {
    "speaker": "1;36",
    "trained": "32",
    "context": "2",
    "held_out": "34",
    "dropped": "31",
}
_BORDER = "│"


def main() -> None:
    """Find the dialogue, cut it as encode does, and print it."""
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
        min_context=encoding.min_context,
        loss_on=encoding.loss_on,
    )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(as_text(shown, colour=colour), end="")


def find(dialogue_id: str, prepared: Path) -> tuple[Dialogue, str]:
    """Return the first dialogue of that id, and its side or the reason that it was dropped.

    Raises:
        UserError: prep has not run, or there is no such dialogue.
    """
    if not prepared.is_dir():
        raise UserError(f"{prepared} not found; prep writes it: run dvc repro first.")
    spelled = json.dumps(dialogue_id, ensure_ascii=False).encode()
    is_cut = "…" in dialogue_id  # as tables and pages show ids that are no plain names
    for part, line in lines(prepared):
        if is_cut or spelled in line:  # most lines need not be parsed
            dialogue = from_line(line)
            if dialogue_id in (dialogue.dialogue_id, as_name(dialogue.dialogue_id)):
                return dialogue, json.loads(line)["reason"] if part == "dropped" else part
    ids = [from_line(line).dialogue_id for _, line in islice(lines(prepared), NUM_COMPARED)]
    raise UserError(unknown_id_message(dialogue_id, ids, prepared))


def lines(prepared: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every dialogue's line, with the name of the part that it is in."""
    for part in PARTS:
        path = prepared / f"{part}.jsonl"
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    yield part, line


def unknown_id_message(dialogue_id: str, ids: list[str], prepared: Path) -> str:
    """Name ids that contain it, else those that are spelled much like it."""
    close = [name for name in ids if dialogue_id and dialogue_id in name][:3]
    close = close or get_close_matches(dialogue_id, ids, n=3)
    close, ids = ([repr(as_name(name)) for name in some] for some in (close, ids[:1]))
    first = f"The first one's is {ids[0]}." if ids else "It holds none at all."
    named = f"Did you mean {' or '.join(close)}?" if close else first
    return f"{prepared} holds no dialogue with the id {as_name(dialogue_id)!r}. {named}"


def as_text(dialogue: ShownDialogue, *, colour: bool = False) -> str:
    """Return the dialogue for a terminal: all of its tokens, each line of one kind and turn."""
    lines = [
        f"{dialogue.dialogue_id}: {dialogue.title}",
        dialogue.counts,
        f"+ trained  . context  = held out  - dropped  {_BORDER} between tokens  ↵ line end; "
        "the token that begins a turn is never trained",
    ]
    for number, window in enumerate(dialogue.windows, start=1):
        lines.append("")
        if dialogue.bucket == "train":
            lines.append(
                f"window {number} of {len(dialogue.windows)}: "
                f"{counted(window.num_tokens, 'token')}, {window.num_trained:,} trained"
            )
        for tag, tokens in window.turns:
            lines += _turn_lines(visible(tag.text) if tag else "", tokens, colour)
    return "\n".join(lines) + "\n"


def _turn_lines(tag: str, tokens: Sequence[ShownToken], colour: bool) -> list[str]:
    """Return ``+ <|speaker1|>│Hello│!│<|endofturn|>``, with a new line after each ``↵``.

    Another begins where the kind changes, as behind a chat template's header, which is context
    before a trained answer.
    """
    margin = _painted(tag, "speaker", colour)
    if not tokens:
        return [f"{_MARKS['context']} {margin}"]
    lines: list[str] = []
    before: ShownToken | None = None
    for token in tokens:
        if before is None or before.text.endswith("\n") or before.kind != token.kind:
            lines.append(f"{_MARKS[token.kind]} {' ' * len(tag) if lines else margin}")
        text = "".join(shown for shown, _ in visible_characters(token.text))
        lines[-1] += _BORDER + _painted(text, token.kind, colour)
        before = token
    return lines


def _painted(text: str, kind: Kind, colour: bool) -> str:
    return f"\033[{_COLOURS[kind]}m{text}\033[0m" if colour else text


if __name__ == "__main__":
    run_stage("show", main)
