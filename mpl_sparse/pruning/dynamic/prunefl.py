"""PruneFL's adaptive reconfiguration: which weights to keep, for the most reduction of the loss in a second."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...nn import prunable_layers
from ..time_model import TimeModel
from .drop import smallest_magnitude
from .fractions import checked_fraction
from .gradients import GrowthGradients, movable_layers, weight_of
from .positions import checked_optimizer, move_layer, placement, positions_of, trained_by

__all__ = ["PruneFL", "Reconfiguration", "best_additions"]


class Reconfiguration(NamedTuple):
    """What a reconfiguration came to.

    Attributes:
        weights: how many each prunable layer keeps, by name.
        seconds: what the time model gives for these.
        ratio: the sum of g^2 over what stays, divided by `seconds`.
    """

    weights: Dict[str, int]
    seconds: float
    ratio: float


class PruneFL:
    """Adaptive pruning by accumulated squared gradients and measured times: weights go and grow, density follows.

    Jiang et al., "Model pruning enables efficient federated learning on edge devices" (arXiv:1909.12326).
    With g^2 the accumulated squares of all gradients and T = c0 + sum_l n_l t_l the time of a round, a reconfiguration
    maximises sum g^2 / T over what stays:

    - of each layer the share `removable` * 0.5^(round / `half_life`) of the smallest remaining |w| becomes removable;
      the other remaining weights stay, and so do all parameters that are no prunable weight (biases, batch norms);
    - candidates are the removable weights and all pruned ones. They are added in order of g^2 / t_l, while that exceeds
      the ratio reached. This is optimal among all choices of candidates; with `max_density`, a cap on the number of
      weights, the order is the paper's but no optimum is claimed.

    Weights that stay keep their value and optimizer state, those that grow start at 0. A layer whose weight requires no
    gradient at that moment, or is not in the optimizer, stays as it is::

        control = PruneFL(model, optimizer, measure_time_model(model, example))
        for round in range(rounds):
            for input, target in batches:
                with control.accumulating(weight=len(input)):
                    optimizer.zero_grad()
                    loss_function(model(input), target).backward()
                optimizer.step()
            if round and round % 50 == 0:
                control.reconfigure(round)

    Memory: from the first `accumulating` to `reconfigure` one number for each weight, pruned or not, of the layers that
    had gradients: 4 bytes, of a float64 layer 8. In `reconfigure` besides (measured) 24 bytes for each position of the
    largest layer, and 75 for each candidate whose g^2 / t_l exceeds the ratio of what must stay.

    Args:
        model: masked or sparse.
        optimizer: of `mpl_sparse.optim`, or one of torch's that `follow_patterns` was called on.
        time_model: with a time for each prunable layer of the model. Where that is 0, every candidate with a gradient
            is added.
        removable: the share in round 0.
        half_life: the rounds in which it halves; infinity for never.
        max_density: at most this share of all prunable positions, unless more must stay.

    Raises:
        TypeError, ValueError: an argument of another kind or range, a time model of other layers, or an optimizer that
            does not follow patterns.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        time_model: TimeModel,
        *,
        removable: float = 0.3,
        half_life: float = 10000.0,
        max_density: Optional[float] = None,
    ) -> None:
        if not isinstance(time_model, TimeModel):
            raise TypeError(f"time_model must be a TimeModel, got {type(time_model).__name__}")
        self._all_layers: Dict[str, Any] = dict(prunable_layers(model))
        if self._all_layers.keys() != time_model.per_weight.keys():
            raise ValueError(
                f"time_model must have the prunable layers {sorted(self._all_layers)}, "
                f"got {sorted(time_model.per_weight)}"
            )
        if isinstance(half_life, bool) or not isinstance(half_life, (int, float)) or not half_life > 0:
            raise ValueError(f"half_life must be a positive number, got {half_life!r}")
        self.time_model = time_model
        self.removable = checked_fraction("removable", removable)
        self.half_life = half_life
        self.max_density = None if max_density is None else checked_fraction("max_density", max_density)
        self._layers = movable_layers(model)
        self._optimizer = checked_optimizer(optimizer, self._layers)
        self._gradients = GrowthGradients(self._layers)
        weights = {weight_of(layer) for layer in self._layers.values()}
        self._others = [parameter for parameter in model.parameters() if parameter not in weights]
        self._squares: Dict[str, Tensor] = {}
        self._squares_of_others = 0.0

    @contextlib.contextmanager
    def accumulating(self, weight: float = 1.0) -> Iterator[None]:
        """Add `weight` times the square of the gradient of what is differentiated inside the `with` block.

        Backwards inside one block add up before they are squared: one minibatch a block sums their squares, all of a
        round's in one block squares their sum, as the authors' clients do. The gradients in `.grad` are not looked at.
        Nothing is added if an error leaves the block.

        Raises:
            ValueError: `weight` is negative or not finite.
        """
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight must be finite and at least 0, got {weight!r}")
        sums: Dict[Tensor, Tensor] = {}
        hooks = [each.register_hook(_adder(sums, each)) for each in self._others if each.requires_grad]
        self._gradients.arm()
        try:
            yield
            for name in self._layers:
                if self._gradients.calls(name):
                    self._add(name, weight)
            self._squares_of_others += weight * sum(float(each.double().square().sum()) for each in sums.values())
        finally:
            self._gradients.disarm()
            self._gradients.clear()
            for hook in hooks:
                hook.remove()

    def reconfigure(self, round: int) -> Reconfiguration:
        """Choose anew what stays, and forget the gradients.

        Raises:
            RuntimeError: no gradients were accumulated.
            ValueError: `round` is negative, a gradient was not finite, or the optimizer follows no more. Nothing is
                changed then.
        """
        if not self._squares:
            raise RuntimeError("no gradients: run backwards inside `with control.accumulating()` first")
        if isinstance(round, bool) or not isinstance(round, int) or round < 0:
            raise ValueError(f"round must be an integer, at least 0, got {round!r}")
        optimizer = checked_optimizer(self._optimizer, self._layers)
        trained = trained_by(optimizer, self._layers)
        share = self.removable * 0.5 ** (round / self.half_life)
        stay = {
            name: positions_of(layer)[~smallest_magnitude(layer.remaining_weight(), share * (name in trained)).cpu()]
            for name, layer in self._layers.items()
        }
        counts = {name: layer.num_weight for name, layer in self._all_layers.items()}
        counts.update({name: each.numel() for name, each in stay.items()})
        gain = self._squares_of_others + sum(
            _sum(self._squares[name][each]) for name, each in stay.items() if name in self._squares
        )
        if not math.isfinite(gain + sum(_sum(each) for each in self._squares.values())):
            raise ValueError("the accumulated gradients are not finite")
        seconds = self.time_model.seconds(counts)
        room = None
        if self.max_density is not None:
            positions = sum(layer.weight_shape.numel() for layer in self._all_layers.values())
            room = max(0, int(self.max_density * positions) - sum(counts.values()))
        able = [name for name in trained if name in self._squares]
        # what stays is no candidate
        candidates = [self._squares[name].index_fill_(0, stay[name], -1.0) for name in able]
        times = [self.time_model.per_weight[name] for name in able]
        added = dict(zip(able, best_additions(gain, seconds, candidates, times, room)))
        for name, layer in trained.items():
            positions = stay[name]
            if name in added:
                gain += _sum(self._squares.pop(name)[added[name]])
                positions = torch.cat((positions, added[name]))
                positions.numpy().sort()
            counts[name] = positions.numel()
            move_layer(layer, placement(layer, positions), optimizer)
        self._squares, self._squares_of_others = {}, 0.0
        seconds = self.time_model.seconds(counts)
        return Reconfiguration(counts, seconds, _ratio(gain, seconds))

    def state_dict(self) -> Dict[str, Any]:
        """The accumulated squares: {"squares": by layer, flat, "others": their sum over all other parameters}."""
        return {"squares": dict(self._squares), "others": self._squares_of_others}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            ValueError: it is of other layers, or of other shapes.
        """
        if set(state_dict) != {"squares", "others"}:
            raise ValueError(f"state_dict must have the keys 'others' and 'squares', got {sorted(state_dict)}")
        squares = state_dict["squares"]
        if not squares.keys() <= self._layers.keys():
            raise ValueError(f"state_dict must have layers among {sorted(self._layers)}, got {sorted(squares)}")
        for name, each in squares.items():
            size = self._layers[name].weight_shape.numel()
            if each.shape != (size,):
                raise ValueError(f"state_dict: {name!r} must have shape ({size},), got {tuple(each.shape)}")
        self._squares = {name: each.clone() for name, each in squares.items()}
        self._squares_of_others = float(state_dict["others"])

    def _add(self, name: str, weight: float) -> None:
        cols = self._layers[name].weight_shape[1:].numel()
        for rows, block in self._gradients.blocks(name):
            entries = block.reshape(-1).cpu()
            if name not in self._squares:
                self._squares[name] = entries.new_zeros(self._layers[name].weight_shape.numel())
            into = self._squares[name][rows.start * cols : rows.stop * cols]
            into.addcmul_(entries, entries, value=weight)


def best_additions(
    gain: float, seconds: float, candidates: Sequence[Tensor], times: Sequence[float], most: Optional[int] = None
) -> List[Tensor]:
    """The choice of candidates for which (gain + their gains) / (seconds + their times) is largest.

    Candidates are taken in order of gain / time, equal ones by layer and position, while that exceeds the ratio
    reached. As it only grows, those that do not exceed the first one need not be sorted.

    Args:
        gain, seconds: of what stays, at least 0.
        candidates: for each layer the gains (n,); negative where there is no candidate.
        times: for each layer the seconds of one candidate, at least 0.
        most: how many to take; None for as many as are worth it.

    Returns:
        For each layer the chosen positions, int64, increasing.
    """
    if not candidates:
        return []
    first = _ratio(gain, seconds)
    found = []
    for each, time in zip(candidates, times):
        # a candidate without gain is never worth its time, also where that is 0
        able = (each > 0) & (each.double() / time > first)
        found.append(able.nonzero().squeeze(1))
    gains = torch.cat([each[at].double() for each, at in zip(candidates, found)])
    costs = torch.cat([gains.new_full(at.shape, time) for at, time in zip(found, times)])
    layers = torch.cat([torch.full_like(at, i) for i, at in enumerate(found)])
    ratios, order = (gains / costs).sort(descending=True, stable=True)
    gains, costs = gains[order], costs[order]
    before = _sums_before(gain, gains) / _sums_before(seconds, costs)
    # 0 / 0, where nothing stays that has a gradient or takes time: anything is better
    worth = ratios > before.nan_to_num(nan=0.0, posinf=torch.inf)
    count = int(worth.long().cumprod(0).sum())
    taken = order[: count if most is None else min(count, most)].sort().values
    positions, owners = torch.cat(found)[taken], layers[taken]
    return [positions[owners == i] for i in range(len(candidates))]


def _adder(sums: Dict[Tensor, Tensor], parameter: Tensor) -> Any:
    def add(gradient: Tensor) -> None:
        dense = gradient.detach().to_dense() if gradient.layout != torch.strided else gradient.detach()
        sums[parameter] = sums[parameter] + dense if parameter in sums else dense.clone()

    return add


def _sums_before(start: float, terms: Tensor) -> Tensor:
    return torch.cat((terms.new_tensor([start]), terms)).cumsum(0)[:-1]


def _sum(entries: Tensor) -> float:
    return float(entries.sum(dtype=torch.float64))


def _ratio(gain: float, seconds: float) -> float:
    return gain / seconds if seconds else (math.inf if gain else 0.0)
