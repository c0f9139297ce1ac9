"""Windows lose no target, repeat none, and never exceed their length."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuning.dialogue import Turn
from tuning.encoding.cutting import Window, cut_windows, trained_turns
from tuning.tokens.template import EncodedTurn

TAGS = {"a": 1, "b": 2, "c": 3}
END = 4
FIRST_CONTENT_ID = 10


@st.composite
def dialogues(draw: st.DrawFn) -> list[EncodedTurn]:
    """Turns whose content ids are all different, so that each token can be followed."""
    ids = count(FIRST_CONTENT_ID)
    lengths = st.one_of(st.integers(0, 8), st.integers(0, 45))
    drawn = draw(st.lists(st.tuples(st.sampled_from("abc"), lengths), max_size=12))
    return [
        EncodedTurn(name, [TAGS[name]], [next(ids) for _ in range(length)], [END])
        for name, length in drawn
    ]


def text(turn: EncodedTurn) -> list[int]:
    return turn.tag + turn.content + turn.end


def said(turns: list[EncodedTurn]) -> list[Turn]:
    """Who speaks, which is all that decides."""
    return [Turn(turn.speaker, "") for turn in turns]


def targets(window: Window) -> list[int]:
    return [i for i, target in zip(window.input_ids, window.is_target, strict=True) if target]


cases = given(
    dialogues(),
    st.sampled_from(["all", "last", "a", "b"]),
    st.integers(16, 30),
    st.integers(0, 4),
)


def cut(
    turns: list[EncodedTurn], loss_on: str, max_length: int, context_turns: int
) -> list[Window]:
    return cut_windows(
        turns,
        trained_turns(said(turns), loss_on),
        max_length=max_length,
        context_turns=context_turns,
    ).windows


@cases
@settings(max_examples=120)
def test_every_trained_token_is_a_target_once_and_in_order(
    turns: list[EncodedTurn], loss_on: str, max_length: int, context_turns: int
) -> None:
    trained = {"all": turns, "last": turns[-1:]}.get(
        loss_on, [turn for turn in turns if turn.speaker == loss_on]
    )
    found = [
        i for window in cut(turns, loss_on, max_length, context_turns) for i in targets(window)
    ]
    assert found == [i for turn in trained for i in turn.content + turn.end]


@cases
@settings(max_examples=120)
def test_a_window_fits_begins_with_a_tag_and_trains_none(
    turns: list[EncodedTurn], loss_on: str, max_length: int, context_turns: int
) -> None:
    for window in cut(turns, loss_on, max_length, context_turns):
        assert len(window.input_ids) == len(window.is_target) <= max_length
        assert window.input_ids[0] in TAGS.values()
        assert not window.is_target[0]
        assert not set(targets(window)) & set(TAGS.values())
        assert any(window.is_target)


@cases
@settings(max_examples=120)
def test_a_window_is_a_run_of_whole_turns_or_of_parts_of_one_that_is_too_long(
    turns: list[EncodedTurn], loss_on: str, max_length: int, context_turns: int
) -> None:
    pieces: list[list[int]] = []
    for turn in turns:
        body, room = turn.content + turn.end, max_length - 1
        cuts = range(0, len(body), room) if len(turn) > max_length else [0]
        pieces += [turn.tag + body[start : start + room] for start in cuts]
    runs = [
        [i for piece in pieces[start:end] for i in piece]
        for end in range(len(pieces) + 1)
        for start in range(end)
    ]
    for window in cut(turns, loss_on, max_length, context_turns):
        assert window.input_ids in runs


@given(dialogues(), st.integers(16, 30), st.integers(0, 4))
@settings(max_examples=120)
def test_a_later_window_repeats_only_earlier_turns_as_untrained_context(
    turns: list[EncodedTurn], max_length: int, context_turns: int
) -> None:
    """Where all turns are trained, what comes before the first target's tag is context."""
    seen: set[int] = set()
    for number, window in enumerate(cut(turns, "all", max_length, context_turns)):
        first = window.is_target.index(True)
        context = window.input_ids[: first - 1]
        assert sum(i in TAGS.values() for i in context) <= (context_turns if number else 0)
        assert {i for i in context if i >= FIRST_CONTENT_ID} <= seen
        rest = zip(window.input_ids[first:], window.is_target[first:], strict=True)
        assert all(target or i in TAGS.values() for i, target in rest)
        seen |= set(window.input_ids)


@cases
@settings(max_examples=120)
def test_what_is_in_no_window_is_counted(
    turns: list[EncodedTurn], loss_on: str, max_length: int, context_turns: int
) -> None:
    """Content ids are all different; a turn's tag and end are in a window if its content is."""
    result = cut_windows(
        turns,
        trained_turns(said(turns), loss_on),
        max_length=max_length,
        context_turns=context_turns,
    )
    seen = {i for window in result.windows for i in window.input_ids}
    missing = 0
    for turn in turns:
        if not turn.content:  # cannot be followed: leave such dialogues to the other tests
            return
        lost = [i for i in turn.content if i not in seen]
        whole = len(turn) <= max_length
        missing += len(lost) + (lost[:1] == turn.content[:1]) * len(turn.tag)
        missing += bool(lost) * len(turn.end) if whole else 0
        if not whole and lost:  # its end stands in its last part
            missing += lost[-1] == turn.content[-1]
    assert result.num_truncated == missing


