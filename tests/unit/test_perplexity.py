"""Nats of responses, and of whole texts, against plain computations from their definitions."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.scored_models import headlines_of, opinionated_model, uniform_model
from tuning.dialogue import Dialogue, Turn
from tuning.language_model.loading import num_visible
from tuning.results.response_scores import MAX_SPEAKERS, ResponseScores, by_speaker, by_turn
from tuning.scoring.measures import drop_rows_without_token
from tuning.scoring.nats import TokenSequence, score, token_nll
from tuning.scoring.perplexity import score_responses
from tuning.scoring.plain_text import all_bits_per_byte, rolling_nll, text_of
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.texts import encode_texts
from tuning.tokens.tokenizer import load_tokenizer

NUM_NEW_ROWS = 5
"""Three speakers', the end of turn and the pad."""

LINES = (
    "hello there",
    "how are you?\nit rains",
    "fine, thanks ☺",
    "and  you",
    "I play the piano",
    "oh",
)
DIALOGUES = [
    Dialogue(
        str(number),
        tuple(
            Turn(("abababab", "abacbcba")[number % 2][turn], f"{LINES[(turn + number) % 6]}!")
            for turn in range(2 + number)
        ),
    )
    for number in range(7)
]


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def speakers(tiny_base: Path) -> SpeakerTokens:
    tokenizer = load_tokenizer(tiny_base)
    add_dialogue_tokens(tokenizer, 3)
    return SpeakerTokens(tokenizer)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return opinionated_model(tiny_base, NUM_NEW_ROWS)


@pytest.fixture(scope="module")
def uniform(tiny_base: Path) -> Any:
    return uniform_model(tiny_base, NUM_NEW_ROWS)


def response_ids(
    template: SpeakerTokens | PlainLines, dialogue: Dialogue, turn: int
) -> tuple[list[int], list[int]]:
    """All ids before a response's content, and the content's."""
    encoded = template.encode(dialogue)
    before = [token for t in encoded[:turn] for token in (*t.tag, *t.content, *t.end)]
    return [*before, *encoded[turn].tag], encoded[turn].content


@pytest.mark.parametrize("kind", ["speakers", "plain"])
def test_a_response_is_scored_as_one_left_padded_batch_per_dialogue_does(
    model: Any, speakers: SpeakerTokens, tokenizer: Any, kind: str
) -> None:
    """A row per response, padded on the left, as batched generation has them."""
    template: SpeakerTokens | PlainLines = speakers if kind == "speakers" else PlainLines(tokenizer)
    expected: list[float] = []
    for dialogue in DIALOGUES:
        pairs = [response_ids(template, dialogue, turn) for turn in range(1, len(dialogue.turns))]
        width = max(len(before) + len(content) for before, content in pairs)
        rows = [[0] * (width - len(b) - len(c)) + b + c for b, c in pairs]
        seen = [[0] * (width - len(b) - len(c)) + [1] * (len(b) + len(c)) for b, c in pairs]
        mask = torch.tensor(seen)
        with torch.inference_mode():
            logits = model(
                input_ids=torch.tensor(rows),
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            ).logits
        log_probs = logits.double().log_softmax(-1)
        for row, (_, content) in enumerate(pairs):
            places = range(width - len(content), width)
            expected.append(-sum(float(log_probs[row, p - 1, rows[row][p]]) for p in places))
    scores = score(model, score_responses(template, DIALOGUES), batch_size=3)
    assert scores.content_nll == pytest.approx(expected, rel=1e-5)


def test_neither_batch_size_nor_order_changes_a_response(
    model: Any, speakers: SpeakerTokens
) -> None:
    reference = score(model, score_responses(speakers, DIALOGUES), batch_size=1)
    for batch_size in (2, 7):
        found = score(model, score_responses(speakers, DIALOGUES), batch_size=batch_size)
        assert_equal_scores(found, reference)
    backwards = score(model, score_responses(speakers, DIALOGUES[::-1]), batch_size=2)
    order = np.lexsort((backwards.turn, len(DIALOGUES) - 1 - backwards.dialogue))
    assert backwards.content_nll[order] == pytest.approx(reference.content_nll, rel=1e-6)
    assert backwards.end_nll[order] == pytest.approx(reference.end_nll, rel=1e-6)


@pytest.mark.parametrize("with_history", [True, False])
def test_turns_that_are_not_trained_are_read_and_not_scored(
    model: Any, speakers: SpeakerTokens, with_history: bool
) -> None:
    some = [
        replace(
            one,
            turns=tuple(
                replace(turn, weight=float((number + place) % 3 > 0))
                for place, turn in enumerate(one.turns)
            ),
        )
        for number, one in enumerate(DIALOGUES)
    ]
    everything, found = (
        score(model, score_responses(speakers, each, with_history=with_history), batch_size=3)
        for each in (DIALOGUES, some)
    )
    is_left = (everything.dialogue + everything.turn) % 3 > 0
    assert 0 < is_left.sum() < len(is_left)
    for field in fields(ResponseScores):
        expected = getattr(everything, field.name)[is_left]
        assert getattr(found, field.name) == pytest.approx(expected, rel=1e-5)


