"""Windows lose no target, repeat none, and never exceed their length."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, chain, compress, count

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.thorough import few_or_all
from tuning.dialogue import Turn, trained_turns
from tuning.encoding.cutting import (
    Window,
    cut_windows,
    num_left_out,
    num_without_turn_before,
    weights_of,
)
from tuning.tokens.template import EncodedTurn, Rendering, TurnByTurn


@dataclass(frozen=True)
class Case:
    """A rendering whose ids are its indices, so that each token can be followed."""

    is_target: list[bool]
    turn_starts: list[int]
    max_length: int
    min_context: int
    num_head: int

    @property
    def rendering(self) -> Rendering:
        return Rendering([*range(len(self.is_target))], self.is_target)

    @property
    def targets(self) -> list[int]:
        return [place for place, one in enumerate(self.is_target) if one]

    @property
    def head(self) -> int:
        """Tokens of the head that a later window has: at most half of one."""
        return min(self.num_head, self.max_length // 2)

    @property
    def context(self) -> int:
        """Tokens before its own that a later window has at least: at most half of the rest."""
        return min(self.min_context, (self.max_length - self.head) // 2)

    @property
    def windows(self) -> list[Window]:
        return cut_windows(
            self.rendering,
            max_length=self.max_length,
            min_context=self.min_context,
            num_head=self.num_head,
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Turns of any length, each with marks or none and then, if it is trained, targets."""
    start = draw(st.integers(0, 2))
    lengths = st.one_of(st.integers(1, 8), st.integers(1, 50))
    turns = draw(st.lists(st.tuples(lengths, st.integers(0, 3), st.booleans()), max_size=12))
    if turns and start == 0:  # nothing predicts a first token
        turns[0] = (turns[0][0], 1, turns[0][2])
    is_target = [False] * start
    for length, num_marks, is_trained in turns:
        is_target += [False] * num_marks + [is_trained] * length
    sizes = [length + num_marks for length, num_marks, _ in turns]
    return Case(
        is_target,
        [*accumulate(sizes[:-1], initial=start)],
        max_length=draw(st.integers(16, 30)),
        min_context=draw(st.integers(1, 30)),
        num_head=draw(st.integers(0, len(is_target))),
    )


def own(window: Window) -> list[int]:
    """The ids of its targets."""
    return [i for i, target in zip(window.input_ids, window.is_target, strict=True) if target]


@given(cases())
@settings(max_examples=few_or_all(80))
def test_every_target_is_in_one_window_and_in_order(case: Case) -> None:
    assert [i for window in case.windows for i in own(window)] == case.targets


@given(cases())
@settings(max_examples=few_or_all(80))
def test_a_window_fits_and_ends_with_a_target_but_does_not_begin_with_one(case: Case) -> None:
    for window in case.windows:
        assert len(window.input_ids) == len(window.is_target) <= case.max_length
        assert window.is_target[-1]
        assert not window.is_target[0]  # what stands before it in a row is another dialogue


@given(cases())
@settings(max_examples=few_or_all(80))
def test_a_window_is_the_beginning_or_the_head_and_a_run_as_long_as_fits(case: Case) -> None:
    """So it sees all of what stands before its targets that there is room for."""
    for number, window in enumerate(case.windows):
        stop = window.input_ids[-1] + 1
        if stop <= case.max_length:
            assert number == 0
            assert window.input_ids == [*range(stop)]
            assert (window.num_head, window.begin) == (0, 0)
        else:
            begin = stop - (case.max_length - case.head)
            assert begin > case.head  # nothing stands in it twice
            assert window.input_ids == [*range(case.head), *range(begin, stop)]
            assert (window.num_head, window.begin) == (case.head, begin)


@given(cases())
@settings(max_examples=few_or_all(80))
def test_the_first_own_token_of_a_later_window_sees_min_context_before_it(case: Case) -> None:
    for window in case.windows:
        if window.begin:
            assert own(window)[0] - window.begin >= case.context


def fewest_windows(case: Case) -> int:
    """Of all ways to put the targets into windows, in order; the beginning is one if it has any."""
    targets = case.targets
    room = case.max_length - case.head - case.context
    fewest = [0]
    for stop in range(1, len(targets) + 1):
        last = targets[stop - 1]
        fewest.append(
            min(
                1 + fewest[start]
                for start in range(stop)
                if last < case.max_length or case.max_length <= targets[start] > last - room
            )
        )
    return fewest[-1]


@given(cases())
@settings(max_examples=few_or_all(80))
def test_there_are_as_few_windows_as_can_be(case: Case) -> None:
    assert len(case.windows) == fewest_windows(case)


@given(cases())
@settings(max_examples=few_or_all(80))
def test_what_is_in_no_window_is_counted(case: Case) -> None:
    seen = {i for window in case.windows for i in window.input_ids}
    assert num_left_out(case.rendering, case.windows) == len(case.is_target) - len(seen)


@given(cases())
@settings(max_examples=few_or_all(120))
def test_targets_that_see_a_part_or_nothing_of_the_turn_before_are_counted(case: Case) -> None:
    stops = [*case.turn_starts[1:], len(case.is_target)]
    spans = [range(*span) for span in zip(case.turn_starts, stops, strict=True)]
    in_part = whole = 0
    for window in case.windows:
        seen = set(window.input_ids)
        for target in own(window):
            turn = next(number for number, span in enumerate(spans) if target in span)
            if turn == 0:
                continue
            num_seen = len(seen.intersection(spans[turn - 1]))
            in_part += 0 < num_seen < len(spans[turn - 1])
            whole += num_seen == 0
    assert num_without_turn_before(case.windows, case.turn_starts) == (in_part, whole)


