"""What engines are fed is what was trained; what is not is named, and stops a release."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chat_models import (
    CALLS_AS_TEXT,
    CHATML,
    CLOCK,
    HABITS,
    THINKS,
    TOOLS_AS_JSON,
    make_chat_base,
)
from tools.verify import different_prompts
from tuning.dialogue import Dialogue, ToolCall, Turn, to_line
from tuning.release.parity import Parity, check_parity, parity, template_of_training
from tuning.release.prompts import NUM_DIALOGUES, prompts_of, sample_of
from tuning.run.errors import UserError
from tuning.run.files import sha256_of
from tuning.tokens.templates import prepare_tokenizer, template_of

SERVE = "transformers serve"
LLAMA_CPP = "llama.cpp"


def turn(role: Any, text: str, **more: Any) -> Turn:
    return Turn(role, text, role, **more)


ASKED = (turn("user", "whats up?"), turn("assistant", "im good"))
CALL = ToolCall("sea", '{"place": "Ærø"}', "call00001")
TOOLS = json.dumps(
    [{"name": "sea", "description": "Now", "parameters": {"type": "object", "properties": {}}}]
)
TALK = Dialogue("a talk", (*ASKED, turn("user", "And you?"), turn("assistant", "Fine.")))
SYSTEM = Dialogue("a system text", (turn("system", "Be brief."), *ASKED))
THOUGHT = Dialogue(
    "a thought",
    (turn("user", "1+1?"), turn("assistant", "2", reasoning="I add."), *TALK.turns),
)
CALLED = Dialogue(
    "a call",
    (
        turn("user", "Is the sea cold?"),
        turn("assistant", "", tool_calls=(CALL,)),
        turn("tool", "4 C", tool_call_id=CALL.call_id),
        turn("assistant", "It is."),
    ),
    TOOLS,
)
ASSISTANT = (TALK, SYSTEM, THOUGHT, CALLED)
PEOPLE = (
    Dialogue("two people", tuple(map(Turn, "ABAB", ("Hello!", "Hi.", "How are you?", "Fine.")))),
    Dialogue("three people", tuple(map(Turn, "ABCA", ("Hello!", "Hi.", "Me too.", "Fine.")))),
)


def compared(folder: Path, base: Path, dialogues: Sequence[Dialogue]) -> Parity:
    """What release finds of a model's folder, which is its tokenizer's here."""
    validation = folder.parent / "val.jsonl"
    validation.write_text("".join(f"{to_line(one)}\n" for one in dialogues), encoding="utf-8")
    return parity(folder, template_of_training(base, folder, "auto"), validation, loss_on="auto")


def chat_model(folder: Path, tiny_base: Path, template: str) -> tuple[Path, Path]:
    """A base model with a chat template, and the tokenizer of a model that was tuned in it."""
    base = make_chat_base(tiny_base, folder / "base", template)
    prepare_tokenizer(base, folder / "model", 0, choice="chat", has_roles=True)
    return folder / "model", base


def speaker_model(folder: Path, base: Path, *, has_roles: bool = False) -> Path:
    prepare_tokenizer(base, folder / "model", 3, has_roles=has_roles)
    return folder / "model"


@pytest.mark.parametrize("habit", HABITS)
def test_a_chat_model_is_served_as_it_was_trained(
    tmp_path: Path, tiny_base: Path, habit: str
) -> None:
    model, base = chat_model(tmp_path, tiny_base, HABITS[habit])
    found = compared(model, base, ASSISTANT)
    served = found.compared[0]
    assert found.differences == []
    assert len(found.prompts) >= 5
    if HABITS[habit] == CLOCK:
        assert served.not_equal == {"the template reads the clock": len(found.prompts)}
    elif HABITS[habit] == CALLS_AS_TEXT:
        (why,) = served.not_equal
        assert why.startswith("it refuses the messages")
        assert served.num_equal == len(found.prompts) - 1
    else:
        assert served.num_equal == len(found.prompts)


BEGINS_BY_NAME = "{{ bos_token }}" + CHATML


@pytest.mark.parametrize(
    "template", [BEGINS_BY_NAME, *(one for one in HABITS.values() if one != CLOCK)]
)
def test_llama_cpp_reads_a_chat_template_alike(
    tmp_path: Path, tiny_base: Path, template: str
) -> None:
    model, base = chat_model(tmp_path, tiny_base, template)
    found = compared(model, base, ASSISTANT)
    assert found.record()["engines"][LLAMA_CPP]["not_equal"] == {}
    assert found.compared[1].num_equal == len(found.prompts) >= 5


def test_llama_cpp_reads_our_own_chat_template_alike(tmp_path: Path, tiny_base: Path) -> None:
    """With names, too: three people, of whom two are users."""
    people = compared(speaker_model(tmp_path, tiny_base), tiny_base, PEOPLE)
    assert people.compared[1].num_equal == len(people.prompts) == 6


def test_what_llama_cpp_makes_otherwise_is_named_and_stops_nothing(
    tmp_path: Path, tiny_base: Path
) -> None:
    model, base = chat_model(tmp_path, tiny_base, TOOLS_AS_JSON)
    no_parameters = replace(CALLED, tools='[{"name": "sea"}]')
    found = compared(model, base, [no_parameters, SYSTEM])
    assert found.compared[1].not_equal == {"it writes another text": 2}
    assert found.compared[1].num_equal == 1
    (line,) = found.lacks
    assert line.startswith("llama.cpp: it writes another text. The first: dialogue a call, turn 2,")
    check_parity(found, model)


def test_what_llama_cpp_does_not_load_is_named(tmp_path: Path, tiny_base: Path) -> None:
    """Mistral NeMo's template, for one."""
    lacked = "{% set plain = messages | selectattr('tool_calls', 'undefined') | list %}"
    model, base = chat_model(tmp_path, tiny_base, lacked + CHATML)
    (why,) = compared(model, base, [TALK]).compared[1].not_equal
    assert why.startswith("it does not take the template (") and "tool_calls" in why


