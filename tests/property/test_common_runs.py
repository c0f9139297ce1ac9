"""What many dialogues share makes no near duplicates, and real ones are found all the same."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.prep import prepare
from tests.corpora import (
    WORDS,
    as_record,
    data_params,
    generated,
    nearly,
    prepare_dialogues,
)
from tests.thorough import few_or_all
from tuning.corpus import catalogue
from tuning.corpus.common_runs import (
    MIN_DIALOGUES,
    RunPiece,
    Signer,
    common_runs,
    jaccard,
    likeness,
)
from tuning.dialogue import Dialogue, Turn

few_runs = st.lists(st.integers(0, 12), max_size=9)
run_sets = st.sets(st.integers(0, 12), min_size=1, max_size=9)


def text(num_words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def under(prompt: str, dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """The dialogues, each after the same system turn."""
    return [Dialogue(d.dialogue_id, (Turn("system", prompt), *d.turns)) for d in dialogues]


def dropped_ids(dialogues: Sequence[Dialogue], **changes: object) -> dict[str, str]:
    """The reason for each dialogue that prep leaves out."""
    return {d.dialogue_id: reason for reason, d in prepare_dialogues(dialogues, **changes).dropped}


def with_twins(dialogues: Sequence[Dialogue], num_twins: int) -> tuple[list[Dialogue], int]:
    """The dialogues, and a near duplicate of the first few."""
    twins = [nearly(d, f"twin of {d.dialogue_id}", "zzz") for d in dialogues[:num_twins]]
    return [*dialogues, *twins], num_twins


def assert_only_twins_are_dropped(dialogues: Sequence[Dialogue], num_twins: int) -> None:
    """Of each pair, one is left out; all others stay."""
    dropped = dropped_ids(dialogues)
    assert set(dropped.values()) <= {"near_duplicate"}
    pairs = Counter(key.removeprefix("twin of ") for key in dropped)
    assert pairs == Counter(d.dialogue_id for d in dialogues[:num_twins])


# The counting


@given(
    st.lists(few_runs, min_size=1, max_size=30),
    st.sampled_from([0.05, 0.2, 0.3, 0.5, 1.0]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=few_or_all(200))
def test_common_runs_are_counted_exactly(
    dialogues: list[list[int]], share: float, source: random.Random
) -> None:
    """By the definition, whatever the order of the dialogues and wherever pieces end."""
    spread = np.random.default_rng(3).integers(0, 2**64, 13, np.uint64)  # a hash for each run
    counts = Counter(run for runs in dialogues for run in set(runs))
    wanted = {
        run
        for run, count in counts.items()
        if count > share * len(dialogues) and count >= MIN_DIALOGUES
    }
    shuffled = source.sample(dialogues, len(dialogues))
    ends = sorted(source.choices(range(len(dialogues) + 1), k=3))

    def pieces() -> Iterator[RunPiece]:
        for start, stop in zip([0, *ends], [*ends, len(dialogues)], strict=True):
            of_piece = shuffled[start:stop]
            runs = np.array([run for runs in of_piece for run in runs], np.int64)
            yield RunPiece(spread[runs], np.array([len(runs) for runs in of_piece], np.int64))

    found = common_runs(pieces, len(dialogues), sum(map(len, dialogues)), share)
    assert found.tolist() == sorted(spread[list(wanted)].tolist())


def test_a_run_in_exactly_the_share_is_not_common() -> None:
    """Also among many others that fall into the same slots."""
    source = np.random.default_rng(5)
    at, over = source.integers(0, 2**64, 2, np.uint64)
    dialogues = [source.integers(0, 2**64, 300, np.uint64) for _ in range(400)]
    for run, count in ((at, 40), (over, 41)):
        for number in source.permutation(400)[:count]:
            dialogues[number][:3] = run if run == at else dialogues[number][:3]
            dialogues[number][-2:] = run if run == over else dialogues[number][-2:]
    pieces = [RunPiece(d, np.array([len(d)])) for d in dialogues]
    assert common_runs(lambda: iter(pieces), 400, 400 * 300, 0.1).tolist() == [over]


@given(run_sets, run_sets, st.sets(st.integers(0, 12)))
def test_likeness_is_that_of_the_whole_and_of_what_is_own(
    one: set[int], other: set[int], common: set[int]
) -> None:
    a, b, c = (np.array(sorted(s), np.uint64) for s in (one, other, common))
    found = likeness(a, b, c)
    assert found == likeness(b, a, c) <= jaccard(a, b)
    if one == other:
        assert found == 1
    elif (one | other) <= common:
        assert found == 0
    else:
        own, others = one - common, other - common
        assert found == min(jaccard(a, b), len(own & others) / len(own | others))
    if not common & (one | other):
        assert found == jaccard(a, b)


def test_bands_are_of_what_is_own() -> None:
    """Else, all who share a prompt would be compared with all, and a twin among them missed."""
    source = np.random.default_rng(5)
    prompt, *own = (source.integers(0, 2**64, n, np.uint64) for n in (400, *[30] * 20))
    own.append(np.append(own[0][:-1], source.integers(0, 2**64, 1, np.uint64)))
    nothing_own = [prompt[:100], prompt[:101], prompt[100::-1]]
    dialogues = [*(np.concatenate([prompt, o]) for o in own), *nothing_own]
    piece = RunPiece(np.concatenate(dialogues), np.array([len(d) for d in dialogues]))
    bands = Signer(np.sort(prompt), 0.7)(piece)
    together = {
        (one, other)
        for one, other in combinations(range(len(dialogues)), 2)
        if (bands[one] == bands[other]).any()
    }
    assert together == {(0, 20), (22, 23)}


# What people bring


@pytest.mark.parametrize("num_words", [60, 100, 150, 300, 400])
@pytest.mark.parametrize("num_dialogues", [60, 300])
def test_a_system_prompt_that_all_share_makes_no_duplicates(
    num_words: int, num_dialogues: int
) -> None:
    dialogues = generated(num_dialogues, num_turns=4)
    assert not dropped_ids(under(text(num_words, seed=1), dialogues))
    dialogues, num_twins = with_twins(dialogues, num_twins=9)
    assert_only_twins_are_dropped(under(text(num_words, seed=1), dialogues), num_twins)


@pytest.mark.parametrize("sizes", [(50,) * 6, (120, 80, 40, 25, 20, 17)])
def test_six_system_prompts(sizes: tuple[int, ...]) -> None:
    dialogues = generated(sum(sizes))
    prompts = [text(150, seed) for seed, size in enumerate(sizes) for _ in range(size)]
    corpus = [under(p, [d])[0] for p, d in zip(prompts, dialogues, strict=True)]
    assert not dropped_ids(corpus)
    # The last of a prompt, and a twin with the same prompt
    twin = nearly(corpus[-1], "twin", "zzz")
    assert set(dropped_ids([*corpus, twin]).values()) == {"near_duplicate"}


def test_the_same_questions_under_other_prompts_are_other_dialogues() -> None:
    """Several tasks on the same texts: alike in their own words, not as a whole."""
    questions = generated(50)
    corpus = [
        Dialogue(f"{task}-{d.dialogue_id}", d.turns)
        for task in range(6)
        for d in under(text(150, seed=task), questions)
    ]
    assert not dropped_ids(corpus)


def test_a_classifiers_prompt() -> None:
    """A long instruction, a short input, an answer of one word."""
    instruction, source = text(200, seed=1), random.Random(2)
    corpus = [
        Dialogue(
            f"c{number}",
            (
                Turn("user", f"{instruction}\n\nText: {text(12, seed=100 + number)}\nLabel:"),
                Turn("assistant", source.choice(["good", "bad", "neither"])),
            ),
        )
        for number in range(300)
    ]
    assert not dropped_ids(corpus)
    label = "bad" if corpus[7].turns[-1].utterance == "good" else "good"
    relabelled = nearly(corpus[7], "relabelled", label)
    assert len(dropped_ids([*corpus, relabelled])) == 1


def test_alpacas_preamble() -> None:
    preambles = (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{}\n\n### Response:",
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
        "{}\n\n### Input:\nnone of it\n\n### Response:",
    )
    corpus = [
        Dialogue(
            f"a{number}",
            (
                Turn("user", preambles[number % 3 == 0].format(text(7, seed=number))),
                Turn("assistant", text(5 + number % 3, seed=1000 + number)),
            ),
        )
        for number in range(200)
    ]
    assert not dropped_ids(corpus)
    answer = corpus[3].turns[-1].utterance
    twin = nearly(corpus[3], "twin", f"{answer.split()[-1]}s")
    assert list(dropped_ids([*corpus, twin]).values()) == ["near_duplicate"]


@pytest.mark.parametrize("num_dialogues", range(5, 13))
def test_small_sets(num_dialogues: int) -> None:
    """All are kept; a twin is found, whether or not they share a prompt."""
    plain = generated(num_dialogues)
    changes = {"validation_fraction": 0.5}
    for dialogues in (plain, under(text(100, seed=1), plain)):
        assert not dropped_ids(dialogues, **changes)
        twin = nearly(dialogues[0], "twin", "zzz")
        assert list(dropped_ids([*dialogues, twin], **changes).values()) == ["near_duplicate"]


# What follows from the rule


@pytest.mark.parametrize(("size", "num_dropped"), [(2, 1), (4, 3), (15, 14), (16, 0), (90, 0)])
def test_a_family_beyond_the_share_counts_as_a_form(size: int, num_dropped: int) -> None:
    """What stands in more than 15 of 300 dialogues is what many share: a form with blanks in it."""
    base = generated(301 - size, num_turns=20)
    family = [nearly(base[0], f"f{number}", f"word{number}") for number in range(size - 1)]
    assert len(dropped_ids([*base, *family])) == num_dropped
    assert len(dropped_ids([*base, *family], common_run_share=1.0)) == size - 1


def test_repeats_of_one_dialogue_make_nothing_common() -> None:
    """Else, a near duplicate of what is often repeated would be missed."""
    base = generated(100)
    again = [Dialogue(f"again-{number}", base[0].turns) for number in range(50)]
    reasons = dropped_ids([*base, *again, nearly(base[0], "near", "zzz")])
    assert Counter(reasons.values()) == {"duplicate": 50, "near_duplicate": 1}


def test_where_all_runs_are_common_only_the_same_runs_are_alike() -> None:
    """56 dialogues are made of three of eight texts each, so nothing in them is their own."""
    texts = [text(12, seed) for seed in range(8)]
    between = text(4, seed=99)  # so that no run reaches from one text into the next
    corpus = [
        Dialogue(str(chosen), tuple(Turn("a", f"{t} {between}") for t in chosen))
        for chosen in combinations(texts, 3)
    ]
    assert not dropped_ids(corpus, near_duplicate_threshold=0.3)
    # The same words, cut into turns in another way
    first, second, third = corpus[0].turns
    recut = Dialogue("recut", (Turn("a", f"{first.utterance} {second.utterance}"), third))
    assert list(dropped_ids([*corpus, recut]).values()) == ["near_duplicate"]


def test_order_files_pieces_and_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [text(200, seed) for seed in range(3)]
    dialogues = [under(prompts[n % 3], [d])[0] for n, d in enumerate(generated(150))]
    corpus, num_twins = with_twins(dialogues, num_twins=12)
    lines = [json.dumps(as_record(d)) + "\n" for d in corpus]

    def outcome(name: str, lines: list[str], num_files: int) -> tuple[bytes, ...]:
        data, folder = tmp_path / name / "data", tmp_path / name / "prepared"
        data.mkdir(parents=True)
        folder.mkdir()
        for number in range(num_files):
            (data / f"{number}.jsonl").write_text("".join(lines[number::num_files]))
        ledger = prepare(data, data_params(), folder)
        assert ledger["num_dialogues"]["dropped_near_duplicate"] == num_twins
        assert ledger["duplicates"]["num_common_runs"] > 500
        dropped = map(json.loads, (folder / "dropped.jsonl").read_bytes().splitlines())
        ids = sorted(f"{r['reason']} {r['dialogue_id']}" for r in dropped)
        sides = ((folder / f"{side}.jsonl").read_bytes() for side in ("train", "val"))
        return (*sides, *map(str.encode, ids))

    monkeypatch.setenv("TUNING_WORKERS", "1")
    expected = outcome("as-it-is", lines, 1)
    shuffled = random.Random(1).sample(lines, len(lines))
    assert outcome("shuffled", shuffled, 1) == expected
    monkeypatch.setattr(catalogue, "RUNS_PER_PIECE", 2_000)
    assert outcome("small pieces", lines, 1) == expected
    for workers in (2, 3):
        monkeypatch.setenv("TUNING_WORKERS", str(workers))
        assert outcome(f"{workers} workers", shuffled[::-1], 4) == expected


# What is said


def test_many_duplicates_are_said_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    base = generated(90)
    few = [nearly(d, f"near-{d.dialogue_id}", "zzz") for d in base[:9]]
    again = [Dialogue(f"again-{d.dialogue_id}", d.turns) for d in base[20:23]]
    assert len(dropped_ids([*base, *few])) == 9
    assert "WARNING" not in capsys.readouterr().err
    assert len(dropped_ids([*base, *few, *again])) == 12
    said = capsys.readouterr().err
    assert "12 of 102 dialogues" in said
    assert "3 duplicates, 9 near duplicates" in said
    assert "data.near_duplicate_threshold: 1" in said
    assert "dropped.jsonl" in said


def test_what_is_common_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    dropped_ids(generated(90))
    assert "runs of five" not in capsys.readouterr().out
    dropped_ids(under(text(100, seed=1), generated(90)))
    assert "runs of five words stand in more than 0.05" in capsys.readouterr().out
