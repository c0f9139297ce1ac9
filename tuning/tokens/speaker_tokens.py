"""The seed's template: one token per speaker, by first appearance, and one that ends a turn.

    <|speaker1|>Hello!<|endofturn|><|speaker2|>Hi.<|endofturn|>

The tokens are added to the base model's tokenizer, with a chat template that writes the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count, takewhile

from transformers import AddedToken, PreTrainedTokenizerFast

from tuning.dialogue import ROLES, Dialogue
from tuning.template_record import TemplateRecord
from tuning.tokens.call_text import AS_LINES
from tuning.tokens.plain_lines import PlainLines, lacked_by_lines, role_line
from tuning.tokens.template import EncodedTurn, EndsWithMarks, TurnByTurn, num_system_turns
from tuning.tokens.texts import TextEncoder, encode_behind
from tuning.tokens.tokenizer import first_token, special_ids

END_OF_TURN = "<|endofturn|>"
PAD = "<|pad|>"

_ROLES = """\
It answers as the assistant. The messages' roles (`system`, `user`, `assistant`, `tool`) have tokens
of their own, wherever they stand.
"""
_SPEAKERS = """\
It writes the next turn of a chat between up to {num_speakers} speakers. Speakers get their tokens
in the order in which they first speak; a message's `name`, if it has one, stands before its `role`.
More speakers in one chat are refused by its chat template.
"""
_END = """
Generation ends at `<|endofturn|>`. Text that spells a special token, such as this one, becomes that
token in a chat template: remove it from what users type.
"""

_CHAT_TEMPLATE = """\
{#- Speakers get their tokens in the order in which they first speak, as in training. -#}
START
{%- set tags = TAGS -%}
{%- set chat = namespace(speakers=[], last="", other="") -%}
{%- macro tag(speaker) -%}
  {%- for known in chat.speakers -%}
    {%- if known == speaker -%}
      {%- if loop.index > tags | length -%}
        {{- raise_exception("this model knows " ~ loop.index0 ~ " speakers; the chat has more") -}}
      {%- endif -%}
      {{- tags[loop.index0] -}}
    {%- endif -%}
  {%- endfor -%}
{%- endmacro -%}
{%- for message in messages -%}
  {%- set speaker = message.name or message.role -%}
  {%- if speaker not in chat.speakers -%}
    {%- set chat.speakers = chat.speakers + [speaker] -%}
  {%- endif -%}
  {%- if speaker != chat.last -%}
    {%- set chat.other = chat.last -%}
  {%- endif -%}
  {%- set chat.last = speaker -%}
  {{- tag(speaker) -}}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for part in message.content -%}{{- part.text -}}{%- endfor -%}
  {%- endif -%}
  {{- "END_OF_TURN" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {%- if "user" in chat.speakers or "assistant" in chat.speakers or not chat.other -%}
    {%- set chat.other = "assistant" -%}
  {%- endif -%}
  {%- if chat.other not in chat.speakers -%}
    {%- set chat.speakers = chat.speakers + [chat.other] -%}
  {%- endif -%}
  {{- tag(chat.other) -}}
{%- endif -%}
"""


_ROLES_SET = """\
{%- set roles = ROLES -%}
{%- set chat = namespace(speakers=[], last="", other="", has_roles=false) -%}
"""
_CHAT_SET = """\
{%- set chat = namespace(speakers=[], last="", other="") -%}
"""
_SAID_BY_ROLE = """\
{%- for message in messages -%}
  {%- if message.role in roles and (message.role != "user" or not message.name) -%}
    {%- set chat.has_roles = true -%}
    {{- roles[message.role] -}}
  {%- else -%}
"""
_SAID = """\
{%- for message in messages -%}
"""
_ASKED_ROLE = """\
{%- if add_generation_prompt and (chat.has_roles or not chat.speakers) -%}
  {{- roles["assistant"] -}}
{%- elif add_generation_prompt -%}
"""
_ASKED = """\
{%- if add_generation_prompt -%}
"""


def role_token(role: str) -> str:
    """Return ``<|assistant|>`` and so on: a role has one token, wherever it stands."""
    return f"<|{role}|>"


def speaker_token(index: int) -> str:
    """``<|speaker1|>`` for the first speaker of a dialogue (index 0), and so on."""
    return f"<|speaker{index + 1}|>"


def chat_template(num_speakers: int, *, has_start: bool, has_roles: bool = False) -> str:
    """Return the chat template that writes messages as ``SpeakerTokens`` writes turns.

    It is saved with the tokenizer, for whoever loads that.

    A message's speaker is its ``name``, else its ``role``. ``assistant`` answers a ``user``; among
    other speakers, the one who spoke before the last. Text that spells a special token becomes that
    token, as in every chat template: keep it out.
    """
    tags = json.dumps([speaker_token(index) for index in range(num_speakers)])
    start = "{{- bos_token -}}\n" if has_start else ""
    template = _CHAT_TEMPLATE.replace("TAGS", tags).replace("END_OF_TURN", END_OF_TURN)
    if has_roles:
        spelled = {role: role_token(role) for role in ROLES}
        roles = spelled | {"developer": role_token("system"), "function": role_token("tool")}
        template = template.replace(_CHAT_SET, _ROLES_SET.replace("ROLES", json.dumps(roles)))
        template = template.replace(_SAID, _SAID_BY_ROLE).replace(_ASKED, _ASKED_ROLE)
        by_speaker = "  {{- tag(speaker) -}}\n"
        template = template.replace(by_speaker, f"{by_speaker}  {{%- endif -%}}\n")
    return template.replace("START\n", start)


def add_dialogue_tokens(
    tokenizer: PreTrainedTokenizerFast, num_speakers: int, *, has_roles: bool = False
) -> TemplateRecord:
    """Add the speaker tokens, the end of turn, and a pad token that is nothing else.

    Where the data has roles, each of the four gets a token of its own besides.

    The chat template becomes ``chat_template``. An embedding of a new token is to begin as that of
    what it stands for in plain text: ``<|speaker1|>`` as ``A:``, ``<|endofturn|>`` as a line's end,
    ``<|pad|>`` as the whole vocabulary. The mean of the vocabulary for all of them would make the
    end of a turn so unlikely (14 nats after the seed recipe's first 15 steps) that a short
    fine-tuning never learns to stop.
    """
    plain = PlainLines(tokenizer)
    stands_for = {PAD: [], END_OF_TURN: plain.end}
    stands_for |= {speaker_token(index): plain.tag(index) for index in range(num_speakers)}
    roles = ROLES if has_roles else ()
    stands_for |= {
        role_token(role): encode_behind(tokenizer, "\n", [role_line(role)])[0] for role in roles
    }
    num_base_tokens = len(tokenizer)
    names = [speaker_token(index) for index in range(num_speakers)]
    names += [*map(role_token, roles), END_OF_TURN, PAD]
    tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
    )
    tokenizer.pad_token = PAD
    has_start = bool(first_token(tokenizer))
    tokenizer.chat_template = chat_template(num_speakers, has_start=has_start, has_roles=has_roles)
    new_ids = range(num_base_tokens, len(tokenizer))
    end_of_turn, pad = (_single_id(tokenizer, name) for name in (END_OF_TURN, PAD))
    return TemplateRecord(
        name=SpeakerTokens.name,
        num_base_tokens=num_base_tokens,
        new_rows=[stands_for[str(tokenizer.convert_ids_to_tokens(id_))] for id_ in new_ids],
        # No turn holds another special token, so a model that writes one has ended its turn, too.
        stop_ids=[end_of_turn, *sorted(set(special_ids(tokenizer)) - {end_of_turn})],
        pad_id=pad,
        usage=_ROLES * has_roles
        + _SPEAKERS.format(num_speakers=num_speakers) * (num_speakers > 0)
        + _END,
    )


class SpeakerTokens(EndsWithMarks):
    """The template of a model that was tuned with speaker tokens."""

    name = "speakers"
    asks_all = True
    calls = AS_LINES

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take a tokenizer that ``add_dialogue_tokens`` has extended."""
        self.tokenizer = tokenizer
        self.start = first_token(tokenizer)
        self.end = [_single_id(tokenizer, END_OF_TURN)]
        self.stop_ids = frozenset(self.end)
        self._tags: dict[int, list[int]] = {}
        self.special_ids = frozenset(special_ids(tokenizer))
        self._encode_text = TextEncoder(tokenizer)
        vocabulary = tokenizer.get_vocab()
        known = takewhile(vocabulary.__contains__, map(speaker_token, count()))
        self._roles = {
            str(role): [vocabulary[role_token(role)]]
            for role in ROLES
            if role_token(role) in vocabulary
        }
        self.has_roles = bool(self._roles)
        self._knows_people = speaker_token(0) in vocabulary
        self._first = frozenset(
            vocabulary[token] for token in (*known, *map(role_token, self._roles))
        )
        self.untrained_ids = self._first | {_single_id(tokenizer, PAD), *self.start}

    def tag(self, index: int) -> list[int]:
        """The token of a dialogue's speaker ``index``."""
        if index not in self._tags:
            self._tags[index] = [_single_id(self.tokenizer, self._spelled(index))]
        return self._tags[index]

    def _spelled(self, index: int) -> str:
        """A model that knows roles alone takes people for user and assistant, by turns."""
        if self._knows_people:
            return speaker_token(index)
        return role_token(("user", "assistant")[index % 2])

    def tags(self, dialogue: Dialogue) -> dict[str, list[int]]:
        """Return the token of each role, and of the others by order of first appearance."""
        numbers = self._numbers(dialogue)
        return {
            name: self.tag(numbers[name]) if name in numbers else self._roles[name]
            for name in dialogue.speakers
        }

    def _numbers(self, dialogue: Dialogue) -> dict[str, int]:
        """Speakers without a role's token, by number."""
        if self._roles:
            return dialogue.people
        return {name: index for index, name in enumerate(dialogue.speakers)}

    def begins_turn(self, token_id: int) -> bool:
        """Tell whether it is the tag of a speaker or role."""
        return token_id in self._first

    def text_of(self, ids: Sequence[int]) -> str:
        """Decode a turn's text."""
        return str(self.tokenizer.decode(list(ids))).strip()

    def num_tokens(self, dialogue: Dialogue) -> int:
        """Count a tag, the content and an end per turn."""
        contents = (self._encode_text(turn.text) for turn in dialogue.turns)
        return len(self.start) + sum(len(content) + 2 for content in contents)

    def lacks(self, dialogue: Dialogue) -> list[str]:
        """Name reasoning and tools, for which there is no token."""
        return lacked_by_lines(dialogue)

    def read(self, dialogue: Dialogue) -> TurnByTurn:
        """Read a tag, a text and an end per turn."""
        return TurnByTurn(self.start, self.encode(dialogue), num_system_turns(dialogue.turns))

    def encode(self, dialogue: Dialogue) -> list[EncodedTurn]:
        """Write ``<|speakerN|>text<|endofturn|>`` for every turn."""
        tags = self.tags(dialogue)
        return [
            EncodedTurn(tags[turn.speaker], self._encode_text(turn.text), self.end)
            for turn in dialogue.turns
        ]

    def spelled_tags(self, dialogue: Dialogue) -> dict[str, str]:
        """Spell the speakers' and the roles' tokens."""
        numbers = self._numbers(dialogue)
        return {
            name: self._spelled(numbers[name]) if name in numbers else f"<|{name}|>"
            for name in dialogue.speakers
        }


def _single_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int) and token_id != tokenizer.unk_token_id, f"{token} not added"
    return token_id
