"""Moving a model's layers to other positions in the middle of a training, the optimizer's state with them."""

from __future__ import annotations

from typing import Any, Dict, Optional

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...nn.masked import Masked
from ...pattern import Pattern
from .gradients import weight_of

__all__ = ["checked_optimizer", "move_layers", "pattern_at", "positions_of"]


def positions_of(layer: Any) -> Tensor:
    """int64, increasing: the remaining positions of the layer's flat weight."""
    if isinstance(layer, Masked):
        return layer.mask.reshape(-1).nonzero().squeeze(1)
    return torch.from_numpy(layer.pattern.flat_positions())


def pattern_at(positions: Tensor, shape: torch.Size) -> Pattern:
    """The pattern of `positions`, int64, increasing, of a flat weight of this shape."""
    cols = shape[1:].numel()
    row_ptr = torch.searchsorted(positions, torch.arange(shape[0] + 1) * cols)
    return Pattern.from_csr(row_ptr, positions - positions // max(cols, 1) * cols, shape)


def checked_optimizer(optimizer: Any, layers: Dict[str, Any]) -> Optimizer:
    """`optimizer`, if its state follows the patterns of these layers.

    Raises:
        TypeError: it is no torch optimizer.
        ValueError: some of the layers are sparse, and it does not follow patterns.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    sparse = [name for name, layer in layers.items() if not isinstance(layer, Masked) and weight_of(layer) in held]
    if sparse and not optimizer._optimizer_state_dict_pre_hooks:
        raise ValueError(
            f"optimizer: the state of this {type(optimizer).__name__} would not follow the patterns of the sparse "
            f"layers {sparse}: take one of mpl_sparse.optim, or call mpl_sparse.optim.follow_patterns(optimizer)"
        )
    return optimizer


@torch.no_grad()
def move_layers(
    layers: Dict[str, Any], kept: Dict[str, Tensor], after: Dict[str, Tensor], optimizer: Optional[Optimizer]
) -> None:
    """Give each layer in `after` those positions. Weights at `kept`, a part of the old and of the new positions, keep
    their value, gradient and optimizer state; all others start fresh, also those that were there before.

    Args:
        layers: by name; `kept` and `after` hold int64 positions, increasing, for some of these names.
    """
    for name in after:
        _set_positions(layers[name], kept[name])
    if optimizer is not None:
        # Between the two moves the state moves too: so what goes and comes back does not count as surviving. A
        # state_dict shows the state at the positions of its moment, so an optimizer that follows moves it now.
        optimizer.state_dict()
    for name in after:
        if isinstance(layers[name], Masked):
            _clear_pruned(layers[name], optimizer)
    for name, positions in after.items():
        _set_positions(layers[name], positions)


def _set_positions(layer: Any, positions: Tensor) -> None:
    if isinstance(layer, Masked):
        mask = torch.zeros(layer.weight_shape, dtype=torch.bool, device=layer.mask.device)
        mask.view(-1)[positions] = True
        layer.set_mask(mask)
    else:
        layer.pattern = pattern_at(positions, layer.weight_shape)


def _clear_pruned(layer: Any, optimizer: Optional[Optimizer]) -> None:
    """Zero the weights, gradients and optimizer state under the mask, where momentum and weight decay have gone on."""
    parameter = weight_of(layer)
    pruned = ~layer.mask
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    for entries in (parameter, parameter.grad, *state.values()):
        if isinstance(entries, Tensor) and entries.shape == pruned.shape:
            entries.masked_fill_(pruned, 0)
