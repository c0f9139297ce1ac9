"""Tokenizers unlike GPT-2's: text is trained and scored as they themselves would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import TEXTS
from tests.scored_models import distinct_dialogues, opinionated_model
from tests.tiny_model import END_OF_TEXT, Like, make_tiny_llama
from tools.show import as_text
from tuning.dialogue import Dialogue, Turn, to_line
from tuning.encoding.encoder import Encoder
from tuning.encoding.preview import show_dialogue
from tuning.evaluation_set.blocks import make_blocks
from tuning.evaluation_set.places import Place
from tuning.reading.pieces import LineRange, read_pieces
from tuning.scoring.coherence import score_coherence
from tuning.scoring.history import score_histories
from tuning.scoring.nats import Scoring, score, token_nll
from tuning.scoring.perplexity import content_of, score_responses
from tuning.scoring.plain_text import rolling_nll
from tuning.scoring.recall import score_recall
from tuning.scoring.written import people_as_seen
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.tokens.templates import prepare_tokenizer
from tuning.tokens.tokenizer import load_tokenizer
from tuning.writing.decoding import Reply, Request, Sampling, write_replies

DIALOGUES = [
    Dialogue(
        name,
        (
            Turn("a", f"{name}!"),
            Turn("b", "how are you?"),
            Turn("a", "oh no"),
            Turn("b", f"why?\nTell me, {name}."),
            Turn("a", "it rains ☺"),
        ),
    )
    for name in ("Hello", "Good day", "ah")
]


def plain_text(folder: Path, like: Like) -> PlainLines:
    make_tiny_llama(folder, [f"{text}\n" for text in (*TEXTS, "oh!", "hey!")], like=like)
    return PlainLines(load_tokenizer(folder))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> PlainLines:
    """Of Llama 3's kind: a token for a punctuation mark and the end of its line."""
    return plain_text(tmp_path_factory.mktemp("llama3"), "llama3")


@pytest.fixture(scope="module")
def extended(template: PlainLines, tmp_path_factory: pytest.TempPathFactory) -> SpeakerTokens:
    """As training publishes it."""
    folder = tmp_path_factory.mktemp("extended")
    prepare_tokenizer(Path(template.tokenizer.name_or_path), folder, 2)
    return SpeakerTokens(load_tokenizer(folder))


@pytest.fixture(scope="module")
def model(template: PlainLines) -> Any:
    return opinionated_model(Path(template.tokenizer.name_or_path), 0)


def is_joined(template: PlainLines, dialogue: Dialogue) -> list[bool]:
    return [turn.joined is not None for turn in template.encode(dialogue)]


@pytest.mark.parametrize("like", ["gpt2", "llama2", "llama3"])
def test_lines_are_written_as_the_tokenizer_writes_them(tmp_path: Path, like: Like) -> None:
    """Behind another line: Llama 2's puts a space before the first."""
    template = plain_text(tmp_path, like)
    tokenizer = template.tokenizer
    assert template.start == ([] if like == "gpt2" else [tokenizer.bos_token_id])
    before = tokenizer.encode("no\n")
    for dialogue in DIALOGUES:
        turns = template.encode(dialogue)
        text = "".join(
            f"{'AB'[number % 2]}: {turn.utterance}\n" for number, turn in enumerate(dialogue.turns)
        )
        ids = [token for turn in turns for token in turn.ids]
        assert [*before, *ids] == tokenizer.encode("no\n" + text)
        assert [len(turn) for turn in turns] == [len(turn.ids) for turn in turns]
        for turn, said in zip(turns, dialogue.turns, strict=True):
            behind = [*before, *turn.tag, *turn.content]
            assert str(tokenizer.decode(behind, skip_special_tokens=True)).endswith(
                f": {said.utterance}"
            )
    joined = [True, True, False, True, False]
    assert is_joined(template, DIALOGUES[0]) == (joined if like == "llama3" else [False] * 5)


