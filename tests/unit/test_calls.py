"""Calls of tools in what a model wrote: read in each template's form, held against the data's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.chat_models import CALL_FORMS, make_chat_base
from tuning.dialogue import Dialogue, ToolCall, Turn
from tuning.evaluation_set.amounts import PROFILES
from tuning.evaluation_set.places import Place, Response, choose_call_places
from tuning.evaluation_set.plan import Plan
from tuning.report.call_shares import call_metrics, call_rows
from tuning.results.bootstrap import draw_counts
from tuning.scoring.calls import call_findings, judge_call, same_value
from tuning.scoring.measure import Subject
from tuning.tokens.call_text import AS_LINES, CallText
from tuning.tokens.chat_template import ChatTemplate
from tuning.tokens.templates import template_of
from tuning.writing.decoding import Reply

ARGUMENTS = '{"city": "\\u00c5s <\\"x\\">\\n{", "days": [1, 2.5, null, {"only": true}]}'
COLD = ToolCall("weather", ARGUMENTS, "call_0123456789")
LATE = ToolCall("clock", "{}")
WRITTEN = {
    "hermes": (
        '<tool_call>\n{"name": NAME, "arguments": ARGUMENTS}\n</tool_call>',
        "\n",
        "{}",
    ),
    "mistral": ('{"name": NAME, "arguments": ARGUMENTS, "id": "a1b2c3d4e"}', ", ", "[CALL] [{}]"),
    "llama": ('{"name": NAME, "parameters": ARGUMENTS}', None, "{}"),
    "deepseek": (
        "<call>function<sep>BARE\n```json\nARGUMENTS\n```</call>",
        "\n",
        "<calls>{}</calls>",
    ),
    "speakers": ('{"name": NAME, "arguments": ARGUMENTS}', "\n", "{}"),
}
"""By form: a call, what stands between two, and what stands around all."""


def asked(*calls: ToolCall, text: str = "") -> Dialogue:
    answer = Turn("assistant", text, "assistant", tool_calls=calls)
    return Dialogue("d", (Turn("user", "Is it cold?", "user"), answer))


def wanted(*calls: ToolCall) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in calls]


def text_of(form: str, *calls: ToolCall) -> str:
    """The calls as a model would write them."""
    one, between, around = WRITTEN[form]
    texts = [
        one.replace("NAME", json.dumps(call.name))
        .replace("BARE", call.name)
        .replace("ARGUMENTS", call.arguments)
        for call in calls
    ]
    return around.replace("{}", (between or "").join(texts))


@pytest.fixture(scope="module")
def templates(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTemplate]:
    folder = tmp_path_factory.mktemp("calls")
    return {
        name: cast(
            ChatTemplate,
            template_of(make_chat_base(tiny_base, folder / name, text), choice="chat"),
        )
        for name, text in CALL_FORMS.items()
    }


@pytest.fixture(scope="module")
def forms(templates: dict[str, ChatTemplate]) -> dict[str, CallText]:
    found = {name: template.calls for name, template in templates.items()} | {"speakers": AS_LINES}
    return {name: form for name, form in found.items() if form is not None}


def test_what_cannot_be_read_back_is_no_form(forms: dict[str, CallText]) -> None:
    assert CALL_FORMS.keys() - forms.keys() == {"counted", "xml"}
    assert forms.keys() == WRITTEN.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_a_call_is_read_alone_and_behind_text(forms: dict[str, CallText], name: str) -> None:
    """One of Llama's is alone in its turn."""
    text = text_of(name, COLD)
    assert forms[name].read(text) == wanted(COLD)
    behind = forms[name].read(f"I look {{it}} up.\n{text}")
    assert behind == ([] if name == "llama" else wanted(COLD))
    assert forms[name].read("It is cold.") == forms[name].read("") == []


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "llama"])
def test_several_calls_are_read_in_order(forms: dict[str, CallText], name: str) -> None:
    for calls in ((COLD, LATE), (LATE, COLD, LATE)):
        assert forms[name].read(text_of(name, *calls)) == wanted(*calls)


