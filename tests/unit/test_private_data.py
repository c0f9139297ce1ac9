"""Private data: what is found and what is left, the list of it, and text with it replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.prep import prepare
from tests.corpora import as_record, data_params, generated, utterances
from tests.private_sentences import Sentence, sentences
from tuning.corpus.private_data import Finding, dump, find_in, load, replace_in, summary
from tuning.corpus.private_forms import KINDS, Span
from tuning.corpus.private_spans import find, may_hold_any
from tuning.dialogue import Dialogue, ToolCall, Turn, from_line
from tuning.run.errors import UserError

SENTENCES = sentences()
MISSED = {"email": 3, "phone": 4, "card": 3, "iban": 1, "ip": 1, "key": 3}
"""Of the labels, as docs/private-data.md says them."""


def is_found(label: tuple[str, int, int], spans: list[Span]) -> bool:
    """A finding of its kind covers it whole."""
    kind, start, end = label
    return any(s.kind == kind and s.start <= start and end <= s.end for s in spans)


@pytest.mark.parametrize("kind", KINDS)
def test_recall(kind: str) -> None:
    labels = [(s, label) for s in SENTENCES for label in s.labels if label[0] == kind]
    missed = [s.text[a:b] for s, (k, a, b) in labels if not is_found((k, a, b), find(s.text, "US"))]
    assert len(labels) >= 25
    assert len(missed) <= MISSED[kind], missed


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda s: s.text[:40])
def test_precision(sentence: Sentence) -> None:
    """Nothing is found that is not private: it holds for every sentence."""
    for span in find(sentence.text, "US"):
        assert any(
            kind == span.kind and span.start < end and start < span.end
            for kind, start, end in sentence.labels
        ), sentence.text[span.start : span.end]


def test_the_page_states_what_is_measured() -> None:
    page = (Path(__file__).parents[2] / "docs" / "private-data.md").read_text(encoding="utf-8")
    for kind in KINDS:
        num = sum(label[0] == kind for s in SENTENCES for label in s.labels)
        assert f"| `{kind}` | {num - MISSED[kind]} of {num} |" in page


texts = st.lists(
    st.one_of(utterances, st.sampled_from([s.text for s in SENTENCES])), min_size=1, max_size=6
)


@given(lines=texts, joint=st.sampled_from([" ", "", ", ", "\n"]))
def test_findings_are_apart_and_in_order_and_seen_from_afar(lines: list[str], joint: str) -> None:
    text = joint.join(lines)
    spans = find(text, "US")
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    assert all(one.end <= other.start for one, other in zip(spans, spans[1:], strict=False))
    if spans:
        assert may_hold_any(text) and may_hold_any(f"some\nother lines\n{text}\nmore")


def test_a_region_adds_its_national_numbers() -> None:
    text = "020 7946 0958 or +1 202-555-0143"
    assert [s.value for s in find(text, None)] == ["+12025550143;"]
    assert [s.value for s in find(text, "GB")] == ["+442079460958;", "+12025550143;"]


def test_a_number_in_a_key_or_an_account_belongs_to_it() -> None:
    assert [s.kind for s in find("IBAN DE89 3704 0044 0532 0130 00", "DE")] == ["iban"]
    assert [s.kind for s in find("https://jo:pa55@example.com", None)] == ["key"]


TALK = Dialogue(
    "d",
    (
        Turn("jo@example.com", "call (202) 555-0143, or jo@example.com"),
        Turn("+1 202-555-0143", "no: 202.555.0143 x, ann@example.com"),
        Turn("jo@example.com", "JO@Example.com!"),
    ),
)


def test_equal_values_have_one_placeholder() -> None:
    assert replace_in(TALK, find_in(TALK, "US")) == Dialogue(
        "d",
        (
            Turn("<EMAIL_1>", "call <PHONE_1>, or <EMAIL_1>"),
            Turn("<PHONE_1>", "no: <PHONE_1> x, <EMAIL_2>"),
            Turn("<EMAIL_1>", "<EMAIL_1>!"),
        ),
    )


def test_numbers_begin_behind_placeholders_of_the_text() -> None:
    dialogue = Dialogue("d", (Turn("a", "<EMAIL_2> and jo@example.com"),))
    assert replace_in(dialogue, find_in(dialogue, None)).turns[0].utterance == (
        "<EMAIL_2> and <EMAIL_3>"
    )


def test_what_a_call_or_a_tool_says_is_replaced_and_stays_json() -> None:
    call = ToolCall("mail", '{"to": "jo@example.com", "card": 4111111111111111}')
    tools = '[{"name": "mail", "description": "as jo@example.com or ann@example.com", "n": 1}]'
    dialogue = Dialogue("d", (Turn("assistant", "", "assistant", tool_calls=(call,)),), tools)
    findings = find_in(dialogue, None)
    assert load(dump(findings)) == findings
    replaced = replace_in(dialogue, findings)
    arguments = json.loads(replaced.turns[0].tool_calls[0].arguments)
    assert arguments == {"to": "<EMAIL_1>", "card": "<CARD_1>"}
    [tool] = json.loads(replaced.tools)
    assert tool == {"name": "mail", "description": "as <EMAIL_1> or <EMAIL_2>", "n": 1}
    assert find_in(replaced, None) == []


def test_numbers_begin_behind_placeholders_of_the_tools() -> None:
    dialogue = Dialogue("d", (Turn("a", "jo@example.com"),), '["<EMAIL_4>"]')
    assert replace_in(dialogue, find_in(dialogue, None)).turns[0].utterance == "<EMAIL_5>"


@pytest.mark.parametrize("redact", ["report", "replace"])
def test_the_list_names_places_in_the_tools(tmp_path: Path, redact: str) -> None:
    records = [
        as_record(dialogue, tools=[{"name": f"ask jo{n}@example.com"}])
        for n, dialogue in enumerate(generated(20))
    ]
    path, folder = tmp_path / "in.jsonl", tmp_path / "it"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    folder.mkdir()
    prepare(path, data_params(redact=redact), folder)
    lines = [
        *(folder / "train.jsonl").read_bytes().splitlines(),
        *(folder / "val.jsonl").read_bytes().splitlines(),
    ]
    tools = {d.dialogue_id: d.tools for d in map(from_line, lines)}
    rows = [json.loads(line) for line in (folder / "private.jsonl").read_bytes().splitlines()]
    assert len(rows) == 20
    for row in rows:
        assert (row["turn"], row["in"]) == (0, "tools")
        found = tools[row["dialogue_id"]][row["start"] : row["end"]]
        assert found == (
            row["placeholder"] if redact == "replace" else f"jo{found[2:-12]}@example.com"
        )


@given(lines=st.lists(texts.map(" ".join), min_size=1, max_size=3), before=st.integers(0, 40))
def test_replacing_leaves_all_other_text(lines: list[str], before: int) -> None:
    turns = [*[Turn("a", "hello")] * before, *(Turn("b", line) for line in lines)]
    dialogue = Dialogue("d", tuple(turns))
    findings = find_in(dialogue, "US")
    assert load(dump(findings)) == findings
    rest = iter(findings)
    for number, (old, new) in enumerate(
        zip(dialogue.turns, replace_in(dialogue, findings).turns, strict=True)
    ):
        mine: list[Finding] = [f for f in findings if f.turn == number]
        assert [(s.start, s.end) for s in find(old.utterance, "US")] == [
            (f.start, f.end) for f in mine
        ]
        expected, end = "", 0
        for finding in mine:
            assert next(rest) == finding
            expected += old.utterance[end : finding.start] + finding.placeholder
            end = finding.end
        assert new.utterance == expected + old.utterance[end:]


def prepared(folder: Path, **changes: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    """What prep writes of small talk, with private data in every third dialogue."""
    dialogues = []
    for number, dialogue in enumerate(generated(90)):
        first, *others = dialogue.turns
        said = f"{first.utterance} {SENTENCES[number].text}" if number % 3 == 0 else first.utterance
        speaker = "jo@example.com" if number % 9 == 0 else first.speaker
        turns = (Turn(speaker, said), *others)
        dialogues.append(Dialogue(dialogue.dialogue_id, turns))
    dialogues.append(Dialogue("again", dialogues[0].turns))
    path = folder.parent / "in.jsonl"
    path.write_text("".join(json.dumps(as_record(d)) + "\n" for d in dialogues))
    folder.mkdir()
    ledger = prepare(path, data_params(**changes), folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}, ledger


def listed(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["private.jsonl"].splitlines()]


def test_a_report_changes_no_text_and_a_replacement_moves_no_dialogue(tmp_path: Path) -> None:
    none, ledger_none = prepared(tmp_path / "none", redact="none")
    report, ledger_report = prepared(tmp_path / "report", redact="report")
    replaced, ledger_replaced = prepared(tmp_path / "replace", redact="replace")

    assert "private.jsonl" not in none and "private_data" not in ledger_none
    assert {name: report[name] for name in none} == none
    for name in none:
        ids = [from_line(line).dialogue_id for line in none[name].splitlines()]
        assert ids == [from_line(line).dialogue_id for line in replaced[name].splitlines()]
        for line in replaced[name].splitlines():  # those that were left out, too
            assert find_in(from_line(line), "US") == []
    for ledger in (ledger_report, ledger_replaced):
        assert {k: v for k, v in ledger.items() if k != "private_data"} == ledger_none
    same = ("num_dialogues", "num_found")
    counts, others = ledger_report["private_data"], ledger_replaced["private_data"]
    assert [counts[key] for key in same] == [others[key] for key in same]
    assert counts["num_characters_replaced"] == counts["num_characters_of_placeholders"] == 0

    def num_characters(files: dict[str, bytes]) -> int:
        lines = files["train.jsonl"].splitlines() + files["val.jsonl"].splitlines()
        return sum(from_line(line).num_characters for line in lines)

    assert num_characters(replaced) == (
        num_characters(none)
        - others["num_characters_replaced"]
        + others["num_characters_of_placeholders"]
    )


@pytest.mark.parametrize("redact", ["report", "replace"])
def test_the_list_names_each_place_in_the_text_as_written(tmp_path: Path, redact: str) -> None:
    files, ledger = prepared(tmp_path / "it", redact=redact)
    kept = {
        dialogue.dialogue_id: dialogue
        for name in ("train.jsonl", "val.jsonl")
        for dialogue in map(from_line, files[name].splitlines())
    }
    for row in listed(files):
        turn = kept[row["dialogue_id"]].turns[row["turn"] - 1]
        text = (turn.speaker if row["in"] == "speaker" else turn.utterance)[
            row["start"] : row["end"]
        ]
        if redact == "replace":
            assert text == row["placeholder"]
        else:
            assert text[:2] == row["begins"] and len(text) > 2
        assert text not in json.dumps(row | {"placeholder": ""}, ensure_ascii=False)
    counts = ledger["private_data"]
    assert sum(counts["num_found"].values()) == len(listed(files))
    assert counts["num_dialogues"] == len({row["dialogue_id"] for row in listed(files)})


def test_any_number_of_workers_writes_the_same_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.reading.records.PIECE_BYTES", 2000)
    monkeypatch.setenv("TUNING_WORKERS", "1")
    one = prepared(tmp_path / "one", redact="replace")
    monkeypatch.setenv("TUNING_WORKERS", "3")
    assert prepared(tmp_path / "three", redact="replace") == one


def test_a_region_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.phone_region: found 'UK'"):
        prepared(tmp_path / "it", phone_region="UK")


def test_the_summary_is_a_line_or_nothing() -> None:
    counts = {"num_dialogues": 1, "num_found": dict.fromkeys(KINDS, 0) | {"email": 3, "phone": 1}}
    path = Path("p/private.jsonl")
    assert summary({"private_data": counts}, path, "report") == (
        "private data: 3 e-mail addresses, 1 phone number in 1 dialogue (p/private.jsonl; "
        "data.redact: replace takes them out)"
    )
    assert summary({}, path, "none") == ""
    assert summary({"private_data": counts | {"num_dialogues": 0}}, path, "report") == ""
