"""What a small random model of each family can do here: a table for ``docs/families.md``.

    python -m benchmarks.families --out families.md

Each model is saved and loaded as a base model is. "Yes" means: what training and scoring compute of
several texts is what transformers computes of each alone, unmasked (loss, gradients and nats); that
replies are written side by side; and that ``tools.export_gguf`` writes a GGUF file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from tools.export_gguf import families as exported
from tools.export_gguf.gguf_file import export
from tuning.language_model.device import Device
from tuning.language_model.loading import load_plain_model, reads_alone
from tuning.packing import IGNORE_INDEX, PAD_SEGMENT, pack
from tuning.run.errors import UserError
from tuning.run.process import die_with_parent
from tuning.scoring.nats import TokenSequence, token_nll
from tuning.training.loss import PackedLoss
from tuning.writing.row_cache import writes_side_by_side

NUM_TOKENS = 300
"""The vocabulary's."""
WINDOW = 8
"""Tokens that a layer of sliding attention sees."""
LENGTHS = (40, 27, 13, 9)
ROW_TOKENS = 64
TOLERANCE, ROUNDING = 1e-4, 1e-6
"""The largest difference that counts as none, as a share of a tensor's largest number and of that
of all tensors."""
CPU = Device(kind="cpu", precision="no", compiled=False, notes=())

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": NUM_TOKENS,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT_SIZES: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
LATENT: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 2,
}
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_dt_rank": 4,
}
LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
NEAR: dict[str, Any] = {"sliding_window": WINDOW}
HEADS: dict[str, Any] = {"query_pre_attn_scalar": SIZES["head_dim"]}
"""Scores are scaled by the size of a head, as in most published Gemmas."""
NEAR_AND_FAR: dict[str, Any] = NEAR | {"layer_types": ["sliding_attention", "full_attention"] * 2}
CONVOLUTION: dict[str, Any] = {"layer_types": ["conv", "full_attention"] * 2}


@dataclass(frozen=True)
class Family:
    """A kind of model."""

    examples: str
    """Models that people tune."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What a small one needs beside ``SIZES``."""


