"""Stands for what holds other bytes than its code shows: kernels, and weights of few bits."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch.fx import GraphModule, Interpreter, Node
from transformers import AttentionInterface, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tools.preflight.meter import Meter
from tuning.language_model.loading import decoder_blocks
from tuning.training.attention_cpu import in_product_type

FUSED = "counted_as_fused"
"""The name of an attention that holds what a GPU's does."""
BYTES_PER_WEIGHT = {"int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Of linear layers' frozen weights; nf4 has a scale of 8 bits per 64 of them, and one of 32 bits
per 256 scales."""


class _Widened(torch.autograd.Function):
    """A product with weights of few bits, which bitsandbytes widens in either pass anew.

    With 8 bits it keeps its inputs, which no gradient needs.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, keeps_inputs: bool) -> Tensor:  # noqa: FBT001
        ctx.weight, ctx.kept = weight, inputs if keeps_inputs else None
        return inputs @ weight.to(inputs.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.weight.to(gradient.dtype, copy=True).T, None, None


def in_few_bits(model: PreTrainedModel, kind: str, compute: torch.dtype) -> None:
    """Let the blocks' linear layers hold what they would in few bits, but for the weights."""

    def forward(layer: nn.Linear | Conv1D, inputs: Tensor) -> Tensor:
        weight = layer.weight.T if isinstance(layer, nn.Linear) else layer.weight
        if kind == "int8":
            product: Tensor = _Widened.apply(inputs, weight, True)  # type: ignore[no-untyped-call]
            return product
        product = _Widened.apply(inputs.to(compute), weight, False)  # type: ignore[no-untyped-call]
        return product.to(inputs.dtype).clone()  # PEFT's copy

    for block in decoder_blocks(model):
        for layer in block.modules():
            if isinstance(layer, nn.Linear | Conv1D):
                vars(layer)["forward"] = partial(forward, layer)


def saved_bytes(model: PreTrainedModel, kind: str | None) -> int:
    """Return the bytes that fewer bits save of the linear layers."""
    if kind is None:
        return 0
    frozen = [
        each
        for block in decoder_blocks(model)
        for each in block.parameters()
        if each.ndim == 2 and not each.requires_grad
    ]
    few = sum(BYTES_PER_WEIGHT[kind] * each.numel() for each in frozen)
    return sum(each.nbytes for each in frozen) - int(few)


def compile_blocks(model: PreTrainedModel, meter: Meter) -> None:
    """Let the decoder's blocks hold what they would if they were compiled."""
    torch.compiler.reset()  # it stops compiling after some models of other shapes
    backend = partial(_compile, meter)  # the same for all of them: it goes by that, too
    for block in decoder_blocks(model):
        block.compile(dynamic=False, backend=backend)


class _Kernels(Interpreter):
    """Runs the steps of a graph as if they were compiled.

    Steps that go number by number are one kernel with what reads them. So what they make is
    nowhere, unless a product or another graph reads it.
    """

    def __init__(self, graph: GraphModule, meter: Meter) -> None:
        """Take a graph, whose tensors the meter counts."""
        super().__init__(graph)
        self._meter = meter
        self._inside = {
            node
            for node in graph.graph.nodes
            if _has_tag(node, torch.Tag.pointwise) and all(map(_goes_on, _readers(node)))
        }

    def run_node(self, n: Node) -> Any:
        """Run a step."""
        with self._meter.uncounted() if n in self._inside else nullcontext():
            return super().run_node(n)


def _has_tag(node: Node, tag: torch.Tag) -> bool:
    return tag in getattr(node.target, "tags", ())


def _is_view(node: Node) -> bool:
    return getattr(node.target, "is_view", False) or node.target is operator.getitem


def _readers(node: Node) -> Iterator[Node]:
    """Yield the steps that read what a step makes, itself or as a view."""
    for reader in node.users:
        yield from _readers(reader) if _is_view(reader) else (reader,)


def _goes_on(node: Node) -> bool:
    """Tell whether a step is one of a kernel that its inputs are made in."""
    return _has_tag(node, torch.Tag.pointwise) or _has_tag(node, torch.Tag.reduction)


def _compile(meter: Meter, graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Compile a graph, forward and backward, into what is counted as kernels would hold it."""

    def compiler(part: GraphModule, _inputs: object) -> Callable[..., Any]:
        kernels = _Kernels(part, meter)

        def run(inputs: list[Any]) -> Any:
            return kernels.boxed_run(inputs)

        vars(run)["_boxed_call"] = True  # it empties the list, so that inputs end with their use
        return run

    return aot_autograd(
        fw_compiler=compiler,
        bw_compiler=compiler,
        decompositions=select_decomp_table,
        partition_fn=partial(min_cut_rematerialization_partition, compiler="inductor"),
    )(graph, inputs)


def fused_nll_to_gradient(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:  # noqa: ARG001
    """Stand for ``nll_to_gradient`` as it is compiled: one kernel that needs no other memory."""
    return logits.sum(dtype=torch.float32)


def _fused_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,  # noqa: ARG001
    **_: Any,
) -> tuple[Tensor, None]:
    """Stand for a GPU's attention: it keeps queries, keys, values and output, and no scores.

    So do the products of linear attention, which this is.
    """
    query, key, value = in_product_type(query, key, value)
    in_groups = torch.unflatten(query, 1, (key.shape[1], -1)).flatten(2, 3)
    output = (in_groups @ (key.transpose(-1, -2) @ value)).view_as(query)
    return output.transpose(1, 2), None


AttentionInterface.register(FUSED, _fused_attention)
