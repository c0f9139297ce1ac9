"""Scores agree with an independent computation and with what is known in closed form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.corpus.dialogue import Dialogue, Turn
from stages.encoding.speakers import (
    PlainText,
    SpeakerTokens,
    Template,
    add_dialogue_tokens,
    load_tokenizer,
)
from stages.errors import UserError
from stages.evaluation.bootstrap import ratio_interval
from stages.evaluation.coherence import RESPONSE_TURN, context_identification, make_blocks
from stages.evaluation.context import history_gain
from stages.evaluation.evaluation_set import cut_evaluation_set, text_sha256
from stages.evaluation.generation import continue_dialogues, samples_as_markdown
from stages.evaluation.perplexity import by_turn, score_responses, summarise
from stages.evaluation.report import format_table
from stages.evaluation.scoring import TokenSequence, token_nll


def dialogue(name: str, num_turns: int) -> Dialogue:
    words = ["hello there", "how are you?", "fine, thanks ☺", "and you", "it rains\nagain", "oh"]
    return Dialogue(
        name,
        tuple(
            Turn("ab"[number % 2], f"{words[(number + len(name)) % 6]} {name}")
            for number in range(num_turns)
        ),
    )


DIALOGUES = [dialogue("x" * size, 4 + size % 5) for size in range(1, 8)]


@pytest.fixture(scope="module")
def speakers(tiny_base: Path) -> SpeakerTokens:
    tokenizer = load_tokenizer(tiny_base)
    add_dialogue_tokens(tokenizer, 2)
    return SpeakerTokens(tokenizer)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    """Room for the new tokens, random and untied, with weights large enough to be opinionated."""
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype=torch.float32, attn_implementation="sdpa"
    )
    model.resize_token_embeddings(model.config.vocab_size + 4, mean_resizing=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def uniform(tiny_base: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model.resize_token_embeddings(model.config.vocab_size + 4, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    return model.eval()


@pytest.mark.parametrize("kind", ["speakers", "plain"])
def test_perplexity_agrees_with_the_models_own_loss(
    model: Any, speakers: SpeakerTokens, kind: str
) -> None:
    """The library's own loss, one dialogue at a time, no mask, no padding, no position ids."""
    template: Template = speakers if kind == "speakers" else PlainText(speakers.tokenizer)
    total, num_targets = 0.0, 0
    for one in DIALOGUES:
        ids: list[int] = []
        labels: list[int] = []
        for number, turn in enumerate(template.encode(one)):
            ids += turn.tag + turn.content + turn.end
            text = turn.content + turn.end
            labels += [-100] * len(turn.tag) + (text if number > 0 else [-100] * len(text))
        with torch.inference_mode():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        here = sum(label != -100 for label in labels)
        total, num_targets = total + loss.item() * here, num_targets + here
    found = summarise(score_responses(model, template, DIALOGUES, batch_size=3))
    assert found["num_target_tokens"] == num_targets
    assert found["perplexity"] == pytest.approx(math.exp(total / num_targets), rel=1e-5)


def test_neither_batch_size_nor_order_matters(model: Any, speakers: SpeakerTokens) -> None:
    reference = summarise(score_responses(model, speakers, DIALOGUES, batch_size=1))
    for batch_size, dialogues in ((2, DIALOGUES), (7, DIALOGUES), (3, DIALOGUES[::-1])):
        found = summarise(score_responses(model, speakers, dialogues, batch_size=batch_size))
        assert found == pytest.approx(reference, rel=1e-6)