FAMILIES = {
    "llama": Family("Llama 3, SmolLM 2, Mistral 7B v0.3"),
    "qwen2": Family("Qwen 2.5"),
    "qwen3": Family("Qwen 3"),
    "smollm3": Family("SmolLM 3"),
    "olmo2": Family("OLMo 2"),
    "olmo3": Family("OLMo 3", NEAR_AND_FAR),
    "granite": Family("Granite 3"),
    "gemma": Family("Gemma 1"),
    "gemma2": Family("Gemma 2", NEAR | HEADS),
    "gemma3_text": Family("Gemma 3", NEAR_AND_FAR | HEADS),
    "gemma4_text": Family(
        "Gemma 4",
        NEAR_AND_FAR
        | {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "global_head_dim": 8},
    ),
    "mistral": Family("Mistral 7B v0.1", NEAR),
    "ministral": Family("Ministral 8B", NEAR_AND_FAR),
    "ministral3": Family("Ministral 3"),
    "phi3": Family("Phi 3, Phi 4", NEAR),
    "cohere2": Family("Command R7B", NEAR),
    "exaone4": Family("EXAONE 4", NEAR_AND_FAR),
    "glm4": Family("GLM 4"),
    "gpt2": Family("GPT-2", GPT_SIZES),
    "gpt_neox": Family("Pythia"),
    "opt": Family("OPT"),
    "bloom": Family("BLOOM", GPT_SIZES),
    "gptj": Family("GPT-J", GPT_SIZES | {"rotary_dim": 4}),
    "gpt_oss": Family("GPT-OSS", EXPERTS | NEAR),
    "mixtral": Family("Mixtral", EXPERTS),
    "qwen2_moe": Family("Qwen 1.5 MoE", EXPERTS),
    "qwen3_moe": Family("Qwen 3 MoE", EXPERTS),
    "olmoe": Family("OLMoE", EXPERTS),
    "granitemoe": Family("Granite 3 MoE", EXPERTS),
    "phimoe": Family("Phi 3.5 MoE", EXPERTS),
    "deepseek_v3": Family("DeepSeek V3", EXPERTS | LATENT),
    "llama4_text": Family(
        "Llama 4",
        EXPERTS
        | {"num_experts_per_tok": 1, "intermediate_size_mlp": 32, "attention_chunk_size": 8},
    ),
    "qwen3_5_text": Family("Qwen 3.5", LINEAR),
    "qwen3_5_moe_text": Family("Qwen 3.5 MoE", EXPERTS | LINEAR),
    "qwen3_next": Family("Qwen 3 Next", EXPERTS | LINEAR),
    "olmo_hybrid": Family("OLMo Hybrid", LINEAR),
    "granitemoehybrid": Family(
        "Granite 4",
        EXPERTS
        | MAMBA
        | {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 16},
    ),
    "lfm2": Family("LFM2", CONVOLUTION),
    "lfm2_moe": Family("LFM2 MoE", EXPERTS | CONVOLUTION | {"num_dense_layers": 1}),
    "falcon_h1": Family("Falcon H1", MAMBA | {"mamba_d_ssm": 32}),
    "bamba": Family("Bamba", MAMBA | {"attn_layer_indices": [1, 3]}),
    "jamba": Family("Jamba", EXPERTS | MAMBA | {"attn_layer_period": 2, "attn_layer_offset": 1}),
    "zamba2": Family(
        "Zamba 2",
        {
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "hybrid_layer_ids": [1, 3],
            "num_mem_blocks": 1,
            "attention_hidden_size": 32,
            "attention_head_dim": 16,
            "adapter_rank": 4,
            "n_mamba_heads": 4,
            "mamba_headdim": 8,
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "use_mem_rope": False,
            "use_shared_attention_adapter": False,
        },
    ),
    "nemotron_h": Family(
        "Nemotron H",
        {
            "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
        },
    ),
    "recurrent_gemma": Family(
        "RecurrentGemma",
        {
            "lru_width": 16,
            "attention_window_size": WINDOW,
            "block_types": ["recurrent", "attention"],
        },
    ),
    "mamba2": Family("Mamba 2", {"num_heads": 4, "head_dim": 8, "state_size": 8, "n_groups": 1}),
    "falcon_mamba": Family("Falcon Mamba", {"state_size": 8}),
    "rwkv": Family("RWKV 4", {"attention_hidden_size": 16}),
    "xlstm": Family("xLSTM 7B"),
}
"""By the ``model_type`` of their configuration."""


def main() -> None:
    """Try every family, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", help="model types; all by default")
    parser.add_argument("--out", type=Path, required=True, help="Markdown")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    lines = [
        "| family | model_type | trains packed | trains unpacked | scores | writes side by side "
        "| exports | why not |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for kind in args.families or FAMILIES:
        lines.append(row(kind))
        print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(kind: str) -> str:
    """The table's row of one family."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_model(kind).save_pretrained(folder)
        try:
            model = load_plain_model(folder)
        except UserError as error:
            why, _, _ = str(error).removeprefix("model.name: ").partition(". ")
            cells, reasons = ["no"] * 5, [why]
        else:
            is_alone = reads_alone(model)
            packed = "no" if is_alone else said(trains(model, packing=True))
            cells = [packed, said(trains(model, packing=False)), said(scores(model))]
            cells.append("yes" if writes_side_by_side(model) else "no")
            reasons = ["its layers do not keep texts in one row apart"] * is_alone
            refusal = refused_export(folder)
            cells.append("yes" if refusal is None else "no")
            if refusal and kind in exported.FAMILIES:
                reasons.append(refusal)
    return f"| {' | '.join([FAMILIES[kind].examples, f'`{kind}`', *cells, '; '.join(reasons)])} |"


