"""GraSP: pruning that keeps the gradient's flow."""

from __future__ import annotations

from typing import Any, Iterable, List, Sequence

import torch
from torch import Tensor, nn

from ...nn import to_dense
from ..storage import at_remaining, is_sparse, stored
from .batches import Loss, softened_cross_entropy
from .gradient import OfLoss
from .running import Gradients, batch_gradients, mean_gradients
from .score import Scores, layers_by_name

__all__ = ["GraSP"]


class GraSP(OfLoss):
    """w * (H g), g and H the gradient and the Hessian of the mean loss over all batches: minus the first-order change
    of the gradient's squared norm when a weight goes, but for a factor of 2.

    Wang et al., "Picking winning tickets before training by preserving gradient flow" (2020, arXiv:2002.07376). The
    paper's S = -w * (H g) is the negative of this: it removes the weights with the largest S, and so do we. H is over
    the prunable weights that remain.

    Each batch is gone through twice, with the same random numbers. Sparse layers are differentiable once, so a model
    that has some is scored through a masked copy (`to_dense`): this takes memory for dense weights and their gradients.

    Args:
        data: as in `SNIP`.
        loss: a function (model, batch) -> scalar tensor; by default the cross entropy for batches (inputs, classes) of
            the logits divided by 200, as in the paper's code. Without that, networks with batch norms, whose logits are
            large at first, may lose what they need.

    Raises:
        TypeError: as `SNIP`.
        ValueError: when it scores, if a fused layer has no dense form (see `to_dense`).
    """

    def __init__(self, data: Iterable[Any], loss: Loss = softened_cross_entropy) -> None:
        super().__init__(data, loss)

    def of(self, model: nn.Module) -> Scores:
        """See `ModelScore.of`."""
        if any(is_sparse(layer) for layer in layers_by_name(model).values()):
            model = to_dense(model)
        by_name = layers_by_name(model)
        layers = list(by_name.values())
        gradient = mean_gradients(model, layers, self.data, self.loss)

        def hessian_product(own: Gradients, leaves: Sequence[Tensor]) -> Gradients:
            flow = sum((g * whole).sum() for g, whole in zip(own, gradient) if g is not None)
            if not isinstance(flow, Tensor) or not flow.requires_grad:  # the loss is linear, H is zero
                return [None] * len(leaves)
            return torch.autograd.grad(flow, leaves, allow_unused=True)

        products: List[Tensor] = [torch.zeros_like(stored(layer)) for layer in layers]
        batches = 0
        for parts in batch_gradients(model, layers, self.data, self.loss, hessian_product):
            batches += 1
            products = [sum_ if part is None else sum_.add_(part) for sum_, part in zip(products, parts)]
        return {
            name: at_remaining(layer, product / batches) * layer.remaining_weight()
            for (name, layer), product in zip(by_name.items(), products)
        }
