"""sensitivity(): how much each layer alone bears."""

# Not named sensitivity.py: importing a submodule of that name would hide the function.

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Sequence, Union

import torch
from torch import nn

from .early_stop import checked_number
from .granularity import NM, Granularity
from .heat_map import draw
from .method import find_method, layers_to_prune
from .scores import Score, scores_of
from .scores.batches import Loss
from .scores.running import training_flags_restored
from .selection import Pool, check_density
from .snapshot import Snapshot
from .storage import ids_of_positions

__all__ = ["Sensitivity", "sensitivity"]


class Sensitivity:
    """What :func:`sensitivity` found; str() is an aligned plain-text table.

    Attributes:
        layers: names of the layers, in the order of the model.
        densities: as they were given.
        accuracies: for each layer, one number for each density: what `evaluate` gave with this layer alone pruned.
        baseline: what it gave before any of them was.
    """

    def __init__(
        self,
        layers: Sequence[str],
        densities: Sequence[float],
        accuracies: Sequence[Sequence[float]],
        baseline: float,
    ) -> None:
        self.layers = tuple(layers)
        self.densities = tuple(densities)
        self.accuracies = tuple(tuple(row) for row in accuracies)
        self.baseline = baseline

    def __str__(self) -> str:
        heading = ("layer", *(f"{density:.4g}" for density in self.densities))
        rows = [(name, *(f"{value:.4f}" for value in row)) for name, row in zip(self.layers, self.accuracies)]
        widths = [max(map(len, column)) for column in zip(heading, *rows)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (heading, *rows)]
        rule = "-" * len(lines[0])
        return "\n".join([f"not pruned: {self.baseline:.4f}; by density:", lines[0], rule, *lines[1:]])

    __repr__ = __str__

    def to_dict(self) -> Dict[str, Any]:
        """{"layers", "densities", "accuracies", "baseline"}: lists of strings and numbers, as json.dumps takes them."""
        return {
            "layers": list(self.layers),
            "densities": list(self.densities),
            "accuracies": [list(row) for row in self.accuracies],
            "baseline": self.baseline,
        }

    def densities_within(self, tolerance: float) -> Dict[str, float]:
        """For each layer the lowest density down to which it loses no more than `tolerance`, 1.0 if there is none.

        A first guess for `prune(model, {name: density, ...})`, which must still be tried for all layers together.

        Raises:
            TypeError, ValueError: `tolerance` is no finite number.
        """
        least = self.baseline - checked_number("tolerance", tolerance)
        found = {}
        for name, row in zip(self.layers, self.accuracies):
            found[name] = 1.0
            for density, value in sorted(zip(self.densities, row), reverse=True):
                if value < least:
                    break
                found[name] = density
        return found

    def plot(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write a PNG: a heat map of the accuracies, a layer a line, a density a column. An existing file is replaced.

        Raises:
            FileNotFoundError: there is no such folder.
            ImportError: matplotlib is not installed.
            ValueError: `path` does not end in .png.
        """
        draw(self.layers, self.densities, self.accuracies, self.baseline, path)


def sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    densities: Sequence[float] = (0.5, 0.2, 0.1, 0.05, 0.02),
    *,
    score: Union[str, Score] = "magnitude",
    granularity: Union[str, Granularity, NM] = "weight",
    exclude: Union[str, Sequence[str]] = (),
    data: Optional[Iterable[Any]] = None,
    loss: Optional[Loss] = None,
) -> Sensitivity:
    """Prune each layer alone, to each density, and evaluate the model: which layers bear pruning.

    Li et al., "Pruning filters for efficient convnets" (2016, arXiv:1608.08710), section 3.2.

    The model comes out as it went in, bit for bit, also if `evaluate` raises: each layer gets its weights and positions
    back, in the same objects, each module its training flag, each batch norm its statistics. A model that has no
    prunable layers is made prunable, and stays so.

    Args:
        evaluate: gives a number, more being better, such as the accuracy. It is called layers * densities + 1 times.
        densities: of the layer, each in [0, 1]. A layer that has less than that already is evaluated as it is.
        score, granularity, exclude, data, loss: as in `mpl_sparse.pruning.prune`. The model is scored once.

    Memory: one more layer, and the scores.

    Raises:
        TypeError, ValueError: an argument is not as above, or `evaluate` gives no finite number.
    """
    if not callable(evaluate):
        raise TypeError(f"evaluate must be a function of the model, got {evaluate!r}")
    if isinstance(densities, (str, bytes)) or not isinstance(densities, Sequence) or not densities:
        raise TypeError(f"densities must be a sequence of at least one number, got {densities!r}")
    shares = [check_density(density) for density in densities]
    method = find_method(score, granularity, "layer", data, loss)
    if isinstance(method.granularity, NM):
        raise ValueError(f"granularity={granularity!r} decides itself how many weights stay")
    layers = layers_to_prune(model, exclude)

    def evaluated() -> float:
        with training_flags_restored(model), _buffers_restored(model):
            return checked_number("the result of evaluate", evaluate(model))

    baseline = evaluated()
    scores = scores_of(model, method.score, layers)
    accuracies = []
    for name, layer in layers.items():
        row = []
        for share in shares:
            before = Snapshot(layer)  # type: ignore[arg-type]
            try:
                method.prune_by(scores, layers, [Pool((name,), share)])
                row.append(evaluated())
            finally:
                before.restore(layer)  # type: ignore[arg-type]
        accuracies.append(row)
    return Sensitivity(list(layers), shares, accuracies, baseline)


@contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[None]:
    """Give each buffer its content back, but for the positions of weights, which no forward changes."""
    fixed = ids_of_positions(model)
    before = [(buffer, buffer.clone()) for buffer in model.buffers() if id(buffer) not in fixed]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, content in before:
                buffer.copy_(content)
