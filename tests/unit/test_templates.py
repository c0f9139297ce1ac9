"""Dialogue tokens are new ids that only the template writes; all text comes back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.thorough import few_or_all
from tests.tiny_model import END_OF_TEXT
from tuning.dialogue import Dialogue, Role, ToolCall, Turn
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.template import EncodedTurn
from tuning.tokens.templates import prepare_tokenizer, template_of
from tuning.tokens.tokenizer import load_tokenizer

HELLO = Dialogue("x", (Turn("ann", "Hello! How are you?"), Turn("bob", "fine ☺\nand you?")))
SPELLINGS = ("<|endofturn|>", "<|speaker1|>", "<|speaker9|>", "<|pad|>", END_OF_TEXT)


@pytest.fixture(scope="module")
def base_size(tiny_base: Path) -> int:
    return len(load_tokenizer(tiny_base))


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer(tiny_base)
    add_dialogue_tokens(tokenizer, 2)
    return tokenizer


def all_ids(turns: list[EncodedTurn]) -> list[int]:
    return [i for turn in turns for i in turn.tag + turn.content + turn.end]


def decode(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def test_added_ids_follow_the_old_ones(tiny_base: Path, base_size: int) -> None:
    tokenizer = load_tokenizer(tiny_base)
    old = tokenizer.get_vocab()
    record = add_dialogue_tokens(tokenizer, 3)
    assert (record.num_base_tokens, len(record.new_rows)) == (base_size, 5)
    new = {token: i for token, i in tokenizer.get_vocab().items() if token not in old}
    assert new == {
        "<|speaker1|>": base_size,
        "<|speaker2|>": base_size + 1,
        "<|speaker3|>": base_size + 2,
        "<|endofturn|>": base_size + 3,
        "<|pad|>": base_size + 4,
    }
    assert {token: tokenizer.get_vocab()[token] for token in old} == old


def test_a_second_add_adds_nothing(tiny_base: Path, base_size: int) -> None:
    tokenizer = load_tokenizer(tiny_base)
    assert len(add_dialogue_tokens(tokenizer, 2).new_rows) == 4
    assert not add_dialogue_tokens(tokenizer, 2).new_rows
    assert len(tokenizer) == base_size + 4


def test_pad_is_no_other_token(tokenizer: PreTrainedTokenizerFast, base_size: int) -> None:
    assert tokenizer.pad_token_id == base_size + 3
    assert tokenizer.pad_token_id not in {
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
        tokenizer.unk_token_id,
        *SpeakerTokens(tokenizer).end,
    }


def test_a_dialogue_is_a_tag_its_text_and_an_end_per_turn(
    tokenizer: PreTrainedTokenizerFast, base_size: int
) -> None:
    turns = SpeakerTokens(tokenizer).encode(HELLO)
    assert [(turn.tag, turn.end) for turn in turns] == [
        ([base_size], [base_size + 2]),
        ([base_size + 1], [base_size + 2]),
    ]
    assert [decode(tokenizer, turn.content) for turn in turns] == [
        "Hello! How are you?",
        "fine ☺\nand you?",
    ]
    assert decode(tokenizer, all_ids(turns)) == (
        "<|speaker1|>Hello! How are you?<|endofturn|><|speaker2|>fine ☺\nand you?<|endofturn|>"
    )
    assert [len(turn) for turn in turns] == [len(all_ids([turn])) for turn in turns]


def test_speakers_are_numbered_by_first_appearance(tiny_base: Path, base_size: int) -> None:
    tokenizer = load_tokenizer(tiny_base)
    add_dialogue_tokens(tokenizer, 3)
    dialogue = Dialogue(
        "x", tuple(Turn(name, "hi") for name in ("zoe", "ann", "zoe", "bob", "bob"))
    )
    tags = [turn.tag for turn in SpeakerTokens(tokenizer).encode(dialogue)]
    assert tags == [[base_size + n] for n in (0, 1, 0, 2, 2)]


@given(
    st.lists(
        st.one_of(st.sampled_from(SPELLINGS), st.text(st.characters(codec="utf-8"), max_size=8)),
        max_size=6,
    ).map("".join)
)
@settings(max_examples=few_or_all(100))
def test_any_text_is_encoded_as_plain_text_and_comes_back(
    tokenizer: PreTrainedTokenizerFast, base_size: int, text: str
) -> None:
    """Among it text that spells a special token, ours or the base model's own."""
    [turn] = SpeakerTokens(tokenizer).encode(Dialogue("x", (Turn("ann", text),)))
    assert decode(tokenizer, turn.content) == text
    assert not set(turn.content) & {*range(base_size, base_size + 4), tokenizer.eos_token_id}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_base_models_template_reads_spellings_as_text_too(
    tiny_base: Path, spelling: str
) -> None:
    tokenizer = load_tokenizer(tiny_base)
    [turn] = PlainLines(tokenizer).encode(Dialogue("x", (Turn("ann", spelling),)))
    assert len(turn.content) > 3
    assert decode(tokenizer, turn.content) == f" {spelling}"


