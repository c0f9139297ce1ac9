"""Stage 2: dialogue files in; clean, deduplicated dialogues on their side of the split out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tuning.corpus.catalogue import Catalogue
from tuning.corpus.cleaning import Cleaner, faults_message
from tuning.corpus.columns import Columns
from tuning.corpus.duplicates import bands_for
from tuning.corpus.id_stems import warning
from tuning.corpus.ledger import account, account_sources, describe
from tuning.corpus.message_rows import read_dialogues_of
from tuning.corpus.private_data import PrivateData, check_region, summary
from tuning.corpus.selection import FATES, Selection, select, shared_between_sides
from tuning.corpus.slack import with_channels
from tuning.corpus.sources import assigned, sources_of
from tuning.dialogue import from_line, to_line
from tuning.progress import Bar
from tuning.reading.accounts import SIDES, TRAIN
from tuning.reading.engine import map_in_order
from tuning.reading.pieces import Piece, data_files
from tuning.reading.records import Break
from tuning.run.errors import UserError
from tuning.run.files import new_folder, write_json
from tuning.run.inputs import Inputs
from tuning.run.params import DataParams, load_params
from tuning.run.pipeline import declared_params
from tuning.run.process import run_stage
from tuning.run.timing import record_timing
from tuning.run.visible import as_name, visible

MAX_NAMED = 20
"""Keys and kinds that are named in one line; the ledger has them all."""
EXAMPLE = "example.jsonl"
PRIVATE = "private.jsonl"
INVALID = "invalid.jsonl"
PASS_OVER = "data.on_invalid: skip passes over such a file of a folder, by its name."
MANY_DUPLICATES = 0.1
"""The share of the input beyond which what is left out as duplicates is said loudly."""


def main() -> None:
    """Read, clean, deduplicate, select, split, and account for all of it."""
    parser = argparse.ArgumentParser(prog="python -m stages.prep", description=__doc__)
    parser.add_argument("--lock", type=Path, required=True, help="the pinned package versions")
    parser.add_argument("--hub", type=Path, required=True, help="folder of the hub's data sets")
    parser.add_argument("--prepared", type=Path, required=True, help="folder for the clean text")
    parser.add_argument("--metrics", type=Path, required=True, help="the ledger, JSON")
    parser.add_argument("--timing", type=Path, required=True, help="wall-clock figures, JSON")
    args = parser.parse_args()
    started = time.monotonic()
    data = load_params().data  # the path is no argument: a shell would take what is special in it
    path = Path(data.path)
    raise_if_unread(path, data, args.hub)
    data_files(path)  # before it is hashed: a pipe would hang
    inputs = Inputs([path, args.lock], partial(declared_params, "prep"))

    with new_folder(args.prepared) as folder:
        try:
            ledger = prepare(path, data, folder)
        except (UserError, OSError):
            inputs.check_unchanged()  # a file that changed is the cause, not what it seemed to hold
            raise
        inputs.check_unchanged()
    write_json(args.metrics, ledger)
    record_timing(args.timing, "prep", {"seconds": time.monotonic() - started})
    if found := summary(ledger, args.prepared / PRIVATE, data.redact):
        print(f"prep: {found}")


def raise_if_unread(path: Path, data: DataParams, hub: Path) -> None:
    """Raise ``UserError`` if a data set of the hub is fetched to where nothing is read."""
    for name in data.hub:
        one, other = path.resolve(), (hub / name).resolve()
        if not (one.is_relative_to(other) or other.is_relative_to(one)):
            raise UserError(
                f"data.hub.{name}: it is fetched to {hub / name}, but data.path is {path}, so it "
                f"would not be read. Set data.path: {hub} (or the folder above it, for files of "
                "your own beside them), or take it out of data.hub."
            )


def prepare(path: Path, data: DataParams, folder: Path) -> dict[str, Any]:
    """Write the sides of the split and what was left out into an existing folder.

    Returns:
        The ledger: every dialogue, turn and character of the input in one bucket.
    """
    check_region(data.phone_region)
    num_bands, _ = bands_for(data.near_duplicate_threshold)
    with Catalogue(folder / "scratch", num_bands) as catalogue:
        sources = sources_of(data)
        unreadable_bytes = read_all(path, data, catalogue)
        catalogue.finish()
        report_faults(path, data, catalogue)
        selection = select(catalogue, data)
        ledger = account(catalogue, selection)
        report_likeness(ledger["num_dialogues"], data, selection)
        raise_if_a_side_is_empty(path, ledger["num_dialogues"])
        num_lines = int(selection.copies[selection.kept].sum()) + len(selection.dropped)
        with (
            PrivateData(folder / PRIVATE, data.redact) as private,
            Bar("prep: writing", "dialogues", num_lines) as progress,
        ):
            with_test = data.test_fraction > 0
            write_sides(folder, catalogue, selection, private, progress, with_test=with_test)
            write_dropped(folder / "dropped.jsonl", catalogue, selection, private, progress)
        if data.on_invalid == "skip":
            catalogue.write_invalid(folder / INVALID)
        split = shared_between_sides(selection, catalogue)
        assert split["num_shared_clusters"] == 0, "a dialogue is on two sides of the split"
        print_summary(ledger["num_dialogues"])
        of_sources = account_sources(catalogue, selection, sources)
        print_sources(of_sources)
        if data.group_by is None:
            print_pieces(catalogue, selection)
        print_what_is_not_used(catalogue)
        return (
            ledger
            | describe(catalogue, selection)
            | {
                "num_invalid": dict(catalogue.invalid),
                "num_passed_over": {as_name(n): c for n, c in catalogue.passed_over.items()},
                "num_unused_keys": {as_name(n): c for n, c in catalogue.unused.items()},
                "num_renamed": len(selection.renamed),
                "num_repeated_dialogues": int((selection.copies - 1).clip(0).sum()),
                "sources": of_sources,
                "split": split,
                "unreadable_bytes": unreadable_bytes,
            }
            | private.ledger()
        )


def read_all(path: Path, data: DataParams, catalogue: Catalogue) -> int:
    """Clean every file into the catalogue; each file's layout is recognised by itself.

    Returns:
        The number of bytes that could not be read, where ``data.on_invalid`` is skip.
    """
    there = data_files(path)
    if path.is_dir():
        there = with_channels(there)
    files, passed_over = assigned(path, there, sources_of(data))
    breaks: list[Break] = []
    num_unread = 0
    on_break = breaks.append if data.on_invalid == "skip" else None
    with Bar("prep", "bytes", sum(num_bytes_of(file) for file, _ in files)) as progress:
        if passed_over:
            progress.say(visible(f"passed over in {path}: {named(passed_over)}"))
        for file, source in files:
            name = str(file.relative_to(path)) if file != path else ""
            beside: list[str] = []
            num_left, read = num_bytes_of(file), list[int]()
            before, num_breaks = catalogue.num_records.total(), len(breaks)
            pieces = read_dialogues_of(
                file,
                name,
                columns=Columns(source.data.columns),
                on_break=on_break,
                on_beside=beside.append,
                on_read=read.append,
            )
            try:
                first = next(pieces, None)  # fails if the file is none of records
                begun = chain([first], pieces) if first is not None else pieces
                sizes: deque[int] = deque()
                for piece in map_in_order(partial(Cleaner, source), sized(begun, read, sizes)):
                    catalogue.add(piece)
                    size = min(sizes.popleft(), num_left)
                    num_left -= size
                    progress.update(size)
                num_records = catalogue.num_records.total() - before
                if not num_records:
                    raise UserError(f"{file} holds no dialogue.")
            except UserError as error:
                if file == path or catalogue.num_records.total() > before:
                    raise
                if data.on_invalid == "error":
                    raise UserError(f"{error} {PASS_OVER}") from None
                why = visible(str(error), keep="\n")
                progress.say(f"passed over, since data.on_invalid is skip: {why}")
                num_unread += num_bytes_of(file)
                continue
            finally:
                progress.update(num_left)
            of_source = f" of {source.name}" if source.name else ""
            progress.say(visible(f"{file}: {num_records:,} records{of_source}"))
            if beside:
                shown = visible(f"{file}: beside the records, not used: {named(beside)}")
                progress.say(shown)
            for found in breaks[num_breaks:]:
                progress.say(visible(break_message(found)))
    if not catalogue.num_records.total():
        raise UserError(f"{path} holds no dialogue: all of its files were passed over.")
    return num_unread + sum(found.num_bytes for found in breaks)


def sized(pieces: Iterable[Piece], read: list[int], sizes: deque[int]) -> Iterator[Piece]:
    """Yield the pieces; of each, what was read for it goes from ``read`` into ``sizes``."""
    for piece in pieces:
        sizes.append(sum(read))
        read.clear()
        yield piece


def num_bytes_of(path: Path) -> int:
    """The size of a file, or of those in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def named(names: list[str]) -> str:
    """The first eight of some names, and the number of the others."""
    shown = ", ".join(names[:8]).encode(errors="replace").decode()
    return f"{shown} and {len(names) - 8:,} more" if len(names) > 8 else shown


