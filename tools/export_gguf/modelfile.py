"""The Modelfile with which Ollama takes a GGUF file: ``ollama create NAME -f FILE.Modelfile``.

Ollama writes chats by templates of its own, in Go's language. One is given where it is proved to
write what the model's chat template writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from tools.export_gguf.gguf_file import stop_ids
from tuning.release.model_card import SAMPLING
from tuning.tokens.tokenizer import load_tokenizer

_NO_TEMPLATE = """\
# No TEMPLATE: the model's chat template does more than write each message between fixed marks.
# Ollama uses one of its own where it knows the model's, else none: compare ollama show --template.
# llama-server --jinja reads the model's own, which is in the GGUF file.
"""
_TEXT = "aB \N{SNOWMAN}"
"""What no template writes of its own accord."""
_THOUGHTS = ("<think>", "</think>")
"""Templates of models that think drop what stands between."""
_NO_SYSTEM = "# System texts are left out: the model's chat template knows none.\n"
_CHATS = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What a simple chat template writes around messages."""

    without_system: str
    """The beginning of a chat whose first message is no system text."""
    before: Mapping[str, str]
    """By role."""
    after: Mapping[str, str]
    """By role."""
    asks: str
    """What the model answers behind."""

    def text(self, messages: Messages) -> str:
        """Write a chat that the model is to answer."""
        start = "" if messages[0]["role"] == "system" else self.without_system
        turns = (self.before[m["role"]] + m["content"] + self.after[m["role"]] for m in messages)
        return start + "".join(turns) + self.asks

    def in_go(self) -> str | None:
        """Return the same in the language of Ollama's templates, or None if it cannot be said."""
        marks = [self.without_system, self.asks, *self.before.values(), *self.after.values()]
        if any("{{" in mark or '"""' in mark for mark in marks):
            return None
        roles = "".join(
            f'{{{{ {"else " * bool(number)}if eq .Role "{role}" }}}}{self.before[role]}'
            f"{{{{ .Content }}}}{self._ended(role)}"
            for number, role in enumerate(self.before)
        )
        start = (
            f'{{{{ if ne (index .Messages 0).Role "system" }}}}{self.without_system}{{{{ end }}}}'
        )
        return (
            start
            * bool(self.without_system)
            + "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
            f'{roles}{{{{ end }}}}{{{{ if and $last (ne .Role "assistant") }}}}{self.asks}'
            "{{ end }}{{ end }}"
        )

    def _ended(self, role: str) -> str:
        """An answer that is last is gone on with."""
        after = self.after[role]
        return f"{{{{ if not $last }}}}{after}{{{{ end }}}}" if role == "assistant" else after


def modelfile(model: Path, gguf_name: str) -> str:
    """Return the Modelfile of a released model whose GGUF file stands beside it."""
    tokenizer = load_tokenizer(model)
    stops = tokenizer.convert_ids_to_tokens(stop_ids(model))
    marks = marks_of(tokenizer)
    template = marks.in_go() if marks is not None else None
    lines = [f"PARAMETER {name} {value}" for name, value in SAMPLING.items()]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    written = _NO_TEMPLATE
    if marks is not None and template is not None:
        written = _NO_SYSTEM * ("system" not in marks.before) + f'TEMPLATE """{template}"""\n'
    return f"FROM ./{gguf_name}\n{written}" + "".join(f"{line}\n" for line in lines)


def marks_of(tokenizer: PreTrainedTokenizerFast) -> Marks | None:
    """Return what a chat template writes around messages, or None if it does more, or less.

    It is asked for chats that a server may be asked to go on with: with a system text first or
    without, and with texts that begin and end with spaces and lines.
    """
    if "strftime_now" in str(tokenizer.chat_template):  # tomorrow it writes another text
        return None
    try:
        marks = _guessed(tokenizer)
        texts = [f"{blank}{_TEXT}{blank}" for blank in ("", " ", "\n", " \n", *_THOUGHTS)]
        for roles in _CHATS:
            if not {*roles} <= marks.before.keys():
                continue
            for text in texts:
                chat = [{"role": role, "content": text} for role in roles]
                if _rendered(tokenizer, chat) != marks.text(chat):
                    return None
    except (TemplateError, ValueError):  # it refuses a chat, or leaves a text out
        return None
    return marks


def _guessed(tokenizer: PreTrainedTokenizerFast) -> Marks:
    """Return the marks that a template has if it is simple.

    Raises:
        ValueError: a text is not written where it should be.
        TemplateError: the template refuses a chat.
    """
    user, answer, again = (
        {"role": role, "content": f"{index} {_TEXT}"}
        for index, role in enumerate(("user", "assistant", "user"))
    )
    first, after_user = _around(tokenizer, [user])
    *_, after_answer = _around(tokenizer, [user, answer])
    _, to_answer, to_user, _ = _around(tokenizer, [user, answer, again])
    before_user = to_user.removeprefix(after_answer)
    asking = _rendered(tokenizer, [user])
    before = {"user": before_user, "assistant": to_answer.removeprefix(after_user)}
    after = {"user": after_user, "assistant": after_answer}
    if _knows_system(tokenizer, user):
        system = {"role": "system", "content": f"3 {_TEXT}"}
        before["system"], to_first, _ = _around(tokenizer, [system, user])
        after["system"] = to_first.removesuffix(before_user)
    return Marks(
        without_system=first.removesuffix(before_user),
        before=before,
        after=after,
        asks=asking.removeprefix(_rendered(tokenizer, [user], asks=False)),
    )


def _knows_system(tokenizer: PreTrainedTokenizerFast, user: Mapping[str, str]) -> bool:
    """Tell whether a system text is written, and otherwise than what just anybody says."""
    try:
        system, anybody = (
            _rendered(tokenizer, [{"role": role, "content": _TEXT}, user])
            for role in ("system", "anybody")
        )
    except TemplateError:
        return False
    return system != anybody


def _around(tokenizer: PreTrainedTokenizerFast, chat: Messages) -> list[str]:
    """Return what is written before, between and behind the texts of a chat."""
    rest, found = _rendered(tokenizer, chat, asks=False), []
    for message in chat:
        before, rest = rest.split(message["content"], 1)
        found.append(before)
    return [*found, rest]


def _rendered(tokenizer: PreTrainedTokenizerFast, chat: Messages, *, asks: bool = True) -> str:
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in chat], tokenize=False, add_generation_prompt=asks
        )
    )