@cases
@settings(max_examples=60)
def test_what_begins_a_window_takes_its_room_and_changes_nothing_else(
    turns: list[EncodedTurn], loss_on: str, max_length: int, context_turns: int
) -> None:
    trained = trained_turns(said(turns), loss_on)
    plain = cut_windows(turns, trained, max_length=max_length, context_turns=context_turns)
    begun = cut_windows(
        turns, trained, max_length=max_length + 2, context_turns=context_turns, start_ids=[7, 8]
    )
    assert begun.num_truncated == plain.num_truncated
    assert begun.windows == [
        Window([7, 8, *window.input_ids], [False, False, *window.is_target])
        for window in plain.windows
    ]


@st.composite
def wide_dialogues(draw: st.DrawFn) -> list[EncodedTurn]:
    """Tags of one to four tokens and ends of one to three, as chat templates have them."""
    content = count(FIRST_CONTENT_ID)
    tags = {name: [100 + 10 * n] * draw(st.integers(1, 4)) for n, name in enumerate("ab")}
    end = [-1, -2, -3][: draw(st.integers(1, 3))]
    drawn = draw(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60)), max_size=8))
    return [
        EncodedTurn(name, tags[name], [1000 + next(content) for _ in range(length)], end)
        for name, length in drawn
    ]


@given(wide_dialogues(), st.sampled_from(["all", "last", "a"]), st.integers(16, 30))
@settings(max_examples=150)
def test_tags_and_ends_may_have_several_tokens(
    turns: list[EncodedTurn], loss_on: str, max_length: int
) -> None:
    """None is cut in two, and a window says which turns and parts it is made of."""
    windows = cut(turns, loss_on, max_length, 2)
    trained = trained_turns(said(turns), loss_on)
    wanted = [i for turn, own in zip(turns, trained, strict=True) if own for i in text(turn)]
    tags = {i for turn in turns for i in turn.tag}
    assert [i for window in windows for i in targets(window)] == [
        i for i in wanted if i not in tags
    ]
    ends = {tuple(turn.end) for turn in turns}
    for window in windows:
        assert len(window.input_ids) <= max_length
        assert window.input_ids == [i for part in window.parts for i in text(part)]
        assert all(not part.end or tuple(part.end) in ends for part in window.parts)
        assert all(part.tag for part in window.parts)


def test_a_window_too_short_for_a_tag_and_an_end_is_an_error() -> None:
    turn = EncodedTurn("a", [1] * 10, [5] * 20, [4] * 6)
    with pytest.raises(ValueError, match="no room for a turn's tag and its end"):
        cut([turn], "all", 16, 0)


def test_a_run_of_untrained_turns_is_context_where_it_is_near_and_else_left_out() -> None:
    turns = [EncodedTurn(f"s{n}", [1], [10 + n] * 4, [4]) for n in range(8)]
    result = cut_windows(turns, trained_turns(said(turns), "s7"), max_length=16, context_turns=1)
    assert [window.input_ids for window in result.windows] == [[1, *[16] * 4, 4, 1, *[17] * 4, 4]]
    assert result.num_truncated == 6 * 6


def test_the_drawing_in_the_docstring() -> None:
    letters = {"S1": 1, "S2": 2, "a": 10, "b": 11, "c": 12, "d": 13, "E": 4}

    def turn(drawn: str) -> EncodedTurn:
        tag, *content, end = (letters[letter] for letter in drawn.split())
        return EncodedTurn(drawn[:2], [tag], content, [end])

    turns = [turn(drawn) for drawn in ("S1 a a E", "S2 b b E", "S1 c c E", "S2 d E")]
    drawing = [
        ("S1 a a E  S2 b b E", ". t t t  . t t t"),
        ("S2 b b E  S1 c c E", ". . . .  . t t t"),
        ("S1 c c E  S2 d E", ". . . .  . t t"),
    ]
    assert cut(turns, "all", 10, 1) == [
        Window([letters[i] for i in ids.split()], [mark == "t" for mark in marks.split()])
        for ids, marks in drawing
    ]


def test_a_turn_that_is_too_long_is_split_with_its_tag_in_every_part() -> None:
    turns = [
        EncodedTurn("a", [1], [10, 11], [4]),
        EncodedTurn("b", [2], list(range(12, 47)), [4]),
        EncodedTurn("a", [1], [50], [4]),
    ]
    windows = cut(turns, "all", 16, 2)
    assert [window.input_ids for window in windows] == [
        [1, 10, 11, 4],
        [2, *range(12, 27)],
        [2, *range(27, 42)],
        [2, *range(42, 47), 4, 1, 50, 4],
    ]
    assert [window.is_target for window in windows] == [
        [False, True, True, True],
        [False] + [True] * 15,
        [False] + [True] * 15,
        [False] + [True] * 6 + [False, True, True],
    ]


def test_the_last_turn_alone_is_trained_with_its_context() -> None:
    turns = [EncodedTurn("ab"[n % 2], [1 + n % 2], [10 + n] * 4, [4]) for n in range(4)]
    assert cut(turns, "last", 16, 1) == [
        Window([1, 12, 12, 12, 12, 4, 2, 13, 13, 13, 13, 4], [False] * 7 + [True] * 5)
    ]


def test_a_window_is_filled_to_the_last_token() -> None:
    turns = [EncodedTurn("ab"[n % 2], [1 + n % 2], [10 + n, 20 + n], [4]) for n in range(5)]
    windows = cut(turns, "all", 16, 0)
    assert [len(window.input_ids) for window in windows] == [16, 4]
    windows = cut(turns, "all", 16, 3)
    assert [len(window.input_ids) for window in windows] == [16, 16]
    assert windows[1].is_target == [False] * 13 + [True] * 3