def break_message(found: Break) -> str:
    """What is lost of a file that is broken in its middle, and why."""
    why = found.why.removeprefix(f"{found.path}: ").removeprefix(f"{found.path} ").rstrip(".")
    return (
        f"{found.path}: broken at byte {found.byte:,} ({why}): the records before it are "
        f"kept, {found.num_bytes:,} bytes are not read"
    )


def report_faults(path: Path, data: DataParams, catalogue: Catalogue) -> None:
    """Stop with a list of what is wrong, or say what is being left out."""
    faults, num_faults = catalogue.faults, catalogue.invalid.total()
    if not num_faults:
        return
    message = faults_message(path, catalogue.num_records.total(), faults, num_faults)
    if data.on_invalid == "error":
        raise UserError(message)
    print(
        f"prep: {visible(message.rpartition(chr(10))[0], keep=chr(10))}\n"
        f"prep: dropped into {INVALID}, since data.on_invalid is skip",
        file=sys.stderr,
    )


def print_pieces(catalogue: Catalogue, selection: Selection) -> None:
    """Say so if ids look like pieces of one conversation that are on both sides of the split."""
    kept = selection.kept
    stems, is_train = catalogue.rows["stem"][kept], selection.fates[kept] == TRAIN
    found = warning(
        stems, is_train, lambda n: catalogue.dialogue(kept[n]).dialogue_id, catalogue.groupings
    )
    if found:
        print(f"prep: {visible(found)}")


