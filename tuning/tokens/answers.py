"""Where a server asks for an answer, and the token ids that it feeds and expects there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue, ToolCall, Turn
from tuning.tokens.call_text import PROBES
from tuning.tokens.messages import CallForm, Message, messages_of
from tuning.tokens.sandbox import SandboxedTemplate, Setting
from tuning.tokens.served_text import ServedText
from tuning.tokens.template import NotEncodableError
from tuning.tokens.tokenizer import special_ids

MARK = "xMARKx"
"""A text that stands in for a message's, to be found again."""

_OPENED = re.compile(r"<(\w+)>\s*\Z")
_QUESTION: Message = {"role": "user", "content": "Hello!"}
_TOOLS = [
    {"type": "function", "function": {"name": call.name, "parameters": {}}} for call in PROBES
]


@dataclass(frozen=True, slots=True)
class Answer:
    """An assistant's turn where a server asks for it."""

    prompt: list[int]
    target: list[int]
    """Up to and with the stop token."""
    asked: str
    """The template's text of the prompt."""
    written: str
    """The template's text of the target, and maybe more behind."""


class Asking:
    """Asks a chat template for answers, as a server does."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, settings: Mapping[str, Setting] | None
    ) -> None:
        """Find how the template asks for an answer, where it stops, and how it takes calls.

        Raises:
            NotEncodableError: no answer can be asked of it.
        """
        self.text = SandboxedTemplate(tokenizer, settings)
        self.ids = ServedText(tokenizer)
        special = frozenset(special_ids(tokenizer))
        asked, silent = (self.text([_QUESTION], None, asks=asks) for asks in (True, False))
        if not asked.startswith(silent):
            raise NotEncodableError("it asks for an answer in the middle of its text")
        bos = tokenizer.bos_token
        begins = bos if isinstance(bos, str) and asked.startswith(bos) else ""
        self.words = asked[len(silent) :]
        """What asks for an answer."""
        alone = begins + self.words
        if not self.words:  # Mistral's: the end of the question is what asks
            alone = self.text([_QUESTION | {"content": ""}], None, asks=True)
        self._alone = self.ids(alone)
        whole = self.text([_QUESTION, {"role": "assistant", "content": MARK}], None, asks=False)
        behind = self.ids(whole.partition(MARK)[2])
        stop = next((one for one in behind if one in special), None)
        if stop is None:
            raise NotEncodableError("no special token ends an answer, so no server would stop")
        self.stop_id = stop
        """The token that ends an answer."""
        mark = next(iter(self.ids(whole[len(silent) :])), None)
        if not self.words and mark in special:
            raise NotEncodableError(
                "nothing in it asks for an answer (add_generation_prompt), so a model would have "
                f"to begin its answers with {tokenizer.convert_ids_to_tokens(mark)!r} itself"
            )
        forms = (CallForm(), CallForm(short_ids=True), CallForm(as_text=True))
        self.form = next(filter(self._takes_calls, forms), forms[0])
        """How the template takes calls."""
        thought = {"role": "assistant", "content": "1", "reasoning_content": MARK}
        self.has_thoughts = MARK in self.text([_QUESTION, thought], None, asks=False)
        """Whether the template has a place for thoughts beside the answer."""

    def _takes_calls(self, form: CallForm) -> bool:
        """Tell whether calls in this form come into the text."""
        call = ToolCall(MARK, f'{{"a": "{MARK}"}}', "call_0123456789")
        asked = Turn("user", _QUESTION["content"], "user")
        called = Turn("assistant", "", "assistant", tool_calls=(call,))
        answered = Turn("tool", "1", "tool", tool_call_id=call.call_id)
        messages = messages_of(Dialogue("", (asked, called, answered)), form)
        try:
            return self.text(messages, None, asks=True).count(MARK) == 2
        except NotEncodableError:
            return False

    def calling(self, count: int) -> Answer | None:
        """Return the answer that is the first ``count`` probes; None if the template takes none."""
        turn = Turn("assistant", "", "assistant", tool_calls=PROBES[:count])
        messages = [_QUESTION, *messages_of(Dialogue("", (turn,)), self.form)]
        for tools in (_TOOLS, None):
            try:
                return self.answer(messages, tools)
            except NotEncodableError:
                continue
        return None

    def answer(self, messages: Sequence[Message], tools: Any) -> Answer:
        """Return the last message, an assistant's, as a server asks for it and expects it.

        Raises:
            NotEncodableError: the template refuses it, or does not stop behind it.
        """
        full = self.text(messages, tools, asks=False)
        if len(messages) > 1:
            prompt = self.text(messages[:-1], tools, asks=True)
        elif self.words:  # nothing can be asked with no message
            before, asked, _ = full.partition(self.words)
            prompt = before + asked
        else:
            raise NotEncodableError("the chat template takes no answer to nothing")
        prompt_ids = self.ids(prompt)
        if full.startswith(prompt):
            written = full[len(prompt) :]
            ids = self.ids(full)
            is_same = ids[: len(prompt_ids)] == prompt_ids
            target = ids[len(prompt_ids) :] if is_same else self.ids(written)
        else:
            written = self._written(prompt, full, messages, tools)
            target = self.ids(written)
        own = messages[-1]
        for name in [call["function"]["name"] for call in own.get("tool_calls", ())]:
            if name not in written:
                raise NotEncodableError("the chat template does not write its tool calls")
        if (own["content"] or "").strip() not in written:
            raise NotEncodableError("the chat template does not write its text as it is")
        if self.stop_id not in target:
            raise NotEncodableError("the chat template does not end an answer with its stop token")
        stop = target.index(self.stop_id) + 1  # no text holds it
        return Answer(prompt_ids, target[:stop], prompt, written)

    def _written(self, prompt: str, full: str, messages: Sequence[Message], tools: Any) -> str:
        """Return what a model writes whose prompt the template changes once it is answered.

        The prompt may have opened a thought (``<think>``) that the template leaves out afterwards:
        it is closed as it would be. Or what stands before the answer changes with it, as a system
        text that goes with the last question: another answer in its place tells where it begins.

        Raises:
            NotEncodableError: neither is so.
        """
        opened = _OPENED.search(prompt)
        if opened and full.startswith(prompt[: opened.start()]):
            thought = messages[-1].get("reasoning_content", "").strip("\n")
            return f"{thought}\n</{opened[1]}>\n\n{full[opened.start() :]}"
        other = {"role": "assistant", "content": MARK}
        before, mark, _ = self.text([*messages[:-1], other], tools, asks=False).partition(MARK)
        if self.words:  # an empty thought may stand behind them
            before = before[: before.rfind(self.words) + len(self.words)]
        if not (mark and full.startswith(before) and prompt.endswith(self.words)):
            raise NotEncodableError(
                "the chat template writes an answer otherwise than it asks for it"
            )
        return full[len(before) :]

    def is_as_served(self, answer: Answer) -> bool:
        """Tell whether prompt and target are what a server makes of the texts in one go."""
        whole = self.ids.whole(answer.asked + answer.written)
        ids = [*answer.prompt, *answer.target]
        if whole[: len(ids)] == ids:
            return True
        target = self.ids.whole(answer.written)[: len(answer.target)]
        return self.ids.whole(answer.asked) == answer.prompt and target == answer.target

    def alone(self, messages: Sequence[Message]) -> Answer:
        """Return an answer behind nothing but the words that ask for it."""
        target = self.answer([_QUESTION, messages[-1]], None).target
        return Answer(self._alone, target, "", "")
