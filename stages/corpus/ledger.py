"""Where every dialogue, turn and character of the input went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.corpus.dialogue import Dialogue


def account(
    buckets: Mapping[str, Sequence[Dialogue]], *, num_input_dialogues: int, num_invalid: int
) -> dict[str, dict[str, int]]:
    """Count each bucket's dialogues, turns and characters.

    Args:
        buckets: Bucket name (``train``, ``validation``, ``dropped_…``) to its dialogues.
        num_input_dialogues: Records in the input file.
        num_invalid: Records that are not dialogues.

    Returns:
        ``{"num_dialogues": {bucket: n, …, "input": n}, "num_turns": …, "num_characters": …}``.
        Turns and characters are those of valid dialogues, after white space is stripped.
    """
    num_dialogues = {name: len(dialogues) for name, dialogues in buckets.items()}
    num_dialogues["dropped_invalid"] = num_invalid
    assert sum(num_dialogues.values()) == num_input_dialogues, (
        "a dialogue is in no bucket, or in two"
    )
    num_dialogues["input"] = num_input_dialogues
    return {
        "num_dialogues": num_dialogues,
        "num_turns": {
            name: sum(len(dialogue.turns) for dialogue in dialogues)
            for name, dialogues in buckets.items()
        },
        "num_characters": {
            name: sum(dialogue.num_characters for dialogue in dialogues)
            for name, dialogues in buckets.items()
        },
    }
