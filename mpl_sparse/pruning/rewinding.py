"""Lottery tickets: the weights that survive go back to what they were."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Set, Tuple

import torch
from torch import Tensor, nn

from ..nn import prunable_layers
from ..pattern import Pattern
from .snapshot import Snapshot
from .storage import POSITIONS, as_stored, is_sparse

__all__ = ["Rewinding"]


class Rewinding:
    """Remembers all parameters and buffers of a model now, and brings them back later without what was pruned since.

    Frankle, Carbin, "The lottery ticket hypothesis" (2019, arXiv:1803.03635): remember before training. Frankle et al.,
    "Stabilizing the lottery ticket hypothesis" (2019, arXiv:1903.01611): remember after some steps of it.

        rewinding = Rewinding(model)              # a prunable model, at step 0 or k
        for _ in range(rounds):
            train(model)
            prune(model, pct=0.2)
            rewinding.rewind(model)

    Takes memory for one more model; for sparse layers in proportion to the weights that remain at that moment. Batch
    norms get their statistics of then back too. Optimizers are left alone: make a new one, or clear its `state`, where
    training is to start anew.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        self._then = Snapshot(model)

    @torch.no_grad()
    def rewind(self, model: nn.Module) -> None:
        """Set all parameters and buffers of `model` to what they were, in the same objects; masks and patterns stay.

        A layer may be masked then and sparse now, or the other way. Positions that a sparse layer did not have then get
        0.

        Raises:
            ValueError: the model has other parameters, or of other shapes; nothing is changed then.
        """
        weights = {name: as_stored(layer, *self._weight_then(name, layer)) for name, layer in prunable_layers(model)}
        others = _others(model)
        for name, tensor in others.items():
            if name not in self._then.tensors or self._then.tensors[name].shape != tensor.shape:
                raise ValueError(f"model has {name!r} {tuple(tensor.shape)}, which it did not have then")
        for name, tensor in others.items():
            tensor.copy_(self._then.tensors[name])
        for name, layer in prunable_layers(model):
            (layer.values if is_sparse(layer) else layer.weight).copy_(weights[name])

    def state_dict(self) -> Dict[str, Any]:
        """What is remembered, as dicts of tensors and numbers; for torch.save and `mpl_sparse.save`."""
        return self._then.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` gave instead. ValueError if it is something else."""
        if not isinstance(state, Mapping) or not {"tensors", "patterns"} <= state.keys():
            raise ValueError("state must be what Rewinding.state_dict gave")
        self._then = Snapshot.from_state_dict(state)

    def _weight_then(self, name: str, layer: Any) -> Tuple[Tensor, Optional[Pattern]]:
        """The dense weight of then and None, or the values and their pattern."""
        prefix = f"{name}." if name else ""
        pattern = self._then.patterns.get(name)
        then = self._then.tensors.get(prefix + ("weight" if pattern is None else "values"))
        shape = None if then is None else torch.Size(then.shape if pattern is None else pattern.shape)
        if then is None or shape != layer.weight_shape:
            raise ValueError(f"model has a layer {name!r} {tuple(layer.weight_shape)}, which it did not have then")
        return then, pattern


def _others(model: nn.Module) -> Dict[str, Tensor]:
    """All parameters and buffers but the weights and positions of the prunable layers."""
    own: Set[int] = set()
    for _, layer in prunable_layers(model):
        own.update(id(layer._parameters.get(name)) for name in ("weight", "values"))
        own.update(id(layer._buffers.get(name)) for name in POSITIONS)
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if id(tensor) not in own}
