"""How many weights stay, and among which they compete."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from ..nn import Prunable, check_pct, check_rank
from .choice import lowest_units, lowest_weights, lowest_within, places_within
from .erdos_renyi import KINDS, erdos_renyi_counts
from .granularity import NM, Granularity, Weight
from .scores import Scores
from .storage import positions

__all__ = [
    "SELECTIONS",
    "Densities",
    "Pool",
    "check_density",
    "check_selection",
    "dropped",
    "pools_by_density",
    "pools_by_pct",
    "pools_by_rank",
]

# "global": all weights compete. "layer": those of a layer. "row": those of one output of a layer. "er", "erk": those of
# a layer, the densities of the layers being in the proportion of Erdos and Renyi's graphs.
SELECTIONS = ("global", "layer", "row", *KINDS)

# One density for all; one for each layer in the order of `named_modules()`, None for none; or by names and patterns.
Densities = Union[float, Sequence[Optional[float]], Mapping[str, Optional[float]]]

Layers = Mapping[str, Prunable]


@dataclass(frozen=True)
class Pool:
    """Layers whose weights compete, by name, and the share of all their positions that is to stay."""

    names: Tuple[str, ...]
    density: float

    def keep(self, layers: Layers) -> int:
        """The number of weights to stay: density * positions, to the nearest integer, halves up."""
        return rounded_share(self.density, positions_of(layers, self.names))


def positions_of(layers: Layers, names: Sequence[str]) -> int:
    """All positions of these layers, pruned ones included."""
    return sum(layers[name].weight_shape.numel() for name in names)


def remaining_of(layers: Layers, names: Sequence[str]) -> int:
    """The weights that remain in these layers."""
    return sum(layers[name].num_weight for name in names)


def rounded_share(density: float, positions: int) -> int:
    """density * positions to the nearest integer, halves up."""
    return math.floor(density * positions + 0.5)


def pools_by_density(layers: Layers, density: Densities, selection: str) -> List[Pool]:
    """The pools that bring `layers` to this density.

    Raises:
        TypeError, ValueError: a density is no number in [0, 1]; a sequence has not one a layer; a pattern matches no
            layer; or there is more than one density and layers do not have densities of their own in this selection.
    """
    density = listed(density)
    if isinstance(density, (Mapping, Sequence)) and not isinstance(density, str):
        if selection not in ("layer", "row"):
            raise ValueError(
                f"density: one for each layer needs selection='layer' or 'row', got {density!r} and {selection!r}"
            )
        by_name = _by_pattern(layers, density) if isinstance(density, Mapping) else _in_order(layers, density)
        return [Pool((name,), check_density(each)) for name, each in by_name.items() if each is not None]
    share = check_density(density)
    names = tuple(layers)
    if selection == "global":
        return [Pool(names, share)]
    if selection in ("layer", "row"):
        return [Pool((name,), share) for name in names]
    counts = erdos_renyi_counts(
        {name: tuple(layer.weight_shape) for name, layer in layers.items()},
        {name: layer.num_weight for name, layer in layers.items()},
        rounded_share(share, positions_of(layers, names)),
        selection,
    )
    return [_pool(layers, (name,), count) for name, count in counts.items()]


def pools_by_pct(layers: Layers, pct: Any, selection: str) -> List[Pool]:
    """The pools that drop int(pct * remaining) of the weights that remain in each of them."""
    share = check_pct(pct)
    return _pools_that_drop(layers, lambda remaining: int(share * remaining), selection, "pct")


def pools_by_rank(layers: Layers, rank: Any, selection: str) -> List[Pool]:
    """The pools that drop `rank` weights each. ValueError if one has fewer."""
    return _pools_that_drop(layers, lambda remaining: check_rank(rank, remaining), selection, "rank")


def listed(density: Any) -> Any:
    """A tensor or array of densities as a number or a list; all else as it is."""
    return density.tolist() if isinstance(density, (Tensor, np.ndarray)) else density


def _pools_that_drop(layers: Layers, drop: Callable[[int], int], selection: str, what: str) -> List[Pool]:
    if selection not in ("global", "layer"):
        raise ValueError(f"selection={selection!r} goes with a density, not with {what}")
    groups = [tuple(layers)] if selection == "global" else [(name,) for name in layers]
    remaining = [remaining_of(layers, names) for names in groups]
    return [_pool(layers, names, number - drop(number)) for names, number in zip(groups, remaining)]


def _pool(layers: Layers, names: Tuple[str, ...], keep: int) -> Pool:
    return Pool(names, keep / max(positions_of(layers, names), 1))


def dropped(
    layers: Layers, scores: Scores, pools: Sequence[Pool], granularity: Granularity, selection: str
) -> Dict[str, Tensor]:
    """Which of the remaining weights go so that each pool keeps its density, bool (num_weight,), by the layer's name.

    A pool that has no more than that already loses nothing. Exact for single weights; units that go as one never take a
    pool below its density.
    """
    gone: Dict[str, Tensor] = {}
    for pool in pools:
        if selection == "row":
            gone.update({name: _in_rows(layers[name], scores[name], pool.density) for name in pool.names})
            continue
        count = max(0, remaining_of(layers, pool.names) - pool.keep(layers))
        together = torch.cat([scores[name] for name in pool.names]) if pool.names else torch.zeros(0)
        if isinstance(granularity, Weight):
            lost = lowest_weights(together, count)
        else:
            lost = lowest_units(together, _units(layers, pool.names, granularity), count)
        sizes = [layers[name].num_weight for name in pool.names]
        gone.update(zip(pool.names, lost.split(sizes)))
    return gone


def dropped_by_nm(layers: Layers, scores: Scores, pattern: NM) -> Dict[str, Tensor]:
    """Which of the remaining weights go so that of each m inputs at most n stay, by the layer's name."""
    return {
        name: lowest_within(scores[name], pattern.groups(layer.weight_shape, positions(layer)), pattern.n)
        for name, layer in layers.items()
    }


