"""A fine-tuned model as one GGUF file, for llama.cpp: ``python -m tools.export_gguf MODEL FILE``.

Matrices in float16, vectors in float32, as llama.cpp's own conversion has it. Models of the Llama
and GPT-2 architectures with GPT-2's kind of tokenizer; llama.cpp's convert_hf_to_gguf.py reads the
folder of any other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from tuning.release.gguf_tokenizer import OTHERWISE, add_tokenizer
from tuning.run.errors import UserError
from tuning.run.process import run_stage
from tuning.tokens.tokenizer import load_tokenizer

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "gpt2": gguf.MODEL_ARCH.GPT2}


def main() -> None:
    """Write the file; a half-written one never has its name."""
    parser = argparse.ArgumentParser(prog="python -m tools.export_gguf", description=__doc__)
    parser.add_argument("model", type=Path, help="a folder of stage release")
    parser.add_argument("file", type=Path, help="GGUF file to write")
    args = parser.parse_args()
    temporary = args.file.with_name(f".{args.file.name}.tmp")
    try:
        export(args.model, temporary)
        temporary.replace(args.file)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"export: {args.file}, {args.file.stat().st_size / 1e6:,.1f} MB")


def export(model: Path, file: Path) -> None:
    """Write weights, tokenizer, chat template and settings of a model folder.

    Raises:
        UserError: it is no model folder, or of another architecture or kind of tokenizer.
    """
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{model} is no model folder: it has no config.json.") from None
    kind = config["model_type"]
    if kind not in ARCHITECTURES:
        raise UserError(f"{model}: {kind} models are not exported here; {OTHERWISE}.")
    if config.get("rope_parameters", {}).get("rope_type", "default") != "default":
        raise UserError(f"{model}: its positions are scaled, which is not exported; {OTHERWISE}.")
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[kind]])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_settings(writer, config)
    add_tokenizer(writer, load_tokenizer(model), model, num_rows=config["vocab_size"])
    writer.add_eos_token_id(config["eos_token_id"])  # generation ends at the end of a turn
    writer.add_pad_token_id(config["pad_token_id"])
    _add_weights(writer, model, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_settings(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    if config["model_type"] == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    num_heads = config["num_attention_heads"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // num_heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])


def _add_weights(writer: gguf.GGUFWriter, model: Path, config: dict[str, Any]) -> None:
    is_llama = config["model_type"] == "llama"
    num_layers = config["num_hidden_layers"] if is_llama else config["n_layer"]
    names = gguf.get_tensor_name_map(ARCHITECTURES[config["model_type"]], num_layers)
    for file in sorted(model.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if is_llama and name.endswith(("q_proj.weight", "k_proj.weight")):
                heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
                tensor = _interleaved(tensor, config[heads])
            if not is_llama and name.endswith(
                ("c_attn.weight", "c_proj.weight", "c_fc.weight")
            ):  # GPT-2 keeps its matrices transposed
                tensor = tensor.T
            new = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert new is not None, f"{name} has no place in a GGUF file"
            kind = np.float16 if tensor.ndim > 1 else np.float32
            writer.add_tensor(new, np.ascontiguousarray(tensor, dtype=kind))


def _interleaved(weight: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """Rows of a query or key matrix in the order in which llama.cpp turns pairs of them.

    transformers turns row i of a head with row i + d/2, llama.cpp row 2i with row 2i + 1.
    """
    num_rows, num_columns = weight.shape
    halves = weight.reshape(num_heads, 2, num_rows // num_heads // 2, num_columns)
    return halves.swapaxes(1, 2).reshape(num_rows, num_columns)


if __name__ == "__main__":
    run_stage("export", main)
