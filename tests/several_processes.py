"""Trainings of tiny models in several processes, all in one start: ``python -m`` this, by a test.

Loading torch and transformers takes longer than all that they do here.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from stages.device import Device
from stages.encoding.dataset import PackedRows
from stages.params import TrainParams
from stages.process import run_stage
from stages.training.checkpoint import CheckpointFolder
from stages.training.model import load_for_training
from stages.training.processes import Processes
from stages.training.torchrun import run_in_processes
from stages.training.trainer import TrainResult, fine_tune


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training."""

    base: str
    tokenizer: str
    rows: str
    checkpoints: str
    train: dict[str, Any]
    shard_model: bool = False


def train(case: Case, processes: Processes) -> tuple[dict[str, Tensor], TrainResult]:
    """The main process's weights, and the result."""
    rows = PackedRows(Path(case.rows), max_length=32, packing=False, pad_token_id=1)
    model = load_for_training(Path(case.base), Path(case.tokenizer), rows.max_length)
    with ExitStack() as stack:
        checkpoints = None
        if processes.is_main:
            folder = CheckpointFolder(Path(case.checkpoints), "fingerprint")
            checkpoints = stack.enter_context(folder)
        result = fine_tune(
            model,
            rows,
            TrainParams.model_validate(case.train),
            seed=7,
            device=Device(kind="cpu", precision="no", compiled=False, notes=()),
            processes=processes,
            checkpoints=checkpoints,
            checkpoint_minutes=1e-9,
            shard_model=case.shard_model,
            validation=rows,
        )
    return processes.gather(model.state_dict(keep_vars=True)), result


def main(processes: Processes) -> None:
    """Train the cases that a file holds by name; leave ``<name>.safetensors`` and ``.json``."""
    file = Path(sys.argv[1])
    for name, values in json.loads(file.read_text(encoding="utf-8")).items():
        weights, result = train(Case(**values), processes)
        if processes.is_main:
            whole = {key: weight.clone() for key, weight in weights.items()}
            save_file(whole, file.with_name(f"{name}.safetensors"))
            content = json.dumps(dataclasses.asdict(result))
            file.with_name(f"{name}.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    run_stage("test", lambda: run_in_processes("tests.several_processes", main))
