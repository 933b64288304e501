"""SynFlow: pruning without data."""

from __future__ import annotations

import operator
from typing import Any, Dict, Iterable, Optional, Sequence

import torch
from torch import Tensor, nn

from ..storage import at_remaining, stored
from .batches import Run, check_data, check_function, each_batch, run_inputs
from .running import stand_in_tensors, swapped, training_flags_restored
from .score import ModelScore, Scores, layers_by_name

__all__ = ["SynFlow"]


class SynFlow(ModelScore):
    """|w| * |dR/d|w||: the synaptic flow through a weight. R is the sum of the outputs for one input of ones, with the
    absolute values of all parameters.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow" (2020,
    arXiv:2006.05467). As in the paper's code, the model runs in eval mode and float64 with the absolute value of all of
    its state, the statistics of batch norms included, and a derivative below 0, as layer norms have it, counts with its
    absolute value. The algorithm prunes in 100 rounds, of which each leaves the same share of what the last one left:
    `prune` does so by default.

    Args:
        data: batches that can be gone through again; of the first one only the shape of one sample is used.
        run: a function (model, batch) that gives the outputs: a tensor, or tuples, lists or dicts of them; by default
            the batch, or the first item of a tuple, is the input, and a dict has the keywords.
        rounds: how many rounds `prune` takes.

    Raises:
        TypeError: `data` can be gone through only once, `run` is no function, or `rounds` no integer.
        ValueError: `rounds` is less than 1.
    """

    def __init__(self, data: Iterable[Any], run: Run = run_inputs, rounds: int = 100) -> None:
        self.data = check_data(data)
        self.run = check_function("run", run)
        self.rounds = _checked_rounds(rounds)

    def of(self, model: nn.Module) -> Scores:
        """See `ModelScore.of`. Takes memory for all parameters in float64, and their gradients."""
        layers = layers_by_name(model)
        tensors = _absolute(model, stand_in_tensors(model, layers.values()))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        leaves = [tensors[names[id(stored(layer))]] for layer in layers.values()]

        def differentiated(model: nn.Module, sample: Any) -> Sequence[Optional[Tensor]]:
            return torch.autograd.grad(_total(self.run(model, sample)), leaves, allow_unused=True)

        with training_flags_restored(model), torch.random.fork_rng(devices=[]), torch.enable_grad():
            for module in model.modules():
                module.training = False
            sample = _ones(next(each_batch(self.data)))
            gradients = swapped(model, tensors, differentiated, sample)
        return {
            name: at_remaining(layer, torch.zeros_like(leaf) if gradient is None else (gradient * leaf).detach().abs())
            for (name, layer), leaf, gradient in zip(layers.items(), leaves, gradients)
        }


def _absolute(model: nn.Module, tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """float64, and the absolute value of what is part of the state; a buffer that is not saved keeps its sign."""
    state = model.state_dict(keep_vars=True)
    changed = {}
    for name, tensor in tensors.items():
        made = tensor.detach().double() if tensor.is_floating_point() else tensor.detach()
        made = made.abs() if name in state else made
        changed[name] = made.requires_grad_(tensor.requires_grad)
    return changed


def _ones(batch: Any) -> Any:
    """The batch cut to one sample of ones; numbers that are not real, such as those of words, become 1 too."""
    if isinstance(batch, Tensor):
        ones = torch.ones_like(batch[:1])
        return ones.double() if batch.is_floating_point() else ones
    if isinstance(batch, dict):
        return {key: _ones(value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return [_ones(value) for value in batch]
    return batch


def _total(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.sum()
    parts = output.values() if isinstance(output, dict) else output
    if not isinstance(output, (dict, tuple, list)) or not parts:
        raise TypeError(f"run must give tensors, got {type(output).__name__}")
    return sum(_total(part) for part in parts if part is not None)


def _checked_rounds(rounds: Any) -> int:
    try:
        number = operator.index(rounds)
    except TypeError:
        raise TypeError(f"rounds must be an integer, got {rounds!r}") from None
    if number < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds!r}")
    return number
