"""Prunable: what the four prunable layers have in common."""

from __future__ import annotations

import copy
import numbers
import operator
from typing import Any, Dict, Optional

import torch
from torch import Tensor, nn

from ..pattern import Pattern

__all__ = ["Prunable", "check_pct", "check_rank", "check_threshold", "lowest"]


class Prunable:
    """Mixin of a layer whose weight has a mask of remaining positions.

    Each way to prune is a score for every remaining weight, and :meth:`prune_lowest`. A NaN score counts as the
    largest; equal scores go in row-major order of position.
    """

    def remaining_weight(self) -> Tensor:
        """The remaining weights, detached, 1-D, in row-major order of position."""
        raise NotImplementedError

    def set_mask(self, mask: Tensor) -> None:
        """Keep exactly the positions where `mask`, bool and of the weight's shape, is True.

        Survivors keep their values. Weights that grow start at 0 in a sparse layer, where their old value is gone.

        Raises:
            TypeError: `mask` is not a bool tensor.
            ValueError: it has another shape.
        """
        raise NotImplementedError

    def _keep(self, kept: Tensor) -> None:
        raise NotImplementedError

    @property
    def num_weight(self) -> int:
        """The number of remaining weights."""
        raise NotImplementedError

    @property
    def weight_shape(self) -> torch.Size:
        """The shape of the dense weight."""
        raise NotImplementedError

    @property
    def density(self) -> float:
        """num_weight / the number of positions; 0.0 if there are none."""
        numel = self.weight_shape.numel()
        return self.num_weight / numel if numel else 0.0

    def prune_lowest(self, scores: Tensor, count: int) -> None:
        """Drop the `count` remaining weights with the lowest scores.

        Args:
            scores: (num_weight,), aligned with :meth:`remaining_weight`.

        Raises:
            TypeError: `scores` is not a tensor, or `count` not an integer.
            ValueError: `scores` has another shape, or `count` is not in [0, num_weight].
        """
        if not isinstance(scores, Tensor):
            raise TypeError(f"scores must be a torch tensor, got {type(scores).__name__}")
        remaining = self.num_weight
        if scores.shape != (remaining,):
            raise ValueError(f"scores must have shape ({remaining},), got {tuple(scores.shape)}")
        count = _count("count", count, remaining)
        if count:
            self._keep(~lowest(scores.detach(), count))

    def prune_by_threshold(self, thr: float) -> None:
        """Keep the weights with |w| >= thr.

        Raises:
            TypeError: `thr` is not a real number.
            ValueError: it is negative or NaN.
        """
        thr = check_threshold(thr)
        self._keep(~(self.remaining_weight().abs() < thr))

    def prune_by_rank(self, rank: int) -> None:
        """Drop the `rank` smallest remaining weights, exactly.

        Raises:
            TypeError: `rank` is not an integer.
            ValueError: it is not in [0, num_weight].
        """
        rank = check_rank(rank, self.num_weight)
        self.prune_lowest(self.remaining_weight().abs(), rank)

    def prune_by_pct(self, pct: float) -> None:
        """Drop the int(pct * num_weight) smallest remaining weights.

        Raises:
            TypeError: `pct` is not a real number.
            ValueError: it is not in [0, 1].
        """
        pct = check_pct(pct)
        self.prune_lowest(self.remaining_weight().abs(), int(pct * self.num_weight))

    def random_prune_by_pct(self, pct: float, generator: Optional[torch.Generator] = None) -> None:
        """Drop int(pct * num_weight) remaining weights, chosen uniformly.

        Raises:
            TypeError: `pct` is not a real number.
            ValueError: it is not in [0, 1].
        """
        pct = check_pct(pct)
        remaining = self.num_weight
        self._keep(torch.randperm(remaining, generator=generator) >= int(pct * remaining))

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script calls first."""
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}: use torch.compile, torch.export or torch.jit.trace"
        )

    def move_data(self, device: Any) -> None:
        """`to(device)`: the mask is a buffer, which moves with the layer. Kept for the original's callers."""
        self.to(device)  # type: ignore[attr-defined]


