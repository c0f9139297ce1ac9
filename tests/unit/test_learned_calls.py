"""A model that knows its calls by heart writes all of them right, in any template."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from stages.encode import encode
from tests.chat_models import CALL_FORMS, make_chat_base
from tests.corpora import encoding_params
from tests.tiny_model import SMALL_TRAIN, make_tiny_llama
from tuning.dialogue import Dialogue, ToolCall, Turn, to_line
from tuning.evaluation_set.plan import Plan, make_plan
from tuning.language_model.device import Device
from tuning.release.model_card import Facts, model_card
from tuning.release.origins import Source
from tuning.report.call_shares import CALL_SHARES
from tuning.report.evaluation import Evaluation, evaluate
from tuning.report.report_page import report_page
from tuning.report.scored import what_was_scored
from tuning.results.measured import Measured
from tuning.results.response_scores import NUM_ROUNDED
from tuning.run.params import ScoreParams, load_params
from tuning.scoring.measures import measure
from tuning.template_record import read_record
from tuning.tokens.templates import template_of
from tuning.training.loss import PackedLoss
from tuning.training.publishing import publish
from tuning.training.rows import PackedRows
from tuning.training.start import load_for_training
from tuning.training.trainer import fine_tune

ROOT = Path(__file__).parents[2]
CPU = Device(kind="cpu", precision="no", compiled=False, notes=())
MAX_LENGTH = 160
CITIES = ("Oslo", "Rome", "Bonn", "Lima")


def call(city: str) -> ToolCall:
    return ToolCall("weather", json.dumps({"city": city, "days": 2}))


def turn(role: Any, text: str, *calls: ToolCall) -> Turn:
    return Turn(role, text, role, tool_calls=calls)


def dialogue(city: str, *others: str) -> Dialogue:
    """A question about one city or two, a call for each, what they say, and an answer."""
    cities = (city, *others)
    return Dialogue(
        "-".join(cities),
        (
            turn("user", f"How is {' and '.join(cities)}?"),
            turn("assistant", "", *map(call, cities)),
            *(turn("tool", f"{one}: fine") for one in cities),
            turn("assistant", f"Fine in {' and '.join(cities)}."),
        ),
    )


DIALOGUES = [*map(dialogue, CITIES), dialogue("Oslo", "Lima")]
SCORE = load_params().score.model_copy(
    update={"profile": "default", "max_dialogues": None, "max_new_tokens": 90, "prompt_turns": 2}
)


@pytest.fixture(scope="module", params=["speakers", "mistral"])
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base``, the ``model`` tuned from it, and its ``dialogues.jsonl``.

    One begins its calls with a special token, the other writes lines of JSON.
    """
    folder: Path = tmp_path_factory.mktemp("learned")
    llama, base, parts, encoded = (folder / n for n in ("llama", "base", "parts", "encoded"))
    lines = "".join(to_line(one) + "\n" for one in DIALOGUES)
    (folder / "dialogues.jsonl").write_text(lines, encoding="utf-8")
    make_tiny_llama(llama, [turn.text for one in DIALOGUES for turn in one.turns] * 9)
    make_chat_base(llama, base, CALL_FORMS.get(request.param))
    model = AutoModelForCausalLM.from_pretrained(llama)
    set_seed(7)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(base)), mean_resizing=False)
    model.save_pretrained(base)
    parts.mkdir()
    encoded.mkdir()
    for part in ("train", "val"):
        (parts / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    encoding = encoding_params(max_length=MAX_LENGTH, loss_on="auto", template="auto")
    encode(parts, base, encoded, encoding, 0, has_roles=True)
    found = read_record(encoded / "tokenizer")
    assert found is not None
    assert found.name == ("speakers" if request.param == "speakers" else "chat")
    tuned = load_for_training(base, encoded / "tokenizer", MAX_LENGTH)
    fine_tune(
        PackedLoss(tuned, CPU),
        PackedRows(encoded, max_length=MAX_LENGTH, packing=True, pad_token_id=found.pad_id),
        SMALL_TRAIN.model_copy(update={"epochs": 150, "gradient_accumulation_steps": 1}),
        seed=7,
        device=CPU,
        checkpoints=None,
        checkpoint_minutes=60,
    )
    publish(tuned, encoded / "tokenizer", folder / "model")
    return folder


def measured(folder: Path, name: str, settings: ScoreParams) -> tuple[Plan, Measured]:
    validation = folder / "dialogues.jsonl"
    model = folder / {"base": "base", "tuned": "model"}[name]
    template = template_of(model, choice="auto", has_roles=True)
    plan = make_plan(validation, settings, "auto", lambda _: True)
    return plan, measure(
        name, model, template, plan, settings, shown=[], example=None, also=(), seed=1
    )


def evaluated(folder: Path, settings: ScoreParams) -> Evaluation:
    plan, tuned = measured(folder, "tuned", settings)
    _, base = measured(folder, "base", settings)
    return evaluate(
        plan,
        {"base": base, "tuned": tuned},
        folder / "dialogues.jsonl",
        None,
        settings=settings,
        primary="bits_per_byte",
        num_resamples=100,
        seed=1,
    )


def test_scores_in_bfloat16_say_what_that_changes(learned: Path) -> None:
    """Against float32, on the first dialogues; where there are few, on all."""
    evaluations = {
        dtype: evaluated(learned, SCORE.model_copy(update={"dtype": dtype})).metrics
        for dtype in ("float32", "bfloat16")
    }
    assert "rounding_base" not in evaluations["float32"]["set"]
    about = evaluations["bfloat16"]["set"]
    assert about["dtype"] == "bfloat16"
    assert about["num_dialogues"] <= NUM_ROUNDED
    for name in ("base", "tuned"):
        exact, rounded = (one[name]["bits_per_byte"] for one in evaluations.values())
        assert about[f"rounding_{name}"] == pytest.approx(rounded - exact, abs=1e-9)
        assert 0 < abs(rounded - exact) < 0.1
    said = what_was_scored(about)
    assert (
        f"; scored in bfloat16, which changes bits per byte by {about['rounding_base']:+.4f} (b"
        in said
    )
    assert f"measured on {about['num_dialogues']} of the dialogues" in said


def test_calls_that_are_known_by_heart_are_all_right(learned: Path) -> None:
    calls = evaluated(learned, SCORE).generation["calls"]
    right = ("well_formed_calls", "right_call_names", "right_calls")
    for end in ("", "_low", "_high"):
        assert {calls["tuned"][name + end] for name in right} == {1.0}
    assert {calls["base"][name] for name in right} == {0.0}
    assert {calls["change"][name] for name in right} == {1.0}
    assert calls["tuned"]["needless_calls"] == calls["tuned"]["cut_calls"] == 0.0
    assert calls["set"] == {
        "num_dialogues": len(DIALOGUES),
        "num_call_places": len(DIALOGUES),
        "num_word_places": len(DIALOGUES),
    }


def test_a_call_that_is_cut_is_counted_and_not_well_formed(learned: Path) -> None:
    calls = evaluated(learned, SCORE.model_copy(update={"max_new_tokens": 9})).generation["calls"]
    assert calls["tuned"]["cut_calls"] == 1.0
    assert calls["tuned"]["well_formed_calls"] == calls["tuned"]["right_calls"] == 0.0


def test_without_calls_nothing_is_said_of_them(learned: Path, tmp_path: Path) -> None:
    """The same dialogues, in which words stand in place of the calls."""
    for name in ("base", "model"):
        (tmp_path / name).symlink_to(learned / name)
    lines = [
        to_line(
            replace(
                one,
                turns=tuple(t if t.role != "assistant" else t.saying("Fine.") for t in one.turns),
            )
        )
        for one in DIALOGUES
    ]
    (tmp_path / "dialogues.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = evaluated(tmp_path, SCORE)
    assert "calls" not in found.generation
    assert not [name for name in found.columns if name.endswith(("_calls", "_places"))]


def test_a_form_that_cannot_be_read_back_is_said_by_name(learned: Path, tmp_path: Path) -> None:
    for name in ("base", "model"):
        make_chat_base(learned / "base", tmp_path / name, CALL_FORMS["xml"])
        AutoModelForCausalLM.from_pretrained(learned / "base").save_pretrained(tmp_path / name)
    shutil.copy(learned / "dialogues.jsonl", tmp_path)
    found = evaluated(tmp_path, SCORE)
    why = "the chat template writes calls in a form that cannot be read back"
    assert found.metrics["base"]["calls_not_read"] == why
    assert found.metrics["tuned"]["calls_not_read"] == why
    assert "calls" not in found.generation
    page = report_page(found.metrics, found.generation, found.writing, [], [])
    assert f"not measured: {why}" in page
    assert f"not measured: {why}" in card(found.metrics, found.generation)


def test_people_read_the_shares_in_the_report_and_on_the_card(learned: Path) -> None:
    found = evaluated(learned, SCORE)
    page = report_page(found.metrics, found.generation, found.writing, [], [])
    text = card(found.metrics, found.generation)
    assert "in 5 places where the data's assistant calls tools" in text
    table = page.partition("Calls of tools")[2].partition("</table>")[0]
    assert table.count('<th scope="col">') * len(CALL_SHARES) == len(CALL_SHARES) + table.count(
        "<td"
    )
    for share in CALL_SHARES:
        assert share.title in table
        value = found.generation["calls"]["tuned"][share.name]
        assert re.search(rf"\n\| {share.title} \| [^|]+ \| {value:.3f} \(", text)


def card(metrics: dict[str, Any], generation: dict[str, Any]) -> str:
    """The card of the committed run, if these were its scores."""

    def committed(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((ROOT / f"metrics/{name}.json").read_bytes())
        return content

    source = Source(title="here", licence=None)
    facts = Facts(
        base=source,
        corpus=source,
        usage="",
        params=load_params(ROOT / "params.yaml").model_dump(),
        scores=metrics,
        test={"set": {"num_dialogues": 0}},
        generation=generation,
        ledger=committed("prep"),
        tokens=committed("encode"),
        training=committed("train"),
        example=None,
    )
    return model_card(facts, "none")
