"""Movement: which weights training moves away from zero."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

import torch
from torch import Tensor, nn

from ...pattern import Pattern
from ..storage import as_stored, at_remaining, is_sparse, pattern_from, pattern_state, stored
from .score import ModelScore, Scores, layers_by_name

__all__ = ["Movement"]


class Movement(ModelScore):
    """-sum_t w_t * g_t over the steps of training: positive for a weight that the steps move away from zero.

    Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning" (2020, arXiv:2005.07683), equation 3, without the
    learning rate, which changes no order while it is constant. Call `accumulate` after each backward, before the
    optimizer's step:

        movement = Movement()
        ...
        loss.backward()
        movement.accumulate(model)
        optimizer.step()

    It takes memory as large as the gradients: for a sparse layer one number a remaining weight. Weights that are pruned
    lose their sum, and start at 0 if they come back. Layers may become sparse, or masked again, in between.

    The paper fine-tunes a trained network, and its masked weights go on collecting score and may return. Here what is
    pruned has no gradient and stays pruned.
    """

    def __init__(self) -> None:
        self._sums: Dict[str, Tensor] = {}
        self._patterns: Dict[str, Pattern] = {}  # of the sums of sparse layers

    @torch.no_grad()
    def accumulate(self, model: nn.Module) -> None:
        """Add -w * g of the gradients that the weights of `model` hold now. Layers without a gradient add nothing."""
        for name, layer in layers_by_name(model).items():
            weight = stored(layer)
            if weight.grad is not None:
                sums = self._aligned(name, layer)
                self._sums[name] = torch.zeros_like(weight) if sums is None else sums
                self._sums[name].sub_(weight * weight.grad)
                self._settle(name, layer)

    def of(self, model: nn.Module) -> Scores:
        """See `ModelScore.of`. The model does not run. ValueError before the first `accumulate`."""
        if not self._sums:
            raise ValueError("the score has no movements yet: call accumulate(model) after each backward")
        scores = {}
        for name, layer in layers_by_name(model).items():
            sums = self._aligned(name, layer)
            scores[name] = at_remaining(layer, torch.zeros_like(stored(layer).detach()) if sums is None else sums)
        return scores

    def reset(self) -> None:
        """Forget all movements, as before a new round of training."""
        self._sums, self._patterns = {}, {}

    def state_dict(self) -> Dict[str, Any]:
        """The sums by the layers' names, and the patterns of those of sparse layers; for torch.save and
        `mpl_sparse.save`.
        """
        patterns = {name: pattern_state(pattern) for name, pattern in self._patterns.items()}
        return {"sums": dict(self._sums), "patterns": patterns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. ValueError if it is something else."""
        if not isinstance(state, Mapping) or not {"sums", "patterns"} <= state.keys():
            raise ValueError("state must be what Movement.state_dict gave")
        self._sums = {name: sums.clone() for name, sums in state["sums"].items()}
        self._patterns = {name: pattern_from(each) for name, each in state["patterns"].items()}

    def _aligned(self, name: str, layer: Any) -> Optional[Tensor]:
        """The layer's sums, shaped as its weights are stored now; None if there are none."""
        sums = self._sums.get(name)
        return None if sums is None else as_stored(layer, sums, self._patterns.get(name))

    def _settle(self, name: str, layer: Any) -> None:
        if is_sparse(layer):
            self._patterns[name] = layer.pattern
        else:
            self._patterns.pop(name, None)
            self._sums[name].masked_fill_(~layer.mask, 0)