@pytest.mark.parametrize("name", ["hermes", "mistral", "deepseek"])
def test_a_call_behind_one_that_is_none_is_not_read_alone(
    forms: dict[str, CallText], name: str
) -> None:
    broken = text_of(name, replace(LATE, arguments="{]"), COLD)
    for text in (broken, f"{text_of(name, replace(LATE, arguments='{]'))}\n{text_of(name, COLD)}"):
        assert forms[name].read(text) == []


def test_a_form_of_one_call_has_no_second(forms: dict[str, CallText]) -> None:
    assert forms["llama"].read(f"{text_of('llama', LATE)}\n{text_of('llama', LATE)}") == []


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(
    ("part", "other"),
    [
        ('{"city"', '{city"'),  # no JSON
        ("[1, 2.5", "[NaN, 2.5"),
        ("[1, 2.5", "[" * 5000),  # deeper than Python's stack
        (ARGUMENTS, '["Oslo"]'),  # no names
        (ARGUMENTS, '"Oslo"'),
        (ARGUMENTS, ""),
    ],
)
def test_what_is_no_call_is_none(
    forms: dict[str, CallText], name: str, part: str, other: str
) -> None:
    text = text_of(name, COLD)
    assert part in text
    assert forms[name].read(text.replace(part, other, 1)) == []


@pytest.mark.parametrize("name", WRITTEN)
def test_a_call_that_breaks_off_or_goes_on_is_none(forms: dict[str, CallText], name: str) -> None:
    text = text_of(name, COLD)
    for end in range(len(text)):
        assert forms[name].read(text[:end]) == [], text[:end]
    assert forms[name].read(f"{text} There.") == []


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "speakers"])
def test_what_the_template_writes_is_read(
    templates: dict[str, ChatTemplate], forms: dict[str, CallText], name: str
) -> None:
    """Through ids and back, as what a model writes."""
    template = templates[name]
    for calls in [(COLD,)] + [(COLD, LATE)] * (name != "llama"):
        dialogue = asked(*calls, text="Let me see." * (name != "llama"))
        (place,) = template.read(dialogue).renderings([False, True])
        ids = [
            one
            for one, is_target in zip(place.input_ids, place.is_target, strict=True)
            if is_target
        ]
        assert forms[name].read(template.text_of(ids[:-1])) == wanted(*calls)


def test_a_mark_of_calls_ends_no_turn(templates: dict[str, ChatTemplate]) -> None:
    """Another special token does."""
    for name, expected in (("mistral", None), ("hermes", "tag")):
        template = templates[name]
        ids = template.tokenizer.get_vocab()
        assert template.ending_of(ids["[CALL]"]) == expected
        assert template.ending_of(ids["[INST]"]) == "tag"
        assert template.ending_of(ids["<|im_end|>"]) == "end_of_turn"


@pytest.mark.parametrize(
    ("calls", "well_formed", "right_names", "right"),
    [
        ([COLD, LATE], True, True, True),
        ([LATE, COLD], True, False, False),
        ([COLD], True, False, False),
        ([COLD, LATE, LATE], True, False, False),
        ([replace(COLD, name="Weather"), LATE], True, False, False),
        ([replace(COLD, arguments='{"city": "Oslo"}'), LATE], True, True, False),
        ([COLD, replace(LATE, arguments='{"zone": null}')], True, True, False),
        ([], False, False, False),
    ],
)
@pytest.mark.parametrize("form", ["hermes", "speakers"])
def test_calls_are_held_against_the_datas(
    forms: dict[str, CallText],
    form: str,
    calls: list[ToolCall],
    well_formed: bool,
    right_names: bool,
    right: bool,
) -> None:
    """A default that is written out, where the data leaves it out, is another argument."""
    turn = asked(COLD, LATE).turns[1]
    found = judge_call(forms[form], text_of(form, *calls), turn, is_cut=False)
    assert list(found.values()) == [well_formed, right_names, right, False]
    cut = judge_call(forms[form], text_of(form, *calls), turn, is_cut=True)
    assert list(cut.values()) == [False, False, False, True]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ('{"a": 1, "b": [2]}', '{"b": [2.0], "a": 1e0}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": [0]}', '{"a": [false]}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": null}', "{}", False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": [1]}', '{"a": [1, 1]}', False),
        ('{"a": "\\u00e9"}', '{"a": "é"}', True),
    ],
)
def test_arguments_are_equal_as_json_values(one: str, other: str, is_same: bool) -> None:
    assert same_value(json.loads(one), json.loads(other)) is is_same
    assert same_value(json.loads(other), json.loads(one)) is is_same


