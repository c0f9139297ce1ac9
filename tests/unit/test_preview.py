"""The preview shows all of a dialogue, as it is trained, and lets none of its text act."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections import Counter
from dataclasses import astuple, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tests.thorough import few_or_all
from tools.show import as_text, find, main
from tuning.dialogue import Dialogue, Turn, to_line, trained_turns
from tuning.encoding.cutting import cut_windows, num_left_out
from tuning.encoding.examples import examples
from tuning.encoding.preview import (
    ShownDialogue,
    ShownToken,
    ShownWindow,
    show_dialogue,
)
from tuning.encoding.preview_page import MAX_SHOWN_TOKENS, MAX_SHOWN_WINDOWS, as_html
from tuning.run.errors import UserError
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.templates import prepare_tokenizer
from tuning.tokens.texts import encode_texts, token_texts
from tuning.tokens.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
UTTERANCES = (
    "<script>alert(\"x & 'y'\")</script>",
    "🎉 and 👨\u200d👩\u200d👧, ☺\ufe0f",
    "tab\there\n\nesc \x1b[31mred\x7f \u202eabc\u202c nbsp\xa0.",
    "<|endofturn|><|speaker1|> &lt; &amp;",
    " two  spaces \n",
    "",
)
HOSTILE = Dialogue(
    '"><img onerror=1></title>',
    tuple(Turn("ab"[number % 2], text) for number, text in enumerate(UTTERANCES)),
)
PLAIN = Dialogue("plain", (Turn("ann", "Hello!\nHow are you?"), Turn("bob", "fine")))


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer(tiny_base)
    add_dialogue_tokens(tokenizer, 2)
    return tokenizer


@pytest.fixture(scope="module")
def template(tokenizer: PreTrainedTokenizerFast) -> SpeakerTokens:
    return SpeakerTokens(tokenizer)


def show(template: SpeakerTokens, dialogue: Dialogue, fate: str, **change: Any) -> ShownDialogue:
    cutting: dict[str, Any] = {"max_length": 64, "min_context": 16, "loss_on": "all"} | change
    return show_dialogue(dialogue, fate, template, **cutting)


def tokens(shown: ShownDialogue) -> list[ShownToken]:
    return [token for window in shown.windows for token in window.tokens]


def content(shown: ShownDialogue) -> list[str]:
    """Text of every turn, of a dialogue that repeats none."""
    return [
        "".join(token.text for token in turn if not token.is_special)
        for window in shown.windows
        for _, turn in window.turns
    ]


def as_written(mark: str) -> str:
    """The character that a stand-in stands for."""
    known = {"·": " ", "↵": "\n", "⇥": "\t"}
    return known[mark] if mark in known else str(ast.literal_eval(f"'{mark}'"))


class Page(HTMLParser):
    """What a browser sees: elements, and the boxes of tokens in the dialogues."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.boxes: list[tuple[str, str, int, bool]] = []
        self.segments: list[int] = []
        self._classes: list[str] = []
        self._open: list[str] = []
        self._text, self._num = "", 1
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self._open.append(tag)
        given = dict(attrs)
        classes = (given.get("class") or "").split()
        if tag == "span" and classes[0] == "t" and self.elements["article"]:
            self._classes, self._text, self._num = classes, "", 1
        if found := re.fullmatch(r"flex:(\d+)", given.get("style") or ""):
            self.segments.append(int(found[1]))

    def handle_data(self, data: str) -> None:
        if not self._classes:
            return
        match self._open[-1]:
            case "i":
                self._text += as_written(data)
            case "sup":
                self._num = int(data.removeprefix("×"))
            case _:
                self._text += data

    def handle_endtag(self, tag: str) -> None:
        while self._open.pop() != tag:  # <br>, <wbr> and <meta> have no end
            pass
        if tag == "span" and self._classes:
            kind, special = self._classes[1], self._classes[2:] == ["special"]
            self.boxes.append((self._text, kind, self._num, special))
            self._classes = []


