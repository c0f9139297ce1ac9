"""Stage 3: clean dialogues in; windows of token ids and the extended tokenizer out."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tuning.dialogue import read_dialogues
from tuning.encoding.encoder import Encoder
from tuning.encoding.examples import examples
from tuning.encoding.preview import show_dialogue
from tuning.encoding.preview_page import as_html
from tuning.packing import pack
from tuning.reading.accounts import percentiles
from tuning.reading.engine import map_in_order
from tuning.reading.pieces import LineRange, read_pieces
from tuning.run.errors import UserError
from tuning.run.files import new_folder, write_json, write_text
from tuning.run.inputs import Inputs
from tuning.run.params import EncodingParams, load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.tokens.templates import extend_tokenizer, template_of
from tuning.windows import WindowWriter

PARTS = ("train", "val", "test", "dropped")
"""The files that prep wrote, by name; the first two become windows."""
BUCKETS = ("trained", "context", "truncated", "validation", "test")
"""The ledger's buckets of tokens; each reason to leave dialogues out adds one."""
MAX_NAMED = 20
"""Dialogues that one message names; it counts the others."""


def main() -> None:
    """Tokenise, cut into windows, check every one, account for every token."""
    parser = argparse.ArgumentParser(prog="python -m stages.encode", description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="prep's folder")
    parser.add_argument("--ledger", type=Path, required=True, help="prep's ledger, JSON")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--encoded", type=Path, required=True, help="folder for windows, tokenizer")
    parser.add_argument("--metrics", type=Path, required=True, help="the ledger of tokens, JSON")
    parser.add_argument("--preview", type=Path, required=True, help="dialogues as tokens, HTML")
    args = parser.parse_args()
    params = load_params()
    encoding = params.encoding
    # The weights change nothing here, and are most of what could be hashed.
    base = [file for file in args.base.iterdir() if file.suffix != ".safetensors"]
    inputs = Inputs(
        [args.prepared, args.ledger, *base, args.lock], partial(declared_params, "encode")
    )
    prep = json.loads(args.ledger.read_bytes())
    has_roles = bool(prep["num_turns_by_role"])
    num_people = max(0 if has_roles else 2, int(prep["num_people_per_dialogue"]["max"]))

    with new_folder(args.encoded) as folder:
        ledger = encode(
            args.prepared,
            args.base,
            folder,
            encoding,
            num_people,
            has_roles=has_roles,
            skips_invalid=params.data.on_invalid == "skip",
        )
        num_dialogues = prep["num_dialogues"] | {
            side: prep["num_dialogues"][side] - num_lost
            for side, num_lost in ledger["num_not_encodable"].items()
        }
        num_dialogues["dropped_not_encodable"] = sum(ledger["num_not_encodable"].values())
        tokens = ledger["num_tokens"]
        page = preview(args.prepared, folder / "tokenizer", encoding, tokens, num_dialogues)
        inputs.check_unchanged()
    write_json(args.metrics, ledger)
    if lost := ledger["num_not_rendered"]:
        named = ", ".join(f"{name} ({count:,})" for name, count in lost.items())
        print(f"encode: the template has no place for: {named}; no model sees or learns it")
    write_text(args.preview, page)
    print(
        f"encode: {tokens['trained']:,} target tokens per epoch in {ledger['num_windows']:,} "
        f"windows, {ledger['packing_efficiency']:.1%} of the rows they are packed into"
    )


