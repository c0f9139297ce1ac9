"""Scores agree with an independent computation and with what is known in closed form."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.corpora import assistant, system, tool, user
from tests.scored_models import headlines_of, opinionated_model, uniform_model
from tools.summary import format_table
from tools.summary import main as summarise
from tuning.dialogue import Dialogue, ToolCall, Turn
from tuning.evaluation_set.text import cut_evaluation_set, text_sha256
from tuning.report.headlines import HEADLINES, with_intervals
from tuning.results.bootstrap import draw_counts
from tuning.results.response_scores import by_turn
from tuning.results.samples import samples_as_markdown
from tuning.run.errors import UserError
from tuning.scoring import nats
from tuning.scoring.nats import TokenSequence, score, token_nll
from tuning.scoring.perplexity import response_findings, score_responses
from tuning.tokens.plain_lines import PlainLines
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.writing.continuing import plan_continuations, samples_of
from tuning.writing.decoding import Sampling, write_replies


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
def model(tiny_base: Path) -> Any:
    return opinionated_model(tiny_base)


@pytest.fixture(scope="module")
def uniform(tiny_base: Path) -> Any:
    return uniform_model(tiny_base)


@pytest.mark.parametrize("kind", ["speakers", "plain"])
def test_perplexity_agrees_with_the_models_own_loss(
    model: Any, speakers: SpeakerTokens, kind: str
) -> None:
    """The library's own loss, one dialogue at a time, no mask, no padding, no position ids."""
    template: SpeakerTokens | PlainLines = (
        speakers if kind == "speakers" else PlainLines(speakers.tokenizer)
    )
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
    scores = score(model, score_responses(template, DIALOGUES), batch_size=3)
    assert scores.num_tokens.sum() + len(scores.turn) == num_targets
    assert headlines_of(scores)["perplexity"] == pytest.approx(
        math.exp(total / num_targets), rel=1e-5
    )


def test_neither_batch_size_nor_order_matters(model: Any, speakers: SpeakerTokens) -> None:
    reference = headlines_of(score(model, score_responses(speakers, DIALOGUES), batch_size=1))
    for batch_size, dialogues in ((2, DIALOGUES), (7, DIALOGUES), (3, DIALOGUES[::-1])):
        found = headlines_of(
            score(model, score_responses(speakers, dialogues), batch_size=batch_size)
        )
        assert found == pytest.approx(reference, rel=1e-6)


