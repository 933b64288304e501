"""The optimizers of torch.optim, each with state that follows the weights when a sparse layer is pruned."""

from __future__ import annotations

import inspect
from typing import Any, Dict

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..nn import pattern_of
from .follow import Followed, follow_as, followed, note_group, starts_of

__all__ = [
    "ASGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "FollowsPatterns",
    "LBFGS",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "SparseAdam",
]


class FollowsPatterns(Optimizer):
    """Mixin that stands before an optimizer class and makes it follow patterns, as `follow_patterns` tells.

    `class Mine(FollowsPatterns, Theirs)` is theirs, argument for argument and step for step. Dense and sparse
    parameters may be mixed. The layers may be pruned in any way (their own methods, the model's, the free functions,
    `set_mask`). Copies and pickles go on following.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if FollowsPatterns in cls.__bases__ and cls.__doc__:  # the arguments, as torch tells of them
            theirs = cls.__mro__[cls.__mro__.index(FollowsPatterns) + 1]
            cls.__doc__ = f"{inspect.cleandoc(cls.__doc__)}\n\n{inspect.cleandoc(theirs.__doc__ or '')}"

    def add_param_group(self, param_group: Dict[str, Any]) -> None:
        """As torch's. The constructor too comes here, with each group."""
        super().add_param_group(param_group)
        if self not in followed:
            follow_as(self, Followed(starts_of(self)))
        note_group(self, self.param_groups[-1])

    def __getstate__(self) -> Dict[str, Any]:
        return {**super().__getstate__(), "followed": followed[self]}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)  # also what load_state_dict calls, without "followed"
        record = self.__dict__.pop("followed", None)
        if self not in followed:
            follow_as(self, record or Followed(starts_of(self)))


class ASGD(FollowsPatterns, torch.optim.ASGD):
    """torch.optim.ASGD that survives pruning."""


class Adadelta(FollowsPatterns, torch.optim.Adadelta):
    """torch.optim.Adadelta that survives pruning."""


class Adagrad(FollowsPatterns, torch.optim.Adagrad):
    """torch.optim.Adagrad that survives pruning. The sum of a grown weight starts at `initial_accumulator_value`."""


class Adam(FollowsPatterns, torch.optim.Adam):
    """torch.optim.Adam that survives pruning."""


class AdamW(FollowsPatterns, torch.optim.AdamW):
    """torch.optim.AdamW that survives pruning."""


class Adamax(FollowsPatterns, torch.optim.Adamax):
    """torch.optim.Adamax that survives pruning."""


class LBFGS(FollowsPatterns, torch.optim.LBFGS):
    """torch.optim.LBFGS that survives pruning: see `mpl_sparse.optim.lbfgs_history.carry_history`."""

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        self._params = self.param_groups[0]["params"]  # torch forgets these two in copies and pickles
        self._numel_cache = None


class NAdam(FollowsPatterns, torch.optim.NAdam):
    """torch.optim.NAdam that survives pruning."""


class RAdam(FollowsPatterns, torch.optim.RAdam):
    """torch.optim.RAdam that survives pruning."""


class RMSprop(FollowsPatterns, torch.optim.RMSprop):
    """torch.optim.RMSprop that survives pruning."""


class Rprop(FollowsPatterns, torch.optim.Rprop):
    """torch.optim.Rprop that survives pruning. The step size of a grown weight starts at its group's `lr`."""


class SGD(FollowsPatterns, torch.optim.SGD):
    """torch.optim.SGD that survives pruning."""


class SparseAdam(FollowsPatterns, torch.optim.SparseAdam):
    """torch.optim.SparseAdam that survives pruning, and takes dense gradients beside sparse ones.

    A dense gradient, such as that of a sparse layer's values or of a bias, counts as a sparse one with every entry:
    then the formula is Adam's, but that `eps` is added before the bias correction.
    """

    def step(self, closure: Any = None) -> Any:
        """As torch's: Perform a single optimization step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        dense = {
            parameter: parameter.grad
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and not parameter.grad.is_sparse
        }
        try:
            for parameter, gradient in dense.items():
                parameter.grad = _with_every_row(gradient)
            with torch.no_grad():
                inspect.unwrap(torch.optim.SparseAdam.step)(self)  # without the hooks, which this step has had
        finally:
            for parameter, gradient in dense.items():
                parameter.grad = gradient
        return loss


def _with_every_row(gradient: Tensor) -> Tensor:
    """A sparse tensor of all rows of `gradient`, in whose memory it is."""
    if gradient.dim() == 0:
        return gradient.to_sparse()
    rows = torch.arange(len(gradient), device=gradient.device).unsqueeze(0)
    return torch.sparse_coo_tensor(rows, gradient, gradient.shape, is_coalesced=True, check_invariants=False)


if hasattr(torch.optim, "Adafactor"):  # torch 2.5
    __all__ += ["Adafactor"]

    class Adafactor(FollowsPatterns, torch.optim.Adafactor):
        """torch.optim.Adafactor that survives pruning. A sparse layer's values are a vector, whose variance is not
        factored; a layer without weights is left out."""

        def _init_group(self, group: Dict[str, Any], *lists: Any) -> bool:
            # torch divides by the number of weights
            group = {**group, "params": [parameter for parameter in group["params"] if parameter.numel()]}
            return super()._init_group(group, *lists)


if hasattr(torch.optim, "Muon"):  # torch 2.9
    __all__ += ["Muon"]

    class Muon(FollowsPatterns, torch.optim.Muon):
        """torch.optim.Muon. It needs the matrix of a weight: the values of a sparse layer go to another optimizer, as
        biases do."""

        def add_param_group(self, param_group: Dict[str, Any]) -> None:
            """As torch's. ValueError if it holds the values of a sparse layer; it is not added."""
            super().add_param_group(param_group)
            if any(pattern_of(parameter) is not None for parameter in self.param_groups[-1]["params"]):
                self.param_groups.pop()
                raise ValueError(
                    "params: Muon makes the matrix of an update orthogonal; the values of a sparse layer are a vector: "
                    "give them to another optimizer, as one does with biases"
                )