def test_a_uniform_model_has_the_vocabulary_as_perplexity(
    uniform: Any, speakers: SpeakerTokens
) -> None:
    scores = score_responses(uniform, speakers, DIALOGUES, batch_size=4)
    alone = score_responses(uniform, speakers, DIALOGUES, batch_size=4, with_history=False)
    vocabulary = uniform.config.vocab_size
    assert summarise(scores)["perplexity"] == pytest.approx(vocabulary, rel=1e-5)
    bits = scores.num_tokens.sum() * math.log2(vocabulary) / scores.num_bytes.sum()
    assert summarise(scores)["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert history_gain(scores, alone) == pytest.approx(0, abs=1e-6)
    blocks = make_blocks(DIALOGUES, num_candidates=2, max_blocks=2)
    hits = context_identification(uniform, speakers, blocks, batch_size=3)
    assert hits.tolist() == [0.5] * 4  # every context ties, so each response counts as chance


def test_scores_do_not_see_the_future(model: Any, speakers: SpeakerTokens) -> None:
    one = dialogue("x", 5)
    changed = Dialogue("x", (*one.turns[:4], Turn("a", "something else entirely")))
    before = score_responses(model, speakers, [one], batch_size=1)
    after = score_responses(model, speakers, [changed], batch_size=1)
    assert before.content_nll[:3] == pytest.approx(after.content_nll[:3], rel=1e-6)
    assert before.content_nll[3] != pytest.approx(after.content_nll[3], rel=1e-3)


def test_without_history_a_response_is_scored_alone(model: Any, speakers: SpeakerTokens) -> None:
    turn = speakers.encode(DIALOGUES[0])[2]
    alone = TokenSequence()
    alone.append([*turn.tag, *turn.content], segment=1, first_position=0)
    expected = token_nll(model, [alone], batch_size=1)[0][len(turn.tag) :].sum()
    scores = score_responses(model, speakers, DIALOGUES, batch_size=4, with_history=False)
    assert scores.turn[1] == 2
    assert scores.content_nll[1] == pytest.approx(expected, rel=1e-5)


def test_shared_prefix_equals_full_sequences(model: Any, speakers: SpeakerTokens) -> None:
    """Identification from ten-in-a-row scoring equals one plain forward pass per pair."""
    blocks = make_blocks(DIALOGUES, num_candidates=4, max_blocks=1)
    assert len(blocks) == 1
    found = context_identification(model, speakers, blocks, batch_size=2)
    encoded = [speakers.encode(one) for one in blocks[0]]
    scores = np.zeros((4, 4))
    for c, own in enumerate(encoded):
        context = [token for turn in own[:-1] for token in (*turn.tag, *turn.content, *turn.end)]
        for r, other in enumerate(encoded):
            ids = torch.tensor([[*context, *own[-1].tag, *other[-1].content]])
            with torch.inference_mode():
                log_probs = model(input_ids=ids).logits.log_softmax(-1)
            start = ids.shape[1] - len(other[-1].content)
            scores[c, r] = -sum(
                log_probs[0, position - 1, ids[0, position]].item()
                for position in range(start, ids.shape[1])
            )
    assert found.tolist() == (scores.argmin(axis=0) == np.arange(4)).astype(float).tolist()


def test_blocks_hold_different_responses_and_no_dialogue_twice() -> None:
    same = [Dialogue(str(n), dialogue("x", RESPONSE_TURN + 1).turns) for n in range(5)]
    other = [dialogue("y" * n, RESPONSE_TURN + 2) for n in range(2, 7)]
    blocks = make_blocks([*same, *other], num_candidates=2, max_blocks=3)
    assert len(blocks) == 3
    used = [one.dialogue_id for block in blocks for one in block]
    assert len(used) == len(set(used))
    for block in blocks:
        responses = {one.turns[RESPONSE_TURN].utterance for one in block}
        assert len(responses) == 2
        assert all(len(one.turns) == RESPONSE_TURN + 1 for one in block)


def test_sums_by_turn_add_up(model: Any, speakers: SpeakerTokens) -> None:
    scores = score_responses(model, speakers, DIALOGUES, batch_size=4)
    curve = by_turn(scores)
    assert list(curve) == list(range(1, 8))
    bits = sum(value * scores.num_bytes[scores.turn == turn].sum() for turn, value in curve.items())
    assert bits / scores.num_bytes.sum() == pytest.approx(summarise(scores)["bits_per_byte"])


def test_a_dialogue_longer_than_the_model_is_a_clear_error(
    model: Any, speakers: SpeakerTokens
) -> None:
    long = Dialogue("long", (Turn("a", "hi"), Turn("b", "ж" * 1200)))
    with pytest.raises(UserError, match=r"1024 positions; lower eval\.max_bytes"):
        score_responses(model, speakers, [long], batch_size=1)


def test_the_evaluation_set_is_cut_in_turns_and_bytes() -> None:
    turns = (Turn("a", "12345"), Turn("b", "ж" * 3), Turn("a", "1"), Turn("b", "2"))
    one = Dialogue("1", turns)

    def cut(max_turns: int, max_bytes: int) -> tuple[list[Dialogue], int]:
        return cut_evaluation_set(
            [one], max_dialogues=None, max_turns=max_turns, max_bytes=max_bytes
        )

    assert len(cut(3, 100)[0][0].turns) == 3
    assert len(cut(9, 11)[0][0].turns) == 2  # 5 + 6 bytes
    assert cut(9, 10) == ([], 1)
    assert text_sha256([one]) != text_sha256([Dialogue("1", turns[:3])])
    renamed = Dialogue("2", tuple(Turn(t.speaker.upper(), t.utterance) for t in turns))
    assert text_sha256([one]) == text_sha256([renamed])


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        sizes = generator.integers(1, 20, size=60)
        sums = sizes * generator.normal(2.0, 1.0, size=60)
        low, high = ratio_interval(sums, sizes, num_resamples=200, seed=seed)
        covered += low <= 2.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_model_against_itself_is_exactly_no_change() -> None:
    assert ratio_interval(np.zeros(9), np.ones(9), num_resamples=100, seed=1) == (0.0, 0.0)


def test_samples_are_seeded_one_by_one(model: Any, speakers: SpeakerTokens) -> None:
    def samples(dialogues: list[Dialogue], seed: int = 3) -> dict[str, list[str]]:
        found = continue_dialogues(
            model,
            speakers,
            dialogues,
            num_samples=3,
            prompt_turns=2,
            reply_turns=2,
            max_new_tokens=12,
            temperature=1.0,
            top_p=0.9,
            seed=seed,
        )
        text = samples_as_markdown(found)
        assert all(f"## {sample.dialogue_id}\n" in text for sample in found)
        return {sample.dialogue_id: [turn.utterance for turn in sample.reply] for sample in found}

    first = samples(DIALOGUES[:3])
    assert samples(DIALOGUES[2::-1]) == first
    assert samples(DIALOGUES[:3], seed=4) != first
    assert [len(reply) for reply in first.values()] == [2, 2, 2]
    assert not any("<|" in text for reply in first.values() for text in reply)


def test_the_table_says_when_a_change_is_noise() -> None:
    base = {"bits_per_byte": 1.5, "perplexity": 30.0, "history_gain": 0.2}
    tuned = {"bits_per_byte": 1.25, "perplexity": 20.0, "history_gain": 0.1}
    change = {"bits_per_byte": -0.25, "bits_per_byte_low": -0.3, "bits_per_byte_high": -0.2}
    size = {"num_dialogues": 12}
    metrics = {"base": base, "tuned": tuned, "change": change, "set": size}
    lines = format_table(metrics).splitlines()
    assert lines[1].split() == ["bits", "per", "byte", "1.5000", "1.2500", "-0.2500"]
    assert lines[2].split() == ["perplexity", "30.00", "20.00", "-10.00"]
    assert lines[-1].endswith("[-0.3000, -0.2000] over 12 dialogues: better")
    change["bits_per_byte_high"] = 0.01
    assert format_table(metrics).endswith("inside the noise")
    change["bits_per_byte_low"] = 0.005
    assert format_table(metrics).endswith("worse")
    size["num_dialogues"] = 1
    assert format_table(metrics).endswith("too few dialogues to tell")