def test_a_uniform_model_has_the_vocabulary_as_perplexity(
    uniform: Any, speakers: SpeakerTokens
) -> None:
    scores = score(uniform, score_responses(speakers, DIALOGUES), batch_size=4)
    alone = score(uniform, score_responses(speakers, DIALOGUES, with_history=False), batch_size=4)
    vocabulary = uniform.config.vocab_size
    assert headlines_of(scores)["perplexity"] == pytest.approx(vocabulary, rel=1e-5)
    bits = scores.num_tokens.sum() * math.log2(vocabulary) / scores.num_bytes.sum()
    assert headlines_of(scores)["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert headlines_of(scores, alone)["history_gain"] == pytest.approx(0, abs=1e-6)


def test_headlines_are_those_of_their_definitions(model: Any, speakers: SpeakerTokens) -> None:
    """Over all responses at once, not by way of sums per dialogue."""
    size = len(DIALOGUES)
    scores = score(model, score_responses(speakers, DIALOGUES), batch_size=4)
    alone = score(model, score_responses(speakers, DIALOGUES, with_history=False), batch_size=4)
    columns = response_findings("base", scores, alone, size).columns
    columns |= response_findings("tuned", scores, alone, size).columns
    found = with_intervals(columns, draw_counts(np.random.default_rng(1), size, num_resamples=100))
    nll, ends, num_bytes = scores.content_nll.sum(), scores.end_nll.sum(), scores.num_bytes.sum()
    expected = {
        "bits_per_byte": nll / num_bytes / math.log(2),
        "perplexity": math.exp((nll + ends) / (scores.num_tokens.sum() + len(scores.turn))),
        "word_perplexity": math.exp(nll / scores.num_words.sum()),
        "bits_per_byte_with_ends": (nll + ends) / num_bytes / math.log(2),
        "end_of_turn_nll": scores.end_nll.mean(),
        "history_gain": (alone.content_nll.sum() - nll) / num_bytes / math.log(2),
    }
    for name, value in expected.items():
        assert found["base"][name] == pytest.approx(value, rel=1e-12)
        assert found["base"][f"{name}_low"] < value < found["base"][f"{name}_high"]
    assert {found["change"][name] for name in expected} == {0.0}


def test_scores_do_not_see_the_future(model: Any, speakers: SpeakerTokens) -> None:
    one = dialogue("x", 5)
    changed = Dialogue("x", (*one.turns[:4], Turn("a", "something else entirely")))
    before = score(model, score_responses(speakers, [one]), batch_size=1)
    after = score(model, score_responses(speakers, [changed]), batch_size=1)
    assert before.content_nll[:3] == pytest.approx(after.content_nll[:3], rel=1e-6)
    assert before.content_nll[3] != pytest.approx(after.content_nll[3], rel=1e-3)


def test_without_history_a_response_is_scored_alone(model: Any, speakers: SpeakerTokens) -> None:
    turn = speakers.encode(DIALOGUES[0])[2]
    alone = TokenSequence()
    alone.append([*turn.tag, *turn.content])
    expected = token_nll(model, [alone], batch_size=1)[0][len(turn.tag) :].sum()
    scores = score(model, score_responses(speakers, DIALOGUES, with_history=False), batch_size=4)
    assert scores.turn[1] == 2
    assert scores.content_nll[1] == pytest.approx(expected, rel=1e-5)


def test_all_targets_of_a_large_batch_are_scored(
    model: Any, speakers: SpeakerTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(model, score_responses(speakers, DIALOGUES), batch_size=4)
    monkeypatch.setattr(nats, "TARGETS_PER_CHUNK", 7)
    parts = score(model, score_responses(speakers, DIALOGUES), batch_size=4)
    assert parts.content_nll == pytest.approx(whole.content_nll, rel=1e-6)


def test_what_is_not_scored_changes_no_score(model: Any, speakers: SpeakerTokens) -> None:
    def sequences(*, all_scored: bool) -> list[TokenSequence]:
        found = []
        for one in DIALOGUES:
            sequence = TokenSequence()
            for number, turn in enumerate(speakers.encode(one)):
                ids = [*turn.tag, *turn.content]
                scored = all_scored or number % 2 == 1
                sequence.append(ids, scored=scored)
            found.append(sequence)
        return found

    some = sequences(all_scored=False)
    whole = token_nll(model, sequences(all_scored=True), batch_size=3)
    for sequence, expected, nll in zip(
        some, whole, token_nll(model, some, batch_size=2), strict=True
    ):
        is_scored = np.array(sequence.is_scored)
        assert nll[is_scored] == pytest.approx(expected[is_scored], rel=1e-5)
        assert np.isnan(nll[~is_scored]).all()


def test_sums_by_turn_add_up(model: Any, speakers: SpeakerTokens) -> None:
    scores = score(model, score_responses(speakers, DIALOGUES), batch_size=4)
    curve = by_turn(scores, len(DIALOGUES)).values()
    assert list(curve) == list(range(1, 8))
    bits = sum(value * scores.num_bytes[scores.turn == turn].sum() for turn, value in curve.items())
    assert bits / scores.num_bytes.sum() == pytest.approx(headlines_of(scores)["bits_per_byte"])


def test_a_dialogue_longer_than_the_model_is_a_clear_error(
    model: Any, speakers: SpeakerTokens
) -> None:
    long = Dialogue("long", (Turn("a", "hi"), Turn("b", "ж" * 1200)))
    with pytest.raises(UserError, match=r"has only 1024 positions; lower score\.max_bytes"):
        score(model, score_responses(speakers, [long]), batch_size=1)


def test_a_dialogue_may_take_all_positions(tiny_base: Path, speakers: SpeakerTokens) -> None:
    model: Any = opinionated_model(tiny_base)
    num_tokens = sum(map(len, speakers.encode(DIALOGUES[0])))
    model.config.max_position_embeddings = num_tokens
    score(model, score_responses(speakers, DIALOGUES[:1]), batch_size=1)
    model.config.max_position_embeddings = num_tokens - 1
    said = f"takes {num_tokens} tokens and .* only {num_tokens - 1} positions;"
    with pytest.raises(UserError, match=said):
        score(model, score_responses(speakers, DIALOGUES[:1]), batch_size=1)


def test_the_evaluation_set_is_cut_in_turns_and_bytes() -> None:
    turns = (Turn("a", "12345"), Turn("b", "жж ж"), Turn("a", "1"), Turn("b", "2"))
    one = Dialogue("1", turns)

    def cut(max_turns: int, max_bytes: int) -> list[Turn]:
        [found], num_left_out = cut_evaluation_set(
            [one], max_dialogues=None, max_turns=max_turns, max_bytes=max_bytes, loss_on="all"
        )
        assert num_left_out == 0
        return list(found.turns)

    assert cut(3, 100) == [*turns[:3]]
    assert cut(9, 8) == [*turns[:3]]  # 7 + 1 bytes; the first turn is no response
    assert cut(9, 7) == [*turns[:2]]
    assert cut(9, 6) == [turns[0], Turn("b", "жж", is_cut=True)]
    assert cut(9, 2) == [turns[0], Turn("b", "ж", is_cut=True)]
    assert text_sha256([one]) != text_sha256([Dialogue("1", turns[:3])])
    renamed = Dialogue("2", tuple(Turn(t.speaker.upper(), t.utterance) for t in turns))
    assert text_sha256([one]) == text_sha256([renamed])
    others_scored, _ = cut_evaluation_set(
        [one], max_dialogues=None, max_turns=9, max_bytes=100, loss_on="a"
    )
    assert text_sha256(others_scored) != text_sha256([one]), "other turns are responses"


def test_calls_are_not_cut_through_and_text_without_spaces_is() -> None:
    call = assistant("looking", tool_calls=(ToolCall("find", '{"x": 1}'),))

    def cut(*turns: Turn) -> list[Turn]:
        one = Dialogue("1", turns)
        found, _ = cut_evaluation_set(
            [one], max_dialogues=None, max_turns=9, max_bytes=12, loss_on="auto"
        )
        return list(found[0].turns) if found else []

    question = replace(user("q" * 99), weight=0.0)
    assert cut(user("q" * 99), call) == [question, call]
    assert cut(user("q" * 99), assistant("hi"), call) == [question, assistant("hi")]
    assert cut(user("q" * 99), assistant("\u6211" * 9))[1].utterance == "\u6211" * 4


def test_the_end_of_a_cut_response_is_not_scored(model: Any, speakers: SpeakerTokens) -> None:
    """Its words are scored as those of the whole one are, up to there."""
    said = "yes that is what they say of it"
    whole = Dialogue("1", (Turn("a", "is it so?"), Turn("b", f"{said} and more")))
    found, _ = cut_evaluation_set(
        [whole], max_dialogues=1, max_turns=9, max_bytes=len(said) + 2, loss_on="all"
    )
    ended = [Dialogue("1", (whole.turns[0], Turn("b", said)))]
    one, other = (score(model, score_responses(speakers, d), batch_size=1) for d in (found, ended))
    assert found[0].turns[1] == Turn("b", said, is_cut=True)
    assert one.content_nll == pytest.approx(other.content_nll, rel=1e-6)
    assert (one.end_nll.tolist(), one.num_ends.tolist()) == ([0.0], [0])
    assert other.end_nll[0] > 0
    assert text_sha256(found) != text_sha256(ended)
    columns = response_findings("m", one, one, 1).columns
    perplexity = next(h for h in HEADLINES if h.name == "perplexity")
    value = perplexity.values(columns, "m", np.ones((1, 1)))[0]
    assert value == pytest.approx(math.exp(one.content_nll[0] / one.num_tokens[0]))


@pytest.mark.parametrize(
    ("loss_on", "responses"),
    [
        ("auto", [2, 6]),
        ("all", [1, 2, 3, 6]),
        ("user", [1, 3]),
        ("last", [6]),
        (["user", "last"], [1, 3, 6]),
        ("nobody", []),
    ],
)
def test_responses_of_the_evaluation_set_are_the_turns_that_are_trained(
    loss_on: str | list[str], responses: list[int]
) -> None:
    """What is context for training is context here, too; a dialogue of context is left out."""
    said = (system("s"), user("q"), assistant("a"), user("r"), assistant("b", weight=0.0))
    whole = Dialogue("x", (*said, tool("t"), assistant("c")), tools="[]")

    def cut(max_turns: int) -> tuple[list[Dialogue], int]:
        return cut_evaluation_set(
            [whole], max_dialogues=None, max_turns=max_turns, max_bytes=99, loss_on=loss_on
        )

    dialogues, num_left_out = cut(9)
    assert [one.responses for one in dialogues] == [responses] * bool(responses)
    assert num_left_out == (not responses)
    for one in dialogues:
        assert [t.text for t in one.turns] == [t.text for t in whole.turns]
        assert one.tools == whole.tools
    of_five = [turn for turn in responses if turn < 5]
    assert [one.responses for one in cut(5)[0]] == [of_five] * bool(of_five)


def test_samples_are_seeded_one_by_one(model: Any, speakers: SpeakerTokens) -> None:
    def samples(dialogues: list[Dialogue], seed: int = 3) -> dict[str, list[str]]:
        plans = plan_continuations(
            speakers,
            dialogues,
            num_samples=3,
            prompt_turns=2,
            reply_turns=2,
            sampling=Sampling(temperature=1.0, top_p=0.9, seed=seed),
        )
        requests = [plan.request for plan in plans]
        written = write_replies(model, speakers, requests, max_new_tokens=12, batch_size=4)
        found = samples_of(speakers, plans, written)
        text = samples_as_markdown(found)
        assert all(f"## {sample.dialogue_id}\n" in text for sample in found)
        return {sample.dialogue_id: [turn.utterance for turn in sample.reply] for sample in found}

    first = samples(DIALOGUES[:3])
    assert samples(DIALOGUES[2::-1]) == first
    assert samples(DIALOGUES[:3], seed=4) != first
    assert [len(reply) for reply in first.values()] == [2, 2, 2]
    assert not any("<|" in text for reply in first.values() for text in reply)


SET = {"num_dialogues": 40, "num_responses": 9, "num_bytes": 90}


def test_the_table_shows_every_headline_with_what_its_change_means() -> None:
    base = {"num_target_tokens": 8006}
    tuned = {"num_target_tokens": 8026}
    values = {"bits_per_byte": (1.5, 1.25), "history_gain": (0.3, 0.2)}
    change: dict[str, float] = {}
    for name, (before, after) in values.items():
        for section, value in ((base, before), (tuned, after), (change, after - before)):
            section |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
        change |= {f"{name}_p": 0.002, f"{name}_n": 31}
    metrics = {"base": base, "tuned": tuned, "change": change, "set": SET | {"num_dialogues": 1}}

    def lines() -> dict[str, list[str]]:
        return {
            line[:23].strip(): re.split(r"\s{2,}|(?<=\d)\s+(?=[-+\d\[])", line[23:].strip())
            for line in format_table(metrics).splitlines()
        }

    found = lines()["bits per byte"]
    assert found == ["1.5000", "1.2500", "-0.2500", "[-0.3000, -0.2000]", "31 differ"]
    assert max(map(len, format_table(metrics).splitlines())) == 80
    assert lines()["history gain"][-1] == "31 a"
    assert "\na: no verdict\n" in format_table(metrics)
    assert lines()["target tokens"] == ["8,006", "8,026", "+20"]
    assert "perplexity" not in lines()
    change["bits_per_byte_high"] = 0.01
    assert lines()["bits per byte"][-1] == "31 a"
    assert "\na: no difference shown\nb: no verdict\n" in format_table(metrics)
    change |= {"bits_per_byte_low": 0.005, "bits_per_byte_n": 9}
    assert "\na: too few dialogues (under 30)\n" in format_table(metrics)
    assert all(len(line) <= 80 for line in format_table(metrics).splitlines())
    assert "over 9 responses (90 bytes) of 1 validation dialogue, resampled" in format_table(
        metrics
    )
    assert format_table(metrics, "test").splitlines()[0].startswith("test  ")
    assert "of 1 test dialogue," in format_table(metrics, "test")
    assert "Declared" not in format_table(metrics)
    metrics["set"] = SET | {"primary": "history_gain"}
    assert "\nDeclared beforehand (eval.primary): history gain. Its" in format_table(metrics)
    metrics["set"] = SET | {"primary": "recall"}
    assert "(eval.primary): recall, which was not measured. Its own" in format_table(metrics)
    metrics["set"] = SET | {"num_responses_cut": 2, "num_dialogues_left_out": 3}
    text = " ".join(format_table(metrics).split())
    assert "2 responses cut at score.max_bytes; 3 dialogues left out" in text


def test_a_file_of_other_figures_is_no_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in ("{", "[1]", '{"num_dialogues": 3}'):
        (tmp_path / "prep.json").write_text(content)
        monkeypatch.setattr("sys.argv", ["summary", str(tmp_path / "prep.json")])
        with pytest.raises(UserError, match=r"prep\.json holds no evaluation"):
            summarise()


def test_the_table_gives_no_verdict_on_perplexity_across_templates() -> None:
    ends = {"perplexity_low": -12.0, "perplexity_high": -8.0, "word_perplexity_low": -1.0}
    ends |= {"word_perplexity_high": 1.0}
    base: dict[str, Any] = {"num_target_tokens": 1, "template": "plain", **ends}
    base |= {"perplexity": 30.0, "word_perplexity": 6304715.7}
    tuned: dict[str, Any] = base | {"perplexity": 20.0, "word_perplexity": 2332704.3}
    change = {"perplexity": -10.0, "word_perplexity": -3972011.4, **ends}
    change |= {f"{name}_{end}": 0.002 for name in ("perplexity", "word_perplexity") for end in "p"}
    change |= {"perplexity_n": 40, "word_perplexity_n": 40}
    metrics = {"base": base, "tuned": tuned, "change": change, "set": SET}
    assert re.search(r"\[-12.00, -8.00\] +40 differ$", format_table(metrics).splitlines()[1])
    assert format_table(metrics).splitlines()[2].split()[2:5] == [
        "6.3e+06",
        "2.3e+06",
        "-4.0e+06",
    ]
    tuned["template"] = "speakers"
    row = format_table(metrics).splitlines()[1]
    assert row.endswith("40 a")
    assert "\na: not comparable: two templates\n" in format_table(metrics)
