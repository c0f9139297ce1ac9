"""What this machine lacks for the run: a device, packages, disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.preflight.finding import Finding
from tuning.run.errors import UserError
from tuning.run.params import Params
from tuning.training.checkpoint import NUM_CHECKPOINTS_KEPT

MODELS_WRITTEN = 3
"""Training's, DVC's copy of it, and the released one, in the size of the base model in float32."""
MODELS_PER_CHECKPOINT = 3
"""Weights and AdamW's two moments."""


def check_device(params: Params) -> Iterator[Finding]:
    """Find what training would do without on this machine."""
    import torch

    from tuning.language_model.device import choose_device

    device = choose_device(
        precision=params.train.mixed_precision,
        compile_model=params.train.torch_compile,
        num_threads=params.num_threads,
    )
    for note in device.notes:
        yield Finding("warning", note)
    if device.kind == "cpu" and shutil.which("nvidia-smi"):
        how = "its driver does not answer" if torch.version.cuda else "torch is the CPU's build"
        yield Finding(
            "warning", f"there is an NVIDIA driver here, and {how}: training takes the CPU."
        )


def check_packages(params: Params) -> Iterator[Finding]:
    """Find packages that eval would miss only after training and scoring."""
    from tuning.report.relevance import encoder_folder

    if params.eval.relevance:
        try:
            encoder_folder()
        except UserError as error:
            yield Finding("error", str(error))


def check_disk(base: Path, params: Params) -> Iterator[Finding]:
    """Compare the free disk with what training writes: checkpoints, and the model three times."""
    size = float32_bytes(base)
    if not size:
        return  # not fetched yet
    checkpoints = (NUM_CHECKPOINTS_KEPT + 1) * MODELS_PER_CHECKPOINT  # one is being written
    if params.train.lora.rank is not None:
        checkpoints = 0  # adapters and two embeddings: far below the rest
    least, most = MODELS_WRITTEN * size, (MODELS_WRITTEN + checkpoints) * size
    free = shutil.disk_usage(".").free
    if free < least:
        yield Finding(
            "error", f"{free / 1e9:.1f} GB of disk are free; the models take {least / 1e9:.1f} GB."
        )
    elif free < most:
        yield Finding(
            "warning",
            f"{free / 1e9:.1f} GB of disk are free; models and checkpoints take up to "
            f"{most / 1e9:.1f} GB, and training goes on without checkpoints on a full disk.",
        )


def float32_bytes(base: Path) -> int:
    """Return the bytes of a model's weights in float32; 0 where there are none."""
    from safetensors import safe_open

    num_weights = 0
    for file in base.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118 # it is no dict
                num_weights += math.prod(weights.get_slice(name).get_shape())
    return 4 * num_weights
