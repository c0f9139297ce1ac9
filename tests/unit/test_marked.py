"""One text with a chat template's marks is the messages that it was made of."""

from __future__ import annotations

from typing import Any

import pytest

from tests.corpora import assistant, read_entry, system, tool, user
from tuning.dialogue import Turn
from tuning.run.params import ColumnsParams

CHATML = (
    "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello <b>\nyou<|im_end|>\n"
    "<|im_start|>assistant\nHi<|im_end|>\n"
)
LLAMA_3 = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello <b>\nyou<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi<|eot_id|>"
)
TEXTS = {
    "ChatML": CHATML,
    "ChatML, cut before its end": CHATML.removesuffix("<|im_end|>\n"),
    "Llama 3": LLAMA_3,
    "Llama 2": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello <b>\nyou [/INST] Hi </s>",
    "Zephyr": "<|system|>\nBe kind.</s>\n<|user|>\nHello <b>\nyou</s>\n<|assistant|>\nHi</s>\n",
    "Phi": "<|system|>\nBe kind.<|end|>\n<|user|>\nHello <b>\nyou<|end|>\n<|assistant|>\nHi<|end|>",
    "Gemma": (
        "<bos><start_of_turn>system\nBe kind.<end_of_turn>\n<start_of_turn>user\nHello <b>\nyou"
        "<end_of_turn>\n<start_of_turn>model\nHi<end_of_turn>\n"
    ),
}
TURNS = [system("Be kind."), user("Hello <b>\nyou"), assistant("Hi")]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("key", ["text", "chat", "formatted_chat", "messages"])
def test_a_templates_text_is_its_messages(name: str, key: str) -> None:
    found = read_entry({key: TEXTS[name], "source": "x"})
    assert (found.turns, found.unused) == (TURNS, {"source": 1})


def test_several_exchanges_of_llama_2_and_mistral() -> None:
    text = "<s>[INST] a [/INST] b</s><s>[INST] c [/INST] d </s> [INST] e [/INST]"
    said = [user("a"), assistant("b"), user("c"), assistant("d"), user("e")]
    assert read_entry({"text": text}).turns == said


@pytest.mark.parametrize("name", ["ChatML", "Llama 3", "Llama 2", "Zephyr", "Gemma"])
def test_a_prompt_that_ends_before_the_answer_is_joined_with_it(name: str) -> None:
    prompt, mark, answer = TEXTS[name].rpartition("Hi")
    found = read_entry({"prompt": prompt, "completion": mark + answer})
    assert found.turns == TURNS


def test_alpacas_text_is_instruction_input_and_response() -> None:
    text = "### Instruction:\nName it.\n\n### Input:\na lamp\n\n### Response:\nLamp."
    said = [user("Name it.\na lamp"), assistant("Lamp.")]
    assert read_entry({"text": text}).turns == said
    assert read_entry({"text": f"Below is a task.\n\n{text}</s>"}).turns == [
        system("Below is a task."),
        *said,
    ]
    assert read_entry({"text": "### Instruction:\nName it."}).fault[0] == "unknown_layout"


@pytest.mark.parametrize("key", ["text", "chat", "conversation", "dialogue"])
def test_a_dialogue_of_words_may_have_a_tool_and_ends(key: str) -> None:
    text = "USER: q\n\n\nASSISTANT: f() <|endoftext|>\n\n\nFUNCTION RESPONSE: 3\nASSISTANT: a</s>"
    found = read_entry({"system": "Be kind.", key: text})
    assert found.turns == [
        system("Be kind."),
        user("q"),
        assistant("f()"),
        tool("3"),
        assistant("a"),
    ]


def test_a_template_may_name_people_and_a_team_has_its_own_roles() -> None:
    text = "<|im_start|>Luna\nHi<|im_end|><|im_start|>guest\nHello<|im_end|>"
    found = read_entry({"text": text}, roles={"guest": "user"})
    assert found.turns == [Turn("Luna", "Hi"), user("Hello")]


def test_columns_may_lead_to_such_a_text() -> None:
    columns = ColumnsParams(list="data.chat", who=None, text=None, role=None, id=None)
    assert read_entry({"data": {"chat": CHATML}}, columns=columns).turns == TURNS


@pytest.mark.parametrize(
    "record",
    [
        {"question": "What does <|im_start|>user mean?", "answer": "It begins a turn."},
        {"prompt": "see [INST] x [/INST]", "completion": "Mistral's"},
        {"prompt": "<b>bold</b>", "completion": "HTML"},
    ],
)
def test_a_text_that_speaks_of_marks_has_none(record: dict[str, Any]) -> None:
    asked, answered = record.values()
    assert read_entry(record).turns == [user(asked), assistant(answered)]


# Texts that begin with a name


def test_texts_behind_names_are_read_by_them() -> None:
    named = ["Ann: hi", "Bo Li: 10:30?", "Ann: no:\nlater", "Bo Li:"]
    wanted = [Turn("Ann", "hi"), Turn("Bo Li", "10:30?"), Turn("Ann", "no:\nlater")]
    for entry in (named, {"dialog": named}):
        assert read_entry(entry).turns == wanted
    assert read_entry(["User: q", "Assistant: a"]).turns == [user("q"), assistant("a")]


@pytest.mark.parametrize(
    "texts",
    [
        ["Ann: hi", "Bo: hi"],
        ["Ann: hi", "Bo: hi", "Ann, no"],
        ["Note: milk", "Note: bread"],
        ["I said it: no", "Well. Then: no", "I said it: no"],
        ["http://a.example", "http://b.example", "http://a.example"],
    ],
)
def test_texts_that_need_not_begin_with_names_are_two_speakers(texts: list[str]) -> None:
    assert read_entry(texts).turns == [Turn("AB"[n % 2], text) for n, text in enumerate(texts)]


def test_marks_of_words_with_signs_may_stand_in_the_middle_of_a_line() -> None:
    text = "### Human: one### Assistant: two\n### Human: three ### Assistant: four"
    found = read_entry({"text": text})
    assert [(turn.role, turn.utterance) for turn in found.turns] == [
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
        ("assistant", "four"),
    ]
