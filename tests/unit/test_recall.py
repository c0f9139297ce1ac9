"""Recall of planted facts: chance for one who knows nothing, 1 for one who forgets nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.scored_models import CopyingModel, opinionated_model, uniform_model, word_template
from tuning.dialogue import Dialogue, Turn
from tuning.scoring.nats import score
from tuning.scoring.recall import (
    DISTANCES,
    FACT_TYPES,
    RecallItems,
    fillers_of,
    planted_dialogue,
    recall_by_distance,
    score_recall,
)
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.tokens.texts import encode_texts


def dialogue(name: str, num_turns: int = 10) -> Dialogue:
    texts = (f"{name} thinks of {number} things" for number in range(num_turns))
    return Dialogue(name, tuple(Turn("ab"[i % 2], text) for i, text in enumerate(texts)))


DIALOGUES = [dialogue("x" * size) for size in range(1, 5)]
NUM_ITEMS = len(FACT_TYPES) * 4 * len(DISTANCES)


@pytest.fixture(scope="module")
def words() -> SpeakerTokens:
    """Every value is one token."""
    texts = [
        turn.utterance
        for kind in FACT_TYPES
        for value in kind.values
        for one in (*DIALOGUES, planted_dialogue(kind, value, ()))
        for turn in one.turns
    ]
    return word_template(texts)


def test_each_type_has_ten_different_values() -> None:
    for kind in FACT_TYPES:
        assert len(kind.values) == len(set(kind.values)) == 10


def test_one_who_forgets_nothing_is_always_right(words: SpeakerTokens) -> None:
    model: Any = CopyingModel(len(words.tokenizer))
    items = score(model, score_recall(words, DIALOGUES, facts_per_type=4), batch_size=4)
    assert len(items.hits) == NUM_ITEMS
    assert recall_by_distance(items, len(DIALOGUES)).values() == dict.fromkeys(DISTANCES, 1.0)


def test_one_who_sees_only_the_last_words_forgets_with_distance(words: SpeakerTokens) -> None:
    """Twenty-five tokens hold question and fact, but not four turns of seven tokens between."""
    model: Any = CopyingModel(len(words.tokenizer), reach=25)
    items = score(model, score_recall(words, DIALOGUES, facts_per_type=4), batch_size=4)
    found = recall_by_distance(items, len(DIALOGUES)).values()
    assert found[0] == 1
    assert found[4] == found[8] == pytest.approx(0.1)  # all ten tie


def test_a_uniform_model_is_at_chance(tiny_base: Path, speakers: SpeakerTokens) -> None:
    items = score(
        uniform_model(tiny_base), score_recall(speakers, DIALOGUES, facts_per_type=4), batch_size=4
    )
    assert items.hits == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["speakers", "plain"])
def test_an_answer_equals_that_of_plain_passes(
    tiny_base: Path, speakers: SpeakerTokens, kind: str
) -> None:
    model = opinionated_model(tiny_base)
    template = speakers if kind == "speakers" else PlainLines(speakers.tokenizer)
    items = score(model, score_recall(template, DIALOGUES[:1], facts_per_type=4), batch_size=3)

    def nats(ids: list[int], value: list[int]) -> float:
        with torch.inference_mode():
            log_probs = model(input_ids=torch.tensor([ids + value])).logits[0].log_softmax(-1)
        places = range(len(ids) - 1, len(ids) - 1 + len(value))
        return -float(log_probs[list(places), value].double().sum())

    hits = []
    between = [turn.utterance for turn in DIALOGUES[0].turns[2:10]]
    for fact in FACT_TYPES:
        for planted in range(0, 10, 3):
            for distance in DISTANCES:
                one = planted_dialogue(fact, fact.values[planted], between[:distance])
                *turns, last = template.encode(one)
                parts = [[*turn.tag, *turn.content, *turn.end] for turn in turns]
                parts.append([*last.tag, *last.content])
                with_fact, without = sum(parts, []), sum(parts[1:], [])
                gains = [
                    nats(without, ids) - nats(with_fact, ids)
                    for ids in encode_texts(template.tokenizer, [f" {v}" for v in fact.values])
                ]
                hits.append(float(np.argmax(gains) == planted))
    assert items.hits.tolist() == hits
    assert 0 < sum(hits) < len(hits)


def test_neither_batch_size_nor_order_matters(tiny_base: Path, speakers: SpeakerTokens) -> None:
    model = opinionated_model(tiny_base)
    reference = score(model, score_recall(speakers, DIALOGUES, facts_per_type=4), batch_size=1)
    for batch_size, dialogues in ((2, DIALOGUES), (7, DIALOGUES), (3, DIALOGUES[::-1])):
        found = score(
            model, score_recall(speakers, dialogues, facts_per_type=4), batch_size=batch_size
        )
        assert found.hits.tolist() == reference.hits.tolist()
        assert [dialogues[i].dialogue_id for i in found.dialogue] == [
            DIALOGUES[i].dialogue_id for i in reference.dialogue
        ]


def test_speakers_take_turns_and_the_other_one_asks() -> None:
    kind = FACT_TYPES[0]
    for distance in DISTANCES:
        one = planted_dialogue(kind, "Luna", ["so"] * distance)
        speakers = [turn.speaker for turn in one.turns]
        assert speakers == (["A", "B"] * 9)[: distance + 3]
        assert one.turns[0] == Turn("A", "My dog is called Luna.")
        assert one.turns[-2] == Turn("B", "What is your dog called?")
        assert one.turns[-1] == Turn("A", "My dog is called")


def test_what_stands_between_says_no_value_and_is_two_people_in_turn() -> None:
    def changed(number: int, turn: Turn) -> Dialogue:
        turns = DIALOGUES[0].turns
        return Dialogue("changed", (*turns[:number], turn, *turns[number + 1 :]))

    unfit = [
        changed(4, Turn("a", "the sky is Blue!")),
        changed(4, Turn("b", "I speak twice")),
        changed(4, Turn("c", "I am a third")),
        changed(4, Turn("a", "long " * 161)),
        dialogue("short", 9),
    ]
    fit = [changed(1, Turn("b", "blue, but before")), changed(4, Turn("a", "blueish"))]
    assert fillers_of(unfit) == []
    assert sorted(index for index, _ in fillers_of([*unfit, *fit])) == [5, 6]
    (_, texts), *_ = fillers_of([DIALOGUES[0]])
    assert texts == tuple(turn.utterance for turn in DIALOGUES[0].turns[2:10])


def test_without_anything_to_stand_between_nothing_is_asked(words: SpeakerTokens) -> None:
    model: Any = CopyingModel(len(words.tokenizer))
    items = score(model, score_recall(words, [dialogue("x", 3)], facts_per_type=4), batch_size=4)
    assert isinstance(items, RecallItems)
    assert len(items.hits) == 0
    assert recall_by_distance(items, 1).values() == {}