def lowest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` lowest scores are, count >= 1; of equal scores the first ones; NaN is the largest. bool."""
    last = scores.kthvalue(count).values  # by selection: sorting millions of weights would take seconds
    if last.isnan():
        lower, equal = ~scores.isnan(), scores.isnan()
    else:
        lower, equal = scores < last, scores == last
    lower[equal.nonzero().squeeze(1)[: count - int(lower.sum())]] = True
    return lower


def check_threshold(thr: Any) -> float:
    """`thr` as a float >= 0; TypeError or ValueError naming it otherwise."""
    number = _real("thr", thr)
    if not number >= 0:
        raise ValueError(f"thr must be at least 0, got {thr!r}")
    return number


def check_rank(rank: Any, remaining: int) -> int:
    """`rank` as an int in [0, remaining]; TypeError or ValueError naming it otherwise."""
    return _count("rank", rank, remaining)


def check_pct(pct: Any) -> float:
    """`pct` as a float in [0, 1]; TypeError or ValueError naming it otherwise."""
    number = _real("pct", pct)
    if not 0 <= number <= 1:
        raise ValueError(f"pct must be in [0, 1], got {pct!r}")
    return number


def _real(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    return float(value)


def _count(name: str, value: Any, most: int) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not 0 <= count <= most:
        raise ValueError(f"{name} must be in [0, {most}], the number of remaining weights, got {value!r}")
    return count


def checked_mask(mask: Any, shape: torch.Size) -> Tensor:
    """`mask`, a bool tensor of this shape; TypeError or ValueError naming it otherwise."""
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        raise TypeError(f"mask must be a bool tensor, got {mask.dtype if isinstance(mask, Tensor) else mask!r}")
    if mask.shape != shape:
        raise ValueError(f"mask must have shape {tuple(shape)}, got {tuple(mask.shape)}")
    return mask


def pattern_as_mask(pattern: Pattern, device: torch.device) -> Tensor:
    """The dense bool mask of a pattern, whichever library it was made from."""
    return torch.as_tensor(pattern.to_mask(), device=device)


# what belongs to a layer's storage, not to its settings
STORAGE = {"_parameters", "_buffers", "_non_persistent_buffers_set", "_pattern", "_written", "_compiled_call_impl"}
_WEIGHT = {"weight", "mask", "weight_orig", "weight_mask", "values", "row_ptr", "col_idx"}


def take_settings(layer: nn.Module, settings: Dict[str, Any]) -> None:
    """Initialise `layer` with the sizes, training flag and hooks in `settings`, without parameters or buffers."""
    nn.Module.__init__(layer)
    vars(layer).update({name: value for name, value in settings.items() if name not in STORAGE})


def copied_settings(layer: nn.Module) -> Dict[str, Any]:
    """The settings of a layer that lives on: its tables of hooks are copied, so that the two stay apart."""
    return {name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(layer).items()}


def copy_bias(source: nn.Module, target: nn.Module) -> None:
    """Give `target`, which has the settings of `source`, its bias and what others have added, such as a bias's mask."""
    if isinstance(vars(target).get("bias"), Tensor):
        vars(target)["bias"] = vars(target)["bias"].detach().clone()  # until the hook that makes it runs
    for name, parameter in source._parameters.items():
        if name not in _WEIGHT:
            target.register_parameter(name, copied(parameter))
    for name, buffer in source._buffers.items():
        if name not in _WEIGHT:
            persistent = name not in source._non_persistent_buffers_set
            target.register_buffer(name, None if buffer is None else buffer.clone(), persistent)


def copied(parameter: Optional[nn.Parameter]) -> Optional[nn.Parameter]:
    """A new Parameter with the same values and requires_grad; None for None."""
    if parameter is None:
        return None
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
