"""Running a model without leaving a trace in it."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..storage import ids_of_positions, stored
from .batches import Loss, Run, each_batch

__all__ = ["batch_gradients", "mean_gradients", "run_on", "stand_in_tensors", "swapped", "training_flags_restored"]

Gradients = Sequence[Optional[Tensor]]
Further = Callable[[Gradients, Sequence[Tensor]], Gradients]


class _Call(nn.Module):
    """A function of a model as a module, whose tensors torch.func.functional_call can swap for the call."""

    def __init__(self, model: nn.Module, function: Run) -> None:
        super().__init__()
        self.model = model
        self.function = (function,)  # in a tuple, for a loss that is a module is no part of this one

    def forward(self, batch: Any) -> Any:
        return self.function[0](self.model, batch)


def swapped(model: nn.Module, tensors: Dict[str, Tensor], function: Run, batch: Any) -> Any:
    """`function(model, batch)` while `tensors` stand in the places of the parameters and buffers of those names.

    Derivatives belong into `function`: activation checkpointing runs parts of the model again for them.
    """
    named = {f"model.{name}": tensor for name, tensor in tensors.items()}
    return torch.func.functional_call(_Call(model, function), named, (batch,))


def stand_in_tensors(model: nn.Module, layers: Iterable[nn.Module]) -> Dict[str, Tensor]:
    """Tensors for `swapped`: the weights of `layers` as leaves that share memory and require gradients, other
    parameters detached, and copies of the buffers and embeddings that a forward may write.
    """
    weights = {id(stored(layer)) for layer in layers}
    written = {id(module.weight) for module in model.modules() if _renormalizes(module)}
    tensors: Dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach()
        tensors[name] = (tensor.clone() if id(parameter) in written else tensor).requires_grad_(
            id(parameter) in weights
        )
    fixed = ids_of_positions(model)
    for name, buffer in model.named_buffers():
        if id(buffer) not in fixed:
            tensors[name] = buffer.detach().clone()
    return tensors


def _renormalizes(module: nn.Module) -> bool:
    """Whether the module's forward writes its weight."""
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None


def run_on(model: nn.Module, data: Iterable[Any], run: Run) -> None:
    """Run the model on each batch, without gradients: for what hooks see. Buffers and random numbers stay."""
    tensors = stand_in_tensors(model, ())
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for batch in each_batch(data):
            swapped(model, tensors, run, batch)


def batch_gradients(
    model: nn.Module, layers: List[nn.Module], data: Iterable[Any], loss: Loss, further: Optional[Further] = None
) -> Iterator[Gradients]:
    """For each batch the gradient of its loss in the weights of each layer, shaped as they are stored, None where the
    loss does not depend on them; or what `further` makes of these gradients, which it can differentiate in the tensors
    that stand for the weights, its second argument.

    Random numbers are those that torch's generator has now, and it is left at them: two calls see the same.

    Raises:
        TypeError: `loss` gives no tensor.
        ValueError: it gives no single finite number, or one that depends on no weight; there are no batches.
    """
    tensors = stand_in_tensors(model, layers)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    leaves = [tensors[names[id(stored(layer))]] for layer in layers]
    # torch's flash attention is differentiable once
    attention = nullcontext() if further is None else sdpa_kernel(SDPBackend.MATH)

    def differentiated(model: nn.Module, batch: Any) -> Gradients:
        value = _checked_loss(loss(model, batch))
        gradients = torch.autograd.grad(value, leaves, create_graph=further is not None, allow_unused=True)
        return gradients if further is None else further(gradients, leaves)

    with torch.random.fork_rng(devices=[]), attention:
        for batch in each_batch(data):
            with torch.enable_grad():
                found = swapped(model, tensors, differentiated, batch)
            yield found


def mean_gradients(
    model: nn.Module,
    layers: List[nn.Module],
    data: Iterable[Any],
    loss: Loss,
    of: Callable[[nn.Module, Tensor], Tensor] = lambda layer, gradient: gradient,
) -> List[Tensor]:
    """For each layer the mean over batches of `of(layer, gradient)`; the gradient counts as 0 where there is none."""
    sums: List[Tensor] = []
    batches = 0
    for gradients in batch_gradients(model, layers, data, loss):
        batches += 1
        terms = [
            of(layer, torch.zeros_like(stored(layer)) if gradient is None else gradient)
            for layer, gradient in zip(layers, gradients)
        ]
        sums = [total.add_(term) for total, term in zip(sums, terms)] if sums else [term.clone() for term in terms]
    return [total.div_(batches) for total in sums]


def _checked_loss(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must give a scalar tensor, got {type(value).__name__}")
    if value.numel() != 1:
        raise ValueError(f"loss must give a scalar tensor, got one of shape {tuple(value.shape)}")
    if not value.requires_grad:
        raise ValueError("loss must depend on the weights: it gave a tensor without a gradient")
    if not value.isfinite():
        raise ValueError(f"loss must be finite, got {value.item()}")
    return value.reshape(())


@contextmanager
def training_flags_restored(model: nn.Module) -> Iterator[None]:
    """Give each module the training flag back that it has now."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