def test_calls_and_tools_are_asked_for_as_clients_send_them(
    tmp_path: Path, tiny_base: Path
) -> None:
    model, _ = chat_model(tmp_path, tiny_base, TOOLS_AS_JSON)
    first, last = prompts_of(template_of(model), CALLED, "auto")
    assert (first.turn, last.turn) == (2, 4)
    assert last.body["messages"][1]["tool_calls"][0]["function"]["arguments"] == CALL.arguments
    assert last.body["tools"][0]["function"]["name"] == "sea"


def test_a_model_of_people_is_served_as_it_was_trained(tmp_path: Path, tiny_base: Path) -> None:
    found = compared(speaker_model(tmp_path, tiny_base), tiny_base, PEOPLE)
    assert found.differences == []
    assert [(one.dialogue_id, one.turn) for one in found.prompts] == [
        *(("two people", number) for number in (2, 3, 4)),
        *(("three people", number) for number in (2, 3, 4)),
    ]
    assert found.compared[0].not_equal == {"it leaves out names": 2}
    assert found.compared[0].num_equal == 4


def test_a_model_of_roles_is_served_as_it_was_trained(tmp_path: Path, tiny_base: Path) -> None:
    model = speaker_model(tmp_path, tiny_base, has_roles=True)
    found = compared(model, tiny_base, ASSISTANT)
    assert found.differences == []
    assert found.compared[0].num_equal == len(found.prompts) == 8


def add_a_space(model: Path) -> None:
    file = model / "chat_template.jinja"
    file.write_text("{{ ' ' }}" + file.read_text(encoding="utf-8"), encoding="utf-8")


def forget_all_merges(model: Path) -> None:
    file = model / "tokenizer.json"
    content = json.loads(file.read_bytes())
    content["model"]["merges"] = []
    file.write_text(json.dumps(content), encoding="utf-8")


def refuse(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ raise_exception('no') }}", encoding="utf-8")


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (add_a_space, r"dialogue a talk, turn 2, token 1 is \d+ \(' '\), and in training \d+ \('<"),
        (forget_all_merges, r"dialogue a talk, turn 2, token \d+ is \d+ \('.'\), and in training"),
        (refuse, "dialogue a talk, turn 2: it refuses the messages"),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "speakers"])
def test_a_release_stops_where_engines_are_fed_other_ids(
    tmp_path: Path, tiny_base: Path, kind: str, tamper: Any, said: str
) -> None:
    if kind == "chat":
        model, base = chat_model(tmp_path, tiny_base, THINKS)
    else:
        model, base = speaker_model(tmp_path, tiny_base, has_roles=True), tiny_base
    trained = template_of_training(base, model, "auto")
    tamper(model)
    validation = tmp_path / "val.jsonl"
    validation.write_text(f"{to_line(TALK)}\n", encoding="utf-8")
    found = parity(model, trained, validation, loss_on="auto")
    with pytest.raises(UserError, match=rf"{SERVE} \S+ is fed them: 2 of 2 .*{said}"):
        check_parity(found, model)


@pytest.mark.parametrize("tamper", [add_a_space, forget_all_merges])
def test_verify_names_prompts_that_are_no_longer_those_of_the_receipt(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], tamper: Any
) -> None:
    model, base = chat_model(tmp_path, tiny_base, TOOLS_AS_JSON)
    found = compared(model, base, ASSISTANT)
    receipt = {
        "prompts": found.record(),
        "inputs": {found.validation.as_posix(): sha256_of(found.validation)},
        "params": {"encoding.loss_on": "auto"},
    }
    assert list(different_prompts(model, receipt)) == []
    said = f"prompts of 4 dialogues: {SERVE} {found.compared[0].engine.version} 8 of 8"
    assert said in capsys.readouterr().out
    tamper(model)
    assert "prompts ids_sha256: was" in " ".join(different_prompts(model, receipt))
    (model / "tokenizer.json").write_text("{", encoding="utf-8")
    assert "cannot be used" in " ".join(different_prompts(model, receipt))
    found.validation.write_text("", encoding="utf-8")
    capsys.readouterr()
    assert list(different_prompts(model, receipt)) == []
    assert "prompts were not compared, for " in capsys.readouterr().out


def test_a_sample_has_dialogues_of_each_kind_wherever_they_stand() -> None:
    many = [Dialogue(f"{number}", TALK.turns) for number in range(NUM_DIALOGUES + 5)]
    taken = [one.dialogue_id for one in sample_of([*many, CALLED, *PEOPLE, THOUGHT, SYSTEM])]
    first = [f"{number}" for number in range(NUM_DIALOGUES)]
    assert taken == [*first, "a call", "three people", "a thought", "a system text"]
