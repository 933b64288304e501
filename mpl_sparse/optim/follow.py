"""Optimizer state that follows the weights when a sparse layer changes its pattern.

A sparse layer keeps its nnz weights in one 1-D parameter, and so do the optimizer's momenta: entry i belongs to nonzero
i. When the layer is pruned, nonzero i is another weight. The hooks here remember for which pattern the state was made
and, before anyone reads it again, move every entry to the new place of its weight.
"""

from __future__ import annotations

from typing import Any, Dict, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch.optim import LBFGS, Optimizer

from ..nn import carry, pattern_of
from ..pattern import Pattern

__all__ = ["follow_patterns"]

OptimizerT = TypeVar("OptimizerT", bound=Optimizer)

# For each followed optimizer, the patterns that its state was made for.
followed: WeakKeyDictionary[Optimizer, Dict[torch.Tensor, Pattern]] = WeakKeyDictionary()


def follow_patterns(optimizer: OptimizerT) -> OptimizerT:
    """Make any optimizer of torch.optim keep its state when sparse layers are pruned or regrown. Returns the optimizer.

    Every state tensor with one entry a weight (momentum, moments, running sums) is moved to the new positions before
    the next step: surviving weights keep their entries, grown ones start at 0. A weight that goes and comes back
    between two steps counts as surviving. The optimizer's state_dict keeps torch's format; load it after the model's
    own state_dict, since it holds no positions.

    torch does not copy hooks: call this again on a deepcopy or an unpickled copy of a plain torch optimizer
    (`mpl_sparse.optim.SGD` does so itself).

    Raises:
        TypeError: `optimizer` is not a torch optimizer.
        ValueError: for LBFGS, whose state is one flat vector over all parameters.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            "optimizer: the state of LBFGS is one flat vector over all parameters and cannot follow their patterns"
        )
    if optimizer not in followed:
        remember_patterns(optimizer)
        optimizer.register_step_pre_hook(move_state)
        optimizer.register_state_dict_pre_hook(move_state)
        optimizer.register_load_state_dict_post_hook(remember_patterns)
    return optimizer


def remember_patterns(optimizer: Optimizer) -> None:
    """Note that the optimizer's state fits the patterns of this moment."""
    patterns = {parameter: pattern_of(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    followed[optimizer] = {parameter: pattern for parameter, pattern in patterns.items() if pattern is not None}


def move_state(optimizer: Optimizer, *_step_arguments: Any) -> None:
    """Bring the optimizer's state to the patterns of this moment."""
    for parameter, old in followed[optimizer].items():
        new = pattern_of(parameter)
        if new is None or new is old or not optimizer.state.get(parameter):
            continue
        state = optimizer.state[parameter]
        for name, entries in state.items():
            if isinstance(entries, torch.Tensor) and entries.shape == (old.nnz,):
                state[name] = carry(entries, old, new)
    remember_patterns(optimizer)
