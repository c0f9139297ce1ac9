"""The ledger of prep: every dialogue, turn and character of the input, by where it went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tuning.corpus.catalogue import Catalogue
from tuning.corpus.selection import FATES, Selection
from tuning.corpus.sources import Source
from tuning.reading.accounts import TRAIN, bucket, percentiles


def account(catalogue: Catalogue, selection: Selection) -> dict[str, dict[str, int]]:
    """Count each bucket's dialogues, turns and characters; each count's sum is its ``input``.

    ``dropped_invalid`` are records that are not dialogues, so they have no turns or characters.
    ``dropped_empty`` are turns of white space alone, ``dropped_white_space`` the characters that
    were stripped from the others' ends and from between their messages, ``dropped_control`` control
    characters that were taken out.
    """
    rows = catalogue.rows
    ledger: dict[str, dict[str, int]] = {}
    for name, weights in (
        ("num_dialogues", np.ones(len(rows), np.int64)),
        ("num_turns", rows["num_turns"].astype(np.int64)),
        ("num_characters", rows["num_characters"].astype(np.int64)),
    ):
        ledger[name] = {
            bucket(fate): int(weights[selection.fates == number].sum())
            for number, fate in enumerate(FATES)
        }
    num_turns, num_characters = (int(rows[n].sum()) for n in ("num_turns", "num_characters"))
    ledger["num_dialogues"] |= {
        "dropped_invalid": catalogue.invalid.total(),
        "input": catalogue.num_records.total(),
    }
    ledger["num_turns"] |= {
        "dropped_empty": catalogue.num_raw_turns - num_turns,
        "input": catalogue.num_raw_turns,
    }
    ledger["num_characters"] |= {
        "dropped_control": catalogue.num_control,
        "dropped_white_space": catalogue.num_raw_characters
        - catalogue.num_control
        - num_characters,
        "input": catalogue.num_raw_characters,
    }
    for name, buckets in ledger.items():
        total = sum(count for fate, count in buckets.items() if fate != "input")
        assert total == buckets["input"], f"{name}: something is in no bucket, or in two"
    return ledger


def account_sources(
    catalogue: Catalogue, selection: Selection, sources: Sequence[Source]
) -> dict[str, dict[str, Any]]:
    """Count each source's dialogues by bucket, and what of it is trained; nothing for one alone.

    ``num_repeated_dialogues`` stand in ``train.jsonl`` beside those that ``num_dialogues`` counts;
    ``num_trained_characters`` are of both.
    """
    rows = catalogue.rows
    found: dict[str, dict[str, Any]] = {}
    for source in sources:
        is_here = rows["source"] == source.number
        fates = selection.fates[is_here]
        trained = is_here & (selection.fates == TRAIN)
        copies, sizes = selection.copies[trained], rows["num_characters"][trained].astype(np.int64)
        found[source.name] = {
            "num_dialogues": {bucket(f): int((fates == n).sum()) for n, f in enumerate(FATES)}
            | {
                "dropped_invalid": catalogue.num_invalid[source.number],
                "input": catalogue.num_records[source.number],
            },
            "num_repeated_dialogues": int((copies - 1).sum()),
            "num_trained_characters": int((copies * sizes).sum()),
        }
    return found if sources[0].name else {}


def describe(catalogue: Catalogue, selection: Selection) -> dict[str, Any]:
    """Lengths and speakers of the dialogues that were kept, and the duplicates found."""
    kept = catalogue.rows[selection.kept]
    is_kept = np.isin(np.arange(len(catalogue)), selection.kept)
    names = catalogue.speakers()[np.repeat(is_kept, catalogue.rows["num_speakers"])]
    _, sizes = np.unique(selection.clusters, return_counts=True)
    return {
        "duplicates": {
            "num_clusters": int((sizes > 1).sum()),
            "largest_cluster": int(sizes.max(initial=0)),
            "num_straddling": selection.num_straddling,
            "num_common_runs": selection.num_common_runs,
        },
        "num_speakers": len(np.unique(names)),
        "num_speakers_per_dialogue": percentiles(kept["num_speakers"]),
        "num_people_per_dialogue": percentiles(kept["num_people"]),
        "num_turns_by_role": dict(catalogue.roles),
        "num_turns_per_dialogue": percentiles(kept["num_turns"]),
        "num_characters_per_dialogue": percentiles(kept["num_characters"]),
    }
