"""Judging blind: what is asked, what is kept, and what the votes say."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.judge.__main__ import main as judge
from tools.judge.figures import (
    Judgement,
    Outcome,
    agreement_between,
    agreement_with,
    alpha,
    coincidences,
    comparisons,
    sameness,
    win_rate,
)
from tools.judge.model import Server, choice_in, judge_all
from tools.judge.page import Questions
from tools.judge.pairs import Pairing, Side, pair_up, read_sides
from tools.judge.votes import CHOICES, VOTES, Ballot, Choice, read_votes
from tools.judgements import as_text, main
from tuning.evaluation_set.places import Response
from tuning.run.errors import UserError
from tuning.run.files import write_json, write_text

NUM_PLACES = 40


def side(name: str, num_places: int = NUM_PLACES) -> Side:
    """Two places a dialogue."""
    return Side(
        name,
        [
            Response(
                number // 2,
                f"{name} says {number}",
                ("hello",) * (1 + number % 2),
                f"people say {number}",
            )
            for number in range(num_places)
        ],
    )


PAIRING = pair_up(side("old"), side("new"))


@pytest.fixture
def ballot(tmp_path: Path) -> Ballot:
    return Ballot(tmp_path / "votes/here.jsonl", PAIRING, "ann", is_model=False, seed=3)


# Pairs


def test_an_order_and_sides_are_drawn_by_the_seed_for_each_judge() -> None:
    drawn = PAIRING.drawn(3, "ann")
    assert drawn == PAIRING.drawn(3, "ann")
    assert {one.pair for one in drawn} == set(PAIRING.pairs)
    assert len({tuple(one.a_is_left for one in PAIRING.drawn(3, name)) for name in "abc"}) == 3
    assert [one.pair for one in drawn] != [one.pair for one in PAIRING.drawn(4, "ann")]
    many = pair_up(side("old", 2000), side("new", 2000)).drawn(0, "ann")
    assert np.mean([one.a_is_left for one in many]) == pytest.approx(0.5, abs=0.05)
    for one in drawn:
        assert (one.left, one.right) == (one.swapped.right, one.swapped.left)
        assert one.a_is_left == one.left.startswith("old")


def test_naming_the_sides_the_other_way_round_asks_the_same() -> None:
    other = pair_up(side("new"), side("old"))
    assert {pair.pair_id for pair in other.pairs} == {pair.pair_id for pair in PAIRING.pairs}


def test_what_is_the_same_is_no_question_and_nothing_is_asked_twice() -> None:
    old, new = side("old"), side("new")
    same = [replace(old.responses[0], text=f" {old.responses[0].text}\n"), *new.responses[1:]]
    pairing = pair_up(old, Side("new", same))
    assert (len(pairing.pairs), pairing.num_identical) == (NUM_PLACES - 1, 1)
    again = [replace(one, dialogue=one.dialogue + 100) for one in old.responses[2:4]]
    repeated = [replace(one, dialogue=one.dialogue + 100) for one in new.responses[2:4]]
    pairing = pair_up(
        Side("old", [*old.responses, *again]), Side("new", [*new.responses, *repeated])
    )
    assert len(pairing.pairs) == NUM_PLACES


def test_other_dialogues_are_refused() -> None:
    new = side("new")
    moved = [replace(new.responses[0], context=("bye",)), *new.responses[1:]]
    other = [replace(new.responses[0], reference="else"), *new.responses[1:]]
    elsewhere = [replace(one, dialogue=one.dialogue + 1000) for one in new.responses]
    for responses in (moved, other, elsewhere):
        with pytest.raises(UserError, match="answer different dialogues"):
            pair_up(side("old"), Side("new", responses))
    with pytest.raises(UserError, match="say the same in all 40 places"):
        pair_up(new, replace(new, label="other"))


# The page


def test_the_page_never_says_who_wrote_what(ballot: Ballot) -> None:
    blind = [replace(pair, a="one text", b="another") for pair in PAIRING.pairs]
    questions = Questions(replace(ballot, pairing=Pairing("OLD", "NEW", blind, 0)))
    shown = json.dumps(asdict(questions.current()))
    assert "one text" in shown and "another" in shown
    assert not re.search("OLD|NEW|people say", shown)


def test_texts_are_no_markup_and_hide_nothing(ballot: Ballot) -> None:
    pairs = [replace(PAIRING.pairs[0], context=("<b>&\u202e",), a="<script>", b=" ")]
    now = Questions(replace(ballot, pairing=replace(PAIRING, pairs=pairs))).current()
    assert "&lt;b&gt;&amp;\\u202e" in now.context
    assert {"&lt;script&gt;" in text for text in (now.left, now.right)} == {True, False}
    assert "<em>(says nothing)</em>" in now.left + now.right


def test_who_comes_back_goes_on_and_a_double_click_is_one_vote(ballot: Ballot) -> None:
    questions = Questions(ballot)
    first = questions.current()
    assert first.progress == "0 of 40 judged by ann"
    questions.answer(first.pair_id, "left")
    questions.answer(first.pair_id, "right")
    questions.answer("of another page", "right")
    second = Questions(replace(ballot, pairing=pair_up(side("new"), side("old")))).current()
    assert second.progress == "1 of 40 judged by ann"
    assert second.pair_id not in ("", first.pair_id)
    assert [vote.vote for vote in read_votes(ballot.path)] == ["left"]
    assert Questions(replace(ballot, judge="bob")).current().progress.startswith("0 of 40")
    assert Questions(replace(ballot, is_model=True)).current().progress.startswith("0 of 40")


def test_the_last_answer_ends_it(ballot: Ballot) -> None:
    questions = Questions(ballot)
    while pair_id := questions.current().pair_id:
        questions.answer(pair_id, "tie")
    assert questions.current().progress == "40 of 40 judged by ann: that was all, thank you."
    assert len(read_votes(ballot.path)) == NUM_PLACES


# The file


def test_a_vote_says_all_that_was_shown(ballot: Ballot) -> None:
    for shown, choice in zip(PAIRING.drawn(3, "ann"), CHOICES, strict=False):
        ballot.add(shown, choice)
    for shown, line in zip(
        PAIRING.drawn(3, "ann"), ballot.path.read_text().splitlines(), strict=False
    ):
        vote = json.loads(line)
        assert (vote["left"], vote["right"]) == (shown.left, shown.right)
        assert vote["left"].startswith(vote["a"] if vote["a_is_left"] else vote["b"])
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", vote["time"])
    assert [vote.vote for vote in read_votes(ballot.path)] == list(CHOICES)


def test_a_line_that_is_no_vote_is_named(ballot: Ballot) -> None:
    shown, *others = PAIRING.drawn(3, "ann")
    ballot.add(shown, "left")
    whole = ballot.path.read_bytes()
    ballot.path.write_bytes(whole + whole[:50])
    with pytest.raises(UserError, match=r"here.jsonl, line 2 is no vote .*Invalid JSON"):
        read_votes(ballot.path)
    ballot.path.write_bytes(whole.replace(b'"vote": "left"', b'"vote": "best"').rstrip())
    with pytest.raises(UserError, match=r"line 1 is no vote \(vote: Input should be 'left'"):
        read_votes(ballot.path)
    line = json.dumps(json.loads(whole) | {"a": PAIRING.b})
    ballot.path.write_text(line)
    with pytest.raises(UserError, match="line 1 is no vote .*a and b are one side"):
        read_votes(ballot.path)
    ballot.path.write_text(json.dumps(json.loads(whole) | {"num_pairs": -5}))
    with pytest.raises(UserError, match="line 1 is no vote .*num_pairs and num_identical are"):
        read_votes(ballot.path)
    ballot.path.write_bytes(b"\xef\xbb\xbf" + whole.rstrip())  # as some editors leave it
    ballot.add(others[0], "right")
    assert [vote.vote for vote in read_votes(ballot.path)] == ["left", "right"]


# What votes say


def judged(
    outcome: Outcome, number: int, judge: str = "ann", *, is_model: bool = False
) -> Judgement:
    texts = ("a b c", "x")
    return Judgement(judge, is_model, str(number), number // 2, outcome, True, texts, "x y")


def drawn_outcomes(seed: int, rate: float, judges: Sequence[str]) -> list[Judgement]:
    """Votes of a known win rate; some dialogues are better for B, some judges kinder to it."""
    draws = random.Random(seed)
    kind = {judge: draws.uniform(-0.1, 0.1) if judges[1:] else 0.0 for judge in judges}
    of_dialogue = [draws.uniform(-0.3, 0.3) for _ in range(50)]
    return [
        judged("b" if draws.random() < rate + of_dialogue[n // 2] + kind[judge] else "a", n, judge)
        for n in range(100)
        for judge in judges
    ]


@pytest.mark.parametrize("judges", [["ann"], list("abcdefgh")], ids=["one", "eight"])
def test_intervals_hold_a_known_win_rate(judges: list[str]) -> None:
    found = [win_rate(drawn_outcomes(seed, 0.6, judges)) for seed in range(40)]
    assert np.mean([one.value for one in found]) == pytest.approx(0.6, abs=0.02)
    assert np.mean([one.low <= 0.6 <= one.high for one in found]) > 0.85
    assert {one.low < one.value < one.high for one in found} == {True}


def test_ties_and_both_bad_are_half_a_win() -> None:
    outcomes: list[Outcome] = ["b", "b", "tie", "both_bad", "a"]
    found = win_rate([judged(outcome, number) for number, outcome in enumerate(outcomes)])
    assert found.value == pytest.approx(0.6)


def test_judges_who_differ_widen_the_interval() -> None:
    """One always says B, one always A: no number of dialogues makes their mean sure."""
    votes = [[judged("a", n, "x"), judged("b", n, "y")] for n in range(400)]
    found = win_rate(list(chain.from_iterable(votes)))
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)


def test_agreement_is_1_of_those_who_agree_and_0_by_chance() -> None:
    outcomes: list[Outcome] = ["a", "b", "tie"]
    draws = random.Random(1)
    said = [draws.choice(outcomes) for _ in range(600)]
    ann = [judged(outcome, n) for n, outcome in enumerate(said)]
    same = [judged(one.outcome, n, "bob") for n, one in enumerate(ann)]
    found = agreement_between([*ann, *same])
    assert found is not None and found.alpha is not None
    assert (found.share, found.alpha.value, found.alpha.low) == (1, 1, 1)
    chance = [judged(draws.choice(outcomes), n, "bob") for n in range(600)]
    found = agreement_between([*ann, *chance])
    assert found is not None and found.alpha is not None
    assert found.share == pytest.approx(1 / 3, abs=0.08)
    assert found.alpha.low < 0 < found.alpha.high
    assert agreement_between(ann) is None
    one_thing = agreement_between([judged("a", 1), judged("a", 1, "bob")])
    assert one_thing is not None and one_thing.alpha is None
    with_person = agreement_with([judged("tie", 1)], [judged("both_bad", 1, "bob")])
    assert with_person is not None and with_person.share == 1


def test_alpha_is_that_of_krippendorffs_example() -> None:
    """Krippendorff 2011, B: ten units, two observers, two values."""
    one, other = "0100000001", "1110010000"
    units = [["ab"[int(x)], "ab"[int(y)]] for x, y in zip(one, other, strict=True)]
    table = sum(coincidences(unit) for unit in units)
    assert alpha(np.asarray(table).reshape(1, 9))[0] == pytest.approx(0.095, abs=0.0005)


def test_a_measure_agrees_where_it_is_higher_on_the_preferred_side() -> None:
    people = [judged("a", n) for n in range(30)] + [judged("b", n) for n in range(30, 40)]
    found = sameness([*people, judged("tie", 41)], lambda text, own: len(text))
    assert found is not None
    assert (found.share.value, found.num_judgements, found.num_dialogues) == (0.75, 40, 20)
    assert sameness(people, lambda text, own: 1.0) is None


def vote_all(ballot: Ballot, choose: Callable[[str, str], Choice]) -> None:
    for shown in ballot.pairing.drawn(ballot.seed, ballot.judge):
        for order in (shown, shown.swapped) if ballot.is_model else (shown,):
            ballot.add(order, choose(order.left, order.right))


def prefers(name: str) -> Callable[[str, str], Choice]:
    return lambda left, right: "left" if left.startswith(name) else "right"


def test_both_orders_make_one_judgement_of_a_model(ballot: Ballot) -> None:
    model = replace(ballot, judge="m", is_model=True)
    first = PAIRING.drawn(3, "m")
    model.add(first[0], "left")
    model.add(first[0].swapped, "right")
    model.add(first[1], "left")
    model.add(first[1].swapped, "left")
    model.add(first[2], "left")
    (found,) = comparisons(read_votes(ballot.path))
    outcomes = {one.pair: (one.outcome, one.is_steady) for one in found.judgements}
    winner = "a" if first[0].a_is_left else "b"
    assert outcomes == {
        first[0].pair.pair_id: (winner, True),
        first[1].pair.pair_id: ("tie", False),
    }
    assert found.num_half == 1


def test_sides_named_the_other_way_round_are_one_comparison(ballot: Ballot) -> None:
    vote_all(ballot, prefers("new"))
    swapped = replace(ballot, pairing=pair_up(side("new"), side("old")), judge="bob")
    vote_all(swapped, prefers("new"))
    (found,) = comparisons(read_votes(ballot.path))
    assert (found.a, found.b, len(found.judgements)) == ("old", "new", 80)
    assert {one.outcome for one in found.judgements} == {"b"}
    assert {text[:3] for one in found.judgements for text in one.texts[1:]} == {"new"}


def printed(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setattr(sys, "argv", ["judgements", str(path)])
    return main


def test_verdicts_need_thirty_dialogues_and_a_model_needs_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "votes.jsonl"
    with pytest.raises(UserError, match="holds no votes yet"):
        printed(path, monkeypatch)()
    few = Ballot(path, PAIRING, "ann", is_model=False, seed=0)
    vote_all(few, prefers("new"))
    enough = pair_up(side("1", 100), side("2", 100))
    judge = Ballot(path, enough, "a model with a rather long name", is_model=True, seed=0)
    vote_all(judge, prefers("2"))
    printed(path, monkeypatch)()
    text = capsys.readouterr().out
    assert "ann: no verdict, too few dialogues (under 30)" in text
    assert "no verdict without people to compare with" in text
    person = replace(judge, judge="cid", is_model=False)
    for shown in person.pairing.drawn(0, "cid")[:5]:
        person.add(shown, "tie")
    printed(path, monkeypatch)()
    text = " ".join(capsys.readouterr().out.split())
    assert "no verdict, its agreement with people is of too few dialogues (under 30)" in text
    path.unlink()
    vote_all(judge, prefers("2"))
    for name in ("ann", "bob"):
        vote_all(replace(judge, judge=name, is_model=False), prefers("2"))
    printed(path, monkeypatch)()
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "people: B is preferred" in text
    trust, verdict = "agreement with people: 1.00 the same", "long name: B is preferred"
    assert 0 < text.index(trust) < text.index(verdict)


def test_people_are_not_compared_with_themselves(ballot: Ballot) -> None:
    vote_all(ballot, prefers("new"))
    (found,) = comparisons(read_votes(ballot.path))
    assert "ROUGE-L" in as_text(found)
    assert "ROUGE-L" not in as_text(replace(found, a="people"))


# A model that judges


class Chat(BaseHTTPRequestHandler):
    """Answers as ``reply`` says, to what it was sent."""

    reply: Callable[[dict[str, Any]], tuple[int, str]]
    asked: list[tuple[str, str | None, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        status, text = type(self).reply(body)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", text)
        with suppress(ConnectionError):  # of one who has given up waiting
            self.end_headers()
            self.wfile.write(text.encode())

    def do_GET(self) -> None:
        """Where a redirect would lead to."""
        self.asked.append((self.path, self.headers.get("Authorization"), {}))
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


Reply = Callable[[dict[str, Any]], tuple[int, str]]


@contextmanager
def serving(answer: Reply) -> Iterator[tuple[str, list[tuple[str, str | None, dict[str, Any]]]]]:
    class Handler(Chat):
        reply = staticmethod(answer)
        asked = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", Handler.asked
        finally:
            server.shutdown()
            thread.join()


def said(text: str) -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]})


def material(body: dict[str, Any]) -> dict[str, Any]:
    (message,) = body["messages"]
    found: dict[str, Any] = json.loads(message["content"][message["content"].index("\n{") :])
    return found


NUM_ASKED = 6


@pytest.fixture
def model(ballot: Ballot) -> Ballot:
    few = pair_up(side("old", NUM_ASKED), side("new", NUM_ASKED))
    return replace(ballot, pairing=few, judge="judge-1", is_model=True)


def test_a_model_is_asked_in_both_orders_and_goes_on_where_it_stopped(
    model: Ballot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    stop = 5

    def reply(body: dict[str, Any]) -> tuple[int, str]:
        if len(asked) > stop:
            return 503, '{"error": "too busy"}'
        return said(f"Hm.\n{1 if material(body)['continuation_1'].startswith('new') else 2}")

    with serving(reply) as (url, asked):
        server = Server(url, "judge-1", "sk-1")
        with pytest.raises(UserError, match="does not judge: HTTP 503 .*too busy(.|\n)*is kept"):
            judge_all(server, model)
        assert len(read_votes(model.path)) == stop
        stop = 1000
        few = model.pairing
        swapped = pair_up(*(side(name, NUM_ASKED) for name in (few.b, few.a)))
        assert judge_all(server, replace(model, pairing=swapped)) == 0
        assert judge_all(server, model) == 0
        assert len(asked) == 2 * NUM_ASKED + 1
    path, key, body = asked[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer sk-1", "judge-1")
    sent = json.dumps([body for _, _, body in asked])
    assert "people say" not in sent and not re.search('"old"|"new"', sent)
    (found,) = comparisons(read_votes(model.path))
    assert {(one.outcome, one.is_steady) for one in found.models["judge-1"]} == {("b", True)}
    assert found.num_half == 0 and len(found.judgements) == NUM_ASKED


def test_a_model_that_always_takes_the_first_prefers_nobody(model: Ballot) -> None:
    with serving(lambda body: said("**1**")) as (url, asked):
        judge_all(Server(url, "judge-1", ""), model)
        assert {key for _, key, _ in asked} == {None}
    (found,) = comparisons(read_votes(model.path))
    assert win_rate(found.judgements).value == 0.5
    assert {(one.outcome, one.is_steady) for one in found.judgements} == {("tie", False)}


def test_what_is_no_answer_is_no_vote_and_asked_again(model: Ballot) -> None:
    with serving(lambda body: said("I like both.")) as (url, asked):
        assert judge_all(Server(url, "judge-1", ""), model) == 2 * NUM_ASKED
        assert read_votes(model.path) == []
        assert judge_all(Server(url, "judge-1", ""), model) == 2 * NUM_ASKED


def test_a_model_that_takes_no_temperature_is_asked_without(model: Ballot) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, str]:
        return (400, "Unsupported: temperature") if "temperature" in body else said("tie")

    with serving(reply) as (url, asked):
        assert Server(url, "judge-1", "").ask(PAIRING.drawn(0, "x")[0]) == "tie"
        assert [body.get("temperature") for _, _, body in asked] == [0, None]


def test_text_and_key_follow_no_redirect() -> None:
    with (
        serving(lambda body: said("1")) as (other, theirs),
        serving(lambda body: (302, other)) as (url, asked),
    ):
        with pytest.raises(UserError, match="HTTP 302"):
            Server(url, "judge-1", "sk-1").ask(PAIRING.drawn(0, "x")[0])
        assert (len(asked), theirs) == (1, [])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda body: (200, "<html>"), "its reply is no chat completion"),
        (lambda body: (200, '{"choices": []}'), "its reply is no chat completion"),
        (lambda body: (401, '{"error": "wrong key"}'), "HTTP 401 Unauthorized .*wrong key"),
    ],
)
def test_a_server_that_fails_is_one_message(answer: Reply, message: str) -> None:
    with serving(answer) as (url, _), pytest.raises(UserError, match=message) as error:
        Server(url, "judge-1", "sk-1").ask(PAIRING.drawn(0, "x")[0])
    assert "sk-1" not in str(error.value)


# Python closes the socket of a request that timed out when it collects the exception
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_that_is_silent_or_away_is_one_message() -> None:
    wait = threading.Event()
    with serving(lambda body: (wait.wait(10), said("1"))[1]) as (url, _):
        with pytest.raises(UserError, match="does not judge: timed out"):
            Server(url, "judge-1", "", timeout=0.2).ask(PAIRING.drawn(0, "x")[0])
        wait.set()
    with pytest.raises(UserError, match="does not judge: .*refused"):
        Server(url, "judge-1", "").ask(PAIRING.drawn(0, "x")[0])
    for address in ("127.0.0.1:8000", "file:///etc/passwd", "http://me:key@x/v1", "http://x/?a=1"):
        with pytest.raises(UserError, match="is no address"):
            Server(address, "judge-1", "")
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        Server("http://x", "judge-1", "sk\n1")


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("1", "left"),
        ("The first is odd.\n\n**2**.", "right"),
        ("<think>1 or 2?\n1</think>\nAnswer: tie", "tie"),
        ("continuation_2", "right"),
        ("Bad", "both_bad"),
        ("1 or 2", None),
        ("12", None),
        ("", None),
        ("1\nbecause it is short", None),
    ],
)
def test_an_answer_is_the_last_line(reply: str, choice: Choice | None) -> None:
    assert choice_in(reply) == choice


# Real revisions


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A commit whose scores are in the cache; the working tree was scored anew."""
    files = "[scores/base.json, scores/tuned.json]\n"
    pipeline = f"stages:\n  score:\n    cmd: score\n    outs: {files}  eval:\n    deps: {files}"
    pipeline += "    cmd: eval --base scores/base.json --tuned scores/tuned.json\n"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))}

    def run(*command: str) -> None:
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)

    run("git", "init", "--quiet", "--initial-branch", "main")
    run("git", "config", "user.email", "test@localhost")
    run("git", "config", "user.name", "test")
    run(sys.executable, "-m", "dvc", "init", "--quiet")
    write_text(tmp_path / "dvc.yaml", pipeline)
    score(tmp_path, base="base", tuned="old")
    run(sys.executable, "-m", "dvc", "commit", "--quiet", "--force")
    run("git", "add", "dvc.yaml", "dvc.lock")
    run("git", "commit", "--quiet", "--message", "scored")
    score(tmp_path, base="base", tuned="new")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(project: Path, **names: str) -> None:
    for model, name in names.items():
        greedy = [asdict(one) for one in side(name).responses]
        write_json(project / f"scores/{model}.json", {"written": {"greedy": greedy}})


