"""SparseGPT: pruning that corrects the weights that stay, layer by layer, from the layers' inputs."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

import torch
from torch import Tensor, nn

from ..nn import Prunable
from .granularity import NM, check_at_least
from .method import layers_to_prune
from .scores.batches import Run, check_data, check_function, run_inputs
from .scores.obs import check_damping, damped, layer_hessian
from .selection import Densities, check_density, listed, pools_by_density
from .snapshot import all_or_nothing
from .storage import is_sparse, positions, stored

__all__ = ["sparsegpt"]

ModelT = TypeVar("ModelT", bound=nn.Module)


# From a block's number and its scores (rows, width), -inf where pruned, to what goes: bool (rows, width).
Decide = Callable[[int, Tensor], Tensor]


@torch.no_grad()
def sparsegpt(
    model: ModelT,
    density: Union[Densities, NM],
    data: Iterable[Any],
    *,
    run: Run = run_inputs,
    exclude: Union[str, Sequence[str]] = (),
    block_size: int = 128,
    damping: float = 0.01,
) -> ModelT:
    """Prune each layer to a density, in place, and correct its remaining weights so that its outputs for `data` change
    little, without training. Returns the model.

    Frantar, Alistarh, "SparseGPT: Massive language models can be accurately pruned in one-shot" (2023,
    arXiv:2301.00774), algorithm 1. With H = X X^T + damping, X the layer's inputs: column by column, a weight w_j that
    goes changes those after it in its row by -w_j / [H_j^-1]_jj * [H_j^-1]_j:, H_j being H without the columns before
    j. Which weights go is decided for a block of columns together, by the lowest w_j^2 / [H_j^-1]_jj of all rows, with
    the weights as they are when the block's turn comes. A convolution is taken as the matrix of its outputs by its
    kernels, one for each group.

    Layers are pruned in the order of the model, each with the inputs that the pruned ones before it give. Weights that
    are pruned already stay so, and count. The sums are in float64. The model runs over the data once for each layer, in
    the mode, train or eval, that it is in; its buffers and torch's random numbers stay.

    Args:
        density: the share of its positions that each layer keeps, exactly round(density * positions), halves up; or one
            for each layer, as in `prune`. Layers that have no more than that stay as they are. Or `NM(n, m)`.
        data: batches that can be gone through again.
        run: a function (model, batch) that runs the model; by default the batch, or the first item of a tuple, is the
            input, and a dict has the keywords.
        exclude: as in `prune`.
        block_size: how many columns are decided together; of `NM(n, m)` always a group of m.
        damping: the share of the mean of H's diagonal that is added to it.

    Memory: three matrices (cols, cols) in float64 for each group of one layer, and its dense weight; and one more of
    each layer: if the model fails in between, the layers that were pruned come back.

    Raises:
        TypeError, ValueError: an argument is not as above, or a layer's inputs are not finite; nothing is pruned then.
    """
    check_data(data)
    check_function("run", run)
    check_at_least("block_size", block_size, 1)
    check_damping(damping)
    density = listed(density)
    if isinstance(density, (int, float)):
        check_density(density)
    layers = layers_to_prune(model, exclude)
    keeps = _keeps(layers, density)
    with all_or_nothing(layers[name] for name in keeps):
        for name, keep in keeps.items():
            layer = layers[name]
            if keep is None or keep < layer.num_weight:
                gram = layer_hessian(model, name, layer, data, run)
                _prune_layer(layer, gram, density if isinstance(density, NM) else keep, block_size, damping)
    return model


def _keeps(layers: Mapping[str, Prunable], density: Union[Densities, NM]) -> Dict[str, Optional[int]]:
    """How many weights each layer keeps; None for as many as the pattern has."""
    if isinstance(density, NM):
        return dict.fromkeys(layers)
    return {pool.names[0]: pool.keep(layers) for pool in pools_by_density(layers, density, "layer")}


def _prune_layer(layer: Any, gram: Tensor, wanted: Any, block_size: int, damping: float) -> None:
    """Prune a layer to `wanted` weights, which its groups share in proportion to what they have; or to an NM."""
    shape = layer.weight_shape
    weight = torch.zeros(shape.numel(), dtype=torch.float64)
    kept = torch.zeros(shape.numel(), dtype=torch.bool)
    places = positions(layer)
    weight[places], kept[places] = layer.remaining_weight().double(), True
    weights = weight.view(gram.shape[0], -1, gram.shape[1])
    masks = kept.view_as(weights)
    if isinstance(wanted, NM):
        inner = shape[2:].numel()
        order = torch.arange(gram.shape[1]).view(shape[1], inner).T.reshape(-1)  # the inputs side by side
        blocks = _blocks_of_inputs(inner, shape[1], wanted.m)
        decisions = [_highest_of_rows(wanted.n)] * gram.shape[0]
    else:
        order = torch.arange(gram.shape[1])
        blocks = [slice(start, start + block_size) for start in range(0, gram.shape[1], block_size)]
        shares = _shares(wanted, [int(mask.sum()) for mask in masks])
        decisions = [_lowest_of_all(_numbers_to_drop(mask, keep, blocks)) for mask, keep in zip(masks, shares)]
    for group, decide in enumerate(decisions):
        dead = gram[group].diagonal() == 0
        hessian = damped(gram[group], damping)[order][:, order]
        found = reconstructed(weights[group][:, order], masks[group][:, order], hessian, dead[order], blocks, decide)
        weights[group][:, order], masks[group][:, order] = found
    layer.set_mask(kept.view(shape))
    remaining = weight[kept].to(stored(layer).dtype)
    if is_sparse(layer):
        layer.values.copy_(remaining)
    else:
        layer.weight[layer.mask] = remaining


def reconstructed(
    weight: Tensor, kept: Tensor, hessian: Tensor, dead: Tensor, blocks: Sequence[slice], decide: Decide
) -> Tuple[Tensor, Tensor]:
    """The weights and the mask after what `decide` drops, block by block.

    Shape:
        weight (rows, cols), float64, 0 where `kept` (rows, cols), bool, is False; hessian (cols, cols), positive
        definite; dead (cols,), bool: inputs that are always 0, whose weights go first; blocks of columns one after the
        other. Results (rows, cols).
    """
    weight, kept = weight.clone(), kept.clone()
    # row j of this factor is row j of H_j^-1 divided by the root of its first element
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    for number, block in enumerate(blocks):
        inner, columns, mask = factor[block, block], weight[:, block], kept[:, block]
        scores = columns.square() / inner.diagonal().square()
        scores = torch.where(dead[block], -1.0, scores)  # rather than any other, but after what is pruned already
        mask &= ~decide(number, torch.where(mask, scores, -math.inf))
        errors = torch.zeros_like(columns)
        for column in range(columns.shape[1]):
            error = torch.where(mask[:, column], 0.0, columns[:, column]) / inner[column, column]
            columns[:, column:] -= error.unsqueeze(1) * inner[column, column:]
            errors[:, column] = error
        weight[:, block.stop :] -= errors @ factor[block, block.stop :]
    return torch.where(kept, weight, 0.0), kept


def _lowest_of_all(numbers: Sequence[int]) -> Decide:
    """Drop so many of each block, whatever their rows."""

    def decide(number: int, scores: Tensor) -> Tensor:
        going = torch.zeros(scores.numel(), dtype=torch.bool)
        going[torch.sort(scores.reshape(-1), stable=True).indices[: numbers[number]]] = True
        return going.view_as(scores)

    return decide


def _highest_of_rows(stay: int) -> Decide:
    """Drop all but so many of each row of a block."""

    def decide(_: int, scores: Tensor) -> Tensor:
        order = torch.sort(scores, dim=1, stable=True).indices[:, : max(scores.shape[1] - stay, 0)]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)

    return decide


def _blocks_of_inputs(inner: int, inputs: int, m: int) -> List[slice]:
    """Groups of m inputs at each place of the kernel, the last one of a place smaller if it must."""
    return [
        slice(place * inputs + start, place * inputs + min(start + m, inputs))
        for place in range(inner)
        for start in range(0, inputs, m)
    ]


def _numbers_to_drop(kept: Tensor, keep: int, blocks: Sequence[slice]) -> List[int]:
    """How many positions of each block are pruned, with those that are already: in proportion to its size, as far as
    that goes, so that all together leave `keep`.
    """
    sizes = [kept[:, block].numel() for block in blocks]
    least = [size - int(kept[:, block].sum()) for size, block in zip(sizes, blocks)]
    drop, seen, done = kept.numel() - keep, 0, 0
    numbers = []
    for place, size in enumerate(sizes):
        seen += size
        wanted = math.floor(drop * seen / kept.numel() + 0.5) - done
        low = max(least[place], drop - done - sum(sizes[place + 1 :]))
        high = min(size, drop - done - sum(least[place + 1 :]))
        numbers.append(min(max(wanted, low), high))
        done += numbers[-1]
    return numbers


def _shares(total: int, most: Sequence[int]) -> List[int]:
    """`total` in whole parts in proportion to `most`, none above it."""
    whole = max(sum(most), 1)
    ends = [total * sum(most[: place + 1]) // whole for place in range(len(most))]
    return [end - start for start, end in zip([0, *ends], ends)]
