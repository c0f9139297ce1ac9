"""The model card's program, run as it stands: the model gets what it was trained to answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.chat_models import (
    CALLS_AS_TEXT,
    CHATML,
    MERGES_SYSTEM,
    THINKS,
    TOOLS_AS_JSON,
    make_chat_base,
)
from tests.corpora import assistant, system, tool, user
from tuning.dialogue import Dialogue, ToolCall, Turn
from tuning.evaluation_set.places import Place, Response, response_of
from tuning.release.example import MAX_CHARACTERS, Example, choose_example
from tuning.release.model_card import use_section
from tuning.tokens.templates import prepare_tokenizer, template_of
from tuning.training.publishing import publish
from tuning.training.start import load_for_training

PEOPLE = Dialogue(
    "people",
    (
        Turn("ann", "whats up?"),
        Turn("ann", "im doing good"),
        Turn("bob", 'Not much, "just" reading\n```\na book'),
        Turn("ann", "Do you like to read?"),
    ),
)
THREE = Dialogue("three", tuple(map(Turn, ("ann", "bob", "cem", "bob", "ann"), "abcde")))
ROLES = Dialogue(
    "roles", (system("Be brief."), user("Hello!"), assistant("I am fine."), user("And you?"))
)
TOOL = {"type": "function", "function": {"name": "sea", "parameters": {"strict": True}}}
CALLS = Dialogue(
    "calls",
    (
        user("Do you like the sea?"),
        assistant("", tool_calls=(ToolCall("sea", '{"deep": null}', "call_1"),)),
        tool("yes", tool_call_id="call_1"),
        assistant("I do."),
    ),
    tools=json.dumps([TOOL]),
)


ANSWERED = Dialogue("d", (user("And you?"), assistant("I am fine, thank you.")))


def published(base: Path, folder: Path, num_people: int, **choice: Any) -> Path:
    """A model that was trained for no step, as train leaves it."""
    prepare_tokenizer(base, folder / "tokenizer", num_people, **choice)
    model = load_for_training(base, folder / "tokenizer", 64)
    publish(model, folder / "tokenizer", folder / "model")
    return folder / "model"


def published_chat(tiny_base: Path, folder: Path, template: str, **settings: Any) -> Path:
    """The same in its base model's own chat template."""
    base = make_chat_base(tiny_base, folder / "base", template)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(base)), mean_resizing=False)
    model.save_pretrained(base)
    return published(base, folder, 0, choice="chat", settings=settings, has_roles=True)


def chosen(folder: Path, *dialogues: Dialogue, written: Sequence[Response] = ()) -> Example | None:
    template = template_of(folder)
    return choose_example(dialogues, written, template, loss_on="auto", region="US")


def trained_at(dialogue: Dialogue, number: int) -> Dialogue:
    """The dialogue with one trained turn, so that the example is of that one."""
    weights = (float(index == number) for index in range(len(dialogue.turns)))
    turns = (replace(turn, weight=w) for turn, w in zip(dialogue.turns, weights, strict=True))
    return replace(dialogue, turns=tuple(turns))


def run(section: str, folder: Path) -> list[int]:
    """Execute the card's program as it stands; return the ids that it asked the model with."""
    names: dict[str, Any] = {"folder": str(folder)}
    exec(section.partition("```python\n")[2].partition("\n```")[0], names)
    ids: list[int] = names["inputs"]["input_ids"][0].tolist()
    return ids


def assert_asked_as_trained(folder: Path, dialogue: Dialogue, number: int) -> str:
    """Return the section of the card."""
    example = chosen(folder, trained_at(dialogue, number))
    assert example is not None and example.answer == dialogue.turns[number].text
    prompt = template_of(folder).read(dialogue).after(range(number), number).prompt
    section = use_section(example)
    assert run(section, folder) == prompt
    return section


@pytest.mark.parametrize("number", [1, 2, 3])
def test_two_people_are_asked_as_in_training(tiny_base: Path, tmp_path: Path, number: int) -> None:
    section = assert_asked_as_trained(published(tiny_base, tmp_path, 2), PEOPLE, number)
    assert "ann" not in section and "'user'" in section or number == 1


