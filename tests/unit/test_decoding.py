"""What a model writes is what it would write alone, in whatever company."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from benchmarks.families import WINDOW, small_model
from tests.scored_models import opinionated_model
from tests.tiny_model import MAX_POSITIONS
from tuning.dialogue import Dialogue, Turn
from tuning.language_model.loading import load_plain_model
from tuning.scoring.nats import TokenSequence, token_nll
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.tokens.template import Template
from tuning.tokens.texts import encode_texts
from tuning.writing import row_cache
from tuning.writing.decoding import (
    FIRST_TRY,
    GREEDY,
    Reply,
    Request,
    Sampling,
    draw,
    write_replies,
)

TEXTS = ["hello there", "how are you?", "fine, thanks ☺", "and you", "oh", "it rains again today"]
DIALOGUES = [
    Dialogue(str(size), tuple(Turn("ab"[i % 2], f"{TEXTS[i]} {size}") for i in range(size)))
    for size in range(1, 6)
]
SAMPLED = Sampling(temperature=1.0, top_p=0.95, seed=5)
ONE_BY_ONE = "recurrent_gemma"
"""A kind whose state is not in the cache."""


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return opinionated_model(tiny_base)


@pytest.fixture(scope="module", params=["speakers", "plain"])
def template(request: pytest.FixtureRequest, speakers: SpeakerTokens) -> Template:
    return speakers if request.param == "speakers" else PlainLines(speakers.tokenizer)


def write(
    model: Any, template: Template, requests: Sequence[Request], batch_size: int = 4
) -> list[list[Reply]]:
    return write_replies(model, template, requests, max_new_tokens=10, batch_size=batch_size)


def first_turns(template: Template, dialogue: Dialogue, num_turns: int) -> list[int]:
    """As the model reads them, before the next speaker's tag."""
    return template.read(dialogue).after(range(num_turns), 0).context


def tags_of(template: Template) -> list[tuple[int, ...]]:
    """Of both speakers."""
    reading = template.read(DIALOGUES[-1])
    return [tuple(reading.after((), number).turn.tag) for number in range(2)]


def requests_for(template: Template, num_turns: int = 1) -> list[Request]:
    """Of every dialogue, after each of its turns, greedy and sampled."""
    return [
        Request(
            context=tuple(first_turns(template, one, len(one.turns))),
            length=len(first_turns(template, one, turns)),
            tags=tuple(tags_of(template)[(turns + i) % 2] for i in range(num_turns)),
            sampling=sampling,
            name=f"{number} {turns}",
        )
        for number, one in enumerate(DIALOGUES)
        for turns in range(1, len(one.turns) + 1)
        for sampling in (GREEDY, SAMPLED)
    ]


def test_greedy_replies_are_those_of_the_librarys_own_loop(model: Any, template: Template) -> None:
    requests = [one for one in requests_for(template) if one.sampling == GREEDY]
    ends = [i for i in range(model.config.vocab_size) if template.ending_of(i)]
    endings = Counter[str]()
    for request, [reply] in zip(requests, write(model, template, requests), strict=True):
        ids = list(request.context[: request.length])
        ids += request.tags[0]
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=10, eos_token_id=ends, pad_token_id=0
        )
        prompt = torch.tensor([ids])
        [expected] = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), generation_config=settings
        )[:, len(ids) :].tolist()
        if expected[-1] in ends:
            assert reply.ending == template.ending_of(expected.pop())
        else:
            assert (reply.ending, len(expected)) == ("cut", 10)
        assert list(reply.ids) == expected
        endings[reply.ending] += 1
    assert endings["cut"] > 2


@pytest.mark.parametrize("num_turns", [1, 3])
def test_neither_company_nor_order_changes_what_is_written(
    model: Any, template: Template, num_turns: int
) -> None:
    requests = requests_for(template, num_turns)
    written = [[one.ids for one in replies] for replies in write(model, template, requests, 1)]
    assert all(len(replies) == num_turns for replies in written)
    assert len(set(map(str, written))) > len(requests) // 2
    for batch_size in (2, 7, 100):
        backwards = write(model, template, requests[::-1], batch_size)[::-1]
        assert [[one.ids for one in replies] for replies in backwards] == written