@pytest.mark.parametrize("fate", ["train", "val", "test", "duplicate"])
def test_every_token_is_on_the_page_whole_and_with_its_kind(
    template: SpeakerTokens, fate: str
) -> None:
    shown = show(template, HOSTILE, fate, loss_on="a")
    one_by_one = [
        replace(shown, windows=(ShownWindow((*([tag] if tag else ()), *turn)),))
        for window in shown.windows
        for tag, turn in window.turns
    ]
    boxes = Page(as_html(one_by_one, {})).boxes
    assert boxes == [astuple(token) for token in tokens(shown)]
    kinds = {"train": {"trained", "context"}, "duplicate": {"dropped"}}.get(fate, {"held_out"})
    assert {kind for _, kind, _, _ in boxes} == kinds | {"speaker"}


def test_text_and_ids_are_never_markup(template: SpeakerTokens) -> None:
    html = as_html([show(template, HOSTILE, fate) for fate in ("train", "val", "duplicate")], {})
    assert not set(Page(html).elements) & {"script", "img", "link", "iframe", "a"}
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", html)
    assert "<code>&#34;\\x3e\\x3cimg onerror=1\\x3e\\x3c/title\\x3e…" in html


def test_names_in_a_ledger_are_never_markup() -> None:
    name = "dropped_</title><script>\"'"
    html = as_html([], {name: {name: 1}})
    assert not set(Page(html).elements) & {"script"}
    shown = "dropped: &lt;/title&gt;&lt;script&gt;&#34;&#39;"
    assert f'title="{shown}: 1"' in html and f"</span>{shown}</th>" in html


def test_the_page_needs_nothing_from_elsewhere_and_is_the_same_twice(
    template: SpeakerTokens,
) -> None:
    first, second = (
        as_html([show(template, PLAIN, "train")], {"tokens": {"trained": 3}}) for _ in range(2)
    )
    assert first == second
    assert not re.findall(r"https?:|//|src=|href=|url\(|@import", first)


def test_a_ledger_is_a_bar_of_what_is_there_and_a_table_of_all(template: SpeakerTokens) -> None:
    ledger = {"trained": 6000, "context": 0, "validation": 3999, "dropped_few_speakers": 1}
    html = as_html([], {"tokens": ledger})
    assert Page(html).segments == [6000, 3999, 1]
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert cells == ["6,000", "60.0 %", "0", "0.0 %", "3,999", "40.0 %", "1", "&lt; 0.1 %"]
    assert "10,000 tokens" in html and "dropped: few speakers" in html


def test_what_is_not_shown_is_counted(template: SpeakerTokens) -> None:
    turns = tuple(Turn("ab"[n % 2], "A captain 🎉 who looks for a whale. " * 9) for n in range(8))
    shown = show(template, Dialogue("x", turns), "train", max_length=400)
    assert len(shown.windows) > MAX_SHOWN_WINDOWS
    html = as_html([shown], {})
    boxes = Page(html).boxes
    assert len(boxes) == MAX_SHOWN_WINDOWS * MAX_SHOWN_TOKENS
    hidden = [int(number) for number in re.findall(r"… (\d+) more tokens", html)]
    in_windows = sum(window.num_tokens for window in shown.windows[:MAX_SHOWN_WINDOWS])
    assert sum(hidden) + sum(num_tokens for _, _, num_tokens, _ in boxes) == in_windows
    assert f"… {len(shown.windows) - MAX_SHOWN_WINDOWS} more window" in html


def test_the_first_trained_token_is_shown_however_long_the_text_before_it(
    template: SpeakerTokens,
) -> None:
    long = Turn("ann", "A captain 🎉 who looks for a whale. " * 9)
    shown = show(
        template,
        Dialogue("x", (long, Turn("bob", "fine"))),
        "train",
        max_length=4096,
        loss_on="last",
    )
    page = Page(html := as_html([shown], {}))
    assert "trained" in {kind for _, kind, _, _ in page.boxes}
    hidden = [int(number) for number in re.findall(r"… (\d+) more tokens", html)]
    assert sum(hidden) + sum(num for _, _, num, _ in page.boxes) == shown.num_tokens
    assert page.boxes[0][0] == "<|speaker1|>", "and so is the beginning"


