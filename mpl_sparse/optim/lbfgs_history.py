"""The history of LBFGS, which lies in flat vectors over all parameters, across a change of patterns."""

from __future__ import annotations

from typing import Dict, List

import torch
from torch import Tensor
from torch.optim import LBFGS

from ..nn import carry
from ..pattern import Pattern

__all__ = ["carry_history"]

_LEAST_CURVATURE = 1e-10  # of y * s: torch's own bound for a pair that enters the history


def carry_history(optimizer: LBFGS, before: Dict[Tensor, Pattern], now: Dict[Tensor, Pattern]) -> None:
    """Move the state of `optimizer` from the patterns `before` to those of `now`.

    A pair of the history, a step s and the change y of the gradient along it, is restricted to the weights that stay
    and is 0 at those that grow. It is kept if its curvature is still positive, y * s > 1e-10 as in torch: from such
    pairs the approximate inverse Hessian is positive definite (Nocedal & Wright, Numerical Optimization, 2nd ed.,
    section 7.2), so the next direction is one of descent. Between the last step and the next gradient the function
    itself changes, so these two make no pair. If no pair is left, LBFGS starts anew, as with its first step.
    """
    optimizer._numel_cache = None
    parameters: List[Tensor] = optimizer.param_groups[0]["params"]
    state = optimizer.state[parameters[0]]
    if state.get("d") is None:
        return
    sizes = [before[each].nnz if each in before else _numel(each) for each in parameters]

    def carried(flat: Tensor) -> Tensor:
        pieces = zip(parameters, flat.split(sizes))
        return torch.cat([carry(piece, before[each], now[each]) if each in now else piece for each, piece in pieces])

    pairs = [(carried(y), carried(s)) for y, s in zip(state["old_dirs"], state["old_stps"])]
    pairs = [(y, s) for y, s in pairs if y.dot(s) > _LEAST_CURVATURE]
    if pairs:
        state["old_dirs"], state["old_stps"] = [y for y, _ in pairs], [s for _, s in pairs]
        state["ro"] = [1.0 / y.dot(s) for y, s in pairs]
        y, s = pairs[-1]
        state["H_diag"] = y.dot(s) / y.dot(y)
        state["prev_flat_grad"] = carried(state["prev_flat_grad"])
        state["d"] = torch.zeros_like(state["prev_flat_grad"])  # the last step, which makes a pair of no curvature
    else:
        evaluations = state["func_evals"]
        state.clear()
        state["func_evals"] = evaluations


def _numel(parameter: Tensor) -> int:
    """Its share of the flat vectors."""
    return 2 * parameter.numel() if parameter.is_complex() else parameter.numel()