def test_rows_grow_while_they_are_written(
    model: Any, speakers: SpeakerTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = requests_for(speakers, 2)
    expected = [[one.ids for one in replies] for replies in write(model, speakers, requests)]
    monkeypatch.setattr(row_cache, "SLOTS_AT_ONCE", 1)
    found = [[one.ids for one in replies] for replies in write(model, speakers, requests)]
    assert found == expected


def test_later_turns_follow_from_all_that_was_written(model: Any, speakers: SpeakerTokens) -> None:
    """A chat of three turns is three requests, each behind the text of the ones before."""
    [request] = [r for r in requests_for(speakers, 3) if r.sampling == GREEDY][:1]
    [replies] = write(model, speakers, [request])
    ids = first_turns(speakers, DIALOGUES[0], 1)
    for number, reply in enumerate(replies):
        alone = Request(tuple(ids), len(ids), (request.tags[number],), GREEDY, "")
        [[expected]] = write(model, speakers, [alone], batch_size=1)
        assert expected.ids == reply.ids
        assert expected.nats == pytest.approx(reply.nats, abs=1e-4)
        ids += [*request.tags[number], *reply.ids, *speakers.end]


def test_nats_are_those_of_the_evaluation(model: Any, template: Template) -> None:
    requests = requests_for(template)
    sequences = []
    places = []
    written = write(model, template, requests)
    for request, [reply] in zip(requests, written, strict=True):
        sequence = TokenSequence()
        context = request.context[: request.length]
        sequence.append(context)
        for part in (request.tags[0], reply.ids):
            place = sequence.append(part)
        sequences.append(sequence)
        places.append(place)
    nll = token_nll(model, sequences, batch_size=3)
    for [reply], scores, place in zip(written, nll, places, strict=True):
        assert reply.nats == pytest.approx(scores[place], abs=1e-4)


def test_a_model_without_further_positions_stops(speakers: SpeakerTokens, tiny_base: Path) -> None:
    model = opinionated_model(tiny_base)
    requests = requests_for(speakers, 3)
    model.config.max_position_embeddings = 40
    written = write(model, speakers, requests)
    lengths = [request.length for request in requests]
    assert max(lengths) > 40 > min(lengths)
    for length, replies in zip(lengths, written, strict=True):
        if length >= 40:
            assert replies == []
        else:
            assert length + sum(len(reply.ids) + 1 for reply in replies) <= 40 + 1
            assert replies or length > 40 - 10


@pytest.fixture(
    params=[
        *("gemma3_text", "gemma2", "mistral", "gpt_oss", "llama4_text"),
        *("qwen3_5_text", "lfm2", "granitemoehybrid", "falcon_h1", "bamba", "falcon_mamba"),
        *("bloom", ONE_BY_ONE),
        *(
            pytest.param(kind, marks=pytest.mark.thorough)
            for kind in ("gptj", "qwen3_next", "olmo_hybrid", "lfm2_moe", "jamba", "zamba2")
            + ("nemotron_h", "mamba2")
        ),
    ]
)
def other_model(
    request: pytest.FixtureRequest, speakers: SpeakerTokens, tmp_path: Path
) -> PreTrainedModel:
    """Of layers that look back 8 tokens, that read a row from left to right, or with own masks."""
    made = small_model(
        request.param, vocab_size=len(speakers.tokenizer), max_position_embeddings=MAX_POSITIONS
    )
    made.save_pretrained(tmp_path)
    return load_plain_model(tmp_path)


def test_other_models_write_what_their_whole_text_says(
    other_model: PreTrainedModel, speakers: SpeakerTokens
) -> None:
    """Every token is the likeliest behind all before it, read anew, alone, without a cache.

    Token by token Zamba 2 computes otherwise than all at once: its nats differ by up to 5e-4.
    """
    tolerance = 1e-3 if other_model.config.model_type == "zamba2" else 1e-4
    requests = [one for one in requests_for(speakers, 2) if one.sampling == GREEDY]
    written = write(other_model, speakers, requests)
    assert max(request.length for request in requests) > 2 * WINDOW
    for request, replies in zip(requests, written, strict=True):
        ids = list(request.context[: request.length])
        for tag, reply in zip(request.tags, replies, strict=True):
            ids += tag
            for token, nats in zip(reply.ids, reply.nats, strict=True):
                with torch.inference_mode():
                    logits = other_model(torch.tensor([ids]), use_cache=False).logits[0, -1]
                assert logits.argmax() == token
                assert nats == pytest.approx(-logits.log_softmax(-1)[token].item(), abs=tolerance)
                ids.append(token)
            ids += speakers.end


def test_company_changes_nothing_that_other_models_write(
    other_model: PreTrainedModel, speakers: SpeakerTokens
) -> None:
    """Nor do places that rows leave, or a row that is moved into one: some end before others."""
    requests = [*requests_for(speakers, 2)[:15], *requests_for(speakers, 1)[::4]]
    widths = set[int]()

    def note(_: object, __: object, inputs: dict[str, Any]) -> None:
        widths.add(len(inputs["input_ids"]))

    with other_model.register_forward_pre_hook(note, with_kwargs=True):
        written = [[one.ids for one in each] for each in write(other_model, speakers, requests)]
    assert max(widths) == (1 if other_model.config.model_type == ONE_BY_ONE else 4)
    alone = [write(other_model, speakers, [one], 1)[0] for one in requests]
    assert written == [[one.ids for one in replies] for replies in alone]


def test_other_models_stop_without_further_positions(
    speakers: SpeakerTokens, tmp_path: Path
) -> None:
    small_model("lfm2", vocab_size=len(speakers.tokenizer)).save_pretrained(tmp_path)
    model = load_plain_model(tmp_path)
    requests = requests_for(speakers, 3)
    unlimited = write(model, speakers, requests)
    model.config.max_position_embeddings = 40
    for request, expected, replies in zip(
        requests, unlimited, write(model, speakers, requests), strict=True
    ):
        assert [one.ids for one in replies] == [one.ids for one in expected[: len(replies)]]
        read = request.length + sum(len(one.ids) + 2 for one in replies)
        assert read <= 40 + 2 or not replies


def drawn(logits: torch.Tensor, sampling: Sampling, count: int = 2000) -> Counter[int]:
    uniforms = [i / count for i in range(count)]
    return Counter(draw(logits.expand(count, -1), [sampling] * count, uniforms).tolist())


def test_rows_that_are_drawn_together_are_drawn_as_alone() -> None:
    """Each has a temperature, a nucleus and a number of its own; one takes a second try."""
    logits = torch.randn(6, 3 * FIRST_TRY, generator=torch.Generator().manual_seed(0)) * 4
    logits[3] = 0
    samplings = [Sampling(0.2 + 0.3 * i, (0.1, 0.5, 0.9, 0.9, 1.0, 0.7)[i]) for i in range(6)]
    uniforms = [0.0, 0.3, 0.999, 0.8, 0.5, 0.1]
    alone = [draw(logits[i : i + 1], samplings[i : i + 1], uniforms[i : i + 1]) for i in range(6)]
    assert torch.equal(draw(logits, samplings, uniforms), torch.cat(alone))
    assert len(torch.cat(alone).unique()) > 3  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("size", [4, 3 * FIRST_TRY])
def test_draws_have_the_probabilities_of_the_nucleus(size: int) -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.3, *[0.0] * (size - 4)])
    logits = probabilities.log()
    found = drawn(logits, Sampling(temperature=1.0, top_p=0.85))
    assert {token: count / 2000 for token, count in found.items()} == pytest.approx(
        {1: 4 / 9, 3: 3 / 9, 2: 2 / 9}, abs=1e-3
    )
    everything = drawn(logits, Sampling(temperature=1.0, top_p=1.0))
    assert [everything[token] for token in range(4)] == pytest.approx([200, 800, 400, 600], abs=2)
    colder = drawn(logits, Sampling(temperature=0.5, top_p=1.0))
    assert colder[1] / colder[2] == pytest.approx(4, rel=0.02)