def print_what_is_not_used(catalogue: Catalogue) -> None:
    """Name what stands in the data and is not used, each once, with a count."""
    for what, counts in (("passed over", catalogue.passed_over), ("not used", catalogue.unused)):
        named = [f"{as_name(name)} ({count:,})" for name, count in counts.most_common(MAX_NAMED)]
        if named:
            more = f", … {len(counts) - MAX_NAMED} more" if len(counts) > MAX_NAMED else ""
            print(f"prep: {what}: {', '.join(named)}{more}")


def report_likeness(num_dialogues: dict[str, int], data: DataParams, selection: Selection) -> None:
    """Say what was no likeness, and loudly if a large part of the input is left out as alike."""
    if selection.num_common_runs:
        print(
            f"prep: {selection.num_common_runs:,} runs of five words stand in more than "
            f"{data.common_run_share:.4g} of the dialogues (data.common_run_share), as those of a "
            "shared prompt do: they make no near duplicates"
        )
    exact, near = (num_dialogues[f"dropped_{kind}"] for kind in ("duplicate", "near_duplicate"))
    if exact + near > MANY_DUPLICATES * num_dialogues["input"]:
        print(
            f"prep: WARNING: {exact + near:,} of {num_dialogues['input']:,} dialogues are left out "
            f"because others say the same: {exact:,} duplicates, {near:,} near duplicates. Look at "
            "some in dropped.jsonl. If they are no repeats, set data.near_duplicate_threshold: 1 "
            f"(now {data.near_duplicate_threshold:g}), which leaves out only equal ones, or lower "
            f"data.common_run_share (now {data.common_run_share:g}) if groups of them share a text "
            "such as a prompt; data.deduplicate: keep_all keeps what is on one side of the split.",
            file=sys.stderr,
        )