def test_places_of_calls_are_of_as_many_dialogues_as_there_are() -> None:
    """Whatever else is in the set, and in whatever order."""
    call = asked(COLD).turns
    several = [
        Dialogue(str(n), (replace(call[0], utterance=str(n)), *call[1:] * 2)) for n in range(5)
    ]
    silent = Dialogue("s", (*asked().turns, replace(call[1], weight=0.0)))
    first = choose_call_places(several, num_places=5)
    assert sorted(place.dialogue for place in first) == [0, 1, 2, 3, 4]
    assert choose_call_places(several, num_places=3) == first[:3]
    assert len(choose_call_places(several, num_places=99)) == 10
    others = choose_call_places([silent, *several[::-1]], num_places=5)
    assert [(5 - place.dialogue, place.turn) for place in others] == [
        (place.dialogue, place.turn) for place in first
    ]


def test_calls_are_counted_by_dialogue(templates: dict[str, ChatTemplate]) -> None:
    """Of three places with a call one is right, one cut, and one beyond the model's positions."""
    template = templates["hermes"]
    called, spoken = asked(COLD), asked(text="No.")
    person = Dialogue("p", (Turn("user", "a", "user"), Turn("user", "b", "user")))
    dialogues = [called, spoken, called, called, person]
    right = tuple(template.asking.ids(text_of("hermes", COLD)))
    plan = Plan(
        dialogues,
        0,
        [],
        [],
        places=[Place(0, 1), Place(1, 1), Place(4, 1)],
        call_places=[Place(0, 1), Place(2, 1), Place(3, 1)],
    )
    subject = Subject(
        name="m", template=template, num_visible=99, plan=plan, amounts=PROFILES["smoke"]
    )
    said = [Response(one, text_of("hermes", COLD), (), "") for one in (0, 1, 4)]
    replies = [[Reply(right, (), "end_of_turn")], [Reply(right, (), "cut")], []]
    columns = call_findings(subject, replies, said).columns
    assert {name: column.tolist() for name, column in columns.items()} == {
        "num_call_places": [1, 0, 1, 1, 0],
        "m_well_formed_calls": [1, 0, 0, 0, 0],
        "m_right_call_names": [1, 0, 0, 0, 0],
        "m_right_calls": [1, 0, 0, 0, 0],
        "m_cut_calls": [0, 0, 1, 1, 0],
        "num_word_places": [0, 1, 0, 0, 0],
        "m_needless_calls": [0, 1, 0, 0, 0],
    }


@pytest.mark.parametrize(
    ("num_dialogues", "verdicts"),
    [
        (40, ["no verdict", "no verdict", "differ", "no verdict", "no difference shown"]),
        (29, ["too few dialogues (under 30)"] * 5),
    ],
)
def test_shares_have_intervals_and_right_and_needless_calls_a_verdict(
    num_dialogues: int, verdicts: list[str]
) -> None:
    """In every second dialogue there are two places; the base is never right."""
    places = 1 + np.arange(num_dialogues) % 2
    names = ("well_formed_calls", "right_call_names", "right_calls", "cut_calls", "needless_calls")
    table = {"num_call_places": places, "num_word_places": places}
    table |= {f"base_{name}": np.zeros_like(places) for name in names}
    table |= {f"tuned_{name}": np.ones_like(places) for name in names}
    table["tuned_needless_calls"] = np.zeros_like(places)
    counts = draw_counts(np.random.default_rng(1), num_dialogues, num_resamples=200)
    found = call_metrics(table, counts)
    assert found["set"] == {
        "num_dialogues": num_dialogues,
        "num_call_places": places.sum(),
        "num_word_places": places.sum(),
    }
    assert found["tuned"]["right_calls"] == num_dialogues / places.sum()
    assert found["tuned"]["right_calls_low"] < found["tuned"]["right_calls"]
    assert [row.meaning for row in call_rows({"calls": found})] == verdicts
