"""Attention by blocks of queries, and a GPU's, is attention: transformers' own, to rounding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import create_block_mask, create_mask
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

from tests.tiny_model import enlarged
from tuning.language_model.loading import decoder_blocks
from tuning.packing import PAD_SEGMENT, attention_mask
from tuning.training import attention_cpu as attention
from tuning.training import attention_gpu as flex
from tuning.training.attention_cpu import NUM_BLOCKS, blockwise_attention
from tuning.training.attention_gpu import block_mask, packed_flex_attention

B, H, D = 3, 4, 8
SEGMENTS = {
    19: [
        [1] * 5 + [2] * 9 + [3] * 2 + [PAD_SEGMENT] * 3,
        [1] * 19,
        [PAD_SEGMENT] * 19,  # as a batch is filled up
    ],
    16: [[1] * 4 + [2] * 12, [1] + [2] + [PAD_SEGMENT] * 14, [1] * 7 + [2] * 9],
    3: [[1, 2, 2], [1, 1, 1], [1, 1, PAD_SEGMENT]],
    1: [[1], [1], [PAD_SEGMENT]],
}
"""Of rows of T tokens: T that the number of blocks divides, does not divide, and is above."""


class Layer(nn.Module):
    """What transformers' attention functions read of the layer that calls them."""

    is_causal = True

    def __init__(self, num_key_value_groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = num_key_value_groups


def inputs(num_tokens: int, num_groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value, and the mask that is added to scores."""
    generator = torch.Generator().manual_seed(num_tokens)
    query, key, value = (
        torch.randn(B, heads, num_tokens, D, generator=generator, requires_grad=True)
        for heads in (H, num_groups, num_groups)
    )
    visible = attention_mask(torch.tensor(SEGMENTS[num_tokens]))
    return query, key, value, torch.where(visible, 0.0, -math.inf)


def output_and_gradients(function: Any, *tensors: Any, **settings: Any) -> list[Tensor]:
    query, key, value, mask = tensors
    output, _ = function(Layer(H // key.shape[1]), query, key, value, mask, **settings)
    assert output.shape == (B, query.shape[2], H, D)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    return [output, *torch.autograd.grad((output * weights).sum(), (query, key, value))]


def check_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    """To a few roundings of a tensor's norm: single numbers are sums that may cancel."""
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 2e-6 * max(1, other.norm())


@pytest.mark.parametrize("num_groups", [4, 2, 1])
@pytest.mark.parametrize("num_tokens", SEGMENTS)
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_output_and_gradients_are_those_of_transformers(
    num_tokens: int, num_groups: int, scaling: float | None
) -> None:
    tensors = inputs(num_tokens, num_groups)
    found = output_and_gradients(blockwise_attention, *tensors, scaling=scaling)
    reference = {"scaling": D**-0.5 if scaling is None else scaling}
    check_equal(found, output_and_gradients(eager_attention_forward, *tensors, **reference))
    check_equal(found, output_and_gradients(sdpa_attention_forward, *tensors, **reference))


@pytest.mark.parametrize("num_groups", [4, 2, 1])
@pytest.mark.parametrize("num_tokens", SEGMENTS)
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_a_gpus_attention_is_the_same(
    num_tokens: int, num_groups: int, scaling: float | None, flex_on_cpu: None
) -> None:
    """Its definition, by PyTorch's own reference; the fused kernel of it needs a GPU."""
    query, key, value, mask = inputs(num_tokens, num_groups)
    blocks = block_mask(torch.tensor(SEGMENTS[num_tokens]))
    found = output_and_gradients(packed_flex_attention, query, key, value, blocks, scaling=scaling)
    expected = output_and_gradients(blockwise_attention, query, key, value, mask, scaling=scaling)
    check_equal(found, expected)


@pytest.mark.parametrize("first_seen", [None, lambda at: at - 99, lambda at: at // 130 * 130])
@pytest.mark.parametrize("num_tokens", [*SEGMENTS, 256, 700])
def test_blocks_are_those_that_the_whole_mask_would_show(num_tokens: int, first_seen: Any) -> None:
    """Windows of up to several blocks, and layers that see all, the last 100, chunks of 130."""
    long = [[1] * 128 + [2] * 300, [1] * 700, [1, *[2] * 270, *[3] * 129]]
    rows = SEGMENTS.get(num_tokens) or [
        (one + [PAD_SEGMENT] * num_tokens)[:num_tokens] for one in long
    ]
    segments = torch.tensor(rows)
    found = block_mask(segments, first_seen)
    place = torch.arange(num_tokens)
    is_first = torch.tensor([[n == 0 or r[n] != r[n - 1] for n in range(num_tokens)] for r in rows])
    position = place - (place * is_first).cummax(1).values
    visible = attention_mask(segments)[:, 0]
    if first_seen is not None:
        visible = visible & (position[:, None] >= first_seen(position)[:, :, None])
    assert found.mask_mod is not None
    mask = create_mask(found.mask_mod, B, None, num_tokens, num_tokens, "cpu")
    assert torch.equal(mask[:, 0], visible)
    expected = create_block_mask(
        lambda row, _head, query, key: visible[row, query, key],
        B,
        None,
        num_tokens,
        num_tokens,
        device="cpu",
    )
    assert found.shape == expected.shape
    for name in ("kv", "full_kv", "q", "full_q"):
        counts = getattr(expected, f"{name}_num_blocks")
        assert torch.equal(getattr(found, f"{name}_num_blocks"), counts)
        blocks, wanted = (getattr(each, f"{name}_indices") for each in (found, expected))
        is_listed = torch.arange(blocks.shape[-1]) < counts[..., None]
        assert torch.equal(blocks[is_listed], wanted[is_listed])


def test_the_rows_above_need_every_way_to_cut_a_row() -> None:
    assert {(num_tokens < NUM_BLOCKS, num_tokens % NUM_BLOCKS == 0) for num_tokens in SEGMENTS} == {
        (True, False),
        (False, True),
        (False, False),
    }


def test_in_bf16_nothing_is_kept_in_float32() -> None:
    """Though rotary positions, or a norm of the values, leave float32."""
    query, key, value, mask = inputs(19, 2)
    expected = output_and_gradients(blockwise_attention, query, key, value, mask)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor is not mask:  # one for all layers
            kept.append(tensor)
        return tensor

    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        output, _ = blockwise_attention(Layer(2), query, key, value, mask)
    assert {tensor.dtype for tensor in kept} == {torch.bfloat16}
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    found = [output, *torch.autograd.grad((output * weights).sum(), (query, key, value))]
    assert [each.dtype for each in found] == [torch.bfloat16, *[torch.float32] * 3]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 0.02 * other.norm()


def test_dropout_drops_its_share_of_the_weights_and_only_in_training() -> None:
    """With the identity for values, the output is the weights; those left are scaled up."""
    num_tokens, share = 64, 0.25
    query, key = (torch.randn(8, H, num_tokens, D) for _ in range(2))
    value = torch.eye(num_tokens).expand(8, H, -1, -1)
    visible = attention_mask(torch.ones(8, num_tokens, dtype=torch.int64))
    mask = torch.where(visible, 0.0, -math.inf)
    layer = Layer(1).train()
    torch.manual_seed(0)
    dropped = blockwise_attention(layer, query, key, value, mask, dropout=share)[0]
    whole = blockwise_attention(layer.eval(), query, key, value, mask, dropout=share)[0]
    torch.testing.assert_close(whole, blockwise_attention(layer, query, key, value, mask)[0])

    dropped, whole = dropped.transpose(1, 2), whole.transpose(1, 2)
    torch.testing.assert_close(whole.sum(-1), torch.ones(8, H, num_tokens))
    seen = visible.expand_as(whole)
    assert not whole[~seen].any()
    is_dropped = dropped[seen] == 0
    assert is_dropped.float().mean().item() == pytest.approx(share, abs=0.01)
    torch.testing.assert_close(
        dropped[seen][~is_dropped], whole[seen][~is_dropped] / (1 - share), rtol=1e-5, atol=1e-7
    )


def grouped_llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=2,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=50,
        )
    )


def gpt2_scaled_by_layer() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=2,
            n_embd=16,
            n_head=2,
            vocab_size=50,
            bos_token_id=0,
            eos_token_id=0,
            scale_attn_by_inverse_layer_idx=True,
        )
    )