def test_two_halves_add_up(model: Any, speakers: SpeakerTokens) -> None:
    whole, first, second = (
        score(model, score_responses(speakers, part), batch_size=3)
        for part in (DIALOGUES, DIALOGUES[:4], DIALOGUES[4:])
    )
    for field in fields(ResponseScores):
        parts = [getattr(first, field.name), getattr(second, field.name)]
        if field.name == "dialogue":
            parts[1] = parts[1] + 4
        assert np.concatenate(parts) == pytest.approx(getattr(whole, field.name), rel=1e-6)
    figures = [headlines_of(scores)["bits_per_byte"] for scores in (whole, first, second)]
    num_bytes = [scores.num_bytes.sum() for scores in (whole, first, second)]
    assert figures[0] * num_bytes[0] == pytest.approx(
        figures[1] * num_bytes[1] + figures[2] * num_bytes[2], rel=1e-6
    )


def assert_equal_scores(found: ResponseScores, expected: ResponseScores) -> None:
    for field in fields(ResponseScores):
        assert getattr(found, field.name) == pytest.approx(getattr(expected, field.name), rel=1e-6)


@pytest.mark.parametrize("changed", [1, 3])
def test_a_turn_does_not_know_the_next(model: Any, speakers: SpeakerTokens, changed: int) -> None:
    one = DIALOGUES[4]
    other = Turn(one.turns[changed].speaker, "something else entirely")
    edited = Dialogue("edited", (*one.turns[:changed], other, *one.turns[changed + 1 :]))
    before = score(model, score_responses(speakers, [one]), batch_size=1).content_nll
    after = score(model, score_responses(speakers, [edited]), batch_size=1).content_nll
    earlier = changed - 1  # responses, which begin at turn 1
    assert after[:earlier] == pytest.approx(before[:earlier], rel=1e-6)
    assert (abs(after[earlier:] / before[earlier:] - 1) > 1e-4).all()


def test_a_uniform_model_pays_the_same_for_every_token(
    uniform: Any, speakers: SpeakerTokens
) -> None:
    scores = score(uniform, score_responses(speakers, DIALOGUES), batch_size=4)
    vocabulary = uniform.config.vocab_size
    found = headlines_of(scores)
    assert found["perplexity"] == pytest.approx(vocabulary, rel=1e-5)
    assert found["end_of_turn_nll"] == pytest.approx(math.log(vocabulary), rel=1e-5)
    per_word = scores.num_tokens.sum() / scores.num_words.sum()
    assert found["word_perplexity"] == pytest.approx(vocabulary**per_word, rel=1e-4)
    nll = score(uniform, rolling_nll(speakers.tokenizer, ["☺ hello"], max_length=3), batch_size=2)
    num_tokens = len(encode_texts(speakers.tokenizer, ["☺ hello"])[0])
    assert num_tokens > 3
    assert nll[0] == pytest.approx(num_tokens * math.log(vocabulary), rel=1e-5)


def test_words_are_those_between_white_space(model: Any, speakers: SpeakerTokens) -> None:
    text = "and  you\nif it\trains\N{NO-BREAK SPACE}?"
    one = Dialogue("1", (Turn("a", "hi"), Turn("b", text), Turn("a", "no")))
    scores = score(model, score_responses(speakers, [one]), batch_size=1)
    assert scores.num_words.tolist() == [6, 1]
    expected = math.exp(scores.content_nll.sum() / 7)
    assert headlines_of(scores)["word_perplexity"] == pytest.approx(expected)


def test_a_perplexity_beyond_floats_is_the_largest_float(
    model: Any, speakers: SpeakerTokens
) -> None:
    scores = score(model, score_responses(speakers, DIALOGUES), batch_size=4)
    scores.content_nll[:] = 1e9
    for name in ("perplexity", "word_perplexity"):
        assert headlines_of(scores)[name] == pytest.approx(1.797e308, rel=1e-3)


def test_bits_by_speaker_are_of_that_speakers_responses(
    model: Any, speakers: SpeakerTokens
) -> None:
    scores = score(model, score_responses(speakers, DIALOGUES), batch_size=4)
    names = [
        (dialogue.speakers.index(turn.speaker), len(turn.utterance.encode()))
        for dialogue in DIALOGUES
        for turn in dialogue.turns[1:]
    ]
    curve = by_speaker(scores, len(DIALOGUES))
    assert list(curve) == ["speaker1", "speaker2", "speaker3"]
    for speaker, bits in enumerate(curve.values()):
        mine = [number for number, (who, _) in enumerate(names) if who == speaker]
        num_bytes = sum(names[number][1] for number in mine)
        nats = sum(scores.content_nll[number] for number in mine)
        assert bits == pytest.approx(nats / math.log(2) / num_bytes)


