"""How long a model takes by its numbers of weights: T = c0 + sum_l n_l t_l, measured on the device and fitted."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping as AnyMapping
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..nn import prunable_layers, to_sparse

__all__ = ["TimeModel", "fit_time_model", "measure_time_model"]

Counts = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class TimeModel:
    """T = constant + sum of n_l * per_weight[l] seconds, for a model whose prunable layer l keeps n_l weights.

    Jiang et al., "Model pruning enables efficient federated learning on edge devices" (PruneFL, arXiv:1909.12326). To
    let it also count what a weight costs to send, add that to each entry of `per_weight`.

    Attributes:
        constant: seconds that no weight makes.
        per_weight: seconds for each remaining weight of a layer, by the names of `prunable_layers(model)`.

    Raises:
        ValueError: a time is negative or not finite.
    """

    constant: float
    per_weight: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, seconds in (("constant", self.constant), *self.per_weight.items()):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"the time of {name!r} must be finite and at least 0, got {seconds!r}")

    def seconds(self, weights: Counts) -> float:
        """T for a model that keeps so many weights. ValueError unless `weights` names the layers of `per_weight`."""
        if weights.keys() != self.per_weight.keys():
            raise ValueError(f"weights must be of the layers {sorted(self.per_weight)}, got {sorted(weights)}")
        return self.constant + sum(count * self.per_weight[name] for name, count in weights.items())

    def to_dict(self) -> Dict[str, Any]:
        """What :meth:`from_dict` takes; `mpl_sparse.save` and json can write it."""
        return {"constant": self.constant, "per_weight": dict(self.per_weight)}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> TimeModel:
        """The time model that `to_dict` gave these entries. ValueError if they are others, or no times."""
        if not isinstance(entries, AnyMapping) or entries.keys() != {"constant", "per_weight"}:
            raise ValueError(f"entries must be those of to_dict, 'constant' and 'per_weight', got {entries!r}")
        return cls(float(entries["constant"]), {name: float(each) for name, each in entries["per_weight"].items()})

    def __str__(self) -> str:
        width = max(map(len, self.per_weight), default=0)
        lines = [f"{1e3 * self.constant:.3f} ms, and for each weight of"]
        return "\n".join(lines + [f"  {name:{width}} {1e9 * each:9.4f} ns" for name, each in self.per_weight.items()])


def measure_time_model(
    model: nn.Module,
    example: Any,
    *,
    step: Optional[Callable[[nn.Module], Any]] = None,
    densities: Sequence[float] = (0.05, 0.2, 0.5),
    warmups: int = 3,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> TimeModel:
    """Fit a :class:`TimeModel` to times of the whole model, its prunable layers made sparse, on this machine.

    All layers have the first of the densities at random positions, and then one layer after the other each of the
    others. Each case runs `warmups` times unmeasured (a new pattern makes its plans and tries them) and `repeats` times
    measured, of which the median counts: (1 + layers * (len(densities) - 1)) * (warmups + repeats) steps in all.

    The model itself is not run and stays as it is, and so does torch's generator. A copy of it runs, in training mode,
    with the hooks that it has.

    Args:
        example: what the model is called with: one argument, a tuple or list of them, or a dict by name.
        step: what to time, given the copy: a forward and backward if None.
        densities: two or more, in (0, 1], increasing.
        clock: seconds, as time.perf_counter.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: it has no prunable layer, or an argument is out of its range.
    """
    names = [name for name, _ in prunable_layers(model)]
    if not names:
        raise ValueError("model has no prunable layer: call mpl_sparse.prunable(model) first")
    levels = _checked_densities(densities)
    for name, value, least in (("warmups", warmups, 0), ("repeats", repeats, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer, at least {least}, got {value!r}")
    args, kwargs = _arguments(example)
    run = step if step is not None else lambda each: _training_step(each, args, kwargs)
    weights: List[Counts] = []
    seconds: List[float] = []
    with torch.random.fork_rng(devices=[]):
        copied = to_sparse(model).train()
        for counts in _cases(copied, levels):
            for _ in range(warmups):
                run(copied)
            times = []
            for _ in range(repeats):
                start = clock()
                run(copied)
                times.append(clock() - start)
            weights.append(counts)
            seconds.append(statistics.median(times))
    return fit_time_model(weights, seconds)


def fit_time_model(weights: Sequence[Counts], seconds: Sequence[float]) -> TimeModel:
    """The :class:`TimeModel` with the least squared error: all its times are at least 0.

    Args:
        weights: for each measurement, the number of weights by the name of the layer; the same names in all of them.
        seconds: what each of them took.

    Raises:
        ValueError: there are no measurements, their numbers differ, or so do the names.
    """
    if not weights or len(weights) != len(seconds):
        raise ValueError(f"weights and seconds must be of the same measurements, got {len(weights)} and {len(seconds)}")
    names = list(weights[0])
    if any(each.keys() != weights[0].keys() for each in weights):
        raise ValueError(f"weights must have the same layers in all measurements, those of the first are {names}")
    matrix = np.array([[1.0, *(counts[name] for name in names)] for counts in weights])
    constant, *per_weight = non_negative_least_squares(matrix, np.array(seconds, dtype=np.float64)).tolist()
    return TimeModel(constant, dict(zip(names, per_weight)))


def non_negative_least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The x >= 0 that minimises |matrix @ x - target|: Lawson & Hanson, "Solving least squares problems" (1974), 23.

    Shape:
        matrix (m, n), target (m,), result (n,), all float64.
    """
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    columns = matrix / scale  # counts of weights are millions, the constant's column is ones
    x = np.zeros(matrix.shape[1])
    free = np.zeros(matrix.shape[1], bool)
    tolerance = 1e-12 * np.linalg.norm(target)
    for _ in range(3 * len(x)):  # the authors' bound, against going round in rounding errors
        descent = columns.T @ (target - columns @ x)
        if free.all() or descent[~free].max() <= tolerance:
            break
        free[np.where(free, -np.inf, descent).argmax()] = True
        while free.any():
            best = np.zeros_like(x)
            best[free] = np.linalg.lstsq(columns[:, free], target, rcond=None)[0]
            below = free & (best <= 0)
            if not below.any():
                x = best
                break
            x += (x[below] / (x[below] - best[below])).min() * (best - x)  # to where the first of them becomes 0
            free &= x > 1e-15 * np.abs(x).max()
            x[~free] = 0.0
    return x / scale


