"""Further evaluation sets, and the base model behind an example."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.corpora import assistant, system, user
from tests.scored_models import opinionated_model, word_template
from tuning.dialogue import Dialogue, Turn, to_line
from tuning.evaluation_set.amounts import PROFILES
from tuning.report.headlines import SIGNIFICANCE
from tuning.report.parts import of_also, rows_of_parts
from tuning.results.response_scores import bits_per_byte
from tuning.run.errors import UserError
from tuning.run.params import ScoreParams, load_params
from tuning.scoring.also import measure_also, raise_if_changed
from tuning.scoring.also_sets import AlsoSet, read_also
from tuning.scoring.measure import Subject
from tuning.scoring.nats import score
from tuning.scoring.perplexity import score_responses
from tuning.scoring.with_example import behind_example, measure_with_example
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.tokens.texts import encode_texts

ROOT = Path(__file__).parents[2]
TEXTS = ["I am fine, thank you.", "Do you like the sea?\nI do."]
DIALOGUES = [
    Dialogue("1", (Turn("ann", "how are you?"), Turn("bob", "I am fine."), Turn("ann", "good"))),
    Dialogue("2", (Turn("x", "it rains"), Turn("y", "here, too"))),
]
ALONE = Dialogue("3", (Turn("a", "alone"),))


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return opinionated_model(tiny_base)


def settings(also: list[str]) -> ScoreParams:
    return load_params(ROOT / "params.yaml").score.model_copy(update={"also": also})


def subject(template: SpeakerTokens, **changes: Any) -> Subject:
    plan: Any = None
    return Subject(
        name="base",
        template=template,
        num_visible=changes.pop("num_visible", 1024),
        plan=plan,
        amounts=PROFILES["smoke"],
        **changes,
    )


def test_the_sets_that_come_along_are_large_enough_for_a_verdict() -> None:
    sets = read_also(ROOT / "evaluation_sets", settings(["english", "code"]), "auto")
    assert all(30 <= len(set(one.texts)) == len(one.texts) for one in sets)


def test_texts_and_dialogues_have_the_nats_of_their_definitions(
    tmp_path: Path, model: Any, speakers: SpeakerTokens
) -> None:
    (tmp_path / "talk.jsonl").write_text("".join(f"{to_line(one)}\n" for one in DIALOGUES))
    (tmp_path / "text.jsonl").write_text("".join(f"{json.dumps({'text': t})}\n" for t in TEXTS))
    sets = read_also(tmp_path, settings(["talk", "text"]), "auto")
    found = score(model, measure_also(subject(speakers, also=sets)), batch_size=2).also

    talk = score(model, score_responses(speakers, DIALOGUES), batch_size=1)
    nats = [talk.content_nll[talk.dialogue == d].sum() for d in (0, 1)]
    assert found["talk"]["base_content_nll"] == pytest.approx(nats)
    assert found["talk"]["num_bytes"].tolist() == [14, 9]

    tokenizer = speakers.tokenizer
    for text, nll in zip(TEXTS, found["text"]["base_content_nll"].tolist(), strict=True):
        (ids,) = encode_texts(tokenizer, [text])
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else None
        first = tokenizer.eos_token_id if first is None else first
        logits = model(torch.tensor([[first, *ids]])).logits[0, :-1].double().log_softmax(-1)
        expected = -logits[torch.arange(len(ids)), torch.tensor(ids)].sum().item()
        assert nll == pytest.approx(expected, rel=1e-5)
    assert found["text"]["num_bytes"].tolist() == [len(text) for text in TEXTS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"mine\.jsonl is not there; in .*: other\."),
        ("", "holds nothing to score"),
        ("{", "line 1: wanted"),
        ('{"text": 3}\n', "line 1: wanted"),
        ('{"turns": []}\n', "line 1: wanted"),
        ('{"text": "a"}\n[1]\n', "line 2: wanted"),
        ('{"text": "a"}\n' + to_line(DIALOGUES[0]), "holds texts and dialogues"),
        ('{"text": "a"}\n' + to_line(ALONE), "holds texts and dialogues"),
        (to_line(ALONE), "no response to score: a turn behind another"),
        (to_line(Dialogue("x", (Turn("a", "so?"), Turn("b", "")))), "no response to score"),
        ('{"text": "\\ud800"}', "line 1: wanted"),
        (to_line(DIALOGUES[0]).replace("good", "\\ud800"), "line 1: wanted"),
        (to_line(DIALOGUES[0]).replace('"good"', "5"), "line 1: wanted"),
        (to_line(DIALOGUES[0]).replace('"good"', "null"), "line 1: wanted"),
        (to_line(DIALOGUES[0]).replace('"bob"', "null"), "line 1: wanted"),
        (to_line(replace(DIALOGUES[0], loss_on="all")).replace('"all"', "5"), "line 1: wanted"),
        (to_line(DIALOGUES[0]).replace('"good"', '"good", "weight": []'), "line 1: wanted"),
    ],
)
def test_a_set_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    if content is not None:
        (tmp_path / "mine.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_also(tmp_path, settings(["mine"]), "auto")


def test_what_a_set_has_beyond_what_is_scored_is_counted(tmp_path: Path) -> None:
    few = settings(["text", "talk"]).model_copy(update={"max_dialogues": 1})
    (tmp_path / "text.jsonl").write_text('{"text": "a"}\n' * 4)
    (tmp_path / "talk.jsonl").write_text("".join(f"{to_line(d)}\n" for d in (ALONE, *DIALOGUES)))
    text, talk = read_also(tmp_path, few, "auto")
    assert (len(text.texts), text.num_left_out) == (1, 3)
    assert ([one.dialogue_id for one in talk.dialogues], talk.num_left_out) == (["1"], 2)


def test_a_text_that_the_tokenizer_changes_is_refused(speakers: SpeakerTokens) -> None:
    raise_if_changed(speakers, [AlsoSet(name="mine", texts=TEXTS, dialogues=DIALOGUES)], "auto")
    few_words = word_template(["all of these words"])
    unknown = AlsoSet(name="mine", texts=["these words", "all of them"], dialogues=[])
    with pytest.raises(UserError, match="mine: .* changes number 2; take it out"):
        raise_if_changed(few_words, [unknown], "auto")


def test_of_several_sets_each_is_judged_as_one_of_several() -> None:
    """Changes that are each a little unlikely by chance are not shown, if there are ten."""
    generator = np.random.default_rng(5)
    tables = {}
    for number in range(10):
        num_bytes = np.full(40, 100.0)
        noise = generator.normal(0, 1, 40)
        change = (noise - noise.mean()) / noise.std() + 2.1 / math.sqrt(40)  # z = 2.1 each
        tables[f"set{number}"] = {
            "num_bytes": num_bytes,
            "base_content_nll": np.full(40, 70.0),
            "tuned_content_nll": 70.0 + change,
        }
    whole = {"base": {"template": "plain"}, "tuned": {"template": "plain"}, "set": {}}
    few = {"set0": tables["set0"]}

    def meanings(found: dict[str, Any]) -> set[str]:
        rows = rows_of_parts(whole | {"also": found}, "also")
        return {row.meaning for (row,) in rows.values()}

    alone = of_also(few, num_resamples=2000, seed=1)
    together = of_also(tables, num_resamples=2000, seed=1)
    assert meanings(alone) == {"differ"}
    assert meanings(together) == {"no difference shown"}
    assert all(one["change"]["bits_per_byte_p"] > SIGNIFICANCE for one in together.values())


def test_an_example_stands_between_system_text_and_dialogue() -> None:
    example = Dialogue(
        "e", (system("old"), user("q1"), assistant("a1"), user("q2"), Turn("z", "?", "user"))
    )
    dialogue = Dialogue("d", (system("new"), user("q", weight=0.0), assistant("a")), tools="[]")
    joined = behind_example(example, dialogue)
    assert [t.text for t in joined.turns] == ["new", "q1", "a1", "q", "a"]
    assert [joined.turns[n].text for n in joined.responses] == ["a"]
    assert joined.tools == "[]"

    people = behind_example(DIALOGUES[0], DIALOGUES[1])
    assert [t.speaker for t in people.turns] == ["x", "y", "x", "x", "y"]
    assert [people.turns[n].text for n in people.responses] == ["here, too"]


def test_the_example_is_read_and_not_scored(model: Any, speakers: SpeakerTokens) -> None:
    plan: Any = SimpleNamespace(dialogues=DIALOGUES[1:])
    asked = replace(subject(speakers, example=DIALOGUES[0]), plan=plan)
    found = score(model, measure_with_example(asked), batch_size=1).figures
    whole = Dialogue("", behind_example(DIALOGUES[0], DIALOGUES[1]).turns)
    scores = score(model, score_responses(speakers, [whole]), batch_size=1)
    assert scores.num_bytes.tolist() == [9]
    bits = bits_per_byte(scores.content_nll, scores.num_bytes)
    assert found == {"bits_per_byte_with_example": pytest.approx(bits)}
    alone = score(model, score_responses(speakers, DIALOGUES[1:]), batch_size=1)
    assert scores.content_nll[0] != pytest.approx(alone.content_nll[0], rel=1e-3)

    short = score(model, measure_with_example(replace(asked, num_visible=9)), batch_size=1)
    assert short.figures == {
        "example_not_read": "example and dialogue are more than the model sees"
    }
