"""A window that would be trained wrongly is an error, whatever went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tokenizers.normalizers import NFC, Lowercase
from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue, Turn, to_line
from tuning.encoding.contract import ContractError, check_text, check_windows
from tuning.encoding.cutting import Window, cut_windows
from tuning.encoding.encoder import Encoder
from tuning.reading.pieces import LineRange, read_pieces
from tuning.tokens.speaker_tokens import SpeakerTokens, add_dialogue_tokens
from tuning.tokens.template import EncodedTurn, Template
from tuning.tokens.tokenizer import load_tokenizer

TAG_A, TAG_B, END, PAD = 1, 2, 4, 5
TURNS = [
    EncodedTurn("a", [TAG_A], [10, 11], [END]),
    EncodedTurn("b", [TAG_B], [12, 13], [END]),
    EncodedTurn("a", [TAG_A], [14], [END]),
]
TRAINED = [False, True, True]
GOOD = [
    Window(
        [TAG_A, 10, 11, END, TAG_B, 12, 13, END], [False, False, False, False, False] + [True] * 3
    ),
    Window([TAG_B, 12, 13, END, TAG_A, 14, END], [False] * 5 + [True] * 2),
]


def template(start: Sequence[int] = ()) -> Template:
    """What the contract asks a template for."""
    asked = SimpleNamespace(
        start=list(start),
        stop_ids=frozenset({END}),
        untrained_ids=frozenset({TAG_A, TAG_B, PAD, *start}),
    )
    return cast(Template, asked)


def check(windows: list[Window], max_length: int = 8, start_ids: Sequence[int] = ()) -> None:
    check_windows(
        windows,
        TURNS,
        TRAINED,
        max_length=max_length,
        template=template(start_ids),
    )


def marked(window: int, index: int, mark: bool) -> list[Window]:
    """The good windows with one mark changed."""
    marks = list(GOOD[window].is_target)
    marks[index] = mark
    return [replace(w, is_target=marks) if n == window else w for n, w in enumerate(GOOD)]


def with_id(window: int, index: int, token: int) -> list[Window]:
    """The good windows with one token changed."""
    ids = list(GOOD[window].input_ids)
    ids[index] = token
    return [replace(w, input_ids=ids) if n == window else w for n, w in enumerate(GOOD)]


def test_good_windows_are_good_and_are_what_is_made() -> None:
    check(GOOD)
    assert cut_windows(TURNS, TRAINED, max_length=8, context_turns=1).windows == GOOD


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        pytest.param(marked(0, 7, False), "train 4 tokens, .* not the 5", id="end-not-trained"),
        pytest.param(marked(1, 0, True), "train 6 tokens", id="a-context-tag-is-trained"),
        pytest.param(marked(1, 4, True), "train 6 tokens", id="an-own-tag-is-trained"),
        pytest.param(marked(1, 1, True), "train 6 tokens", id="context-is-trained-again"),
        pytest.param(marked(0, 1, True), "train 6 tokens", id="an-untrained-turn-is-trained"),
        pytest.param(with_id(0, 5, 99), "not the 5 of the 2 turns", id="another-token"),
        pytest.param(with_id(0, 5, PAD), "not the 5 of the 2 turns", id="a-pad"),
        pytest.param(GOOD[:1], "train 3 tokens", id="a-window-is-missing"),
        pytest.param([*GOOD, GOOD[1]], "train 7 tokens", id="a-window-stands-twice"),
        pytest.param(GOOD[::-1], "not the 5 of the 2 turns", id="another-order"),
        pytest.param(
            [*GOOD, Window([TAG_A, 10], [False, False])],
            "window 3 trains nothing",
            id="no-target",
        ),
        pytest.param(
            [Window(GOOD[0].input_ids, [True])],
            "8 tokens and 1 marks",
            id="marks-and-tokens-differ",
        ),
    ],
)
def test_each_violation_is_found(windows: list[Window], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check(windows)


def test_a_window_that_is_too_long_is_found() -> None:
    with pytest.raises(ContractError, match="window 1 has 8 tokens .* at most 7"):
        check(GOOD, max_length=7)


def test_a_window_that_begins_otherwise_is_found() -> None:
    begun = [
        replace(one, input_ids=[7, *one.input_ids], is_target=[False, *one.is_target])
        for one in GOOD
    ]
    check(begun, max_length=9, start_ids=[7])
    with pytest.raises(ContractError, match=r"window 2 does not begin with \[7\]"):
        check([begun[0], GOOD[1]], max_length=9, start_ids=[7])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([10, PAD], "a speaker token, a pad or a window's beginning would be trained"),
        ([10, END], "2 ends of turn would be trained; wanted 1"),
    ],
)
def test_tokens_that_must_never_be_trained_are_found_where_the_turns_hold_them_too(
    content: list[int], message: str
) -> None:
    window = Window([TAG_A, *content, END], [False, True, True, True])
    with pytest.raises(ContractError, match=message):
        check_windows(
            [window],
            [EncodedTurn("a", [TAG_A], content, [END])],
            [True],
            max_length=8,
            template=template(),
        )


def test_text_must_come_back() -> None:
    dialogue = Dialogue("x", (Turn("a", "caf\u00e9"), Turn("b", "yes, it is")))
    assert check_text(dialogue, ["caf\u00e9", "yes, it is"]) == 0
    assert check_text(dialogue, ["cafe\u0301", "yes, it is"]) == 1
    with pytest.raises(
        ContractError, match="changes turn 2 at character 5: 'yes, it is' comes back as 'yes,it is'"
    ):
        check_text(dialogue, ["caf\u00e9", "yes,it is"])


def encoder_with(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    add_dialogue_tokens(tokenizer, 2)
    return Encoder(SpeakerTokens.name, tokenizer, max_length=64, context_turns=2, loss_on="all")


def piece_of(path: Path, *turns: Turn, part: str = "train") -> tuple[str, LineRange]:
    path.write_text(to_line(Dialogue("the-one", turns)) + "\n", encoding="utf-8")
    [piece] = read_pieces(path)
    assert isinstance(piece, LineRange)
    return part, piece


@pytest.mark.parametrize(("part", "side"), [("train", "trained"), ("val", "validation")])
def test_a_dialogue_that_the_tokenizer_changes_is_named_and_has_no_windows(
    tiny_base: Path, tmp_path: Path, part: str, side: str
) -> None:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    encode = encoder_with(tokenizer)
    changed = encode(
        piece_of(tmp_path / "x.jsonl", Turn("a", "hello"), Turn("b", "Hello"), part=part)
    )
    sound = encode(
        piece_of(tmp_path / "y.jsonl", Turn("a", "hello"), Turn("b", "hello"), part=part)
    )
    assert changed.not_encodable == [
        "dialogue 'the-one': the tokenizer changes turn 2 at character 1: 'Hello' comes back as "
        "'hello'"
    ]
    assert not len(changed.lengths) and len(sound.lengths) == 1
    assert changed.num_tokens == {"dropped_not_encodable": sound.num_tokens.total()}
    assert sound.num_tokens[side] and not sound.not_encodable


def test_a_tokenizer_that_composes_unicode_is_no_error_but_is_counted(
    tiny_base: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.backend_tokenizer.normalizer = NFC()
    piece = piece_of(tmp_path / "train.jsonl", Turn("a", "cafe\u0301"), Turn("b", "caf\u00e9"))
    assert encoder_with(tokenizer)(piece).num_composed_turns == 1