def test_plain_text_is_one_line_per_turn(tiny_base: Path, base_size: int) -> None:
    tokenizer = load_tokenizer(tiny_base)
    turns = PlainLines(tokenizer).encode(
        Dialogue("x", (*HELLO.turns, Turn("ann", "good"), Turn("cem", "hi")))
    )
    assert [decode(tokenizer, all_ids([turn])) for turn in turns] == [
        "A: Hello! How are you?\n",
        "B: fine ☺\nand you?\n",
        "A: good\n",
        "C: hi\n",
    ]
    assert [decode(tokenizer, turn.tag) for turn in turns] == ["A:", "B:", "A:", "C:"]
    assert {decode(tokenizer, turn.end) for turn in turns} == {"\n"}
    assert max(all_ids(turns)) < base_size


def test_plain_text_has_a_name_for_every_speaker(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    template = PlainLines(tokenizer)
    assert [decode(tokenizer, template.tag(n)) for n in (0, 25, 26, 27, 52)] == [
        "A:",
        "Z:",
        "A1:",
        "B1:",
        "A2:",
    ]


def test_an_extended_tokenizer_survives_being_saved(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.pad_token_id == tokenizer.pad_token_id
    assert again.eos_token_id == tokenizer.eos_token_id
    assert not add_dialogue_tokens(again, 2).new_rows
    spelled = Dialogue("y", tuple(Turn("ann", f"I say {text}") for text in SPELLINGS))
    for dialogue in (HELLO, spelled):
        assert SpeakerTokens(again).encode(dialogue) == SpeakerTokens(tokenizer).encode(dialogue)


@pytest.mark.parametrize("kind", [SpeakerTokens, PlainLines])
def test_a_base_that_was_saved_with_truncation_and_padding_loses_and_gains_nothing(
    tiny_base: Path,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    kind: type[SpeakerTokens] | type[PlainLines],
) -> None:
    """Many fine-tuned models' tokenizer.json holds what their last batch was cut and padded to."""
    saved = load_tokenizer(tiny_base)
    saved.backend_tokenizer.enable_truncation(4)
    saved.backend_tokenizer.enable_padding(pad_id=0, pad_token=END_OF_TEXT)
    saved.save_pretrained(tmp_path)
    cut = load_tokenizer(tmp_path)
    add_dialogue_tokens(cut, 2)
    assert kind(cut).encode(HELLO) == kind(tokenizer).encode(HELLO)


def messages(dialogue: Dialogue) -> list[dict[str, str]]:
    return [{"role": turn.speaker, "content": turn.utterance} for turn in dialogue.turns]


@pytest.fixture(scope="module")
def saved(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer as others load it: with what ``load_tokenizer`` does to it left undone."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(
    texts=st.lists(st.text(max_size=30).filter(lambda text: "<|" not in text), max_size=5),
    order=st.lists(st.sampled_from(["user", "assistant"]), min_size=5, max_size=5),
)
def test_the_chat_template_writes_the_ids_that_are_trained(
    saved: Any, tokenizer: PreTrainedTokenizerFast, texts: list[str], order: list[str]
) -> None:
    turns = (Turn(*turn) for turn in zip(order, texts, strict=False))
    dialogue = Dialogue("x", tuple(turns))
    found = saved.apply_chat_template(messages(dialogue), return_dict=False) if texts else []
    assert found == all_ids(SpeakerTokens(tokenizer).encode(dialogue))


@pytest.mark.parametrize(
    ("speakers", "next_one"),
    [
        (["user"], 1),
        (["user", "assistant", "user"], 1),
        (["assistant", "user"], 0),
        (["assistant"], 0),
        (["ann", "bob"], 0),
        (["ann", "bob", "bob"], 0),
        (["ann"], 1),
        (["bob", "ann", "bob"], 1),
    ],
)
def test_who_answers(
    saved: Any, tokenizer: PreTrainedTokenizerFast, speakers: list[str], next_one: int
) -> None:
    chat = [{"role": speaker, "content": "hi"} for speaker in speakers]
    ids = saved.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids[-1:] == SpeakerTokens(tokenizer).tag(next_one)
    assert len(ids) == 1 + sum(
        len(t)
        for t in SpeakerTokens(tokenizer).encode(
            Dialogue("x", tuple(Turn(speaker, "hi") for speaker in speakers))
        )
    )


def test_names_and_parts_of_a_message_count(saved: Any) -> None:
    plain = [{"role": "ann", "content": "hello"}, {"role": "bob", "content": "hi you"}]
    named = [
        {"role": "user", "name": "ann", "content": "hello"},
        {
            "role": "user",
            "name": "bob",
            "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": " you"}],
        },
    ]
    assert saved.apply_chat_template(named) == saved.apply_chat_template(plain)


