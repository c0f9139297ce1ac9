"""What small random models of many families do here is what the table in the docs says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.families import FAMILIES, WINDOW, row, small_model, texts, trains
from tuning.language_model.device import Device
from tuning.language_model.loading import load_plain_model

TABLE = Path(__file__).parents[2] / "docs/families.md"
GPU = Device(kind="cuda", precision="no", compiled=True, notes=())
FEW = ("gemma2", "gemma3_text", "mistral", "gpt_oss", "llama4_text", "qwen3_5_text", "lfm2", "rwkv")
HYBRID = ("qwen3_5_text", "lfm2", "granitemoehybrid", "falcon_h1", "bamba", "zamba2", "nemotron_h")


@pytest.mark.parametrize(
    "kind",
    [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.thorough) for kind in FAMILIES],
)
def test_a_family_does_what_the_table_says(kind: str) -> None:
    found = row(kind)
    assert "differs" not in found
    assert found in TABLE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("kind", ["gemma3_text", "mistral", "qwen2", "llama4_text"])
def test_a_gpus_attention_looks_back_as_far(kind: str, packing: bool, flex_on_cpu: None) -> None:
    some = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}
    model = small_model(kind, **some if kind == "qwen2" else {}).eval()
    model.set_attn_implementation("sdpa")
    assert trains(model, packing=packing, device=GPU)


@pytest.mark.parametrize("kind", HYBRID)
def test_neither_other_rows_nor_what_fills_a_row_up_changes_a_text(
    kind: str, tmp_path: Path
) -> None:
    small_model(kind).save_pretrained(tmp_path)
    model = load_plain_model(tmp_path)
    one, other, *_ = (torch.tensor(ids) for ids in texts())
    with torch.inference_mode():
        expected = model(other[None], use_cache=False).logits[0]
        for fill in (0, 7):
            filled = torch.cat([other, torch.full((len(one) - len(other),), fill)])
            for rows in ([one, filled], [filled, one], [filled]):
                logits = model(torch.stack(rows), use_cache=False).logits
                found = logits[[row is filled for row in rows]][0, : len(other)]
                assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
