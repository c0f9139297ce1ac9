"""One text that holds a whole dialogue, its turns behind marks: a template's, or ``### Human:``.

A template's marks are told from text, so they are looked for in any text of a record; a word and a
colon may be anything, so they are looked for under a dialogue's usual names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tuning.corpus.beside import ID_KEYS, with_beside
from tuning.corpus.drafts import Draft, DraftTurn
from tuning.corpus.faults import checked
from tuning.corpus.messages import Reader
from tuning.corpus.roles import role_of

_WORD: Final = re.compile(
    r"(?:(?:^|\n)(?:###\s*)?|###\s*)"
    r"(Human|User|Assistant|System|Bot|AI|Prompter|Function Response)\s*:[ \t]?",
    re.IGNORECASE,
)
"""With ``###`` also in the middle of a line, as in Open Assistant's Guanaco."""
_WORD_KEYS: Final = ("text", "chat", "conversation", "dialogue", "dialog")
_END: Final = re.compile(r"\s*(?:<\|endoftext\|>|</s>)\s*$")
"""What a template of words puts behind an answer."""
_ALPACA: Final = re.compile(r"(?:^|\n)### ?(Instruction|Input|Response):[ \t]*\n")
_BEGIN: Final = re.compile(r"(?:\s|<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)*")
"""What may stand before the first mark."""


@dataclass(frozen=True)
class _Template:
    """How a chat template marks turns."""

    source: str
    mark: re.Pattern[str]
    """Begins a turn; its group is the role."""
    end: re.Pattern[str]
    """Ends one."""


_TEMPLATES: Final = (
    _Template(
        "ChatML: Qwen, SmolLM2, Hermes",
        re.compile(r"<\|im_start\|>[ \t]*([^\n<|]{1,40})\n?"),
        re.compile(r"<\|im_end\|>|<\|endoftext\|>"),
    ),
    _Template(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>[ \t]*([^\n<|]{1,40})<\|end_header_id\|>\s*"),
        re.compile(r"<\|eot_id\|>|<\|eom_id\|>|<\|end_of_text\|>"),
    ),
    _Template(
        "Gemma",
        re.compile(r"<start_of_turn>[ \t]*([^\n<|]{1,40})\n"),
        re.compile(r"<end_of_turn>|<eos>"),
    ),
    _Template(
        "Zephyr, Phi 3",
        re.compile(r"<\|(system|user|assistant|tool)\|>\s*"),
        re.compile(r"</s>|<\|end\|>|<\|endoftext\|>"),
    ),
)
_INSTRUCTION: Final = re.compile(
    r"\[INST\](.*?)\[/INST\](.*?)(?=(?:<s>\s*)?\[INST\]|\Z)", re.DOTALL
)
"""Llama 2's and Mistral's: the user between the marks, the assistant behind them."""
_SYSTEM: Final = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)


def is_marked(entry: Any) -> bool:
    """Tell whether an object's one text holds turns behind marks."""
    return isinstance(entry, dict) and _marked_key(entry) is not None


def _marked_key(entry: Mapping[str, Any]) -> str | None:
    for key in _WORD_KEYS:
        text = entry.get(key)
        if not isinstance(text, str):
            continue
        is_alpaca = {"Instruction", "Response"} <= {*_ALPACA.findall(text)}
        if is_alpaca or (len(_WORD.findall(text)) > 1 and _WORD.match(text.lstrip())):
            return key
    return next((key for key, value in entry.items() if is_templated(value)), None)


def is_templated(text: Any) -> bool:
    """Tell whether a text begins with a mark of a template."""
    if not isinstance(text, str) or not ("[INST]" in text or "<" in text):
        return False
    begin = _BEGIN.match(text)
    assert begin, "it matches nothing, too"
    marks = (_INSTRUCTION, *(template.mark for template in _TEMPLATES))
    return any(mark.match(text, begin.end()) for mark in marks)


def read_marked(entry: Any, reader: Reader) -> list[Draft]:
    """Read a text by its marks: ``### Human: …`` or ``Human: …`` at the beginning of a line."""
    key = _marked_key(entry)
    assert key is not None
    draft = Draft(marked_turns(checked(entry[key], repr(key)), reader))
    return [with_beside(entry, reader, draft, {key, *ID_KEYS})]


def marked_turns(text: str, reader: Reader) -> list[DraftTurn]:
    """Return the turns of a text with marks; what stands before the first is a system text."""
    if is_templated(text):
        return _templated_turns(text, reader)
    is_alpaca = len(_ALPACA.findall(text)) > 1
    parts = (_ALPACA if is_alpaca else _WORD).split(text)
    before = parts[0].strip()
    said = [(name, _END.sub("", part)) for name, part in zip(parts[1::2], parts[2::2], strict=True)]
    if is_alpaca:
        said = _asked(said)
    return [*([_turn("system", before, reader)] if before else []), *_turns(said, reader)]


def _asked(said: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Alpaca's parts as turns: an input belongs to the instruction before it."""
    turns: list[tuple[str, str]] = []
    for name, text in said:
        if name == "Input" and turns:
            turns[-1] = ("user", f"{turns[-1][1].strip()}\n{text}")
        else:
            turns.append(("assistant" if name == "Response" else "user", text))
    return turns


def _templated_turns(text: str, reader: Reader) -> list[DraftTurn]:
    template = next((one for one in _TEMPLATES if one.mark.search(text)), None)
    if template is not None:
        parts = template.mark.split(text)
        said = zip(parts[1::2], (template.end.sub("", part) for part in parts[2::2]), strict=True)
        return _turns(said, reader)
    turns = []
    for asked, answered in _INSTRUCTION.findall(text):
        if system := _SYSTEM.match(asked):
            turns.append(_turn("system", system[1], reader))
            asked = asked[system.end() :]
        turns.append(_turn("user", asked, reader))
        turns.append(_turn("assistant", answered.replace("</s>", ""), reader))
    return turns


def _turns(said: Any, reader: Reader) -> list[DraftTurn]:
    return [_turn(name, text, reader) for name, text in said]


def _turn(name: str, text: str, reader: Reader) -> DraftTurn:
    role = role_of(name, reader.roles)
    return DraftTurn(role or name.strip(), [text], role=role)
