"""AdamW with moments and weights of the types that the parameters ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim import Optimizer as OfTorch

from tuning.training import few_bits
from tuning.training.objective import Objective
from tuning.training.start import embedding_weights

if TYPE_CHECKING:
    from tuning.run.params import TrainParams

Moments = dict[str, Tensor | int]
"""What is kept of a parameter between its updates."""


class Optimizer:
    """One optimizer of torch's form, made of several that have some of the parameters each.

    Weights of bfloat16 are widened to float32 for their update, one parameter at a time, and
    rounded stochastically: up or down with the probabilities that keep their mean, so that updates
    of less than half a unit of rounding are not lost (Zamirai et al. 2020, "Revisiting BFloat16
    Training"). The draws follow from the count of steps alone: they are the same in every process,
    and after a restart.
    """

    def __init__(self, objective: Objective, train: TrainParams) -> None:
        """Take the trained parameters of an objective's model, in their types.

        Matrices decay; biases and norms do not, nor do new tokens' rows beside frozen ones. Of
        8 bits are the moments of matrices that are no embeddings.
        """
        names = {each: name for name, each in objective.named_parameters() if each.requires_grad}
        embeddings = embedding_weights(objective.model)
        parts: dict[Any, dict[bool, list[nn.Parameter]]] = {}
        for each, name in names.items():
            has_few_bits = train.optimizer != "adamw" and each.ndim >= 2 and each not in embeddings
            is_alone = each.dtype == torch.bfloat16
            groups = parts.setdefault((has_few_bits, name if is_alone else ""), {})
            decays = each.ndim >= 2 and "trainable_tokens" not in name
            groups.setdefault(decays, []).append(each)
        self._optimizers: list[OfTorch] = []
        for (has_few_bits, _), groups in parts.items():
            settings = [
                {"params": some, "weight_decay": train.weight_decay if decays else 0.0}
                for decays, some in groups.items()
            ]
            self._optimizers.append(
                few_bits.adamw(settings, is_paged=train.optimizer == "paged_adamw_8bit")
                if has_few_bits
                else AdamW(settings, fused=True)
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with their settings, such as ``lr``."""
        return list(chain.from_iterable(each.param_groups for each in self._optimizers))

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for index, optimizer in enumerate(self._optimizers):
            with _widened(optimizer, index):
                optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def moments(self, parameter: nn.Parameter) -> Moments:
        """Return what is kept of a parameter, to be read or filled; zeros before its first update.

        Tables of numbers that all parameters share are left out.
        """
        optimizer, place = next(
            (optimizer, (number, index))
            for optimizer in self._optimizers
            for number, group in enumerate(optimizer.param_groups)
            for index, each in enumerate(group["params"])
            if each is parameter
        )
        state: Moments = optimizer.state[parameter]
        if not state and isinstance(optimizer, AdamW):  # as its fused form begins it
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
        elif not state:
            few_bits.begin(optimizer, parameter, *place)
        return state


@contextmanager
def _widened(optimizer: OfTorch, index: int) -> Iterator[None]:
    """Make an optimizer's only parameter float32 meanwhile, if it is bfloat16."""
    parameter = optimizer.param_groups[0]["params"][0]
    if parameter.dtype != torch.bfloat16 or parameter.grad is None:
        yield
        return
    gradient = parameter.grad
    parameter.data = parameter.data.float()
    parameter.grad = gradient.float()
    yield
    num_steps = int(optimizer.state[parameter]["step"])
    generator = torch.Generator(parameter.device).manual_seed(num_steps << 16 | index)
    parameter.grad = None
    parameter.data = rounded_stochastically(parameter.data, generator)


def rounded_stochastically(wide: Tensor, generator: torch.Generator) -> Tensor:
    """Round float32 to a neighbour in bfloat16; the nearer one is the likelier, in proportion."""
    bits = wide.view(torch.int32)  # sign and size: what is added makes a number larger in size
    below = torch.randint(
        1 << 16, bits.shape, generator=generator, device=bits.device, dtype=torch.int32
    )
    return ((bits + below) & ~0xFFFF).view(torch.float32).bfloat16()
