"""Moving a model's layers to other positions in the middle of a training, the optimizer's state with them."""

from __future__ import annotations

from typing import Any, Dict, Optional

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...nn.masked import Masked
from ...optim.follow import first_entry, followed, move_state, starts_of
from ...pattern import Pattern
from .gradients import is_trained, weight_of

__all__ = ["Placement", "checked_optimizer", "move_layer", "placement", "positions_of", "set_weights", "trained_by"]

Placement = Any  # the Pattern of a sparse layer, the mask of a masked one: what each keeps its positions in


def positions_of(layer: Any) -> Tensor:
    """int64, on the CPU, increasing: the remaining positions of the layer's flat weight."""
    if isinstance(layer, Masked):
        return layer.mask.reshape(-1).nonzero().squeeze(1).cpu()
    return torch.from_numpy(layer.pattern.flat_positions())


def placement(layer: Any, positions: Tensor) -> Placement:
    """Those positions of the flat weight, int64, increasing, as the layer keeps them."""
    shape = layer.weight_shape
    if isinstance(layer, Masked):
        mask = torch.zeros(shape, dtype=torch.bool, device=layer.mask.device)
        mask.view(-1)[positions] = True
        return mask
    cols = shape[1:].numel()
    row_ptr = torch.searchsorted(positions, torch.arange(shape[0] + 1, device="cpu") * cols)
    return Pattern.from_csr(row_ptr, positions.remainder(max(cols, 1)).int(), shape)


def checked_optimizer(optimizer: Any, layers: Dict[str, Any]) -> Optimizer:
    """`optimizer`, if its state follows the patterns of these layers.

    Raises:
        TypeError: it is no torch optimizer.
        ValueError: it has none of their weights, or some of them are sparse and it does not follow patterns.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    held = _held(layers, optimizer)
    if layers and not held:
        raise ValueError(
            "optimizer: it has no weight of the model's prunable layers: make it after prunable and to_sparse, of the "
            "model's parameters"
        )
    sparse = [name for name, layer in held.items() if not isinstance(layer, Masked)]
    if sparse and optimizer not in followed:
        raise ValueError(
            f"optimizer: the state of this {type(optimizer).__name__} would not follow the patterns of the sparse "
            f"layers {sparse}: take one of mpl_sparse.optim, or call mpl_sparse.optim.follow_patterns(optimizer)"
        )
    return optimizer


def trained_by(optimizer: Optimizer, layers: Dict[str, Any]) -> Dict[str, Any]:
    """Those of the layers whose weight the optimizer has and that require a gradient now."""
    return {name: layer for name, layer in _held(layers, optimizer).items() if is_trained(layer)}


def _held(layers: Dict[str, Any], optimizer: Optimizer) -> Dict[str, Any]:
    parameters = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    return {name: layer for name, layer in layers.items() if weight_of(layer) in parameters}


@torch.no_grad()
def move_layer(layer: Any, to: Placement, optimizer: Optimizer, dropped: Optional[Tensor] = None) -> None:
    """Give the layer other positions, as :func:`placement` made them. Weights that it has before and after keep their
    value, gradient and optimizer state; those that grow start fresh.

    Args:
        dropped: bool (num_weight,), True for remaining weights that start fresh even if `to` has them.
    """
    if dropped is not None:
        layer._keep(~dropped)
    if isinstance(layer, Masked):
        _clear_pruned(layer, optimizer)
        layer.set_mask(to)
        return
    if dropped is not None:
        move_state(optimizer)  # or what goes and comes back would count as surviving
    layer.pattern = to
    move_state(optimizer)  # or it would hold the old pattern, and its plans, until it steps


@torch.no_grad()
def set_weights(layer: Any, positions: Tensor, values: Tensor) -> None:
    """Give the weights at these positions of the flat weight, which the layer has, other values."""
    weight = weight_of(layer)
    if isinstance(layer, Masked):
        at = torch.unravel_index(positions.to(weight.device), weight.shape)
    else:
        at = (torch.searchsorted(positions_of(layer), positions).to(weight.device),)
    weight[at] = values.to(weight)


def _clear_pruned(layer: Any, optimizer: Optimizer) -> None:
    """Zero the weights and gradients under the mask, where momentum and weight decay have gone on, and make the
    optimizer's state there that of a fresh weight."""
    parameter = weight_of(layer)
    pruned = ~layer.mask
    parameter.masked_fill_(pruned, 0)
    if parameter.grad is not None:
        parameter.grad.masked_fill_(pruned, 0)
    starts = followed[optimizer].starts if optimizer in followed else starts_of(optimizer)
    for group in optimizer.param_groups:
        if any(each is parameter for each in group["params"]):
            for name, entries in optimizer.state.get(parameter, {}).items():
                if isinstance(entries, Tensor) and entries.shape == pruned.shape:
                    entries.masked_fill_(pruned, first_entry(starts, name, group))
