"""The base model's own chat template: what is trained is what a server feeds and expects.

For an assistant's turn, the prompt is the template's text of the messages before it, as a server
asks for an answer; the target is what the template writes behind that once the answer is there, up
to and with the token at which a server stops. Nothing is searched for in the text.

A template that writes a turn otherwise once it is past (Qwen 3 drops earlier thinking) makes one
rendering for each such answer, each as it is served. Template, tokenizer and tokens stay untouched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain, takewhile
from typing import Any

from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue
from tuning.run.errors import UserError
from tuning.tokens.answers import MARK, Answer, Asking
from tuning.tokens.call_text import CallText, find_form
from tuning.tokens.messages import Message, messages_of, tools_of, with_thoughts_apart
from tuning.tokens.sandbox import Setting
from tuning.tokens.template import (
    EncodedTurn,
    Ending,
    EndsWithMarks,
    NotEncodableError,
    Rendering,
    TurnInPlace,
    num_system_turns,
)
from tuning.tokens.texts import encode_texts
from tuning.tokens.tokenizer import special_ids

_THOUGHT = re.compile(r"\A\s*(?:<think>)?(?:(?!<think>).)*?</think>\s*", re.DOTALL)


class ChatTemplate(EndsWithMarks):
    """The template of a model that is tuned in its own format."""

    name = "chat"
    has_roles = True
    asks_all = False
    untrained_ids: frozenset[int] = frozenset()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        settings: Mapping[str, Setting] | None = None,
        file: str = "",
    ) -> None:
        """Take the base model's own tokenizer, and variables for its template.

        Args:
            tokenizer: With the template.
            settings: Variables.
            file: The template's, where it is not the base model's own; for messages.

        Raises:
            UserError: it has no template, or one that no answer can be asked of.
        """
        if not tokenizer.chat_template:
            if file:
                raise UserError(f"encoding.template: {file} is empty; wanted a chat template.")
            raise UserError(
                "encoding.template is chat, and the base model has no chat template. Set "
                "model.name to one that has (an instruct or chat model), or encoding.template to "
                "speakers."
            )
        try:
            self.asking = Asking(tokenizer, settings)
        except NotEncodableError as error:
            whose = f"{file}, which" if file else "chat, and the base model's chat template"
            raise UserError(
                f"encoding.template is {whose} fails: {error}. "
                f"{'Mend it, or set' if file else 'Set'} encoding.template to speakers."
            ) from None
        self.tokenizer = tokenizer
        self.settings = self.asking.text.settings
        self.end = [self.asking.stop_id]
        self.stop_ids = frozenset(self.end)
        self.special_ids = frozenset(special_ids(tokenizer))
        asks = self.asking.ids(self.asking.words)
        self._first = next((one for one in asks if one in self.special_ids), None)
        spelled = sorted(tokenizer.convert_ids_to_tokens(list(self.special_ids)), key=len)
        self._spelled = re.compile("|".join(re.escape(one) for one in reversed(spelled)) or r"(?!)")

    @cached_property
    def _calling(self) -> list[list[int]]:
        """Ids of an answer that is one known call, and of one that is two, if they are taken."""
        answers = takewhile(bool, map(self.asking.calling, (1, 2)))
        return [answer.target[:-1] for answer in answers if answer]

    @cached_property
    def calls(self) -> CallText | None:
        """The form of calls, if it can be read back."""
        return find_form([self.text_of(ids) for ids in self._calling])

    @cached_property
    def _call_ids(self) -> frozenset[int]:
        """Special tokens that calls hold: a model that writes one has not ended its turn."""
        return self.special_ids.intersection(chain.from_iterable(self._calling))

    def ending_of(self, token_id: int) -> Ending | None:
        """Every special token ends a turn but those that calls hold."""
        return None if token_id in self._call_ids else super().ending_of(token_id)

    def read(self, dialogue: Dialogue) -> _ChatReading:
        """Read a dialogue of roles."""
        return _ChatReading(self, dialogue)

    def messages(self, dialogue: Dialogue) -> list[Message]:
        """Return the messages in the form that this template takes."""
        return messages_of(self._apart(dialogue), self.asking.form)

    def _apart(self, dialogue: Dialogue) -> Dialogue:
        return with_thoughts_apart(dialogue) if self.asking.has_thoughts else dialogue

    def check(self, dialogue: Dialogue) -> None:
        """Raise ``NotEncodableError`` if a text spells a token that a server would read as such."""
        for number, turn in enumerate(dialogue.turns, start=1):
            for text in (turn.text, turn.reasoning):
                if spelled := self._spelled.search(text):
                    raise NotEncodableError(
                        f"turn {number} spells the special token {spelled[0]!r}, which a server "
                        "would read as such"
                    )
        if spelled := self._spelled.search(dialogue.tools):
            raise NotEncodableError(f"its tools spell the special token {spelled[0]!r}")

    def num_tokens(self, dialogue: Dialogue) -> int:
        """Count the tokens of all messages; of their texts alone, where the template refuses."""
        try:
            text = self.asking.text(self.messages(dialogue), tools_of(dialogue), asks=False)
        except NotEncodableError:
            return sum(map(len, encode_texts(self.tokenizer, [t.text for t in dialogue.turns])))
        return len(self.asking.ids(text))

    def lacks(self, dialogue: Dialogue) -> list[str]:
        """Name the parts of a dialogue that do not come into the template's text."""
        apart, tools = self._apart(dialogue), tools_of(dialogue)
        messages, turns = messages_of(apart, self.asking.form), apart.turns
        last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=-1)

        def text_to(number: int, tools: Any) -> str:
            """What stands before an answer, and with it."""
            try:
                asked = self.asking.text(messages[:number], tools, asks=True) if number else ""
                return asked + self.asking.text(messages[: number + 1], tools, asks=False)
            except NotEncodableError:
                return ""

        text = text_to(last, tools)
        if not text:
            return []  # said of the whole dialogue
        missing: dict[str, None] = {}
        for number, turn in enumerate(turns[: last + 1]):
            if turn.utterance.strip() not in text:
                missing[f"{turn.role} text"] = None
            if turn.speaker != turn.role and turn.speaker not in text:
                missing["names"] = None
            if any(call.name not in text for call in turn.tool_calls):
                missing["tool calls"] = None
            if turn.reasoning and turn.reasoning.strip() not in text_to(number, tools):
                missing["reasoning"] = None
        if tools and text_to(last, None) == text:
            missing["tools"] = None
        return list(missing)

    def begins_turn(self, token_id: int) -> bool:
        """Tell whether it is the first special token of what asks for an answer."""
        return token_id == self._first

    def text_of(self, ids: Sequence[int]) -> str:
        """Decode an answer's text, without the thoughts before it."""
        return _THOUGHT.sub("", str(self.tokenizer.decode(list(ids)))).strip()

    def spelled_tags(self, dialogue: Dialogue) -> dict[str, str]:
        """Spell the speakers' names: only the template knows how it writes roles."""
        return {name: f"{name}:" for name in dialogue.speakers}


