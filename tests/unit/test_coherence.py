"""Coherence scores: chance where nothing is known, 1 where all is, and nothing from the batch."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.scored_models import (
    CopyingModel,
    block_headlines_of,
    opinionated_model,
    uniform_model,
    word_template,
)
from tuning.dialogue import Dialogue, Role, Turn
from tuning.evaluation_set.blocks import Block, make_blocks
from tuning.results.dialogue_table import FloatArray
from tuning.scoring.coherence import (
    CoherenceItems,
    rank,
    score_candidates,
    score_coherence,
    summarise_ranks,
)
from tuning.scoring.nats import score
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.tokens.templates import prepare_tokenizer, template_of


def dialogue(number: int, num_turns: int) -> Dialogue:
    """Each dialogue says again and again its own four words, in an order of the turn."""
    words = [f"{number:02d}{letter}{letter}{letter}{letter}" for letter in "abcd"]
    return Dialogue(
        str(number),
        tuple(
            Turn("xy"[turn % 2], " ".join(words[turn % 4 :] + words[: turn % 4]))
            for turn in range(num_turns)
        ),
    )


DIALOGUES = [dialogue(number, 4 + number % 4) for number in range(12)]
BLOCKS = make_blocks(DIALOGUES, num_candidates=4, max_blocks=3)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return opinionated_model(tiny_base)


def fake_blocks(num_bytes: list[list[int]]) -> list[Block]:
    return [
        Block(
            1,
            tuple(range(len(sizes))),
            tuple(Dialogue("", (Turn("a", ""), Turn("b", "x" * size))) for size in sizes),
        )
        for sizes in num_bytes
    ]


@pytest.mark.parametrize("kind", ["speakers", "plain"])
def test_the_matrix_equals_one_plain_forward_pass_per_pair(
    model: Any, speakers: SpeakerTokens, kind: str
) -> None:
    template: SpeakerTokens | PlainLines = (
        speakers if kind == "speakers" else PlainLines(speakers.tokenizer)
    )
    block = BLOCKS[0]
    found = score(
        model, score_candidates(template, block.pairs, [block.responses] * 4), batch_size=3
    )
    alone = score(
        model,
        score_candidates(template, block.pairs, [block.responses] * 4, with_history=False),
        batch_size=3,
    )

    def plain(prefix: list[int], content: list[int]) -> float:
        ids = torch.tensor([prefix + content])
        with torch.inference_mode():
            log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        before = list(range(len(prefix) - 1, ids.shape[1] - 1))
        return -float(log_probs[before, content].double().sum())

    encoded = [template.encode(pair) for pair in block.pairs]
    for c, own in enumerate(encoded):
        context = [token for turn in own[:-1] for token in (*turn.tag, *turn.content, *turn.end)]
        for r, other in enumerate(encoded):
            expected = plain([*context, *own[-1].tag], other[-1].content)
            assert found[c][r] == pytest.approx(expected, rel=1e-5)
            expected = plain([*own[-1].tag], other[-1].content)
            assert alone[c][r] == pytest.approx(expected, rel=1e-5)


def test_what_is_likely_anyway_is_likeliness_after_nothing(
    model: Any, speakers: SpeakerTokens
) -> None:
    """From the parts: every response after every context, and after its speaker's tag alone."""
    matrices, alone = [], []
    for block in BLOCKS:
        own = [[response] for response in block.responses]
        matrices.append(
            score(
                model, score_candidates(speakers, block.pairs, [block.responses] * 4), batch_size=1
            )
        )
        after_nothing = score(
            model, score_candidates(speakers, block.pairs, own, with_history=False), batch_size=1
        )
        alone.append([nats for (nats,) in after_nothing])
    expected = rank(BLOCKS, np.array(matrices), np.array(alone))
    found = score(model, score_coherence(speakers, BLOCKS), batch_size=4)
    for field in fields(found):
        values = getattr(found, field.name)
        assert values == pytest.approx(getattr(expected, field.name), rel=1e-5)
    own_as_alone = rank(BLOCKS, np.array(matrices), expected.own_nll.reshape(-1, 4))
    assert (own_as_alone.mrr_pmi != found.mrr_pmi).any()  # the correction matters here