def test_only_the_first_speakers_are_told_apart() -> None:
    count = MAX_SPEAKERS + 3
    ones = np.ones(count, dtype=np.int64)
    numbers = np.arange(count)
    scores = ResponseScores(
        ones, numbers, numbers, -ones, np.ones(count), np.ones(count), ones, ones, ones, ones
    )
    assert list(by_speaker(scores, 2)) == [f"speaker{n + 1}" for n in range(MAX_SPEAKERS)]
    assert len(by_turn(scores, 2).points) == count


def window_nll(model: Any, ids: list[int], first: int, length: int) -> float:
    """From the definition: each window alone, no batch, no mask, probabilities in float64."""
    total, done = 0.0, 0
    while done < len(ids):
        target = ids[done : done + length]
        if done == 0:
            given = [first]
        else:  # as many as leave the window's inputs at `length`: one before a full window
            num_given = length - len(target) + 1
            given = ids[done - num_given : done]
        with torch.inference_mode():
            log_probs = model(input_ids=torch.tensor([given + target[:-1]])).logits.double()
        log_probs = log_probs[0, -len(target) :].log_softmax(-1)
        total -= sum(float(row[token]) for row, token in zip(log_probs, target, strict=True))
        done += len(target)
    return total


@pytest.mark.parametrize("length", [1, 4, 7, 1000])
@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_whole_texts_are_scored_in_disjoint_rolling_windows(
    model: Any, tokenizer: Any, length: int, batch_size: int
) -> None:
    texts = [text_of(dialogue) for dialogue in DIALOGUES] + [""]
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert {len(ids) % 4 == 0 for ids in encoded} == {True, False}
    expected = [window_nll(model, ids, tokenizer.bos_token_id, length) for ids in encoded]
    found = score(model, rolling_nll(tokenizer, texts, max_length=length), batch_size=batch_size)
    assert found == pytest.approx(expected, rel=1e-5)


def test_all_bits_per_byte_divides_once(model: Any, tokenizer: Any) -> None:
    texts = ["\n".join(turn.utterance for turn in dialogue.turns) for dialogue in DIALOGUES]
    nats = sum(
        window_nll(model, tokenizer.encode(text, add_special_tokens=False), 0, 1000)
        for text in texts
    )
    assert tokenizer.bos_token_id == 0
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    found = score(
        model, all_bits_per_byte(num_visible(model.config), tokenizer, DIALOGUES), batch_size=3
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_text_may_be_longer_than_the_model(model: Any, tokenizer: Any) -> None:
    long = Dialogue("long", (Turn("a", "hi"), Turn("b", "ж" * 1500)))
    assert math.isfinite(
        score(model, all_bits_per_byte(num_visible(model.config), tokenizer, [long]), batch_size=2)
    )


def test_a_tokenizer_without_special_tokens_begins_texts_with_a_line_end(
    model: Any, tiny_base: Path
) -> None:
    bare = load_tokenizer(tiny_base)
    bare.bos_token = bare.eos_token = None
    line_end = bare.encode("\n", add_special_tokens=False)
    found = score(model, rolling_nll(bare, ["hello"], max_length=9), batch_size=1)[0]
    hello = bare.encode("hello", add_special_tokens=False)
    assert found == pytest.approx(window_nll(model, hello, line_end[0], 9), rel=1e-5)


@pytest.mark.parametrize("num_rows", [1, 24])
def test_rows_that_no_token_has_are_not_scored(
    tiny_base: Path, tokenizer: Any, num_rows: int
) -> None:
    """Padding of the vocabulary takes no probability, whatever its rows hold."""
    reference = opinionated_model(tiny_base, 0)
    padded = opinionated_model(tiny_base, 0)
    padded.resize_token_embeddings(len(tokenizer) + num_rows, mean_resizing=False)
    with torch.no_grad():
        padded.get_output_embeddings().weight[len(tokenizer) :] = 5.0
    template = PlainLines(tokenizer)
    expected, distorted = (
        score(one, score_responses(template, DIALOGUES), batch_size=3).content_nll
        for one in (reference, padded)
    )
    assert (distorted > expected).all()  # dearer, never cheaper
    drop_rows_without_token(padded, tokenizer)
    found = score(padded, score_responses(template, DIALOGUES), batch_size=3).content_nll
    assert found == pytest.approx(expected, rel=1e-6)


def test_dialogue_tokens_keep_their_rows(model: Any, speakers: SpeakerTokens) -> None:
    sequence = TokenSequence()
    sequence.append([1, *speakers.tag(2), *speakers.end])
    before = token_nll(model, [sequence], batch_size=1)[0]
    drop_rows_without_token(model, speakers.tokenizer)
    assert model.get_output_embeddings().weight.shape[0] == len(speakers.tokenizer)
    assert token_nll(model, [sequence], batch_size=1)[0].tolist() == before.tolist()
