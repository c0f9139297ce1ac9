"""History gain by number of turns: each score is that of exactly those turns."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.scored_models import (
    CopyingModel,
    headlines_of,
    opinionated_model,
    uniform_model,
    word_template,
)
from tuning.dialogue import Dialogue, Turn
from tuning.scoring.history import (
    HISTORY_TURNS,
    HistoryScores,
    history_gain_by_turns,
    score_histories,
    shuffled_history_gain,
)
from tuning.scoring.nats import both, score
from tuning.scoring.perplexity import score_responses
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.tokens.template import Template


def dialogue(name: str, num_turns: int) -> Dialogue:
    words = ["hello there", "how are you?", "fine, thanks ☺", "and you", "it rains\nagain"]
    return Dialogue(
        name,
        tuple(
            Turn("ab"[number % 2], f"{words[(number + len(name)) % 5]} {name} {number}")
            for number in range(num_turns)
        ),
    )


DIALOGUES = [dialogue("x", 11), dialogue("yy", 2), dialogue("zzz", 6), dialogue("wwww", 14)]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return opinionated_model(tiny_base)


def histories(
    model: Any,
    template: Template,
    dialogues: list[Dialogue],
    *,
    batch_size: int = 4,
    num_responses: int = 1000,
) -> HistoryScores:
    scoring = score_histories(template, dialogues, num_responses=num_responses)
    return score(model, scoring, batch_size=batch_size)


def by_response(dialogues: list[Dialogue], scores: HistoryScores) -> dict[str, list[float]]:
    return {
        f"{dialogues[index].dialogue_id} {turn}": [*nll, shuffled]
        for index, turn, nll, shuffled in zip(
            scores.dialogue, scores.turn, scores.nll, scores.shuffled_nll, strict=True
        )
    }


@pytest.mark.parametrize("kind", ["speakers", "plain"])
def test_every_score_equals_a_plain_pass_over_those_turns(
    model: Any, speakers: SpeakerTokens, kind: str
) -> None:
    template: SpeakerTokens | PlainLines = (
        speakers if kind == "speakers" else PlainLines(speakers.tokenizer)
    )
    scores = histories(model, template, DIALOGUES)
    assert len(scores.turn) == sum(len(one.turns) - 1 for one in DIALOGUES)
    for row, (index, turn) in enumerate(zip(scores.dialogue, scores.turn, strict=True)):
        turns = template.encode(DIALOGUES[index])
        assert scores.num_bytes[row] == len(DIALOGUES[index].turns[turn].utterance.encode())
        for column, k in enumerate(HISTORY_TURNS):
            ids = [
                token
                for one in turns[max(0, turn - k) : turn]
                for token in (*one.tag, *one.content, *one.end)
            ]
            ids += turns[turn].tag
            start = len(ids)
            ids += turns[turn].content
            with torch.inference_mode():
                log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = -sum(log_probs[i - 1, ids[i]].item() for i in range(start, len(ids)))
            assert scores.nll[row, column] == pytest.approx(expected, rel=1e-5)


def test_a_uniform_model_gains_nothing(tiny_base: Path, speakers: SpeakerTokens) -> None:
    scores = histories(uniform_model(tiny_base), speakers, DIALOGUES)
    assert history_gain_by_turns(scores, len(DIALOGUES)).values() == pytest.approx(
        dict.fromkeys(HISTORY_TURNS, 0), abs=1e-6
    )
    assert shuffled_history_gain(scores) == pytest.approx(0, abs=1e-6)


def test_the_curve_shows_where_the_information_is() -> None:
    """Each speaker repeats herself: the turn before last tells all, the last one nothing."""
    dialogues = [
        Dialogue(
            str(n), tuple(Turn("ab"[t % 2], f"{'pq'[t % 2]}{n} {'rs'[t % 2]}{n}") for t in range(9))
        )
        for n in range(3)
    ]
    template = word_template(turn.utterance for one in dialogues for turn in one.turns)
    model: Any = CopyingModel(len(template.tokenizer))
    scores = histories(model, template, dialogues)
    curve = history_gain_by_turns(scores, len(dialogues)).values()
    assert curve[0] == 0
    assert curve[1] < 0.1 < 2 < curve[2]
    assert curve[4] == pytest.approx(curve[2]) == pytest.approx(curve[8])
    # It does not look at order, so any order tells it the same.
    assert shuffled_history_gain(scores) == pytest.approx(curve[8])


def test_eight_turns_and_more_are_the_whole_history_of_short_dialogues(
    model: Any, speakers: SpeakerTokens
) -> None:
    short = [DIALOGUES[1], DIALOGUES[2]]
    responses = both(
        score_responses(speakers, short),
        score_responses(speakers, short, with_history=False),
    )
    asked = both(responses, score_histories(speakers, short, num_responses=1000))
    (whole, alone), scores = score(model, asked, batch_size=4)
    curve = history_gain_by_turns(scores, len(short)).values()
    assert curve[8] == pytest.approx(headlines_of(whole, alone)["history_gain"], rel=1e-9)


def test_neither_batch_size_nor_order_matters(model: Any, speakers: SpeakerTokens) -> None:
    reference = by_response(DIALOGUES, histories(model, speakers, DIALOGUES, batch_size=1))
    for batch_size, dialogues in ((2, DIALOGUES), (7, DIALOGUES), (3, DIALOGUES[::-1])):
        found = by_response(dialogues, histories(model, speakers, dialogues, batch_size=batch_size))
        assert found.keys() == reference.keys()
        for response, nll in found.items():
            assert nll == pytest.approx(reference[response], rel=1e-5)


def test_a_later_turn_changes_no_earlier_score(model: Any, speakers: SpeakerTokens) -> None:
    (one,) = DIALOGUES[:1]
    changed = Dialogue("x", (*one.turns[:-1], Turn("a", "something else entirely")))
    before = by_response([one], histories(model, speakers, [one]))
    after = by_response([changed], histories(model, speakers, [changed]))
    last = f"x {len(one.turns) - 1}"
    for response in before:
        if response != last:
            assert after[response] == pytest.approx(before[response], rel=1e-5)
    assert after[last] != pytest.approx(before[last], rel=1e-3)


def test_shuffling_moves_turns_and_keeps_them(model: Any, speakers: SpeakerTokens) -> None:
    scores = histories(model, speakers, DIALOGUES)
    one_turn = scores.turn == 1
    assert scores.shuffled_nll[one_turn] == pytest.approx(scores.nll[one_turn, -1], rel=1e-5)
    others = ~one_turn
    assert (np.abs(scores.shuffled_nll - scores.nll[:, -1])[others] > 1e-4).all()


def test_a_choice_has_as_many_dialogues_as_it_can_whatever_their_order(
    model: Any, speakers: SpeakerTokens
) -> None:
    some = by_response(DIALOGUES, histories(model, speakers, DIALOGUES, num_responses=7))
    again = histories(model, speakers, DIALOGUES[::-1], num_responses=7)
    assert some.keys() == by_response(DIALOGUES[::-1], again).keys()
    assert Counter(response.split()[0] for response in some) == {
        "x": 2,
        "yy": 1,
        "zzz": 2,
        "wwww": 2,
    }
    everything = by_response(DIALOGUES, histories(model, speakers, DIALOGUES))
    for response, nll in some.items():
        assert nll == pytest.approx(everything[response], rel=1e-5)


def test_a_choice_is_of_early_and_late_turns(model: Any, speakers: SpeakerTokens) -> None:
    many = [dialogue("v" * length, 12) for length in range(1, 41)]
    turns = histories(model, speakers, many, num_responses=40).turn
    assert set(turns) == set(range(1, 12))
    assert 5 < turns.mean() < 7