def test_a_uniform_model_is_at_chance_and_gains_nothing(
    tiny_base: Path, speakers: SpeakerTokens
) -> None:
    """Responses of one length in bytes and tokens, so that all scores tie."""
    words = ["b", "c", "d", "e", "f", "g", "h", "i"]
    dialogues = [
        Dialogue(word, tuple(Turn("xy"[t % 2], f"{word}☺☺☺☺☺☺☺{t}") for t in range(4)))
        for word in words
    ]
    blocks = make_blocks(dialogues, num_candidates=4, max_blocks=2)
    items = score(uniform_model(tiny_base), score_coherence(speakers, blocks), batch_size=3)
    found = block_headlines_of(items) | summarise_ranks(items)
    chance = (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    assert found == pytest.approx(
        {
            "foreign_history_gain": 0,
            "context_identification": 1 / 4,
            "hits_at_1_pmi": 1 / 4,
            "mrr_pmi": chance,
            "hits_at_1_per_byte": 1 / 4,
            "mrr_per_byte": chance,
        }
    )


def test_an_oracle_is_always_right() -> None:
    template = word_template(turn.utterance for one in DIALOGUES for turn in one.turns)
    size = len(template.tokenizer)
    model: Any = CopyingModel(size)
    items = score(model, score_coherence(template, BLOCKS), batch_size=2)
    found = block_headlines_of(items) | summarise_ranks(items)
    for name in ("context_identification", "hits_at_1_pmi", "hits_at_1_per_byte"):
        assert found[name] == 1
    assert found["mrr_pmi"] == found["mrr_per_byte"] == 1
    # In its own context all of a response's words are seen, two tags and the end of turn as well;
    # in another one its four words are new, each one more that is seen when the next is due.
    liked = math.exp(8)
    own = 4 * math.log((7 * liked + size - 7) / liked)
    foreign = sum(math.log(seen * liked + size - seen) for seen in range(7, 11))
    assert items.own_nll == pytest.approx(own, rel=1e-5)
    assert items.foreign_nll == pytest.approx(foreign, rel=1e-5)
    gain = (foreign - own) / (math.log(2) * len(BLOCKS[0].responses[0]))
    assert found["foreign_history_gain"] == pytest.approx(gain, rel=1e-5)


def test_neither_batch_size_nor_order_matters(model: Any, speakers: SpeakerTokens) -> None:
    reference = by_pair(DIALOGUES, score(model, score_coherence(speakers, BLOCKS), batch_size=1))
    for batch_size, dialogues in ((2, DIALOGUES), (7, DIALOGUES), (3, DIALOGUES[::-1])):
        blocks = make_blocks(dialogues, num_candidates=4, max_blocks=3)
        items = score(model, score_coherence(speakers, blocks), batch_size=batch_size)
        assert by_pair(dialogues, items) == pytest.approx(reference, rel=1e-5)


def by_pair(dialogues: list[Dialogue], items: CoherenceItems) -> FloatArray:
    """All values but the dialogue's index, sorted by the dialogue's name."""
    names = [dialogues[index].dialogue_id for index in items.dialogue]
    columns = [getattr(items, field.name) for field in fields(items)[1:]]
    rows = sorted(zip(names, *columns, strict=True))
    return np.array([row[1:] for row in rows], dtype=np.float64)


def test_what_comes_after_the_response_leaves_the_scores(
    model: Any, speakers: SpeakerTokens
) -> None:
    extended = [
        Dialogue(one.dialogue_id, (*one.turns[:4], Turn("z", f"and then {one.dialogue_id}")))
        for one in DIALOGUES
    ]
    cut = [Dialogue(one.dialogue_id, one.turns[:4]) for one in DIALOGUES]
    before, after = (
        score(
            model,
            score_coherence(speakers, make_blocks(some, num_candidates=4, max_blocks=9)),
            batch_size=4,
        )
        for some in (cut, extended)
    )
    assert (before.own_nll == after.own_nll).all()
    assert (before.foreign_nll == after.foreign_nll).all()


def test_ranks_share_ties_exactly() -> None:
    nll = np.array([[[1.0, 2.0, 2.0], [1.0, 3.0, 3.0], [1.0, 1.0, 4.0]]])  # [m, c, r]
    alone = np.array([[2.0, 2.0, 2.0]])
    items = rank(fake_blocks([[1, 2, 3]]), nll, alone)
    # Response 0 ties in all contexts; 1 is better after context 2; 2 after context 0 and 1.
    assert items.context_hits.tolist() == pytest.approx([1 / 3, 0, 0])
    # By PMI: context 0 gives 1, 0, 0; context 1 gives 1, -1, -1; context 2 gives 1, 1, -2.
    assert items.hits_at_1_pmi.tolist() == [1, 0, 0]
    assert items.mrr_pmi.tolist() == pytest.approx([1, (1 / 2 + 1 / 3) / 2, 1 / 3])
    # Nats per byte: context 0 gives 1, 1, 2/3; context 1 gives 1, 3/2, 1; context 2 1, 1/2, 4/3.
    assert items.hits_at_1_per_byte.tolist() == [0, 0, 0]
    assert items.mrr_per_byte.tolist() == pytest.approx([(1 / 2 + 1 / 3) / 2, 1 / 3, 1 / 3])
    assert items.own_nll.tolist() == [1, 3, 4]
    assert items.foreign_nll.tolist() == [1, 1.5, 2.5]


def test_each_response_is_corrected_by_its_own_likelihood() -> None:
    nll = np.array([[[1.0, 2.0, 2.0], [1.0, 3.0, 3.0], [1.0, 1.0, 4.0]]])  # [m, c, r]
    items = rank(fake_blocks([[1, 2, 3]]), nll, np.array([[3.0, 2.0, 6.0]]))
    # By PMI: context 0 gives 2, 0, 4; context 1 gives 2, -1, 3; context 2 gives 2, 1, 2.
    assert items.hits_at_1_pmi.tolist() == pytest.approx([0, 0, 1 / 2])
    assert items.mrr_pmi.tolist() == pytest.approx([1 / 2, 1 / 3, (1 + 1 / 2) / 2])


def test_permuted_labels_are_at_chance(model: Any, speakers: SpeakerTokens) -> None:
    nll = np.array(
        score(
            model,
            score_candidates(
                speakers,
                [pair for block in BLOCKS for pair in block.pairs],
                [block.responses for block in BLOCKS for _ in block.pairs],
            ),
            batch_size=4,
        )
    ).reshape(-1, 4, 4)
    alone = nll.mean(axis=1)
    generator = np.random.default_rng(0)
    draws: list[list[float]] = []
    for _ in range(400):
        order = generator.permutation(4)
        items = rank(BLOCKS, nll[:, :, order], alone[:, order])
        draws.append([items.context_hits.mean(), items.hits_at_1_pmi.mean(), items.mrr_pmi.mean()])
    error = np.std(draws, axis=0) / math.sqrt(len(draws))
    chance = [1 / 4, 1 / 4, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4]
    assert (np.abs(np.mean(draws, axis=0) - chance) < 3 * error).all()
    assert (error > 0).all()


def test_a_candidate_is_said_by_the_role_whose_turn_it_is(tiny_base: Path, tmp_path: Path) -> None:
    """A model that knows roles alone has no token for anybody else."""
    prepare_tokenizer(tiny_base, tmp_path, 0, has_roles=True)
    template = template_of(tmp_path)
    roles: list[Role] = ["user", "assistant"]
    dialogues = [
        Dialogue(
            each.dialogue_id,
            tuple(Turn(roles[i % 2], turn.text, roles[i % 2]) for i, turn in enumerate(each.turns)),
        )
        for each in DIALOGUES
    ]
    block, *_ = make_blocks(dialogues, num_candidates=4, max_blocks=3)
    assert {pair.turns[-1].role for pair in block.pairs} == {roles[block.turn % 2]}
    model = opinionated_model(tiny_base, num_new_rows=6)
    candidates = [block.responses] * len(block.pairs)
    found = score(model, score_candidates(template, block.pairs, candidates), batch_size=3)
    own = [[each] for each in block.responses]
    one_by_one = score(model, score_candidates(template, block.pairs, own), batch_size=1)
    assert [nll[i] for i, nll in enumerate(found)] == pytest.approx(
        [nll[0] for nll in one_by_one], rel=1e-5
    )