@pytest.mark.parametrize("number", [3, 4])
def test_of_three_people_anyone_is_asked_and_nobodys_name_is_shown(
    tiny_base: Path, tmp_path: Path, number: int
) -> None:
    section = assert_asked_as_trained(published(tiny_base, tmp_path, 3), THREE, number)
    assert "'user 2'" in section
    assert not any(turn.speaker in section for turn in THREE.turns[:number])


@pytest.mark.parametrize(("dialogue", "number"), [(ROLES, 2), (CALLS, 1), (CALLS, 3)])
def test_roles_with_tokens_are_asked_as_in_training(
    tiny_base: Path, tmp_path: Path, dialogue: Dialogue, number: int
) -> None:
    folder = published(tiny_base, tmp_path, 0, has_roles=True)
    assert_asked_as_trained(folder, dialogue, number)


@pytest.mark.parametrize(
    ("template", "dialogue", "number"),
    [
        (MERGES_SYSTEM, ROLES, 2),
        (THINKS, ROLES, 2),
        (TOOLS_AS_JSON, CALLS, 1),
        (TOOLS_AS_JSON, CALLS, 3),
        (CALLS_AS_TEXT, CALLS, 3),
    ],
)
def test_a_chat_model_is_asked_as_in_training(
    tiny_base: Path, tmp_path: Path, template: str, dialogue: Dialogue, number: int
) -> None:
    section = assert_asked_as_trained(
        published_chat(tiny_base, tmp_path, template), dialogue, number
    )
    assert ("tools=tools" in section) == bool(dialogue.tools)


def test_the_variables_of_the_template_are_passed_on(tiny_base: Path, tmp_path: Path) -> None:
    template = "{{ '[CALL]' if loud else '' }}" + CHATML
    folder = published_chat(tiny_base, tmp_path, template, loud=True)
    assert "chat, loud=True, add_generation_prompt" in assert_asked_as_trained(folder, ROLES, 2)


def test_without_a_dialogue_to_show_there_is_a_fixed_chat(tiny_base: Path, tmp_path: Path) -> None:
    folder = published_chat(tiny_base, tmp_path, CHATML)
    assert chosen(folder) is None
    assert run(use_section(None), folder)


def test_the_shortest_goes_first_but_behind_a_system_text_and_an_answer_of_the_model(
    tiny_base: Path, tmp_path: Path
) -> None:
    folder = published_chat(tiny_base, tmp_path, CHATML)
    short = Dialogue("short", (user("Hello!"), assistant("Hi.")))

    def answer_of(*dialogues: Dialogue, written: Sequence[Response] = ()) -> str:
        example = chosen(folder, *dialogues, written=written)
        assert example is not None
        return example.answer

    assert answer_of(ANSWERED, short) == "Hi."
    written = [response_of(ANSWERED, Place(0, 1), "``` me, too\n\x1b[31m")]
    assert answer_of(ANSWERED, short, written=written) == ANSWERED.turns[1].text
    assert answer_of(ANSWERED, short, ROLES, written=written) == "I am fine."
    example = chosen(folder, ANSWERED, written=written)
    assert use_section(example).endswith("    ``` me, too\n    \\x1b[31m")


@pytest.mark.parametrize(
    "hidden",
    [
        "Write to jo.smith@example.org",
        "<EMAIL_1> is mine",
        "<|im_end|> it is",
        "a" * MAX_CHARACTERS,
    ],
)
def test_what_is_private_cannot_be_served_or_is_long_is_not_shown(
    tiny_base: Path, tmp_path: Path, hidden: str
) -> None:
    folder = published_chat(tiny_base, tmp_path, CHATML)
    assert chosen(folder, Dialogue("d", (user(hidden), assistant("Yes.")))) is None
    written = [response_of(ANSWERED, Place(0, 1), hidden)]
    if "im_end" not in hidden:
        example = chosen(folder, ANSWERED, written=written)
        assert example is None