def test_a_nucleus_of_more_tokens_than_are_looked_at_first_is_found() -> None:
    size = 4 * FIRST_TRY
    found = drawn(torch.zeros(size), Sampling(temperature=1.0, top_p=0.5), count=8 * FIRST_TRY)
    assert len(found) == pytest.approx(2 * FIRST_TRY, abs=1)
    assert set(found.values()) <= {3, 4, 5}


@pytest.mark.parametrize(
    ("spelling", "speaker_tokens", "plain"),
    [
        ("<|endofturn|>", "end_of_turn", "end_of_turn"),
        ("<|speaker2|>", "tag", "end_of_turn"),
        ("<|pad|>", "tag", "end_of_turn"),
    ],
)
def test_special_tokens_end_a_turn(
    speakers: SpeakerTokens, spelling: str, speaker_tokens: str, plain: str
) -> None:
    token_id = speakers.tokenizer.convert_tokens_to_ids(spelling)
    assert isinstance(token_id, int)
    assert speakers.ending_of(token_id) == speaker_tokens
    assert PlainLines(speakers.tokenizer).ending_of(token_id) == plain


def test_a_line_ends_where_the_plain_template_says(speakers: SpeakerTokens) -> None:
    [new_line] = PlainLines(speakers.tokenizer).end
    ending_of: Callable[[int], object] = PlainLines(speakers.tokenizer).ending_of
    assert ending_of(new_line) == "end_of_turn"
    assert ending_of(encode_texts(speakers.tokenizer, ["a"])[0][0]) is None
    assert speakers.ending_of(new_line) is None