def refused_export(folder: Path) -> str | None:
    """Give the model a tokenizer of bytes and export it; return why that is refused, if it is."""
    letters = ["<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet())]
    tokens = Tokenizer(BPE({letter: id_ for id_, letter in enumerate(letters)}, merges=[]))
    tokens.pre_tokenizer = ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    try:
        export(folder, folder / "model.gguf")
    except UserError as error:
        return str(error).removeprefix(f"{folder}: ").partition(";")[0]
    return None


def said(is_same: bool) -> str:
    """The word in the table: a difference is a fault of ours."""
    return "yes" if is_same else "**differs**"


def small_model(kind: str, **changes: Any) -> PreTrainedModel:
    """A random model whose attention is sharp; the same call gives the same one."""
    settings = FAMILIES[kind].settings
    sizes = {"vocab_size": NUM_TOKENS} if GPT_SIZES.items() <= settings.items() else SIZES
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **sizes | settings | changes)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(10)
    return model


def texts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    """Token ids, of which the first are common to all."""
    generator = torch.Generator().manual_seed(1)
    common = list(range(10, 16))
    drawn = (torch.randint(3, NUM_TOKENS, (n,), generator=generator).tolist() for n in lengths)
    return [(common + one)[: len(one)] for one in drawn]


def plain_nll(model: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """Nats of every token behind the first, from the definition: alone, unmasked, all logits."""
    logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    targets = torch.tensor(ids[1:], device=model.device)
    return torch.nn.functional.cross_entropy(logits[:-1].float(), targets, reduction="none")


def rows_of(windows: Sequence[Sequence[int]], *, packing: bool) -> dict[str, Tensor]:
    """A batch of rows as training reads them; every token but a window's first is a target."""
    places = [[number] for number in range(len(windows))]
    if packing:
        places = pack([len(one) for one in windows], ROW_TOKENS)
    shape = (len(places), ROW_TOKENS)
    rows = {name: torch.zeros(shape, dtype=torch.int64) for name in ("input_ids", "position_ids")}
    rows["labels"] = torch.full(shape, IGNORE_INDEX)
    rows["segment_ids"] = torch.full(shape, PAD_SEGMENT)
    for number, place in enumerate(places):
        start = 0
        for segment, window in enumerate(place, start=1):
            ids = torch.tensor(windows[window])
            here = slice(start, start + len(ids))
            rows["input_ids"][number, here] = ids
            rows["labels"][number, here] = torch.where(torch.arange(len(ids)) > 0, ids, -100)
            rows["position_ids"][number, here] = torch.arange(len(ids))
            rows["segment_ids"][number, here] = segment
            start = here.stop
    return rows


def trains(model: PreTrainedModel, *, packing: bool, device: Device = CPU) -> bool:
    """Tell whether rows give the loss and the gradients that the texts give alone."""
    plain, ours = model, deepcopy(model)
    rows = {name: one.to(model.device) for name, one in rows_of(texts(), packing=packing).items()}
    expected = torch.stack([plain_nll(plain, ids).sum() for ids in texts()]).sum()
    found, _ = PackedLoss(ours, device)(**rows)
    return is_same([found, *gradients(ours, found)], [expected, *gradients(plain, expected)])


def scores(model: PreTrainedModel) -> bool:
    """Tell whether texts that begin alike have the nats that they have alone."""
    sequences = []
    for ids in texts():
        sequences.append(TokenSequence())
        sequences[-1].append(ids)
    found = token_nll(model, sequences, batch_size=1)
    with torch.inference_mode():
        expected = [plain_nll(model, ids).cpu() for ids in texts()]
    return is_same([torch.from_numpy(one[1:]) for one in found], expected)


def gradients(model: PreTrainedModel, loss: Tensor) -> Iterator[Tensor]:
    """Of every parameter; zero where it has no part."""
    parameters = list(model.parameters())
    for one, found in zip(
        parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
    ):
        yield torch.zeros_like(one) if found is None else found


def is_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Tell whether all tensors are equal, but for rounding: of themselves, or of the largest.

    Some gradients are sums that cancel to nothing (that of a key's bias).
    """
    largest = max(one.abs().max().item() for one in expected)
    return all(
        (one - other).abs().max().item()
        <= TOLERANCE * other.abs().max().item() + ROUNDING * largest
        for one, other in zip(found, expected, strict=True)
    )


if __name__ == "__main__":
    die_with_parent()
    main()
