"""What this machine lacks for the run: a device, packages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from tools.preflight.finding import Finding
from tuning.run.errors import UserError
from tuning.run.params import Params


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