class _ChatReading:
    """A dialogue as the chat template writes it."""

    def __init__(self, template: ChatTemplate, dialogue: Dialogue) -> None:
        self._template = template
        self._asking = template.asking
        self._dialogue = dialogue

    @cached_property
    def _messages(self) -> list[Message]:
        return self._template.messages(self._dialogue)

    @cached_property
    def _tools(self) -> Any:
        return tools_of(self._dialogue)

    def after(self, history: Sequence[int], number: int) -> TurnInPlace:
        """Return an answer behind the turns ``history``, system texts first.

        A history that the template refuses (an assistant's turn at the beginning) loses its first
        turns until it is taken: what a model is served cannot be anything else.

        Anybody else's turn stands where the template writes it, and has no end.

        Raises:
            NotEncodableError: the template does not write that turn's text.
        """
        if self._dialogue.turns[number].role != "assistant":
            return self._of_others(history, number)
        is_system = [turn.role == "system" for turn in self._dialogue.turns]
        systems = [index for index in history if is_system[index]]
        others = [index for index in history if not is_system[index]]
        own = self._messages[number]
        for start in range(len(others) + 1):
            before = [*systems, *others[start:]]
            if not before:
                break
            try:
                messages = [*(self._messages[index] for index in before), own]
                return _in_place(self._asking.answer(messages, self._tools))
            except NotEncodableError:
                continue
        return _in_place(self._asking.alone([own]))

    def _of_others(self, history: Sequence[int], number: int) -> TurnInPlace:
        own = self._messages[number] | {"content": MARK}
        messages = [*(self._messages[index] for index in history), own]
        before, mark, _ = self._asking.text(messages, self._tools, asks=False).rpartition(MARK)
        ids = self._asking.ids(before)
        if not mark or not ids:
            raise NotEncodableError(f"the chat template does not write turn {number + 1}")
        text = encode_texts(self._template.tokenizer, [self._dialogue.turns[number].text])[0]
        return TurnInPlace(ids[:-1], EncodedTurn(ids[-1:], text, []))

    def renderings(self, trained: Sequence[bool]) -> list[Rendering]:
        """Return one, or more where a later prompt does not begin with the last answer."""
        self._template.check(self._dialogue)
        messages = self._messages  # which refuses who has no role
        found: list[Rendering] = []
        lasts: list[Answer] = []
        for number, is_trained in enumerate(trained):
            if not is_trained:
                continue
            try:
                answer = self._asking.answer(messages[: number + 1], self._tools)
            except NotEncodableError as error:
                raise NotEncodableError(f"turn {number + 1}: {error}") from None
            if not found or answer.prompt[: len(found[-1].input_ids)] != found[-1].input_ids:
                found.append(Rendering([], []))
                lasts.append(answer)
            last = found[-1]
            num_new = len(answer.prompt) - len(last.input_ids)
            last.input_ids.extend(answer.prompt[len(last.input_ids) :])
            last.input_ids.extend(answer.target)
            last.is_target.extend([False] * num_new + [True] * len(answer.target))
            lasts[-1] = answer
        if not all(map(self._asking.is_as_served, lasts)):
            self._asking.ids.in_parts = False
            return self.renderings(trained)
        return found

    def contents(self) -> list[list[int]]:
        """Return the ids of each turn's text."""
        return encode_texts(self._template.tokenizer, [t.text for t in self._dialogue.turns])

    def num_tokens(self) -> int:
        """Count the tokens of all messages."""
        return self._template.num_tokens(self._dialogue)

    def num_head(self, rendering: Rendering) -> int:
        """Count the tokens of what stands before the first question: system text, tools.

        What begins that question is not counted, unless the system text or the tools are in it.
        """
        count = num_system_turns(self._dialogue.turns)
        messages = [*self._messages[:count], self._messages[count] | {"content": MARK}]
        try:
            before = self._asking.text(messages, self._tools, asks=False).partition(MARK)[0]
        except NotEncodableError:
            return 0
        ids = os.path.commonprefix([rendering.input_ids, self._asking.ids(before)])
        borders = [place for place, one in enumerate(ids) if self._template.begins_turn(one)]
        first = self._template.tokenizer.bos_token_id
        border = borders[-1] if borders else int(ids[:1] == [first])
        begun = str(self._template.tokenizer.decode(list(ids[border:])))
        kept = [turn.utterance.strip() for turn in self._dialogue.turns[:count]]
        kept += (str(tool.get("function", tool).get("name")) for tool in self._tools or ())
        return len(ids) if any(text in begun for text in kept if text) else border

    def turn_starts(self, rendering: Rendering) -> list[int]:
        """Return where each turn begins, as far as the template writes turns one after another."""
        starts = [0]
        for count in range(1, len(self._messages)):
            try:
                text = self._asking.text(self._messages[:count], self._tools, asks=False)
            except NotEncodableError:
                starts.append(starts[-1])
                continue
            shared = os.path.commonprefix([rendering.input_ids, self._asking.ids(text)])
            starts.append(max(starts[-1], len(shared)))
        return starts


def _in_place(answer: Answer) -> TurnInPlace:
    """Return an answer as a turn whose tag is the last token before it."""
    *context, last = answer.prompt
    return TurnInPlace(context, EncodedTurn([last], answer.target[:-1], answer.target[-1:]))
