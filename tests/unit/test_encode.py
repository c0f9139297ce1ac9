"""Encode needs something to train, gives every speaker a token, and writes what numpy can map."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.encode import encode, main
from tests.corpora import WORDS, assistant, encoding_params, system, user
from tests.tiny_model import lose_character
from tuning.dialogue import Dialogue, Turn, to_line
from tuning.encoding.examples import examples
from tuning.encoding.preview import show_dialogue
from tuning.encoding.totals import NOT_ENCODABLE
from tuning.evaluation_set.plan import Plan, make_plan
from tuning.run.errors import UserError
from tuning.run.params import load_params
from tuning.tokens.speaker_tokens import SpeakerTokens
from tuning.tokens.templates import template_of
from tuning.tokens.texts import gives_back
from tuning.tokens.tokenizer import load_tokenizer
from tuning.training.rows import PackedRows
from tuning.windows import WindowWriter

ROOT = Path(__file__).parents[2]
PAIR = Dialogue("pair", (Turn("ann", "Hello"), Turn("bob", "Hi, ann")))
TRIO = Dialogue("trio", (Turn("ann", "Hello"), Turn("bob", "Hi"), Turn("cem", "Hi both")))


def write_parts(prepared: Path, files: dict[str, list[str]] | None = None) -> None:
    """Write files of lines, by default one dialogue on each side."""
    parts = {"train": [to_line(PAIR)], "val": [to_line(PAIR)], "dropped": []} | (files or {})
    prepared.mkdir()
    for name, lines in parts.items():
        (prepared / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))


def encoded(
    tmp_path: Path,
    base: Path,
    files: dict[str, list[str]] | None = None,
    *,
    loss_on: str | list[str] = "all",
    num_speakers: int = 3,
    skips_invalid: bool = False,
) -> dict[str, Any]:
    """Encode files of lines."""
    prepared, folder = tmp_path / "prepared", tmp_path / "encoded"
    write_parts(prepared, files)
    folder.mkdir()
    encoding = encoding_params(max_length=16, min_context=8, loss_on=loss_on)
    return encode(prepared, base, folder, encoding, num_speakers, skips_invalid=skips_invalid)


def test_a_crowd_gets_no_tokens(tmp_path: Path, tiny_base: Path) -> None:
    """Nothing is written of it, and what may be meant is said."""
    with pytest.raises(UserError, match=r"1,001 people .* at most 1,000 .*data\.roles"):
        encoded(tmp_path, tiny_base, num_speakers=1001)
    assert not list((tmp_path / "encoded").iterdir())


def run_stage(
    monkeypatch: pytest.MonkeyPatch,
    base: Path,
    num_dialogues: dict[str, int],
    most_speakers: float = 2,
    on_invalid: str = "error",
) -> None:
    """Run the stage on ``prepared`` in the working folder, with these counts from prep."""
    ledger = {
        "num_people_per_dialogue": {"max": most_speakers},
        "num_turns_by_role": {},
        "num_dialogues": num_dialogues,
    }
    Path("prep.json").write_text(json.dumps(ledger))
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(
        params.replace("on_invalid: error", f"on_invalid: {on_invalid}"), encoding="utf-8"
    )
    arguments = {"prepared": "prepared", "ledger": "prep.json", "base": str(base)}
    arguments |= {"lock": "params.yaml", "encoded": "encoded", "metrics": "encode.json"}
    arguments |= {"timing": "timing.json"}
    pairs = [(f"--{name}", value) for name, value in arguments.items()]
    monkeypatch.setattr(sys, "argv", ["encode", *chain(*pairs), "--preview", "preview.html"])
    main()


def arrays(folder: Path) -> dict[str, list[Any]]:
    return {file.stem: np.load(file).tolist() for file in folder.glob("*.npy")}


def test_a_name_that_nobody_has_is_an_error_that_names_those_who_are_there(
    tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        encoded(tmp_path, tiny_base, loss_on="Ann")
    assert str(caught.value) == (
        "encoding.loss_on: 'Ann' trains no turn at all; wanted auto, all, last, a role, or one of "
        "the speakers (ann, bob, …)."
    )


def test_a_name_among_several_that_nobody_has_is_an_error_too(
    tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"encoding.loss_on: 'Ann' trains no turn at all"):
        encoded(tmp_path, tiny_base, loss_on=["ann", "Ann"])


@pytest.mark.parametrize(("most_speakers", "num_tokens"), [(1.0, 2), (2.0, 2), (3.0, 3)])
def test_there_is_a_token_for_every_speaker_that_prep_counted(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most_speakers: float,
    num_tokens: int,
) -> None:
    """And for two at least; what prep counted in dialogues is in the preview too."""
    few_turns = '{"where": "x.jsonl:7", "reason": "few_turns", ' + to_line(TRIO)[1:]
    write_parts(tmp_path / "prepared", {"dropped": [few_turns]})
    counts = {"train": 1, "validation": 1, "test": 0, "dropped_few_turns": 1234, "input": 1236}
    monkeypatch.chdir(tmp_path)
    run_stage(monkeypatch, tiny_base, counts, most_speakers)
    vocabulary = load_tokenizer(tmp_path / "encoded" / "tokenizer").get_vocab()
    assert [n for n in range(9) if f"<|speaker{n}|>" in vocabulary] == [*range(1, num_tokens + 1)]
    assert json.loads(Path("encode.json").read_text())["num_speaker_tokens"] == num_tokens
    page = Path("preview.html").read_text(encoding="utf-8")
    assert "1,236 dialogues" in page and "dropped: few turns</th><td>1,234</td>" in page


def test_a_dropped_dialogues_speakers_need_no_token_but_its_tokens_are_counted(
    tiny_base: Path, tmp_path: Path
) -> None:
    line = '{"where": "x.jsonl:7", "reason": "few_turns", ' + to_line(TRIO)[1:]
    metrics = encoded(tmp_path, tiny_base, {"dropped": [line]}, num_speakers=2)
    tokenizer = load_tokenizer(tiny_base)
    num_tokens = sum(len(tokenizer.tokenize(turn.utterance)) + 2 for turn in TRIO.turns)
    assert metrics["num_tokens"]["dropped_few_turns"] == num_tokens


@pytest.mark.parametrize("loss_on", ["all", "last", "ann"])
def test_validation_windows_are_what_training_on_that_side_would_make(
    tiny_base: Path, tmp_path: Path, loss_on: str
) -> None:
    """So each of its target tokens is scored once, and the training windows know nothing of it."""
    long = Dialogue("long", TRIO.turns * 4 + PAIR.turns)
    one, other = [to_line(PAIR)], [to_line(long), to_line(TRIO)]
    folders = [tmp_path / name for name in ("there", "swapped", "alone")]
    parts = [{"train": one, "val": other}, {"train": other, "val": one}, {"train": one, "val": []}]
    ledgers = []
    for folder, files in zip(folders, parts, strict=True):
        folder.mkdir()
        ledgers.append(encoded(folder, tiny_base, files, loss_on=loss_on))
    there, swapped, alone = (arrays(folder / "encoded") for folder in folders)
    assert arrays(folders[0] / "encoded" / "validation") == swapped
    assert arrays(folders[1] / "encoded" / "validation") == there == alone
    assert len(swapped["window_starts"]) > 2
    assert ledgers[0]["num_tokens"]["validation"] == sum(
        ledgers[1]["num_tokens"][name] for name in ("trained", "context", "truncated")
    )
    other_facts = {name: fact for name, fact in ledgers[0].items() if name != "num_tokens"}
    assert other_facts.items() <= ledgers[2].items()


def summary(
    number: int, num_words: int, *, has_system: bool, answer: str = "You can paint it at noon."
) -> Dialogue:
    """A user's turn of so many words, and what an assistant answers."""
    asked = " ".join(WORDS[(number + step * step) % len(WORDS)] for step in range(num_words))
    turns = [user(f"summarise: {asked}"), assistant(answer)]
    return Dialogue(str(number), (*[system("Be brief.")] * has_system, *turns))


