"""The GGUF file of a model folder: settings, tokenizer, and weights one after another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from tools.export_gguf import WEIGHTS_KEY
from tools.export_gguf.families import (
    FAMILIES,
    Family,
    add_settings,
    check_settings,
    rope_factors,
)
from tuning.release.gguf_tokenizer import OTHERWISE, add_tokenizer
from tuning.run.errors import UserError
from tuning.run.files import weights_sha256
from tuning.tokens.tokenizer import load_tokenizer

TYPES = {
    "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "f16": (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
    "bf16": (gguf.LlamaFileType.MOSTLY_BF16, gguf.GGMLQuantizationType.BF16),
    "q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
}
"""Types of matrices. llama.cpp's others need its llama-quantize."""


def export(model: Path, file: Path, *, kind: str = "f16") -> None:
    """Write weights, tokenizer, chat template and settings of a model folder.

    Args:
        model: Folder of stage release.
        file: GGUF file to write; a part of it stays where this fails.
        kind: One of ``TYPES``.

    Raises:
        UserError: it is no model folder, or it is not proved that llama.cpp reads it alike.
    """
    config, family = _known(model)
    tokenizer = load_tokenizer(model)
    file_type, matrices = TYPES[kind]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[family.arch])
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string(WEIGHTS_KEY, weights_sha256(model))
    add_settings(writer, family, config)
    add_tokenizer(writer, tokenizer, model, num_rows=config.vocab_size)
    for name, id_ in zip(("eos", "eot", "eom"), stop_ids(model), strict=False):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", id_)
    if config.pad_token_id is not None:
        writer.add_pad_token_id(config.pad_token_id)
    with closing(writer):
        _write(writer, model, family, config, matrices)


def _known(model: Path) -> tuple[PreTrainedConfig, Family]:
    try:
        kind = json.loads((model / "config.json").read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError:
        raise UserError(f"{model} is no model folder: it has no config.json.") from None
    if kind not in FAMILIES:
        raise UserError(f"{model}: {kind} models are not exported here; {OTHERWISE}.")
    config = AutoConfig.from_pretrained(model)
    try:
        check_settings(FAMILIES[kind], config)
    except UserError as error:
        raise UserError(f"{model}: {error}; {OTHERWISE}.") from None
    return config, FAMILIES[kind]


def stop_ids(model: Path) -> list[int]:
    """Return the tokens at which generation ends, that of a turn first."""
    try:
        found = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a folder need not have the file
        found = AutoConfig.from_pretrained(model).eos_token_id
    return found if isinstance(found, list) else [] if found is None else [found]


def _write(
    writer: gguf.GGUFWriter,
    model: Path,
    family: Family,
    config: PreTrainedConfig,
    matrices: gguf.GGMLQuantizationType,
) -> None:
    """Write the file with one tensor at a time in memory."""
    for name, tensor in _tensors(model, family, config, device="meta"):
        kind = _type_of(tensor, matrices)
        shape = gguf.quant_shape_to_byte_shape(tuple(tensor.shape), kind)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, tensor in _tensors(model, family, config, device="cpu"):
        with np.errstate(over="ignore"):
            content = gguf.quantize(tensor.contiguous().numpy(), _type_of(tensor, matrices))
        if content.dtype == np.float16 and not np.isfinite(content).all():
            raise UserError(f"{model}: {name} is beyond float16; give it --type bf16.")
        writer.write_tensor_data(content.view(_Tensor))


class _Tensor(np.ndarray[Any, Any]):
    """An array that says when a disk is full; numpy's own may lose its last four kilobytes."""

    def tofile(self, file: IO[bytes]) -> None:  # type: ignore[override]
        """Write the array as it stands in memory."""
        file.write(self.data)


def _tensors(
    model: Path, family: Family, config: PreTrainedConfig, *, device: str
) -> Iterator[tuple[str, Tensor]]:
    """Yield names and float32 tensors as llama.cpp has them; on ``meta``, nothing is read."""
    names = gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no dict)
                new = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if new is None:
                    raise UserError(f"{model}: {name} has no place in a GGUF file; {OTHERWISE}.")
                if device == "meta":
                    tensor = torch.empty(weights.get_slice(name).get_shape(), device=device)
                else:
                    tensor = weights.get_tensor(name).float()
                for ending, change in family.changes.items():
                    if name.endswith(ending):
                        tensor = change(tensor, config)
                yield new, tensor
    if (factors := rope_factors(config)) is not None:
        yield "rope_freqs.weight", factors


def _type_of(tensor: Tensor, matrices: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    """Return a tensor's type: float32 if it is a vector, float16 where blocks do not fit rows."""
    if tensor.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[matrices]
    return gguf.GGMLQuantizationType.F16 if tensor.shape[-1] % block else matrices