def test_sides_are_revisions_the_base_model_and_people(project: Path) -> None:
    for a, b, first, second in (
        ("main", "workspace", "old", "new"),
        ("base", "main", "base", "old"),
        ("people", "workspace", "people", "new"),
        ("base", "people", "base", "people"),
    ):
        pairing = pair_up(*read_sides(a, b))
        assert {(pair.a.split()[0], pair.b.split()[0]) for pair in pairing.pairs} == {
            (first, second)
        }
        assert (pairing.a.split()[0], pairing.b.split()[0]) == (a, b)
    before = read_sides("main", "workspace")[1].label
    score(project, tuned="newer")
    assert read_sides("main", "workspace")[1].label != before


def test_the_command_lets_a_model_judge(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-1\n")
    monkeypatch.delenv("USER", raising=False)
    with serving(lambda body: said("bad")) as (url, asked):
        command = ["judge", "main", "workspace", "--judge", url, "judge-1"]
        monkeypatch.setattr(sys, "argv", command)
        judge()
    assert {key for _, key, _ in asked} == {"Bearer sk-1"}
    assert "the votes of judge-1 are in judgements/votes.jsonl" in capsys.readouterr().out
    votes = read_votes(project / VOTES)
    assert len(votes) == len(asked) == 2 * NUM_PLACES
    assert {vote.vote for vote in votes} == {"both_bad"}


def test_what_cannot_be_judged_is_one_message(project: Path) -> None:
    with pytest.raises(UserError, match="stands on both sides"):
        read_sides("main", "main")
    with pytest.raises(UserError, match="is no commit, branch, tag or experiment"):
        read_sides("people", "nowhere")
    for text in ("[]", '{"written": {"greedy": [{"text": 1}]}}', "[" * 100_000):
        write_text(project / "scores/tuned.json", text)
        with pytest.raises(UserError, match="of workspace holds no responses that can be read"):
            read_sides("main", "workspace")
    write_text(project / "dvc.yaml", "stages: {}\n")
    with pytest.raises(UserError, match="is from before scores were files of their own"):
        read_sides("main", "workspace")