@given(cases(), st.integers(1, 5))
@settings(max_examples=few_or_all(100))
def test_what_fits_is_one_window_without_what_stands_behind_its_last_target(
    case: Case, more: int
) -> None:
    assume(case.targets)
    stop = case.targets[-1] + 1
    windows = cut_windows(
        case.rendering,
        max_length=len(case.is_target) + more,
        min_context=case.min_context,
        num_head=case.num_head,
    )
    assert windows == [Window([*range(stop)], case.is_target[:stop])]


def test_without_a_target_there_is_no_window() -> None:
    nothing = Rendering([*range(40)], [False] * 40)
    assert cut_windows(nothing, max_length=16, min_context=2) == []
    assert num_left_out(nothing, []) == 40


@st.composite
def dialogues(draw: st.DrawFn) -> tuple[list[Turn], TurnByTurn]:
    """Tags of one to four tokens and ends of one to three, as chat templates have them."""
    ids = count()
    tags = {name: [next(ids) for _ in range(draw(st.integers(1, 4)))] for name in "abc"}
    end = [next(ids) for _ in range(draw(st.integers(1, 3)))]
    start = [next(ids) for _ in range(draw(st.integers(0, 2)))]
    lengths = st.one_of(st.integers(0, 8), st.integers(0, 60))
    drawn = draw(st.lists(st.tuples(st.sampled_from("abc"), lengths), min_size=1, max_size=10))
    turns = [
        EncodedTurn(tags[name], [next(ids) for _ in range(length)], end) for name, length in drawn
    ]
    return [Turn(name, "") for name, _ in drawn], TurnByTurn(start, turns, 0)


@given(
    dialogues(),
    st.sampled_from(["all", "last", "a", ["a", "b"]]),
    st.integers(16, 30),
    st.integers(1, 15),
)
@settings(max_examples=few_or_all(150))
def test_all_that_is_trained_of_a_dialogue_is_a_target_once_and_no_tag_is(
    drawn: tuple[list[Turn], TurnByTurn],
    loss_on: str | list[str],
    max_length: int,
    min_context: int,
) -> None:
    turns, reading = drawn
    trained = trained_turns(turns, loss_on)
    [rendering] = reading.renderings(trained)
    windows = cut_windows(
        rendering,
        max_length=max_length,
        min_context=min_context,
        num_head=reading.num_head(rendering),
    )
    assert [i for window in windows for i in own(window)] == [
        i
        for turn, is_trained in zip(reading.turns, trained, strict=True)
        if is_trained
        for i in turn.content + turn.end
    ]
    for window in windows:
        assert window.input_ids[: len(reading.start)] == reading.start
        assert not any(window.is_target[: len(reading.start)])


def test_a_run_of_untrained_turns_is_context_where_it_is_near_and_else_left_out() -> None:
    rendering = Rendering([*range(48)], [False] * 43 + [True] * 5)
    windows = cut_windows(rendering, max_length=16, min_context=4)
    assert windows == [Window([*range(32, 48)], [False] * 11 + [True] * 5, 0, 32)]
    assert num_left_out(rendering, windows) == 32


def test_the_drawing_in_the_docstring() -> None:
    letters = "Habcdefghijkl"
    dialogue = ". . t t t . t t t t t . t"
    drawing = [
        ("H a b c d e f g", ". . t t t . t t", 0, 0),
        ("H f g h i j k l", ". . . t t t . t", 1, 6),
    ]
    marks = [mark == "t" for mark in dialogue.split()]
    rendering = Rendering([*map(ord, letters)], marks)
    assert cut_windows(rendering, max_length=8, min_context=2, num_head=1) == [
        Window([*map(ord, ids.split())], [mark == "t" for mark in marked.split()], head, begin)
        for ids, marked, head, begin in drawing
    ]


@pytest.mark.parametrize(
    ("min_context", "begins", "first_targets"),
    [
        (1, [0, 15, 25], [1, 16, 31]),
        (3, [0, 13, 25], [1, 16, 29]),
        (99, [0, 8, 16, 24, 25], [1, 16, 24, 32, 40]),
    ],
)
def test_a_window_is_filled_to_the_last_token_and_repeats_half_of_it_at_most(
    min_context: int, begins: list[int], first_targets: list[int]
) -> None:
    """Of 41 tokens, all but the first are trained."""
    rendering = Rendering([*range(41)], [False] + [True] * 40)
    windows = cut_windows(rendering, max_length=16, min_context=min_context)
    assert [len(window.input_ids) for window in windows] == [16] * len(begins)
    assert [window.begin for window in windows] == begins
    assert [own(window)[0] for window in windows] == first_targets


@given(cases())
@settings(max_examples=few_or_all(200))
def test_every_target_has_the_weight_of_its_turn(case: Case) -> None:
    """However its turn is cut; ids are indices, so a turn's last target is its stop token."""
    turn_of = [bisect_right(case.turn_starts, place) - 1 for place in range(len(case.is_target))]
    trained = sorted({turn_of[place] for place in case.targets})
    shares = {turn: float(number) for number, turn in enumerate(trained, start=2)}
    stop_ids = {max(p for p in case.targets if turn_of[p] == turn) for turn in trained}
    windows = case.windows
    weights = weights_of(windows, [*shares.values()], stop_ids)
    for window, of_window in zip(windows, weights, strict=True):
        wanted = [
            shares[turn_of[place]] if is_target else 0.0
            for place, is_target in zip(window.input_ids, window.is_target, strict=True)
        ]
        assert of_window == wanted
    every = chain.from_iterable(map(compress, weights, (w.is_target for w in windows)))
    assert all(weight >= 2 for weight in every)
