"""What a model holds at one moment, and bringing it back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..nn import prunable_layers
from ..pattern import Pattern
from .storage import POSITIONS, is_sparse, pattern_from, pattern_state

__all__ = ["Snapshot", "all_or_nothing"]


class Snapshot:
    """Copies of all parameters and buffers of a model, and of the gradients of its sparse layers' weights.

    Takes memory for one more model; for sparse layers in proportion to their remaining weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self.patterns: Dict[str, Pattern] = {}
        self.gradients: Dict[str, Any] = {}
        for name, layer in prunable_layers(model):
            if is_sparse(layer):
                self.patterns[name] = layer.pattern
                self.gradients[name] = None if layer.values.grad is None else layer.values.grad.clone()
        self.tensors = {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Bring all back, bit for bit, in the same Parameters and buffers. Other gradients stay as they are."""
        layers = dict(prunable_layers(model))
        for name, pattern in self.patterns.items():
            if layers[name].pattern is not pattern:
                layers[name].pattern = pattern
            layers[name].values.grad = None if self.gradients.get(name) is None else self.gradients[name].clone()
        for name, tensor in _tensors(model).items():
            tensor.copy_(self.tensors[name])

    def state_dict(self) -> Dict[str, Any]:
        """All but the gradients, as dicts of tensors and numbers."""
        patterns = {name: pattern_state(pattern) for name, pattern in self.patterns.items()}
        return {"tensors": dict(self.tensors), "patterns": patterns}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Snapshot:
        """The snapshot that gave this `state_dict`."""
        made = cls.__new__(cls)
        made.patterns = {name: pattern_from(each) for name, each in state["patterns"].items()}
        made.gradients = {}
        made.tensors = {name: tensor.clone() for name, tensor in state["tensors"].items()}
        return made


@contextmanager
def all_or_nothing(layers: Iterable[Any]) -> Iterator[None]:
    """Bring `layers` back to what they are now if an exception leaves the block. Takes memory for one more of each."""
    before = [(layer, Snapshot(layer)) for layer in layers]
    try:
        yield
    except BaseException:
        for layer, then in before:
            then.restore(layer)
        raise


def _tensors(model: nn.Module) -> Dict[str, Tensor]:
    """Parameters and buffers by name, but for the copies of patterns."""
    found: Dict[str, Tensor] = {name: parameter.data for name, parameter in model.named_parameters()}
    copies = {
        id(layer._buffers[name])
        for _, layer in prunable_layers(model)
        if is_sparse(layer)
        for name in POSITIONS
        if name in layer._buffers
    }
    found.update({name: buffer for name, buffer in model.named_buffers() if id(buffer) not in copies})
    return found