def _cases(model: nn.Module, densities: Sequence[float]) -> Iterator[Counts]:
    """Give the layers of `model` the densities of each case, and tell how many weights they then have."""
    generator = Generator("cpu").manual_seed(0)
    layers = dict(prunable_layers(model))
    for layer in layers.values():
        _scatter(layer, densities[0], generator)
    counts = {name: layer.num_weight for name, layer in layers.items()}
    yield counts
    for name, layer in layers.items():
        sparsest = layer.mask.clone()
        for density in densities[1:]:
            _scatter(layer, density, generator)
            yield {**counts, name: layer.num_weight}
        layer.set_mask(sparsest)


def _scatter(layer: Any, density: float, generator: Generator) -> None:
    """Keep each position with this probability, and give all that remain values of a usual size."""
    mask = torch.empty(layer.weight_shape, dtype=torch.bool, device="cpu").bernoulli_(density, generator=generator)
    layer.set_mask(mask)
    with torch.no_grad():
        for name in ("values", "weight"):
            if name in layer._parameters:
                layer._parameters[name].normal_(std=0.05, generator=generator)


def _training_step(model: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> None:
    model.zero_grad(set_to_none=True)
    outputs = [each for each in _tensors(model(*args, **kwargs)) if each.requires_grad]
    if not outputs:
        raise ValueError("the model's output requires no gradient: give measure_time_model a step of your own")
    torch.autograd.backward([each.sum() for each in outputs])


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, AnyMapping):
        yield from _tensors(list(value.values()))


def _arguments(example: Any) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    def detached(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value  # no gradient for the caller's tensor

    if isinstance(example, AnyMapping):
        return (), {name: detached(value) for name, value in example.items()}
    args = tuple(example) if type(example) in (tuple, list) else (example,)  # a PackedSequence is one argument
    return tuple(map(detached, args)), {}


def _checked_densities(densities: Any) -> List[float]:
    levels = [float(density) for density in densities]
    if len(levels) < 2 or not all(0 < a < b <= 1 for a, b in zip(levels, levels[1:])):
        raise ValueError(f"densities must be two or more, increasing, in (0, 1], got {densities!r}")
    return levels