texts = st.one_of(
    st.sampled_from([*UTTERANCES, "\ufffd\ufffd"]),
    st.text(st.characters(codec="utf-8"), max_size=30),
)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), texts), min_size=1, max_size=6),
    st.sampled_from(["all", "last", "a"]),
    st.integers(16, 60),
)
@settings(max_examples=few_or_all(80))
def test_marks_are_those_of_the_windows_that_are_trained(
    template: SpeakerTokens, said: list[tuple[str, str]], loss_on: str, max_length: int
) -> None:
    dialogue = Dialogue("x", tuple(Turn(name, text) for name, text in said))
    shown = show(template, dialogue, "train", max_length=max_length, loss_on=loss_on)
    [rendering] = template.read(dialogue).renderings(trained_turns(dialogue.turns, loss_on))
    cut = cut_windows(rendering, max_length=max_length, min_context=16)
    tags = {tag[0] for tag in template.tags(dialogue).values()}
    assert len(shown.windows) == len(cut)
    for window, cut_window in zip(shown.windows, cut, strict=True):
        kinds = [token.kind for token in window.tokens for _ in range(token.num_tokens)]
        assert kinds == [
            "speaker" if token_id in tags else "trained" if is_target else "context"
            for token_id, is_target in zip(cut_window.input_ids, cut_window.is_target, strict=True)
        ]
    assert shown.num_truncated == num_left_out(rendering, cut)
    assert shown.num_tokens == len(rendering.input_ids)


@given(st.lists(texts, min_size=1, max_size=5))
@settings(max_examples=few_or_all(80))
def test_the_boxes_of_a_turn_are_its_text(template: SpeakerTokens, said: list[str]) -> None:
    dialogue = Dialogue("x", tuple(Turn("a", text) for text in said))
    held_out = show(template, dialogue, "val")
    in_one_window = show(template, dialogue, "train", max_length=4096)
    assert content(held_out) == content(in_one_window) == said
    assert held_out.num_tokens == in_one_window.num_tokens == in_one_window.windows[0].num_tokens