def units_of(layer: Prunable, granularity: Granularity) -> Tensor:
    """The unit of each remaining weight of a layer."""
    return granularity.units(layer.weight_shape, positions(layer))


def _units(layers: Layers, names: Sequence[str], granularity: Granularity) -> Tensor:
    """The units of all these layers, numbered one after the other."""
    first, parts = 0, []
    for name in names:
        parts.append(units_of(layers[name], granularity) + first)
        first += layers[name].weight_shape.numel() + 1  # no layer has more units than positions
    return torch.cat(parts)


def _in_rows(layer: Prunable, scores: Tensor, density: float) -> Tensor:
    """The same number stays of each row, and where that leaves some over, one more of the rows where it scores highest:
    a row of 9 weights alone would lose all of them at a density of 5%.
    """
    shape = layer.weight_shape
    rows = torch.div(positions(layer), max(shape[1:].numel(), 1), rounding_mode="floor")
    stay, more = divmod(rounded_share(density, shape.numel()), max(shape[0], 1))
    places = places_within(scores, rows)
    gone, next_of_row = places >= stay, places == stay
    gone[next_of_row] = lowest_weights(scores[next_of_row], max(int(next_of_row.sum()) - more, 0))
    return gone


def _in_order(layers: Layers, densities: Sequence[Optional[float]]) -> Dict[str, Optional[float]]:
    if len(densities) != len(layers):
        raise ValueError(
            f"density must have one value for each of the {len(layers)} prunable layers, got {len(densities)} values"
        )
    return dict(zip(layers, densities))


def _by_pattern(layers: Layers, densities: Mapping[str, Optional[float]]) -> Dict[str, Optional[float]]:
    """The first pattern that matches a layer's name counts; layers that none matches are left out."""
    found: Dict[str, Optional[float]] = {}
    for pattern, density in densities.items():
        if not isinstance(pattern, str):
            raise TypeError(f"density must map names or patterns of them to numbers, got {pattern!r}")
        matched = [name for name in layers if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(f"density: {pattern!r} matches no prunable layer")
        for name in matched:
            found.setdefault(name, density)
    return {name: found[name] for name in layers if name in found}


def check_density(density: Any) -> float:
    """`density` as a float in [0, 1]; TypeError or ValueError naming it otherwise."""
    if isinstance(density, bool) or not isinstance(density, numbers.Real):
        raise TypeError(f"density must be a real number, got {density!r}")
    if not 0 <= float(density) <= 1:
        raise ValueError(f"density must be in [0, 1], got {density!r}")
    return float(density)


def check_selection(selection: Any, granularity: Union[Granularity, NM]) -> str:
    """`selection` itself; TypeError or ValueError if there is no such, or none for this granularity."""
    if not isinstance(selection, str):
        raise TypeError(f"selection must be one of {list(SELECTIONS)}, got {selection!r}")
    if selection not in SELECTIONS:
        raise ValueError(f"selection must be one of {list(SELECTIONS)}, got {selection!r}")
    if selection == "row" and not isinstance(granularity, Weight):
        raise ValueError(f"selection='row' is for single weights, got granularity={granularity!r}")
    return selection
