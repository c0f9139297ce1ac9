r"""How a turn is written for a model: a tag for its speaker, its text, and an end.

Two templates write the same text. ``SpeakerTokens`` is what the pipeline trains; ``PlainText`` lets
a pretrained model, which has never seen those tokens, be scored on equal terms::

    <|speaker1|>Hello!<|endofturn|><|speaker2|>Hi.<|endofturn|>
    A: Hello!\nB: Hi.\n

Each turn's three parts are encoded on their own, so the border between what is trained and what is
not is known by position and cannot drift. Text that spells a special token is encoded as text.

Pretrained models expect text as their tokenizers write it. So where one begins every text with a
token of its own (Llama's, Gemma's), every dialogue begins with it; and ``PlainText`` writes a part
of a line as it stands there, with one token for a full stop and the line's end where the tokenizer
has such (Llama 3's, Qwen's).
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from transformers import AddedToken, PreTrainedTokenizerFast

from stages.corpus.dialogue import Dialogue
from stages.encoding.texts import TextEncoder, encode_behind

END_OF_TURN = "<|endofturn|>"
PAD = "<|pad|>"

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


def speaker_token(index: int) -> str:
    """``<|speaker1|>`` for the first speaker of a dialogue (index 0), and so on."""
    return f"<|speaker{index + 1}|>"


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """Token ids of one turn's parts, in order."""

    speaker: str
    tag: list[int]
    content: list[int]
    end: list[int]
    joined: int | None = None
    """The one token that is written for the last of ``content`` and all of ``end``, if any is."""

    @property
    def ids(self) -> list[int]:
        """All of the turn, as it is written."""
        if self.joined is not None:
            return [*self.tag, *self.content[:-1], self.joined]
        return [*self.tag, *self.content, *self.end]

    def __len__(self) -> int:
        """Tokens in the turn, as it is written."""
        return len(self.tag) + len(self.content) + (len(self.end) if self.joined is None else 0)


Ending = Literal["end_of_turn", "tag"]
"""``tag``: by a speaker's tag, or by another token that no turn holds."""


class Template(Protocol):
    """A way to write turns as token ids."""

    tokenizer: PreTrainedTokenizerFast
    start: list[int]
    """What begins a dialogue, or a part of one that stands alone: ``first_token``."""
    end: list[int]
    """What ends a turn."""

    def tag(self, index: int) -> list[int]:
        """What begins a turn of a dialogue's speaker ``index``."""

    def ending_of(self, token_id: int) -> Ending | None:
        """How a model that writes this token ends its turn; None if it does not."""

    def is_joined(self, token_id: int) -> bool:
        """Whether a token holds text of a turn and, behind it, the turn's end."""

    def encode(self, dialogue: Dialogue) -> list[EncodedTurn]:
        """The dialogue's turns, in order; each part is encoded on its own."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in ``folder``, set to encode all of a text and nothing but the text.

    Special tokens spelled in it are plain text. A tokenizer that was saved after a truncated or
    padded call would otherwise go on cutting and padding.
    """
    config = folder / "tokenizer_config.json"
    names = json.loads(config.read_bytes()) if config.exists() else {}
    if names.get("tokenizer_class") == PreTrainedTokenizerFast.__name__:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:  # only the model's configuration tells; reading it takes two seconds, with torch
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast), "fetch takes fast tokenizers only"
    read_all_as_text(tokenizer)
    return tokenizer


