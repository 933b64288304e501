"""Stochastic gradient descent that survives pruning."""

from __future__ import annotations

from typing import Any, Dict, Union

import torch
from torch import Tensor

from .follow import follow_patterns, followed

__all__ = ["SGD"]


class SGD(torch.optim.SGD):
    """torch.optim.SGD, option for option and step for step, whose momentum follows the weights when a sparse layer is
    pruned during training.

    Dense and sparse parameters may be mixed. The layer may be pruned in any way (its own methods, the model's, the free
    functions, `set_mask`): surviving weights keep their momentum, grown ones start at 0. Copies and pickles of the
    optimizer keep following.
    """

    def __init__(
        self,
        params: Any,
        lr: Union[float, Tensor] = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        """The arguments are those of torch.optim.SGD; `options` are its keywords, such as `maximize` and `foreach`."""
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, **options)
        follow_patterns(self)

    def __getstate__(self) -> Dict[str, Any]:
        return {**super().__getstate__(), "followed": followed[self]}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)  # also what load_state_dict calls, without "followed"
        follow_patterns(self)
        followed[self] = self.__dict__.pop("followed", followed[self])