def logits_and_gradients(
    model: PreTrainedModel, segment_ids: Tensor, implementation: str
) -> list[Tensor]:
    """Of some tokens, with the model's attention and the mask that it takes."""
    model.set_attn_implementation(implementation)
    assert model.config._attn_implementation == implementation
    generator = torch.Generator().manual_seed(0)
    added = torch.where(attention_mask(segment_ids), 0.0, -math.inf)
    logits = model(
        input_ids=torch.randint(50, segment_ids.shape, generator=generator),
        attention_mask=block_mask(segment_ids) if implementation == flex.NAME else added,
        position_ids=torch.arange(19).expand(3, -1),
        use_cache=False,
    ).logits
    weights = torch.randn(logits.shape, generator=generator)
    return [logits, *torch.autograd.grad((logits * weights).sum(), list(model.parameters()))]


@pytest.mark.parametrize("make", [grouped_llama, gpt2_scaled_by_layer])
@pytest.mark.parametrize("reference", ["eager", "sdpa"])
def test_a_model_gives_the_same_logits_and_gradients(make: Any, reference: str) -> None:
    torch.manual_seed(0)
    model, segment_ids = enlarged(make().eval()), torch.tensor(SEGMENTS[19])
    found = logits_and_gradients(model, segment_ids, attention.NAME)
    check_equal(found, logits_and_gradients(model, segment_ids, reference))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler's own, hidden
def test_a_gpus_attention_is_compiled_once_for_all_layers_and_rows(flex_on_cpu: None) -> None:
    """By PyTorch's compiler up to the kernels, gradients too: a whole graph, and only one."""
    torch.manual_seed(0)
    model = enlarged(grouped_llama().eval())
    batches = [torch.tensor(SEGMENTS[19]), torch.tensor(SEGMENTS[19][::-1])]
    expected = [logits_and_gradients(model, each, attention.NAME) for each in batches]
    torch.compiler.reset()
    counters.clear()
    for block in decoder_blocks(model):
        block.compile(dynamic=False, fullgraph=True, backend="aot_eager")
    with torch.compiler.set_stance("default"):
        for segment_ids, those in zip(batches, expected, strict=True):
            check_equal(logits_and_gradients(model, segment_ids, flex.NAME), those)
    assert counters["stats"]["unique_graphs"] == 1