@pytest.mark.parametrize("like", ["gpt2", "llama2", "llama3"])
def test_facts_that_are_asked_for_are_written_as_the_tokenizer_writes_them(
    tmp_path: Path, like: Like
) -> None:
    template = plain_text(tmp_path, like)
    turns = tuple(Turn("xy"[t % 2], f"{t} of you") for t in range(11))
    sequences = next(score_recall(template, [Dialogue("x", turns)], facts_per_type=1))
    asked = [one for one in sequences if len(one.ids) < 60]
    texts = [str(template.tokenizer.decode(one.ids, skip_special_tokens=True)) for one in asked]
    assert any(text.endswith("called?\nA: My dog is called Biscuit") for text in texts)
    before, start = template.tokenizer.encode("no\n"), len(template.start)
    for one, text in zip(asked, texts, strict=True):
        assert [*before, *one.ids[start:]] == template.tokenizer.encode("no\n" + text.lstrip())


def expected_nats(
    model: Any, template: PlainLines, dialogue: Dialogue, first: int, turn: int
) -> tuple[float, float]:
    """From the definition: of the content and of the end of a turn, behind those from ``first``."""
    turns = template.encode(dialogue)
    last = turns[turn]
    before = [*template.start, *(token for one in turns[first:turn] for token in one.ids)]
    ids = [*before, *last.ids]
    with torch.inference_mode():
        probabilities = model(input_ids=torch.tensor([ids])).logits[0].double().softmax(-1)
    start = len(before) + len(last.tag)
    nats = [-float(probabilities[i - 1, ids[i]].log()) for i in range(start, len(ids))]
    if last.joined is None:
        return sum(nats[:-1]), nats[-1]
    at_the_last = probabilities[len(ids) - 2]
    mark = -float((at_the_last[last.content[-1]] + at_the_last[last.joined]).log())
    return sum(nats[:-1]) + mark, nats[-1] - mark


