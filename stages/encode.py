"""Stage 3: clean dialogues in; windows of token ids and the extended tokenizer out."""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tuning.dialogue import LOSS_ON, read_dialogues
from tuning.encoding.encoder import Encoder
from tuning.encoding.examples import examples
from tuning.encoding.preview import show_dialogue
from tuning.encoding.preview_page import as_html
from tuning.encoding.totals import (
    BUCKETS,
    NOT_ENCODABLE,
    Totals,
    cut_message,
    report_not_encodable,
    report_what_is_trained,
)
from tuning.progress import Bar
from tuning.reading.engine import map_in_order
from tuning.reading.pieces import LineRange, read_pieces
from tuning.run.errors import UserError
from tuning.run.files import new_folder, write_json, write_text
from tuning.run.inputs import Inputs
from tuning.run.params import EncodingParams, load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.timing import record_timing
from tuning.tokens.templates import file_of, prepare_tokenizer, template_of
from tuning.windows import WindowWriter

PARTS = ("train", "val", "test", "dropped")
"""The files that prep wrote, by name; the first two become windows."""
MAX_SPEAKERS = 1_000
"""In one dialogue: more are ids, dates or texts in the wrong field."""


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
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    started = time.monotonic()
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
    record_timing(args.timing, "encode", {"seconds": time.monotonic() - started})
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
        UserError: the tokenizer changes dialogues, or no turn is trained, or too many speak.
    """
    raise_if_a_crowd(num_speakers)
    template = prepare_tokenizer(
        base,
        folder / "tokenizer",
        num_speakers,
        choice=encoding.template,
        settings=encoding.template_settings,
        has_roles=has_roles,
    )
    make = partial(
        Encoder,
        template.name,
        template.tokenizer,
        max_length=encoding.max_length,
        min_context=encoding.min_context,
        loss_on=encoding.loss_on,
        settings=encoding.template_settings,
    )
    found = Totals()
    (folder / "validation").mkdir()
    with (
        WindowWriter(folder) as training,
        WindowWriter(folder / "validation") as validation,
        Bar("encode", "bytes", sum(file.stat().st_size for file in files_of(prepared))) as progress,
    ):
        writers = {"train": training, "val": validation}
        sizes: deque[int] = deque()
        for piece in map_in_order(make, pieces(prepared, sizes)):
            progress.update(sizes.popleft())
            found.add(piece)
            if piece.not_encodable:
                with (folder / NOT_ENCODABLE).open("a", encoding="utf-8") as lost:
                    lost.writelines(f"{json.dumps(one)}\n" for one in piece.not_encodable)
            if piece.part in writers:
                writers[piece.part].add(
                    piece.input_ids, piece.is_target, piece.lengths, piece.weights
                )
    if found.not_encodable:
        report_not_encodable(base, found, skips=skips_invalid)
    for source, num_trained in found.num_trained_of.items():
        if not num_trained:
            raise_nothing_trained(prepared, encoding.loss_on, source)
    if not isinstance(encoding.loss_on, str):
        for name in sorted(set(encoding.loss_on) - found.speakers - LOSS_ON):
            raise_nothing_trained(prepared, name, "")
    report_what_is_trained(file_of(encoding.template) or template.name, found)
    ledger = found.ledger(encoding.max_length)
    if message := cut_message(ledger, encoding.max_length):
        print(f"encode: {message}")
    return ledger | {"num_speaker_tokens": num_speakers if template.asks_all else 0}


def raise_if_a_crowd(num_speakers: int) -> None:
    """Raise ``UserError`` if so many people speak in a dialogue that they can be none."""
    if num_speakers > MAX_SPEAKERS:
        raise UserError(
            f"{num_speakers:,} people speak in one dialogue, and each would get a token and an "
            f"embedding of its own; at most {MAX_SPEAKERS:,} may. If these are no people, name the "
            "right field (data.columns.who) or their roles (data.roles); if they are, cut the "
            "dialogue (data.session_turns, data.session_gap_hours)."
        )


def files_of(prepared: Path) -> list[Path]:
    """Those of prep's files ``PARTS`` that hold something."""
    files = (prepared / f"{part}.jsonl" for part in PARTS)
    return [file for file in files if file.exists() and file.stat().st_size]


def pieces(prepared: Path, sizes: deque[int]) -> Iterator[tuple[str, LineRange]]:
    """Yield prep's files in pieces for the workers, each with its file's name in ``PARTS``.

    The pieces' sizes in bytes are added to ``sizes``.
    """
    for file in files_of(prepared):
        for piece in read_pieces(file):
            assert isinstance(piece, LineRange)
            sizes.append(piece.stop - piece.start)
            yield file.stem, piece


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
        min_context=encoding.min_context,
        loss_on=encoding.loss_on,
    )
    dropped = sorted(n for n, count in num_dialogues.items() if count and n.startswith("dropped_"))
    names = [*BUCKETS, *(name for name in dropped if name in num_tokens)]
    ledgers = {
        "tokens": {name: num_tokens[name] for name in names},
        "dialogues": {n: num_dialogues[n] for n in ("train", "validation", "test", *dropped)},
    }
    return as_html(examples(prepared, show), ledgers)


def raise_nothing_trained(prepared: Path, loss_on: str | Sequence[str], source: str) -> None:
    """Raise ``UserError``: no turn of a source is trained; the message says who speaks there."""
    names: dict[str, None] = {}
    key = "encoding.loss_on"
    of_source = (d for d in read_dialogues(prepared / "train.jsonl") if d.source == source)
    for dialogue in islice(of_source, 100):
        names |= dict.fromkeys(dialogue.speakers)
        if dialogue.loss_on:
            key, loss_on = f"data.sources.{source}.loss_on", dialogue.loss_on
    shown = ", ".join([*names][:10])
    of = f" of data.sources.{source}" if source else " at all"
    raise UserError(
        f"{key}: {loss_on!r} trains no turn{of}; wanted auto, all, last, a role, or one of the "
        f"speakers ({shown}, …)."
    )


if __name__ == "__main__":
    run_stage("encode", main)