def encode(
    prepared: Path,
    base: Path,
    folder: Path,
    encoding: EncodingParams,
    num_speakers: int,
    *,
    has_roles: bool = False,
    skips_invalid: bool = False,
) -> dict[str, Any]:
    """Write the windows and the extended tokenizer into an existing folder.

    Args:
        prepared: Prep's folder.
        base: The base model's folder.
        folder: Gets the training windows, and a folder ``validation`` with those of that side.
        encoding: How to cut, and what is trained.
        num_speakers: Most people in a dialogue of any side.
        has_roles: Whether the data has roles.
        skips_invalid: Whether dialogues that the tokenizer changes are left out.

    Returns:
        The ledger: every token of the valid input in one bucket, and the shape of the training
        windows.

    Raises:
        UserError: the tokenizer changes dialogues, or no turn is trained.
    """
    template = extend_tokenizer(base, folder / "tokenizer", num_speakers, has_roles=has_roles)
    make = partial(
        Encoder,
        template.name,
        template.tokenizer,
        max_length=encoding.max_length,
        context_turns=encoding.context_turns,
        loss_on=encoding.loss_on,
    )
    num_tokens, counts, not_rendered, num_lost = (Counter[str]() for _ in range(4))
    lost: list[str] = []
    lengths = [np.empty(0, np.int64)]
    (folder / "validation").mkdir()
    with (
        WindowWriter(folder) as training,
        WindowWriter(folder / "validation") as validation,
        tqdm(desc="encode", unit=" tokens", unit_scale=True, disable=None) as progress,
    ):
        for piece in map_in_order(make, pieces(prepared)):
            num_tokens += piece.num_tokens
            progress.update(piece.num_tokens.total())
            num_lost[piece.part] += len(piece.not_encodable)
            lost += piece.not_encodable[: MAX_NAMED - len(lost)]
            if piece.part == "val":
                validation.add(piece.input_ids, piece.is_target, piece.lengths)
            if piece.part == "train":
                training.add(piece.input_ids, piece.is_target, piece.lengths)
                lengths.append(piece.lengths)
                counts["num_split_turns"] += piece.num_split_turns
                counts["num_composed_turns"] += piece.num_composed_turns
                not_rendered += piece.num_not_rendered
    if lost:
        report_not_encodable(base, num_lost, lost, num_tokens, skips=skips_invalid)
    if not num_tokens["trained"]:
        raise_nothing_trained(prepared, encoding.loss_on)
    window_lengths = np.concatenate(lengths)
    num_in_windows = int(window_lengths.sum())
    num_rows = len(pack(window_lengths.tolist(), encoding.max_length))
    return {
        "num_tokens": dict.fromkeys(BUCKETS, 0) | num_tokens | {"input": num_tokens.total()},
        "num_windows": len(window_lengths),
        # Context that a later window repeats, the tag in every part of a split turn, and what the
        # tokenizer itself begins a window with
        "num_repeated_tokens": num_in_windows - num_tokens["trained"] - num_tokens["context"],
        "num_speaker_tokens": num_speakers,
        "packing_efficiency": num_in_windows / (num_rows * encoding.max_length),
        "num_tokens_per_window": percentiles(window_lengths),
        "num_split_turns": counts["num_split_turns"],
        "num_composed_turns": counts["num_composed_turns"],
        "num_not_encodable": {"train": num_lost["train"], "validation": num_lost["val"]},
        "num_not_rendered": dict(not_rendered),
    }


def report_not_encodable(
    base: Path,
    num_lost: Mapping[str, int],
    lost: Sequence[str],
    num_tokens: Mapping[str, int],
    *,
    skips: bool,
) -> None:
    """Stop with a list of the dialogues that the tokenizer changes, or say what is left out."""
    is_any_left = any(num_tokens[name] for name in ("trained", "context", "truncated"))
    total = sum(num_lost.values())
    counts = f"{total:,} dialogues ({num_lost['train']:,} training, {num_lost['val']:,} validation)"
    cause = f"the tokenizer of {base} gives back another text of {counts}"
    if skips and is_any_left:
        print(f"encode: left out, since data.on_invalid is skip: {cause}, such as {lost[0]}")
        return
    rest = [f"… and {total - len(lost):,} more"] if total > len(lost) else []
    shown = "\n".join(f"  {line}" for line in [*lost, *rest])
    others = "none is left to train on." if skips else "they would be trained and scored wrongly."
    skip = "" if skips else ", or leave them out and count them with data.on_invalid: skip"
    raise UserError(
        f"{cause}; {others}\n{shown}\nMend them, or take another base model with model.name{skip}."
    )


def pieces(prepared: Path) -> Iterator[tuple[str, LineRange]]:
    """Yield prep's files in pieces for the workers, each with its file's name in ``PARTS``."""
    for part in PARTS:
        file = prepared / f"{part}.jsonl"
        if file.exists() and file.stat().st_size:
            for piece in read_pieces(file):
                assert isinstance(piece, LineRange)
                yield part, piece


def preview(
    prepared: Path,
    tokenizer: Path,
    encoding: EncodingParams,
    num_tokens: Mapping[str, int],
    num_dialogues: Mapping[str, int],
) -> str:
    """Make a page that shows both ledgers, and some dialogues token by token."""
    show = partial(
        show_dialogue,
        template=template_of(tokenizer),
        max_length=encoding.max_length,
        context_turns=encoding.context_turns,
        loss_on=encoding.loss_on,
    )
    dropped = sorted(n for n, count in num_dialogues.items() if count and n.startswith("dropped_"))
    names = [*BUCKETS, *(name for name in dropped if name in num_tokens)]
    ledgers = {
        "tokens": {name: num_tokens[name] for name in names},
        "dialogues": {n: num_dialogues[n] for n in ("train", "validation", "test", *dropped)},
    }
    return as_html(examples(prepared, show), ledgers)


def raise_nothing_trained(prepared: Path, loss_on: str) -> None:
    """Raise ``UserError``: no turn is trained; the message says which speakers there are."""
    names: dict[str, None] = {}
    for dialogue in islice(read_dialogues(prepared / "train.jsonl"), 100):
        names |= dict.fromkeys(dialogue.speakers)
    shown = ", ".join([*names][:10])
    raise UserError(
        f"encoding.loss_on: {loss_on!r} trains no turn at all; wanted all, last, or one of the "
        f"speakers ({shown}, …)."
    )


if __name__ == "__main__":
    run_stage("encode", main)