@pytest.mark.parametrize("with_history", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_joined_token_is_content_as_far_as_its_mark(
    model: Any, template: PlainLines, with_history: bool, batch_size: int
) -> None:
    scoring = score_responses(template, DIALOGUES, with_history=with_history)
    scores = score(model, scoring, batch_size=batch_size)
    expected = [
        expected_nats(model, template, DIALOGUES[index], 0 if with_history else turn, turn)
        for index, turn in zip(scores.dialogue, scores.turn, strict=True)
    ]
    content, end = np.array(expected).T
    assert scores.content_nll == pytest.approx(content, rel=1e-5)
    assert scores.end_nll == pytest.approx(end, rel=1e-4)
    contents = [turn.content for one in DIALOGUES for turn in template.encode(one)[1:]]
    assert scores.num_tokens.tolist() == [len(ids) for ids in contents]


def test_a_last_turn_costs_what_the_response_costs(model: Any, template: PlainLines) -> None:
    places = [(one, turn) for one in DIALOGUES for turn in range(1, len(one.turns))]
    sequences = [content_of(template.read(one).after(range(t), t)) for one, t in places]
    nll = token_nll(model, sequences, batch_size=2)
    expected = [expected_nats(model, template, one, 0, turn)[0] for one, turn in places]
    assert [np.nansum(one) for one in nll] == pytest.approx(expected, rel=1e-5)


def test_all_that_is_scored_begins_with_the_token(
    template: PlainLines, extended: SpeakerTokens
) -> None:
    dialogues = distinct_dialogues(4, 11)
    for one in (template, extended):
        scorings: tuple[Scoring[Any], ...] = (
            score_responses(one, dialogues),
            score_responses(one, dialogues, with_history=False),
            score_histories(one, dialogues, num_responses=20),
            score_coherence(one, make_blocks(dialogues, num_candidates=4, max_blocks=1)),
            score_recall(one, dialogues, facts_per_type=1),
            people_as_seen(one, dialogues, [Place(0, 3)]),
            rolling_nll(one.tokenizer, [dialogues[0].turns[0].utterance], max_length=1000),
        )
        for scoring in scorings:
            asked = next(scoring)
            assert asked
            for sequence in asked:
                assert sequence.ids[:1] == one.start
                assert sequence.ids.count(one.start[0]) == 1
                assert not sequence.is_scored[0]


def test_what_is_written_keeps_the_mark(model: Any, template: PlainLines) -> None:
    context = template.read(DIALOGUES[0]).after(range(2), 2).context
    assert context[:1] == template.start

    def write(ids: list[int], speakers: tuple[int, ...], names: list[str]) -> list[list[Reply]]:
        requests = [
            Request(
                tuple(ids),
                len(ids),
                tuple(tuple(template.tag(speaker)) for speaker in speakers),
                Sampling(temperature=2.0, seed=1),
                name,
            )
            for name in names
        ]
        return write_replies(model, template, requests, max_new_tokens=30, batch_size=8)

    replies = write(context, (0, 1), [str(number) for number in range(40)])
    joined = [two for two in replies if two[0].ids and template.is_joined(two[0].ids[-1])]
    assert len(joined) > 3
    for first, second in joined:
        assert first.ending == "end_of_turn"
        assert len(first.nats) == len(first.ids)
        mark = str(template.tokenizer.decode([first.ids[-1]])).split("\n")[0]
        assert template.text_of(first.ids).endswith(mark)
        assert not any(template.ending_of(token) for token in first.ids[:-1])
        # The next turn follows the line as it was written, without a second end.
        line = [*context, *template.tag(0), *first.ids, *template.tag(1), *second.ids]
        with torch.inference_mode():
            log_probs = model(input_ids=torch.tensor([line])).logits[0].log_softmax(-1)
        start = len(line) - len(second.ids)
        nats = [-float(log_probs[i - 1, line[i]]) for i in range(start, len(line))]
        assert nats == pytest.approx(second.nats, abs=1e-3)


def test_every_window_begins_with_the_token_and_the_chat_template_writes_it(
    extended: SpeakerTokens, tmp_path: Path
) -> None:
    tokenizer = extended.tokenizer
    assert extended.start == [tokenizer.bos_token_id]
    prepared = tmp_path / "train.jsonl"
    prepared.write_text("".join(f"{to_line(dialogue)}\n" for dialogue in DIALOGUES))
    encoder = Encoder(extended.name, tokenizer, max_length=24, min_context=8, loss_on="all")
    [lines] = read_pieces(prepared)
    assert isinstance(lines, LineRange)
    piece = encoder(("train", lines))
    assert len(piece.lengths) > len(DIALOGUES)
    starts = np.cumsum(piece.lengths) - piece.lengths
    assert (piece.input_ids[starts] == tokenizer.bos_token_id).all()
    assert (piece.input_ids == tokenizer.bos_token_id).sum() == len(piece.lengths)
    assert not piece.is_target[starts].any()
    num_targets = sum(len(t.ids) - 1 for one in DIALOGUES for t in extended.encode(one))
    assert piece.is_target.sum() == piece.num_tokens["trained"] == num_targets

    chat = [{"role": t.speaker, "content": t.utterance} for t in DIALOGUES[0].turns[:2]]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == (
        extended.read(DIALOGUES[0]).after(range(2), 2).prompt
    )
    shown = show_dialogue(
        DIALOGUES[0], "train", extended, max_length=24, min_context=8, loss_on="all"
    )
    marks = [(token.text, token.kind, token.num_tokens) for token in shown.windows[0].tokens[:2]]
    assert marks == [(END_OF_TEXT, "context", 1), ("<|speaker1|>", "speaker", 1)]
    assert [window.num_tokens for window in shown.windows] == piece.lengths[
        : len(shown.windows)
    ].tolist()
    assert as_text(shown).count(END_OF_TEXT) == len(shown.windows) > 1
