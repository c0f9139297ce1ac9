"""Stage 2: dialogues in, clean text on both sides of the split and encoded training windows out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.corpus.deduplicate import first_of_each
from stages.corpus.dialogue import Dialogue, write_dialogues
from stages.corpus.formats import raise_for_faults, read_records
from stages.corpus.ledger import account
from stages.corpus.split import select, split
from stages.encoding.dataset import write_windows
from stages.encoding.packing import pack
from stages.encoding.speakers import SpeakerTokens, add_dialogue_tokens, load_tokenizer
from stages.encoding.windows import Window, cut_windows, trained_turns
from stages.errors import UserError
from stages.files import new_folder, write_json
from stages.inputs import Inputs
from stages.params import DataParams, EncodingParams, load_params
from stages.process import run_stage


def main() -> None:
    """Read, clean, select, split, encode, and account for all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dialogues, JSON or JSONL")
    parser.add_argument("--base", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--prepared", type=Path, required=True, help="folder for train/val.jsonl")
    parser.add_argument("--encoded", type=Path, required=True, help="folder for windows, tokenizer")
    parser.add_argument("--metrics", type=Path, required=True, help="the ledger, JSON")
    args = parser.parse_args()
    params = load_params()
    inputs = Inputs([args.data, args.base], declared_params)

    train, validation, ledger = prepare(args.data, params.data)
    tokens = encode(train, validation, args.base, args.encoded, params.encoding)
    inputs.check_unchanged()
    with new_folder(args.prepared) as folder:
        write_dialogues(folder / "train.jsonl", train)
        write_dialogues(folder / "val.jsonl", validation)
    write_json(args.metrics, ledger | tokens)
    dropped = [
        f"{count:,} {bucket.removeprefix('dropped_').replace('_', ' ')}"
        for bucket, count in ledger["num_dialogues"].items()
        if bucket.startswith("dropped_") and count
    ]
    if dropped:
        print(f"prep: left out: {', '.join(dropped)}")
    print(
        f"prep: {len(train):,} training and {len(validation):,} validation dialogues, "
        f"{tokens['num_target_tokens']:,} target tokens per epoch"
    )


def prepare(
    path: Path, data: DataParams
) -> tuple[list[Dialogue], list[Dialogue], dict[str, dict[str, int]]]:
    """Training and validation dialogues, and the ledger of everything else."""
    data_format, records = read_records(path, data.format)
    if data.on_invalid == "error":
        raise_for_faults(path, records)
    print(f"prep: {path}: {len(records):,} records in the {data_format} layout")
    dialogues = [record.dialogue for record in records if record.dialogue]

    few_speakers = [d for d in dialogues if len(d.speakers) < data.min_speakers]
    rest = [d for d in dialogues if len(d.speakers) >= data.min_speakers]
    few_turns = [d for d in rest if len(d.turns) < data.min_turns]
    unique, repeats = first_of_each(d for d in rest if len(d.turns) >= data.min_turns)
    selected, not_selected = select(unique, data.max_dialogues)
    train, validation = split(selected, data.validation_fraction)
    ledger = account(
        {
            "dropped_few_speakers": few_speakers,
            "dropped_few_turns": few_turns,
            "dropped_duplicate": repeats,
            "dropped_over_max_dialogues": not_selected,
            "train": train,
            "validation": validation,
        },
        num_input_dialogues=len(records),
        num_invalid=len(records) - len(dialogues),
    )
    if not train or not validation:
        counts = ", ".join(f"{name} {count}" for name, count in ledger["num_dialogues"].items())
        raise UserError(
            f"{path}: {len(train)} training and {len(validation)} validation dialogues are left; "
            f"both need at least one. Of the input: {counts}. Lower data.min_speakers or "
            "data.min_turns, raise data.max_dialogues, change data.validation_fraction, or bring "
            "more dialogues."
        )
    num_empty = sum(record.num_empty_messages for record in records)
    ledger["num_empty_messages"] = {"input": num_empty}
    return train, validation, ledger


def encode(
    train: list[Dialogue],
    validation: list[Dialogue],
    base: Path,
    encoded: Path,
    encoding: EncodingParams,
) -> dict[str, float]:
    """Write the training windows and the extended tokenizer; return the counts of tokens."""
    tokenizer = load_tokenizer(base)
    num_speakers = max(len(dialogue.speakers) for dialogue in [*train, *validation])
    add_dialogue_tokens(tokenizer, max(2, num_speakers))
    template = SpeakerTokens(tokenizer)

    windows: list[Window] = []
    num_split_turns = 0
    for dialogue in train:
        turns = template.encode(dialogue)
        num_split_turns += sum(len(turn) > encoding.max_length for turn in turns)
        windows += cut_windows(
            turns,
            trained_turns(turns, encoding.loss_on),
            max_length=encoding.max_length,
            context_turns=encoding.context_turns,
        )
    num_targets = sum(sum(window.is_target) for window in windows)
    if num_targets == 0:
        names = sorted({name for dialogue in train for name in dialogue.speakers})[:10]
        raise UserError(
            f"encoding.loss_on: {encoding.loss_on!r} trains no turn at all; wanted all, last, or "
            f"one of the speakers ({', '.join(names)}, …)."
        )
    with new_folder(encoded) as folder:
        write_windows(folder, windows)
        tokenizer.save_pretrained(folder / "tokenizer")
    lengths = [len(window.input_ids) for window in windows]
    num_rows = len(pack(lengths, encoding.max_length))
    return {
        "num_speaker_tokens": max(2, num_speakers),
        "num_windows": len(windows),
        "num_split_turns": num_split_turns,
        "num_target_tokens": num_targets,
        "num_untrained_tokens": sum(lengths) - num_targets,
        "packing_efficiency": sum(lengths) / (num_rows * encoding.max_length),
    }


def declared_params() -> dict[str, Any]:
    """What dvc.yaml declares for this stage, as it stands in params.yaml now."""
    params = load_params()
    return {"data": params.data.model_dump(), "encoding": params.encoding.model_dump()}


if __name__ == "__main__":
    run_stage("prep", main)