@pytest.mark.parametrize("text", ["🎉", "é", "🎉🎉", "\ufffda\ufffd"])
def test_a_character_of_several_tokens_is_one_box(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    [input_ids] = encode_texts(tokenizer, [text])
    assert list(token_texts(tokenizer, input_ids)) == [(c, len(c.encode())) for c in text]


def test_a_space_is_shown_where_a_tokenizer_drops_that_of_a_texts_first_token() -> None:
    """As SentencePiece models do: decoded on its own, every word would lose its space."""
    backend = Tokenizer(WordLevel({"?": 0, "▁hello": 1, "▁world": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend)
    [input_ids] = encode_texts(words, ["hello world world"])
    assert [text for text, _ in token_texts(words, input_ids)] == ["hello", " world", " world"]


def test_half_a_character_is_shown_as_such(tokenizer: PreTrainedTokenizerFast) -> None:
    [input_ids] = encode_texts(tokenizer, ["🎉"])
    assert list(token_texts(tokenizer, input_ids[:3])) == [("\ufffd", 3)]


def test_a_dropped_dialogue_may_have_more_speakers_than_there_are_tokens_for(
    template: SpeakerTokens,
) -> None:
    dialogue = Dialogue("x", tuple(Turn(name, "hi") for name in "abc"))
    shown = show(template, dialogue, "many_speakers")
    tags = [token.text for token in tokens(shown) if token.kind == "speaker"]
    assert tags == ["<|speaker1|>", "<|speaker2|>", "<|speaker3|>"]
    assert shown.title == "Dropped: many speakers"


@pytest.mark.parametrize(("fate", "mark"), [("train", "+"), ("val", "="), ("duplicate", "-")])
def test_the_terminal_form_holds_the_dialogues_text(
    template: SpeakerTokens, fate: str, mark: str
) -> None:
    printed = as_text(show(template, HOSTILE, fate, max_length=1000))
    lines = [line for line in printed.splitlines()[4:] if not line.startswith("window")]
    assert {line[:2] for line in lines} == {f"{mark} "}
    turns = "".join(line[2:].lstrip(" ") for line in lines).split("│<|endofturn|>")
    without_tags = [re.sub(r"^<\|speaker\d\|>│?", "", turn).replace("│", "") for turn in turns]
    stand_in = r"↵|⇥|\\x..|\\u...."
    read = [re.sub(stand_in, lambda found: as_written(found[0]), turn) for turn in without_tags]
    assert read == [*UTTERANCES, ""]


def test_context_and_targets_differ_without_colour(template: SpeakerTokens) -> None:
    printed = as_text(show(template, PLAIN, "train", loss_on="last"))
    assert [line[:14] for line in printed.splitlines()[5:]] == [
        ". <|speaker1|>",
        ".             ",
        "+ <|speaker2|>",
    ]


def test_colour_only_where_asked_for(template: SpeakerTokens) -> None:
    shown = show(template, HOSTILE, "train")
    plain, painted = as_text(shown), as_text(shown, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[32m" in painted
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == plain


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Prep's folder: five short training dialogues and a long one between them."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    long = Dialogue(
        "long", tuple(Turn("ab"[n % 2], "Oh nice! What is it about?") for n in range(9))
    )
    short = [Dialogue(f"short-{n}", PLAIN.turns) for n in range(5)]
    sides = {"train": [*short[:3], long, *short[3:]], "val": [PLAIN, HOSTILE]}
    for side, dialogues in sides.items():
        lines = [to_line(dialogue) + "\n" for dialogue in dialogues]
        (folder / f"{side}.jsonl").write_text("".join(lines), encoding="utf-8")
    dropped = [("d1", "duplicate"), ("d2", "duplicate"), ("d3", "few_turns"), ("d4", "excess")]
    lines = [
        f'{{"where": "f:1", "reason": "{reason}", {to_line(Dialogue(name, PLAIN.turns))[1:]}\n'
        for name, reason in dropped
    ]
    (folder / "dropped.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def test_examples_are_the_first_of_their_kind(prepared: Path, template: SpeakerTokens) -> None:
    chosen = examples(prepared, lambda dialogue, fate: show(template, dialogue, fate))
    assert [(shown.dialogue_id, shown.bucket) for shown in chosen] == [
        ("short-0", "train"),
        ("short-1", "train"),
        ("long", "train"),
        ("plain", "validation"),
        ("d1", "dropped_duplicate"),
        ("d3", "dropped_few_turns"),
    ]


def test_a_dialogue_is_found_wherever_prep_put_it(prepared: Path) -> None:
    assert find("long", prepared)[1] == "train"
    assert find(HOSTILE.dialogue_id, prepared) == (HOSTILE, "val")
    assert find("d3", prepared)[1] == "few_turns"


@pytest.mark.parametrize(
    ("dialogue_id", "message"),
    [
        ("short-9", "no dialogue with the id 'short-9'. Did you mean 'short-"),
        ("lon", "no dialogue with the id 'lon'. Did you mean 'long'?"),
        ("zzz", "no dialogue with the id 'zzz'. The first one's is 'short-0'."),
        ("", "no dialogue with the id ''. The first one's is 'short-0'."),
    ],
)
def test_an_unknown_id_is_answered_with_known_ones(
    prepared: Path, dialogue_id: str, message: str
) -> None:
    with pytest.raises(UserError) as raised:
        find(dialogue_id, prepared)
    assert message in str(raised.value)


def test_the_command_prints_the_dialogue_or_what_is_to_be_run_first(
    prepared: Path,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["show", "--prepared", "prepared", "--tokenizer", "tokenizer", "--", "d3"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(UserError, match="tokenizer not found; .* run dvc repro first"):
        main()
    prepare_tokenizer(tiny_base, tmp_path / "tokenizer", 2)
    main()
    printed = capsys.readouterr().out
    assert printed.startswith("d3: Dropped: few turns\n")
    assert "Hello" in printed.replace("│", "") and "\x1b" not in printed
    prepared.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="prepared not found; .* run dvc repro first"):
        main()