@pytest.mark.parametrize("has_system", [False, True])
def test_of_a_turn_longer_than_the_window_a_reply_sees_the_end_that_fits(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], has_system: bool
) -> None:
    """And the system text, which every window begins with; the run says what would mend it."""
    long = [summary(number, 100 + number, has_system=has_system) for number in range(30)]
    longest = summary(30, 300, has_system=has_system, answer="No.")
    train = [longest, *long, summary(31, 5, has_system=has_system)]
    write_parts(tmp_path / "prepared", {"train": [*map(to_line, train)]})

    def encoded_in(folder: Path, max_length: int) -> dict[str, Any]:
        folder.mkdir()
        encoding = encoding_params(max_length=max_length, loss_on="auto")
        return encode(tmp_path / "prepared", tiny_base, folder, encoding, 0, has_roles=True)

    ledger = encoded_in(tmp_path / "short", 64)
    template = template_of(tmp_path / "short" / "tokenizer")
    assert isinstance(template, SpeakerTokens)
    written = arrays(tmp_path / "short")
    spans = zip(written["window_starts"], written["window_starts"][1:], strict=False)
    windows = [written["input_ids"][slice(*span)] for span in spans]
    num_tokens, replies = [], []
    for dialogue, ids in zip(train, windows, strict=True):
        turns = template.encode(dialogue)
        head = turns[0].ids if has_system else []
        whole = [token for turn in turns for token in turn.ids]
        assert ids == (whole if len(whole) <= 64 else head + whole[len(head) - 64 :])
        num_tokens.append(len(whole))
        replies.append(len(turns[-1]) - 1)
    in_windows = sum(map(len, windows))
    assert ledger["num_tokens"]["trained"] == sum(written["is_target"]) == sum(replies)
    assert ledger["num_tokens"]["context"] == in_windows - sum(replies)
    assert ledger["num_tokens"]["truncated"] == sum(num_tokens) - in_windows
    assert ledger["num_targets_turn_before_cut"] == sum(replies[:-1])
    assert ledger["num_targets_turn_before_lost"] == ledger["num_split_dialogues"] == 0

    (advice,) = (line for line in capsys.readouterr().out.splitlines() if "max_length" in line)
    enough = int(advice.partition("encoding.max_length: ")[2].split()[0])
    sizes = [*zip(num_tokens, replies, strict=True)]
    beyond, with_it = (sum(r for n, r in sizes if n > enough - less) for less in (0, 1))
    assert 0 < beyond <= 0.02 * sum(replies) < with_it
    ledger = encoded_in(tmp_path / "enough", enough)
    assert ledger["num_targets_turn_before_cut"] == beyond
    assert "max_length" not in capsys.readouterr().out


