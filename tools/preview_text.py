"""The terminal form of a shown dialogue: readable without colour, painted on request."""

from __future__ import annotations

from collections.abc import Sequence

from tuning.encoding.preview import Kind, ShownDialogue, ShownToken, visible
from tuning.pages.words import counted

_MARKS: dict[Kind, str] = {"trained": "+", "context": ".", "held_out": "=", "dropped": "-"}
_COLOURS: dict[Kind, str] = {
    "speaker": "1;36",
    "trained": "32",
    "context": "2",
    "held_out": "34",
    "dropped": "31",
}
_BORDER = "│"


def as_text(dialogue: ShownDialogue, *, colour: bool = False) -> str:
    """The dialogue for a terminal: all of its tokens, one turn (or line of a turn) per line."""
    lines = [
        f"{dialogue.dialogue_id}: {dialogue.title}",
        dialogue.counts,
        f"+ trained  . context  = held out  - dropped  {_BORDER} between tokens  ↵ line end; "
        "speaker tokens are never trained",
    ]
    for number, window in enumerate(dialogue.windows, start=1):
        lines.append("")
        if dialogue.bucket == "train":
            lines.append(
                f"window {number} of {len(dialogue.windows)}: "
                f"{counted(window.num_tokens, 'token')}, {window.num_trained:,} trained"
            )
        for turn in window.turns:
            lines += _turn_lines(turn, colour)
    return "\n".join(lines) + "\n"


def _turn_lines(turn: Sequence[ShownToken], colour: bool) -> list[str]:
    """``+ <|speaker1|>│Hello│!│<|endofturn|>``, and a new line after each ``↵``."""
    tag, *rest = turn
    mark = _MARKS[rest[0].kind]
    lines = [f"{mark} {_painted(tag.text, 'speaker', colour)}"]
    for token in rest:
        text = "".join(shown for shown, _ in visible(token.text))
        lines[-1] += _BORDER + _painted(text, token.kind, colour)
        if token.text.endswith("\n"):
            lines.append(f"{mark} {' ' * len(tag.text)}")
    return lines


def _painted(text: str, kind: Kind, colour: bool) -> str:
    return f"\033[{_COLOURS[kind]}m{text}\033[0m" if colour else text
