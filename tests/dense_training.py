"""A small model that is trained sparse, and the same training computed densely with plain torch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from mpl_sparse.models import BaseModel
from mpl_sparse.nn import DenseConv2d, DenseLinear


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = DenseConv2d(2, 6, 3)
        self.head = DenseLinear(24, 5)

    def forward(self, inputs):
        return self.head(self.conv(inputs).relu().flatten(1))


class DenseTraining:
    """The same network in plain dense torch; where a weight is or was pruned, its value and gradient are 0 and its
    state that of a new weight."""

    def __init__(self, model, make_optimizer):
        self.layers = model.prunable_layers
        self.masks = [layer.mask for layer in self.layers]
        self.weights = [layer.weight.detach().to_dense().clone().requires_grad_() for layer in self.layers]
        self.biases = [layer.bias.detach().clone().requires_grad_() for layer in self.layers]
        self.optimizer = make_optimizer([*self.weights, *self.biases])
        self.fresh = fresh_state(make_optimizer)

    def step(self, inputs, targets):
        conv, head = self.weights
        hidden = F.conv2d(inputs, conv, self.biases[0]).relu().flatten(1)
        loss = F.mse_loss(F.linear(hidden, head, self.biases[1]), targets)
        self.optimizer.zero_grad()
        loss.backward()
        for weight, mask in zip(self.weights, self.masks):
            weight.grad *= mask
        if isinstance(self.optimizer, torch.optim.SparseAdam):
            for weight, mask in zip([*self.weights, *self.biases], [*self.masks, None, None]):
                weight.grad = sparse(weight.grad, mask)
        self.optimizer.step()
        with torch.no_grad():
            for weight, mask in zip(self.weights, self.masks):
                weight *= mask

    @torch.no_grad()
    def follow(self):
        """Take over the masks of the sparse layers: only weights that were there before and after keep anything."""
        for i, layer in enumerate(self.layers):
            stays = self.masks[i] & layer.mask
            weight = self.weights[i]
            weight *= stays
            for name, entries in self.optimizer.state.get(weight, {}).items():
                if isinstance(entries, torch.Tensor) and entries.shape == weight.shape:
                    entries[~stays] = self.fresh[name]
            self.masks[i] = layer.mask

    def assert_same(self):
        for layer, weight, bias in zip(self.layers, self.weights, self.biases):
            torch.testing.assert_close(layer.weight.to_dense(), weight)
            torch.testing.assert_close(layer.bias, bias)


def fresh_state(make_optimizer):
    """What torch's own optimizer holds for a weight that is new: asked of one that had no gradient but 0."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = make_optimizer([weight])
    weight.grad = torch.zeros_like(weight)
    if isinstance(optimizer, torch.optim.SparseAdam):
        weight.grad = sparse(weight.grad)
    optimizer.step()
    return {name: float(entry) for name, entry in optimizer.state[weight].items() if entry is not None}


def sparse(gradient, mask=None):
    """A gradient in torch's sparse layout: every entry, or those of the mask, whether 0 or not."""
    positions = (torch.ones_like(gradient, dtype=torch.bool) if mask is None else mask).nonzero()
    return torch.sparse_coo_tensor(positions.T, gradient[tuple(positions.T)], gradient.shape, check_invariants=True)


def random_mask(layer, density=0.5):
    return torch.rand(layer.weight_shape) < density


def set_masks(model):
    """Weights go, and weights come."""
    for layer in model.prunable_layers:
        layer.set_mask(random_mask(layer))


def sparse_net(dtype=torch.float64):
    torch.manual_seed(0)
    return Net().to(dtype).prune_by_pct(0.3).to_sparse()


def batch(dtype=torch.float64):
    return torch.randn(8, 2, 4, 4, dtype=dtype), torch.randn(8, 5, dtype=dtype)


def sparse_step(model, optimizer, inputs, targets):
    optimizer.zero_grad()
    F.mse_loss(model(inputs), targets).backward()
    optimizer.step()


def run_both(model, optimizer, dense, steps):
    for _ in range(steps):
        inputs, targets = batch()
        sparse_step(model, optimizer, inputs, targets)
        dense.step(inputs, targets)
        dense.assert_same()