def test_targets_far_behind_the_turn_before_them_see_nothing_of_it(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a reply longer than a window, all is trained, and most of it behind its own beginning."""
    story = summary(1, 5, has_system=False)
    long = Dialogue("long", (story.turns[0], assistant(" ".join(WORDS))))
    write_parts(tmp_path / "prepared", {"train": [to_line(long)]})
    folder = tmp_path / "encoded"
    folder.mkdir()
    encoding = encoding_params(max_length=64, loss_on="auto")
    ledger = encode(tmp_path / "prepared", tiny_base, folder, encoding, 0, has_roles=True)
    template = template_of(folder / "tokenizer")
    assert isinstance(template, SpeakerTokens)
    asked, told = template.encode(long)
    num_targets = len(told) - 1
    num_in_first = 64 - len(asked) - 1  # the window that holds all of the question
    assert ledger["num_tokens"]["trained"] == num_targets
    assert (ledger["num_targets_turn_before_cut"], ledger["num_targets_turn_before_lost"]) == (
        0,
        num_targets - num_in_first,
    )
    assert (ledger["num_split_dialogues"], ledger["num_tokens"]["truncated"]) == (1, 0)
    share = f"({(num_targets - num_in_first) / num_targets:.0%} see nothing of it)"
    assert share in capsys.readouterr().out


@pytest.mark.parametrize("how", ["missing", "empty", "without a target"])
def test_there_may_be_nothing_to_validate_on(tiny_base: Path, tmp_path: Path, how: str) -> None:
    train = to_line(Dialogue("zoes", (Turn("zoe", "Hello"), Turn("bob", "Hi"))))
    val = [to_line(PAIR)] if how == "without a target" else []
    write_parts(tmp_path / "prepared", {"train": [train], "val": val})
    if how == "missing":
        (tmp_path / "prepared" / "val.jsonl").unlink()
    folder = tmp_path / "encoded"
    folder.mkdir()
    encoding = encoding_params(max_length=16, loss_on="zoe")
    metrics = encode(tmp_path / "prepared", tiny_base, folder, encoding, num_speakers=2)
    assert (metrics["num_tokens"]["validation"] > 0) == bool(val)
    assert arrays(folder / "validation") == {
        "input_ids": [],
        "is_target": [],
        "window_starts": [0],
    }
    rows = PackedRows(folder / "validation", max_length=16, packing=True, pad_token_id=0)
    assert len(rows) == 0


def stresses(number: int) -> str:
    """A dialogue whose first turn has a letter that ``lossy_base`` loses."""
    return to_line(Dialogue(f"lost-{number}", (Turn("ann", "Straße"), Turn("bob", f"{number}?"))))


@pytest.fixture(scope="module")
def lossy_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose tokenizer loses ß."""
    folder = tmp_path_factory.mktemp("lossy") / "base"
    shutil.copytree(tiny_base, folder)
    lose_character(folder, "ß")
    return folder


def test_dialogues_that_the_tokenizer_changes_stop_the_run_with_a_list(
    lossy_base: Path, tmp_path: Path
) -> None:
    train = [to_line(PAIR), *map(stresses, range(25))]
    with pytest.raises(UserError) as caught:
        encoded(tmp_path, lossy_base, {"train": train, "val": [stresses(25)]})
    first, *named, more, advice = str(caught.value).split("\n")
    assert "26 dialogues (25 training, 1 validation)" in first
    assert named == [
        f"  dialogue 'lost-{number}': the tokenizer changes turn 1 at character 5: 'Straße' comes "
        "back as 'Strae'"
        for number in range(20)
    ]
    assert more == "  … and 6 more"
    assert "data.on_invalid: skip" in advice


def test_dialogues_that_the_tokenizer_changes_are_left_out_and_counted(
    lossy_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else changes: the windows are those of the others alone."""
    others = {"train": [to_line(PAIR), to_line(TRIO)], "val": [to_line(TRIO)]}
    more = {
        "train": [stresses(1), to_line(PAIR), stresses(2), to_line(TRIO)],
        "val": [to_line(TRIO), stresses(3)],
    }
    ledgers = []
    for name, files in (("without", others), ("with", more)):
        (tmp_path / name).mkdir()
        ledgers.append(encoded(tmp_path / name, lossy_base, files, skips_invalid=True))
    without, with_lost = ledgers
    for folder in ("encoded", "encoded/validation"):
        assert arrays(tmp_path / "with" / folder) == arrays(tmp_path / "without" / folder)
    assert without.pop("num_not_encodable") == {"train": 0, "validation": 0}
    assert with_lost.pop("num_not_encodable") == {"train": 2, "validation": 1}
    num_tokens = with_lost.pop("num_tokens")
    lost, total = num_tokens.pop("dropped_not_encodable"), num_tokens.pop("input")
    assert total == sum(num_tokens.values()) + lost
    tokenizer = load_tokenizer(lossy_base)
    texts = ["Straße", "1?", "Straße", "2?", "Straße", "3?"]
    assert lost == sum(len(tokenizer.tokenize(text)) + 2 for text in texts)
    wanted = without.pop("num_tokens")
    assert wanted.pop("input") == sum(wanted.values())
    assert num_tokens == wanted and with_lost == without
    trained, left_out, trained_of_more = capsys.readouterr().out.splitlines()
    assert "3 dialogues (2 training, 1 validation)" in left_out
    assert "such as dialogue 'lost-1'" in left_out
    assert not (tmp_path / "without/encoded" / NOT_ENCODABLE).exists()
    listed = (tmp_path / "with/encoded" / NOT_ENCODABLE).read_text().splitlines()
    assert [json.loads(line).split(":")[0] for line in listed] == [
        f"dialogue 'lost-{number}'" for number in (1, 2, 3)
    ]
    assert trained_of_more == trained


def test_where_the_tokenizer_changes_all_that_would_be_trained_nothing_is_left(
    lossy_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="none is left to train on") as caught:
        encoded(tmp_path, lossy_base, {"train": [stresses(1)]}, skips_invalid=True)
    assert "skip" not in str(caught.value)


def test_the_preview_shows_a_dialogue_that_the_tokenizer_changes_as_left_out(
    lossy_base: Path, tmp_path: Path
) -> None:
    train = [stresses(1), to_line(PAIR), to_line(TRIO)]
    encoded(tmp_path, lossy_base, {"train": train, "val": [stresses(2)]}, skips_invalid=True)
    show = partial(
        show_dialogue,
        template=template_of(tmp_path / "encoded" / "tokenizer"),
        max_length=64,
        min_context=8,
        loss_on="all",
    )
    shown = examples(tmp_path / "prepared", show)
    assert [(one.dialogue_id, one.bucket) for one in shown] == [
        ("pair", "train"),
        ("trio", "train"),
        ("lost-2", "dropped_not_encodable"),
    ]


def test_the_stage_does_as_on_invalid_says_and_its_page_counts_what_is_left(
    lossy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [stresses(1), to_line(PAIR), stresses(2)]
    write_parts(tmp_path / "prepared", {"train": train})
    counts = {"train": 3, "validation": 1, "test": 0, "input": 4}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"2 dialogues \(2 training, 0 validation\)"):
        run_stage(monkeypatch, lossy_base, counts)
    assert not Path("encoded").exists() and not Path("encode.json").exists()
    run_stage(monkeypatch, lossy_base, counts, on_invalid="skip")
    page = Path("preview.html").read_text(encoding="utf-8")
    assert "4 dialogues" in page and "training</th><td>1</td>" in page
    assert "dropped: not encodable</th><td>2</td>" in page


def test_models_are_measured_on_dialogues_that_their_tokenizer_gives_back(
    tiny_base: Path, lossy_base: Path, tmp_path: Path
) -> None:
    """And on the same ones, whether the tokenizer is asked or what it left out is known."""
    lines = [stresses(1), to_line(PAIR), stresses(2), to_line(TRIO), to_line(PAIR), stresses(3)]
    write_parts(tmp_path / "prepared", {"val": lines})
    validation = tmp_path / "prepared" / "val.jsonl"
    settings = load_params(ROOT / "params.yaml").score.model_copy(update={"max_dialogues": 2})

    def plan_of(is_encodable: Callable[[Dialogue], bool]) -> Plan:
        return make_plan(validation, settings, "all", is_encodable)

    plan = plan_of(partial(gives_back, load_tokenizer(lossy_base)))
    assert [one.dialogue_id for one in plan.dialogues] == ["pair", "trio"]
    assert plan.not_encodable == ["lost-1", "lost-2"]  # behind them, enough are found
    assert plan_of(lambda one: one.dialogue_id not in plan.not_encodable) == plan
    everything = plan_of(partial(gives_back, load_tokenizer(tiny_base)))
    assert [one.dialogue_id for one in everything.dialogues] == ["lost-1", "pair"]
    assert everything.not_encodable == []
    write_parts(tmp_path / "others", {"val": [stresses(1)]})
    with pytest.raises(UserError, match="changes the text of 1 dialogues, and no other has"):
        make_plan(
            tmp_path / "others" / "val.jsonl",
            settings,
            "all",
            partial(gives_back, load_tokenizer(lossy_base)),
        )


def test_arrays_written_in_parts_are_read_as_one(tmp_path: Path) -> None:
    parts = [np.arange(n, dtype=np.int32) for n in (3, 0, 100_000, 7)]
    with WindowWriter(tmp_path) as writer:
        for part in parts:
            writer.add(part, part % 2 == 0, [len(part)] if len(part) else [])
    whole = np.concatenate(parts)
    assert np.array_equal(np.load(tmp_path / "input_ids.npy", mmap_mode="r"), whole)
    assert np.array_equal(np.load(tmp_path / "is_target.npy"), whole % 2 == 0)
    assert np.load(tmp_path / "window_starts.npy").tolist() == [0, 3, 100_003, 100_010]


def test_a_turns_weight_is_that_of_its_tokens(tiny_base: Path, tmp_path: Path) -> None:
    """Cut or whole; where nothing has a weight, there is no array of them."""
    long = Turn("bob", "Hi, ann " * 12, weight=0.5)
    talk = Dialogue("talk", (Turn("ann", "Hello"), long, Turn("ann", "Bye", weight=3)))
    lines = [to_line(PAIR), to_line(talk), to_line(PAIR)]
    encoded(tmp_path, tiny_base, {"train": lines})
    found, validation = arrays(tmp_path / "encoded"), arrays(tmp_path / "encoded" / "validation")
    assert "weights" in found and "weights" not in validation
    by_weight: dict[float, list[int]] = {}
    rows = zip(found["input_ids"], found["is_target"], found["weights"], strict=True)
    for token_id, is_target, weight in rows:
        if is_target:
            by_weight.setdefault(weight, []).append(token_id)
    tokenizer = load_tokenizer(tmp_path / "encoded" / "tokenizer")
    texts = {weight: tokenizer.decode(ids) for weight, ids in by_weight.items()}
    end = "<|endofturn|>"
    pair = f"Hello{end}Hi, ann{end}"
    assert texts == {
        1.0: f"{pair}Hello{end}{pair}",
        0.5: f"{long.utterance.strip()} {end}",
        3.0: f"Bye{end}",
    }