def test_more_speakers_than_there_are_tokens_are_refused(saved: Any) -> None:
    chat = [{"role": name, "content": "hi"} for name in ("system", "user")]
    saved.apply_chat_template(chat)
    with pytest.raises(TemplateError, match="this model knows 2 speakers; the chat has more"):
        saved.apply_chat_template(chat, add_generation_prompt=True)


# --- roles ----------------------------------------------------------------------------------------

ROLES_CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "name": "ann", "content": "hello"},
    {"role": "user", "name": "bob", "content": "hi"},
    {"role": "assistant", "content": "fine"},
    {"role": "tool", "content": "7"},
    {"role": "user", "content": "bye"},
]


@pytest.fixture(scope="module")
def with_roles(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("roles")
    prepare_tokenizer(tiny_base, folder, 2, has_roles=True)
    return folder


def speakers_of(folder: Path) -> SpeakerTokens:
    template = template_of(folder)
    assert isinstance(template, SpeakerTokens)
    return template


def said(chat: list[dict[str, str]]) -> Dialogue:
    """As prep reads it."""
    turns = (Turn(m.get("name", m["role"]), m["content"], cast(Role, m["role"])) for m in chat)
    return Dialogue("x", tuple(turns))


@given(st.lists(st.sampled_from(ROLES_CHAT), min_size=1, max_size=8))
def test_a_role_has_one_token_wherever_it_stands(
    with_roles: Path, chat: list[dict[str, str]]
) -> None:
    """The chat template writes what is trained, with or without a system text, in any order."""
    template = speakers_of(with_roles)
    encoded = template.encode(said(chat))
    for message, turn in zip(chat, encoded, strict=True):
        if "name" not in message:
            token = f"<|{message['role']}|>"
            assert turn.tag == [template.tokenizer.convert_tokens_to_ids(token)]
    served = AutoTokenizer.from_pretrained(with_roles)
    assert served.apply_chat_template(chat, return_dict=False) == all_ids(encoded)
    asked = served.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    if any("name" not in message for message in chat):
        assert asked[-1] == template.tokenizer.convert_tokens_to_ids("<|assistant|>")


def test_a_model_without_role_tokens_numbers_roles_like_anybody(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    template = SpeakerTokens(tokenizer)
    tags = template.tags(said([ROLES_CHAT[5], ROLES_CHAT[3]]))
    assert tags == {"user": template.tag(0), "assistant": template.tag(1)}


def test_plain_lines_name_the_roles(tokenizer: PreTrainedTokenizerFast) -> None:
    template = PlainLines(tokenizer)
    assert template.spelled_tags(said(ROLES_CHAT)) == {
        "system": "System:",
        "ann": "A:",
        "bob": "B:",
        "assistant": "Assistant:",
        "tool": "Tool:",
        "user": "User:",
    }


def test_a_call_is_written_as_json_behind_the_words(with_roles: Path) -> None:
    template = speakers_of(with_roles)
    calls = (ToolCall("price_of", '{"item": "kettle"}'),)
    (turn,) = template.encode(
        Dialogue("x", (Turn("assistant", "wait", "assistant", tool_calls=calls),))
    )
    text = decode(template.tokenizer, turn.content)
    assert text == 'wait\n{"name": "price_of", "arguments": {"item": "kettle"}}'


def test_a_model_that_knows_roles_alone_takes_people_for_user_and_assistant(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Planted facts are told by two people without roles."""
    prepare_tokenizer(tiny_base, tmp_path, 0, has_roles=True)
    template = speakers_of(tmp_path)
    people = Dialogue("x", (Turn("A", "hello"), Turn("B", "hi"), Turn("A", "bye")))
    roles: list[Role] = ["user", "assistant", "user"]
    as_roles = (Turn(r, t.text, r) for r, t in zip(roles, people.turns, strict=True))
    assert all_ids(template.encode(people)) == all_ids(
        template.encode(Dialogue("x", tuple(as_roles)))
    )
    assert template.spelled_tags(people) == {"A": "<|user|>", "B": "<|assistant|>"}