def raise_if_a_side_is_empty(path: Path, num_dialogues: dict[str, int]) -> None:
    """Raise ``UserError`` if nothing is left to train on or nothing to measure with."""
    if num_dialogues["train"] and num_dialogues["validation"]:
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in num_dialogues.items() if count)
    raise UserError(
        f"{path}: {num_dialogues['train']:,} training and {num_dialogues['validation']:,} "
        f"validation dialogues are left; both need at least one. Of the input: {counts}. Lower "
        "data.min_speakers or data.min_turns, change "
        "data.validation_fraction or data.group_by, raise weights in data.sources, or bring more "
        "dialogues."
    )


def write_sides(
    folder: Path,
    catalogue: Catalogue,
    selection: Selection,
    private: PrivateData,
    progress: Bar,
    *,
    with_test: bool,
) -> None:
    """Write ``train.jsonl``, ``val.jsonl`` and maybe ``test.jsonl``, in the fixed random order.

    The first training dialogue, which is the same in a larger corpus as a rule, is an example.
    What is trained several times an epoch stands there as often: behind all, the second copies, in
    the same order, then the third ones.
    """
    for number, side in enumerate(SIDES):
        if side != "test" or with_test:
            kept = selection.kept[selection.fates[selection.kept] == number]
            copies = selection.copies[kept]
            with (folder / f"{side}.jsonl").open("wb") as file:
                for copy in range(1, copies.max(initial=1) + 1):
                    for index in kept[copies >= copy].tolist():
                        _, findings, line = entry_of(catalogue, selection, index, copy)
                        file.write(private.written(line, findings, is_kept=copy == 1))
                        progress.update()
    with (folder / "train.jsonl").open("rb") as file:
        (folder / EXAMPLE).write_bytes(file.readline())


def entry_of(
    catalogue: Catalogue, selection: Selection, index: int, copy: int = 1
) -> tuple[str, str, bytes]:
    """A dialogue's place, what is private in it, and its line, with an id that no other one has."""
    where, findings, line = catalogue.entry(index)
    number = selection.renamed.get(index)
    if number is not None or copy > 1:
        dialogue = from_line(line)
        name = dialogue.dialogue_id + (f"~{number}" if number else "") + f"#{copy}" * (copy > 1)
        line = f"{to_line(replace(dialogue, dialogue_id=name))}\n".encode()
    return where, findings, line


def write_dropped(
    path: Path,
    catalogue: Catalogue,
    selection: Selection,
    private: PrivateData,
    progress: Bar,
) -> None:
    """Write every dialogue that is on no side, with its place in the input and the reason."""
    with path.open("wb") as file:
        for index in selection.dropped.tolist():
            where, findings, line = entry_of(catalogue, selection, index)
            line = private.written(line, findings, is_kept=False)
            reason = FATES[selection.fates[index]]
            head = json.dumps({"where": where, "reason": reason}, ensure_ascii=False)
            file.write(f"{head[:-1]}, ".encode() + line[1:])
            progress.update()


def print_summary(num_dialogues: dict[str, int]) -> None:
    """Print how many dialogues were left out, and how many are left."""
    dropped = [
        f"{count:,} {bucket.removeprefix('dropped_').replace('_', ' ')}"
        for bucket, count in num_dialogues.items()
        if bucket.startswith("dropped_") and count
    ]
    if dropped:
        print(f"prep: left out: {', '.join(dropped)}")
    test = f" and {num_dialogues['test']:,} test" if num_dialogues["test"] else ""
    print(
        f"prep: {num_dialogues['train']:,} training, {num_dialogues['validation']:,} validation"
        f"{test} dialogues"
    )


def print_sources(of_sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Print each source's part in the mixture."""
    total = sum(found["num_trained_characters"] for found in of_sources.values())
    for name, found in of_sources.items():
        num_dialogues, repeated = found["num_dialogues"], found["num_repeated_dialogues"]
        again = f" and {repeated:,} repeats of them" if repeated else ""
        print(
            f"prep: source {name}: {num_dialogues['train']:,} training{again}, "
            f"{num_dialogues['validation']:,} validation dialogues; "
            f"{found['num_trained_characters'] / max(1, total):.1%} of the characters in training"
        )


if __name__ == "__main__":
    run_stage("prep", main)