def read_all_as_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """Make a tokenizer encode as ``load_tokenizer`` says; pickling one forgets it."""
    tokenizer.backend_tokenizer.encode_special_tokens = True
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def first_token(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The token with which a tokenizer begins every text of its own accord; none if it does not."""
    ids = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    return list(ids[:1]) if ids[:1] == [tokenizer.bos_token_id] else []


def chat_template(num_speakers: int, *, has_start: bool) -> str:
    """What writes messages as ``SpeakerTokens`` writes turns, for whoever loads the tokenizer.

    A message's speaker is its ``name``, else its ``role``. ``assistant`` answers a ``user``; among
    other speakers, the one who spoke before the last. Text that spells a special token becomes that
    token, as in every chat template: keep it out.
    """
    tags = json.dumps([speaker_token(index) for index in range(num_speakers)])
    start = "{{- bos_token -}}\n" if has_start else ""
    template = _CHAT_TEMPLATE.replace("TAGS", tags).replace("END_OF_TURN", END_OF_TURN)
    return template.replace("START\n", start)


def add_dialogue_tokens(tokenizer: PreTrainedTokenizerFast, num_speakers: int) -> int:
    """Add the speaker tokens, the end of turn, and a pad token that is nothing else.

    The chat template becomes ``chat_template``.

    Returns:
        How many ids are new; they follow all old ones.
    """
    names = [speaker_token(index) for index in range(num_speakers)] + [END_OF_TURN, PAD]
    num_added = tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
    )
    tokenizer.pad_token = PAD
    has_start = bool(first_token(tokenizer))
    tokenizer.chat_template = chat_template(num_speakers, has_start=has_start)
    return int(num_added)


class SpeakerTokens:
    """The template that is trained: one token per speaker, one that ends a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take a tokenizer that ``add_dialogue_tokens`` has extended."""
        self.tokenizer = tokenizer
        self.start = first_token(tokenizer)
        self.end_of_turn_id = _single_id(tokenizer, END_OF_TURN)
        self.end = [self.end_of_turn_id]
        self._tags: dict[int, list[int]] = {}
        self._special = set(special_ids(tokenizer))
        self.encode_text = TextEncoder(tokenizer)

    def tag(self, index: int) -> list[int]:
        """The token of a dialogue's speaker ``index``."""
        if index not in self._tags:
            self._tags[index] = [_single_id(self.tokenizer, speaker_token(index))]
        return self._tags[index]

    def ending_of(self, token_id: int) -> Ending | None:
        """All special tokens end a turn; ``<|endofturn|>`` alone rightly."""
        if token_id == self.end_of_turn_id:
            return "end_of_turn"
        return "tag" if token_id in self._special else None

    def is_joined(self, token_id: int) -> bool:
        """None is: special tokens hold no text."""
        return False

    def encode(self, dialogue: Dialogue) -> list[EncodedTurn]:
        """Write ``<|speakerN|>text<|endofturn|>`` for every turn."""
        tags = {name: self.tag(index) for index, name in enumerate(dialogue.speakers)}
        return [
            EncodedTurn(
                turn.speaker, tags[turn.speaker], self.encode_text(turn.utterance), self.end
            )
            for turn in dialogue.turns
        ]


class PlainText:
    """The template of a model that knows no dialogue tokens: ``A: text``, one turn a line."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Take the base model's own tokenizer."""
        self.tokenizer = tokenizer
        self.start = first_token(tokenizer)
        self.end = encode_behind(tokenizer, "A", ["\n"])[0]
        self._special = set(special_ids(tokenizer))

    def tag(self, index: int) -> list[int]:
        """``A:`` for the first speaker, …, ``Z:``, ``A1:``."""
        letter = string.ascii_uppercase[index % 26]
        return encode_behind(self.tokenizer, "\n", [f"{letter}{index // 26 or ''}:"])[0]

    def ending_of(self, token_id: int) -> Ending | None:
        """A token that holds the end of a line ends the turn, as does the end of the text."""
        is_end = token_id in self._special or "\n" in self.tokenizer.decode([token_id])
        return "end_of_turn" if is_end else None

    def is_joined(self, token_id: int) -> bool:
        """A token of the text that has more than white space before the end of a line."""
        text, line_end, _ = str(self.tokenizer.decode([token_id])).partition("\n")
        return bool(line_end and text.strip()) and token_id not in self._special

    def encode(self, dialogue: Dialogue) -> list[EncodedTurn]:
        r"""Write ``A: text\n`` for every turn; the space belongs to the text's first token."""
        texts = [" " + turn.utterance for turn in dialogue.turns]
        contents = encode_behind(self.tokenizer, "A:", texts)
        lines = encode_behind(self.tokenizer, "A:", [text + "\n" for text in texts])
        tags = {name: self.tag(index) for index, name in enumerate(dialogue.speakers)}
        return [
            EncodedTurn(
                turn.speaker,
                tags[turn.speaker],
                content,
                self.end,
                joined=line[-1] if line[:-1] == content[:-1] else None,
            )
            for turn, content, line in zip(dialogue.turns, contents, lines, strict=True)
        ]


def special_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that no text holds."""
    return [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]


def _single_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int) and token_id != tokenizer.unk_token_id, f"{token} not added"
    return token_id
