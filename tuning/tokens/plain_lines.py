r"""The template of a model that knows no dialogue tokens: a line per turn.

    A: Hello!\nB: Hi.\n

It lets a pretrained model be scored on equal terms. A part of a line is written as it stands there,
with one token for a full stop and the line's end where the tokenizer has such (Llama 3's, Qwen's).
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue
from tuning.tokens.call_text import AS_LINES
from tuning.tokens.template import EncodedTurn, Ending, TurnByTurn, num_system_turns
from tuning.tokens.texts import encode_behind
from tuning.tokens.tokenizer import first_token, special_ids


class PlainLines:
    """``A: text``, one turn a line."""

    name = "plain"
    asks_all = True
    has_roles = True
    calls = AS_LINES

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take the base model's own tokenizer."""
        self.tokenizer = tokenizer
        self.start = first_token(tokenizer)
        self.end = encode_behind(tokenizer, "A", ["\n"])[0]
        self.stop_ids = frozenset(self.end[-1:])
        self.untrained_ids = frozenset(self.start)
        self._special = set(special_ids(tokenizer))

    def tag(self, index: int) -> list[int]:
        """``A:`` for the first speaker, …, ``Z:``, ``A1:``."""
        return encode_behind(self.tokenizer, "\n", [_letter(index)])[0]

    def tags(self, dialogue: Dialogue) -> dict[str, list[int]]:
        """Return the ids of ``A:`` and so on, and of a role's name."""
        spelled = self.spelled_tags(dialogue)
        return {
            name: encode_behind(self.tokenizer, "\n", [tag])[0] for name, tag in spelled.items()
        }

    def ending_of(self, token_id: int) -> Ending | None:
        """A token that holds the end of a line ends the turn, as does the end of the text."""
        is_end = token_id in self._special or "\n" in self.tokenizer.decode([token_id])
        return "end_of_turn" if is_end else None

    def is_joined(self, token_id: int) -> bool:
        """Tell whether a token has more than white space before the end of a line."""
        text, line_end, _ = str(self.tokenizer.decode([token_id])).partition("\n")
        return bool(line_end and text.strip()) and token_id not in self._special

    def is_mark(self, token_id: int) -> bool:
        """Tell whether the tokenizer has it as a special token."""
        return token_id in self._special

    def begins_turn(self, token_id: int) -> bool:
        """Return False: a tag is text as any other."""
        return False

    def text_of(self, ids: Sequence[int]) -> str:
        """Decode a line's text."""
        return str(self.tokenizer.decode(list(ids))).strip()

    def num_tokens(self, dialogue: Dialogue) -> int:
        """Count the tokens of all lines."""
        return len(self.start) + sum(map(len, self.encode(dialogue)))

    def lacks(self, dialogue: Dialogue) -> list[str]:
        """Name reasoning and tools, for which there is no place."""
        return lacked_by_lines(dialogue)

    def read(self, dialogue: Dialogue) -> TurnByTurn:
        """Read a line per turn."""
        return TurnByTurn(self.start, self.encode(dialogue), num_system_turns(dialogue.turns))

    def encode(self, dialogue: Dialogue) -> list[EncodedTurn]:
        r"""Write ``A: text\n`` for every turn; the space belongs to the text's first token."""
        texts = [" " + turn.text for turn in dialogue.turns]
        contents = encode_behind(self.tokenizer, "A:", texts)
        lines = encode_behind(self.tokenizer, "A:", [text + "\n" for text in texts])
        tags = self.tags(dialogue)
        return [
            EncodedTurn(
                tags[turn.speaker],
                content,
                self.end,
                joined=line[-1] if line[:-1] == content[:-1] else None,
            )
            for turn, content, line in zip(dialogue.turns, contents, lines, strict=True)
        ]

    def spelled_tags(self, dialogue: Dialogue) -> dict[str, str]:
        """Spell a letter, with a number from the 27th speaker on, or a role, and a colon."""
        letters = {name: _letter(index) for name, index in dialogue.people.items()}
        return {name: letters.get(name) or role_line(name) for name in dialogue.speakers}


def lacked_by_lines(dialogue: Dialogue) -> list[str]:
    """Name the parts of a dialogue that are not said by anyone: reasoning, and tools."""
    lacks = ["reasoning"] * any(turn.reasoning for turn in dialogue.turns)
    return lacks + ["tools"] * bool(dialogue.tools)


def role_line(role: str) -> str:
    """Spell a role at the beginning of a line: ``User:``."""
    return f"{role.capitalize()}:"


def _letter(index: int) -> str:
    return f"{string.ascii_uppercase[index % 26]}{index // 26 or ''}:"
