"""Blocks keep their rules on any set of dialogues, and do not depend on its order."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from tuning.dialogue import Dialogue, Turn, from_line
from tuning.evaluation_set.blocks import (
    FIRST_RESPONSE_TURN,
    MAX_LENGTH_RATIO,
    MIN_RESPONSE_BYTES,
    as_lines,
    blocks_sha256,
    make_blocks,
)
from tuning.evaluation_set.text import text_sha256

WORDS = st.sampled_from(["a", "tree", "naïve", "☺", "somewhere", "out\nthere", "x" * 30])
UTTERANCES = st.lists(WORDS, min_size=1, max_size=14).map(" ".join)


@st.composite
def dialogue_sets(draw: st.DrawFn) -> list[Dialogue]:
    lengths = draw(st.lists(st.integers(1, 8), max_size=24))
    common = draw(st.lists(UTTERANCES, min_size=1, max_size=5))
    texts = st.one_of(UTTERANCES, st.sampled_from(common))  # the latter make duplicates
    return [
        Dialogue(
            str(number),
            tuple(
                Turn("ab"[i % 2], draw(texts), weight=draw(st.sampled_from([1.0, 1.0, 0.0])))
                for i in range(length)
            ),
        )
        for number, length in enumerate(lengths)
    ]


@given(dialogue_sets(), st.integers(2, 5), st.integers(0, 4), st.randoms(use_true_random=False))
def test_blocks_keep_their_rules(
    dialogues: list[Dialogue], num_candidates: int, max_blocks: int, random_: random.Random
) -> None:
    blocks = make_blocks(dialogues, num_candidates=num_candidates, max_blocks=max_blocks)
    assert len(blocks) <= max_blocks
    for block in blocks:
        assert block.turn >= FIRST_RESPONSE_TURN
        assert len(block.pairs) == len(set(block.dialogues)) == num_candidates
        sizes = [len(response.encode()) for response in block.responses]
        assert min(sizes) >= MIN_RESPONSE_BYTES
        assert max(sizes) <= MAX_LENGTH_RATIO * min(sizes)
        assert len(set(block.responses)) == num_candidates
        assert len({pair.turns[:-1] for pair in block.pairs}) == num_candidates
        for index, pair in zip(block.dialogues, block.pairs, strict=True):
            whole = dialogues[index]
            assert pair.dialogue_id == whole.dialogue_id
            assert block.turn in whole.responses
            assert len(pair.turns) == block.turn + 1
            assert pair.turns[:-1] == whole.turns[: block.turn]
            response, text = pair.turns[-1].utterance, whole.turns[block.turn].utterance
            assert response == text or (text.startswith(response) and text[len(response)].isspace())
    used = [(block.turn, index) for block in blocks for index in block.dialogues]
    assert len(used) == len(set(used))

    lines = [json.loads(line) for line in as_lines(blocks).splitlines()]
    read = [tuple(from_line(json.dumps(pair)) for pair in line["pairs"]) for line in lines]
    assert read == [block.pairs for block in blocks]
    assert [(line["turn"], line["sha256"]) for line in lines] == [
        (block.turn, text_sha256(pairs)) for block, pairs in zip(blocks, read, strict=True)
    ]

    reordered = dialogues.copy()
    random_.shuffle(reordered)
    again = make_blocks(reordered, num_candidates=num_candidates, max_blocks=max_blocks)
    assert again == blocks or [block.pairs for block in again] == [b.pairs for b in blocks]
    assert blocks_sha256(again) == blocks_sha256(blocks)


def test_every_dialogue_serves_at_several_depths() -> None:
    dialogues = [
        Dialogue(
            str(number),
            tuple(Turn("ab"[i % 2], f"number {number:02d} says turn {i:02d}") for i in range(8)),
        )
        for number in range(11)
    ]
    blocks = make_blocks(dialogues, num_candidates=5, max_blocks=100)
    assert [block.turn for block in blocks] == [3, 3, 5, 5, 7, 7]
    assert len(make_blocks(dialogues, num_candidates=5, max_blocks=4)) == 4
    assert make_blocks(dialogues, num_candidates=12, max_blocks=4) == []


def test_long_responses_are_cut_to_the_shortest_and_the_shortest_left_over() -> None:
    texts = [
        "twenty bytes are enough",
        "I like it here in the sun",
        "I like " + "very " * 20 + "much",
    ]
    dialogues = [
        Dialogue(str(i), (Turn("a", f"{i}"), Turn("b", "hi"), Turn("a", "well"), Turn("b", text)))
        for i, text in enumerate(texts)
    ]
    (block,) = make_blocks(dialogues, num_candidates=2, max_blocks=9)
    assert block.dialogues == (1, 2)
    assert block.responses == ("I like it here in the sun", "I like" + 5 * " very")


def test_the_hash_tells_blocks_apart() -> None:
    dialogues = [
        Dialogue(
            str(i), tuple(Turn("ab"[t % 2], f"{i} and {t} and so on and on") for t in range(4))
        )
        for i in range(3)
    ]
    first = make_blocks(dialogues[:2], num_candidates=2, max_blocks=1)
    other = make_blocks(dialogues[1:], num_candidates=2, max_blocks=1)
    assert blocks_sha256(first) != blocks_sha256(other)


def test_equal_contexts_are_in_different_blocks() -> None:
    """However different the responses to them are."""
    dialogues = [
        Dialogue(
            str(i),
            (
                Turn("a", f"{i % 2}"),
                Turn("b", "hi"),
                Turn("a", "well"),
                Turn("b", f"it is number {i} that I like"),
            ),
        )
        for i in range(4)
    ]
    blocks = make_blocks(dialogues, num_candidates=2, max_blocks=9)
    assert [{index % 2 for index in block.dialogues} for block in blocks] == [{0, 1}] * 2
    same = [dialogues[0], dialogues[2]]
    assert make_blocks(same, num_candidates=2, max_blocks=9) == []


def test_of_more_blocks_than_wanted_the_hashes_choose() -> None:
    dialogues = [
        Dialogue(
            str(n), tuple(Turn("ab"[t % 2], f"turn {t} of the dialogue {n:02d}") for t in range(8))
        )
        for n in range(12)
    ]
    hashes = [
        [block.sha256 for block in make_blocks(dialogues, num_candidates=2, max_blocks=size)]
        for size in (1000, 4)
    ]
    assert len(hashes[0]) == 18
    assert sorted(hashes[1]) == sorted(hashes[0])[:4] != sorted(hashes[0][:4])
