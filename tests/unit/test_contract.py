"""A window that would be trained wrongly is an error, whatever went wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, Lowercase
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from tuning.dialogue import Dialogue, Turn, to_line
from tuning.encoding.contract import (
    ContractError,
    check_renderings,
    check_text,
    check_windows,
)
from tuning.encoding.cutting import Window, cut_windows
from tuning.encoding.encoder import Encoder
from tuning.reading.pieces import LineRange, read_pieces
from tuning.run.errors import UserError
from tuning.tokens.speaker_tokens import END_OF_TURN, SpeakerTokens, add_dialogue_tokens
from tuning.tokens.template import (
    EncodedTurn,
    NotEncodableError,
    Rendering,
    Template,
    TurnByTurn,
)
from tuning.tokens.tokenizer import load_tokenizer

START, TAG_A, TAG_B, END, PAD = 0, 1, 2, 4, 5
TURNS = [
    EncodedTurn([TAG_A], [10, 11], [END]),
    EncodedTurn([TAG_B], [12, 13], [END]),
    EncodedTurn([TAG_A], [14], [END]),
]
RENDERING = Rendering(
    [START, TAG_A, 10, 11, END, TAG_B, 12, 13, END, TAG_A, 14, END],
    [False] * 6 + [True] * 3 + [False] + [True] * 2,
)
NUM_TRAINED = 2
GOOD = [
    Window(RENDERING.input_ids[:9], RENDERING.is_target[:9]),
    Window([START, *RENDERING.input_ids[4:]], [False] * 7 + [True] * 2, 1, 4),
]


def template() -> Template:
    """What the contract asks a template for."""
    asked = SimpleNamespace(
        stop_ids=frozenset({END}), untrained_ids=frozenset({TAG_A, TAG_B, PAD, START})
    )
    return cast(Template, asked)


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


def rendered(*changes: tuple[int, int, bool]) -> Rendering:
    """The good rendering with other tokens and marks at some places."""
    ids, marks = [*RENDERING.input_ids], [*RENDERING.is_target]
    for place, token, mark in changes:
        ids[place], marks[place] = token, mark
    return Rendering(ids, marks)


def test_what_is_good_is_good_and_is_what_is_made() -> None:
    check_renderings([RENDERING], NUM_TRAINED, template())
    check_windows(GOOD, RENDERING, max_length=9)
    reading = TurnByTurn([START], TURNS, 0)
    assert reading.renderings([False, True, True]) == [RENDERING]
    assert reading.num_head(RENDERING) == 1
    assert cut_windows(RENDERING, max_length=9, min_context=2, num_head=1) == GOOD


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        pytest.param(marked(0, 8, False), "train 4 tokens, .* not the 5", id="end-not-trained"),
        pytest.param(
            marked(1, 0, True), "window 2 trains its first token", id="a-beginning-is-trained"
        ),
        pytest.param(marked(1, 2, True), "train 6 tokens", id="a-context-tag-is-trained"),
        pytest.param(marked(1, 6, True), "train 6 tokens", id="an-own-tag-is-trained"),
        pytest.param(marked(1, 3, True), "train 6 tokens", id="context-is-trained-again"),
        pytest.param(marked(0, 2, True), "train 6 tokens", id="an-untrained-turn-is-trained"),
        pytest.param(with_id(0, 6, 99), "window 1 does not hold .* in order", id="another-token"),
        pytest.param(with_id(1, 3, 99), "window 2 does not hold .* in order", id="other-context"),
        pytest.param(with_id(1, 0, 99), "window 2 does not hold .* in order", id="another-head"),
        pytest.param(
            [GOOD[0], replace(GOOD[1], begin=3)],
            "window 2 does not hold .* in order",
            id="it-begins-elsewhere",
        ),
        pytest.param(
            [GOOD[0], replace(GOOD[1], num_head=2)],
            "window 2 does not hold .* in order",
            id="its-head-is-longer",
        ),
        pytest.param(
            [
                GOOD[0],
                replace(GOOD[1], input_ids=GOOD[1].input_ids[1:], is_target=GOOD[1].is_target[1:]),
            ],
            "window 2 does not hold .* in order",
            id="it-has-no-head",
        ),
        pytest.param(GOOD[:1], "train 3 tokens", id="a-window-is-missing"),
        pytest.param([*GOOD, GOOD[1]], "train 7 tokens", id="a-window-stands-twice"),
        pytest.param(GOOD[::-1], "train 5 tokens, which are not the 5", id="another-order"),
        pytest.param(
            [*GOOD, Window([START, TAG_A], [False, False])],
            "window 3 trains nothing",
            id="no-target",
        ),
        pytest.param(
            [Window(RENDERING.input_ids[6:9], [True] * 3, 0, 6)],
            "window 1 trains its first token, which nothing predicts",
            id="no-context",
        ),
        pytest.param(
            [Window(GOOD[0].input_ids, [True])],
            "9 tokens and 1 marks",
            id="marks-and-tokens-differ",
        ),
    ],
)
def test_each_violation_of_a_window_is_found(windows: list[Window], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_windows(windows, RENDERING, max_length=9)


def test_a_window_that_is_too_long_is_found() -> None:
    with pytest.raises(ContractError, match="window 1 has 9 tokens .* at most 8"):
        check_windows(GOOD, RENDERING, max_length=8)


NEVER = "a speaker token, a pad or a window's beginning would be trained"


@pytest.mark.parametrize(
    ("renderings", "message"),
    [
        pytest.param([rendered((0, 99, True))], "its first token would be trained", id="the-first"),
        pytest.param([rendered((1, TAG_A, True))], NEVER, id="a-context-tag-is-trained"),
        pytest.param([rendered((5, TAG_B, True))], NEVER, id="an-own-tag-is-trained"),
        pytest.param([rendered((7, PAD, True))], NEVER, id="a-text-holds-a-pad"),
        pytest.param([rendered((7, TAG_A, True))], NEVER, id="a-text-holds-a-tag"),
        pytest.param([rendered((7, START, True))], NEVER, id="a-text-holds-a-beginning"),
        pytest.param([rendered((7, END, True))], "3 ends .* wanted 2", id="a-text-holds-an-end"),
        pytest.param([rendered((8, END, False))], "1 ends .* wanted 2", id="end-not-trained"),
        pytest.param([rendered((8, 99, True))], "1 ends .* wanted 2", id="no-end"),
        pytest.param(
            [rendered((2, 10, True), (3, 11, True), (4, END, True))],
            "3 ends .* wanted 2",
            id="an-untrained-turn-is-trained",
        ),
        pytest.param(
            [rendered((10, 14, False), (11, END, False))],
            "1 ends .* wanted 2",
            id="a-turn-is-missing",
        ),
        pytest.param([RENDERING, RENDERING], "4 ends .* wanted 2", id="all-are-trained-twice"),
        pytest.param([], "0 ends .* wanted 2", id="nothing-is-trained"),
    ],
)
def test_each_violation_of_what_is_trained_is_found(
    renderings: list[Rendering], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        check_renderings(renderings, NUM_TRAINED, template())


def test_trained_turns_may_stand_in_several_renderings() -> None:
    """Where a template rewrites the past, each has those turns that nothing else trains."""
    first = Rendering(RENDERING.input_ids[:9], RENDERING.is_target[:9])
    second = Rendering(RENDERING.input_ids, [False] * 10 + [True] * 2)
    check_renderings([first, second], NUM_TRAINED, template())


def test_text_must_come_back() -> None:
    dialogue = Dialogue("x", (Turn("a", "caf\u00e9"), Turn("b", "yes, it is")))
    assert check_text(dialogue, ["caf\u00e9", "yes, it is"]) == 0
    assert check_text(dialogue, ["cafe\u0301", "yes, it is"]) == 1
    with pytest.raises(
        NotEncodableError,
        match="changes turn 2 at character 5: 'yes, it is' comes back as 'yes,it is'",
    ):
        check_text(dialogue, ["caf\u00e9", "yes,it is"])


def encoder_with(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    add_dialogue_tokens(tokenizer, 2)
    return Encoder(SpeakerTokens.name, tokenizer, max_length=64, min_context=16, loss_on="all")


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
    assert encoder_with(tokenizer)(piece).counts["num_composed_turns"] == 1


@pytest.mark.parametrize(("part", "use"), [("train", "trained"), ("val", "scored")])
def test_a_dialogue_whose_text_ends_turns_stops_the_run_and_is_named(
    tmp_path: Path, part: str, use: str
) -> None:
    """A base model's vocabulary may have our spelling of an end as a word of any text."""
    words = {word: number for number, word in enumerate(["hello", END_OF_TURN, "[UNK]"])}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    encode = encoder_with(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"))
    said = (Turn("a", "hello"), Turn("b", f"hello {END_OF_TURN}"))
    with pytest.raises(UserError, match="dialogue 'the-one': 3 ends of turn .* wanted 2") as raised:
        encode(piece_of(tmp_path / "x.jsonl", *said, part=part))
    assert f"it would be {use} wrongly" in str(raised.value)
