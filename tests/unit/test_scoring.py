"""Sequences that are read together are scored as each alone, and what they share is read once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.families import WINDOW, small_model
from tests.scored_models import distinct_dialogues, opinionated_model
from tuning.evaluation_set.blocks import make_blocks
from tuning.evaluation_set.places import Place
from tuning.language_model.loading import load_plain_model
from tuning.results.dialogue_table import FloatArray
from tuning.results.measured import ScoredText
from tuning.scoring import nats
from tuning.scoring.coherence import score_coherence
from tuning.scoring.history import score_histories
from tuning.scoring.nats import TokenSequence, merge, score, together, token_nll
from tuning.scoring.perplexity import score_responses
from tuning.scoring.written import people_as_seen
from tuning.tokens.speaker_tokens import SpeakerTokens


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return opinionated_model(tiny_base)


def sequence_of(ids: list[int], is_scored: list[bool] | None = None) -> TokenSequence:
    return TokenSequence(list(ids), is_scored or [True] * len(ids))


def random_sequences(seed: int, count: int = 60) -> list[TokenSequence]:
    """Many begin alike, some are the beginning of another, some are equal, one is empty."""
    draw = random.Random(seed)
    found: list[list[int]] = [[]]
    while len(found) < count:
        start = draw.choice(found)[: draw.randrange(25)]
        found.append(start + [draw.randrange(5, 9) for _ in range(draw.randrange(1, 12))])
    found += draw.sample(found, 5)
    return [sequence_of(ids, [draw.random() < 0.6 for _ in ids]) for ids in found]


def plain_nll(model: Any, sequence: TokenSequence) -> FloatArray:
    """From the definition: the sequence alone, no mask, no padding."""
    nll = np.full(len(sequence.ids), np.nan)
    if sequence.ids:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([sequence.ids])).logits[0].double()
        log_probs = logits.log_softmax(-1)
        for place, (token, is_scored) in enumerate(
            zip(sequence.ids, sequence.is_scored, strict=True)
        ):
            if is_scored:
                nll[place] = -log_probs[place - 1, token].item() if place > 0 else 0.0
    return nll


@pytest.mark.parametrize("min_shared", [1, 3, 1000])
@pytest.mark.parametrize("row_tokens", [1, 50, 400])
def test_each_is_scored_as_if_it_were_alone(
    model: Any, min_shared: int, row_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats, "MIN_SHARED", min_shared)
    monkeypatch.setattr(nats, "ROW_TOKENS", row_tokens)
    monkeypatch.setattr(nats, "TREE_TOKENS", 2 * row_tokens)
    sequences = random_sequences(row_tokens)
    found = token_nll(model, sequences, batch_size=3)
    for sequence, nll in zip(sequences, found, strict=True):
        assert nll == pytest.approx(plain_nll(model, sequence), rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    "kind",
    [
        *("gemma3_text", "gemma2", "mistral", "gpt_oss", "llama4_text", "qwen3_moe"),
        *("qwen3_5_text", "lfm2", "granitemoehybrid", "falcon_h1", "jamba", "recurrent_gemma"),
    ],
)
def test_other_models_score_each_as_if_it_were_alone(kind: str, tmp_path: Path) -> None:
    """Those that look back less far than texts are long, and those that read from left to right."""
    small_model(kind).save_pretrained(tmp_path)
    other = load_plain_model(tmp_path)
    sequences = random_sequences(1)
    assert max(len(sequence.ids) for sequence in sequences) > 2 * WINDOW
    for batch_size in (1, 3):
        found = token_nll(other, sequences, batch_size=batch_size)
        for sequence, nll in zip(sequences, found, strict=True):
            assert nll == pytest.approx(plain_nll(other, sequence), rel=1e-5, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("capacity", [36, 1000])
def test_a_row_without_branches_holds_one_sequence_and_those_that_begin_it(capacity: int) -> None:
    sequences = random_sequences(capacity)
    trees = merge(sequences, capacity, may_branch=False)
    held = [number for tree in trees for number in tree.places]
    assert sorted(held) == [i for i, sequence in enumerate(sequences) if sequence.ids]
    for tree in trees:
        assert len(tree.ids) == max(len(sequences[number].ids) for number in tree.places)
        for number, places in tree.places.items():
            assert places == list(range(len(sequences[number].ids)))
            assert tree.ids[: len(places)] == sequences[number].ids
    assert len(trees) < len(held)


@pytest.mark.parametrize("min_shared", [1, 3, 1000])
@pytest.mark.parametrize("capacity", [36, 60, 1000])
def test_trees_hold_every_sequence_and_no_beginning_twice(
    min_shared: int, capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats, "MIN_SHARED", min_shared)
    sequences = random_sequences(capacity)
    assert max(len(sequence.ids) for sequence in sequences) <= 36
    trees = merge(sequences, capacity)
    held = [number for tree in trees for number in tree.places]
    assert sorted(held) == [i for i, sequence in enumerate(sequences) if sequence.ids]
    for tree in trees:
        assert 0 < len(tree.ids) <= capacity
        beginnings = set()
        for number, places in tree.places.items():
            assert [tree.ids[place] for place in places] == sequences[number].ids
            assert [tree.position_ids[place] for place in places] == list(range(len(places)))
            assert [tree.parents[place] for place in places] == [-1, *places][: len(places)]
            beginnings |= {tuple(sequences[number].ids[:end]) for end in range(1, len(places) + 1)}
        assert len(tree.ids) == len(beginnings)
    if min_shared == 1 and capacity == 1000:
        everything = {tuple(one.ids[:n]) for one in sequences for n in range(1, len(one.ids) + 1)}
        assert sum(len(tree.ids) for tree in trees) == len(everything)


def test_the_row_in_the_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats, "MIN_SHARED", 2)
    [tree] = merge([sequence_of([1, 2, 3, 4]), sequence_of([1, 2, 5, 6])], 6)
    assert tree.ids == [1, 2, 3, 4, 5, 6]
    assert tree.position_ids == [0, 1, 2, 3, 2, 3]
    assert tree.parents == [-1, 0, 1, 2, 1, 4]
    mask = nats.who_sees_whom(torch.tensor([[*tree.parents, -1]]))
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]


def test_measures_share_passes_and_find_what_each_finds(
    model: Any, speakers: SpeakerTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogues = distinct_dialogues(8, 7)
    blocks = make_blocks(dialogues, num_candidates=4, max_blocks=2)
    assert len(blocks) == 2
    places = [Place(number, 3) for number in range(4)]

    def scorings() -> tuple[Any, ...]:
        return (
            score_responses(speakers, dialogues),
            score_responses(speakers, dialogues, with_history=False),
            score_histories(speakers, dialogues, num_responses=20),
            score_coherence(speakers, blocks),
            people_as_seen(speakers, dialogues, places),
        )

    num_read: list[int] = []
    read = nats.merge

    def counted(sequences: Any, capacity: int) -> Any:
        trees = read(sequences, capacity)
        num_read.append(sum(len(tree.ids) for tree in trees))
        return trees

    monkeypatch.setattr(nats, "merge", counted)
    alone = [score(model, one, batch_size=2) for one in scorings()]
    num_alone = sum(num_read)
    shared = score(model, together(scorings()), batch_size=3)
    assert num_read[-1] < 0.7 * num_alone
    *measures, people = zip(shared, alone, strict=True)
    for found, expected in measures:
        for name, values in vars(expected).items():
            assert getattr(found, name) == pytest.approx(values, rel=1e-5)
    for found, expected in zip(*people, strict=True):
        assert isinstance(found, ScoredText)
        assert found.parts == expected.parts
        assert found.nats == pytest.approx(expected.nats, rel=1e-4, abs=1e-5)
