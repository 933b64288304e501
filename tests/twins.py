"""A small model twice: masked, 80% pruned, and the sparse form of the same. What torch does to one it does to both."""

import torch
from torch import nn

from mpl_sparse.nn import DenseConv2d, DenseLinear, prunable_layers, to_sparse


def masked_model(seed=0):
    """Convolution, grouped convolution, batch norms, linear. Input (N, 3, 8, 8), output (N, 10)."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = nn.Sequential(
        DenseConv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        DenseConv2d(8, 16, 3, stride=2, padding=1, groups=4, padding_mode="reflect"),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        DenseLinear(256, 10),
    )
    for _, layer in prunable_layers(model):
        layer.random_prune_by_pct(0.8)
    for norm in (model[1], model[4]):  # else a channel without weights stands where relu has no derivative
        nn.init.uniform_(norm.bias, 0.1, 0.5)
    torch.random.set_rng_state(state)
    return model


def twins(seed=0):
    """A masked model and its sparse form."""
    model = masked_model(seed)
    return model, to_sparse(model)


def weights(model, of=torch.Tensor.detach):
    """A copy of what `of` has for each parameter, 0 for None, by name: of a masked weight only where it remains."""
    found = {}
    for name, module in model.named_modules():
        for kind, parameter in module._parameters.items():
            if parameter is None:
                continue
            tensor = of(parameter)
            tensor = torch.zeros_like(parameter) if tensor is None else tensor.clone()
            if "mask" in module._buffers:
                kind, tensor = ("values", tensor[module.mask]) if kind == "weight" else (kind, tensor)
            found[f"{name}.{kind}"] = tensor
    return found


def gradients(model):
    return weights(model, lambda parameter: parameter.grad)


def assert_alike(masked, sparse, **tolerance):
    """The same weights, gradients and statistics of batch norms."""
    torch.testing.assert_close(weights(sparse), weights(masked), **tolerance)
    torch.testing.assert_close(gradients(sparse), gradients(masked), **tolerance)
    statistics = [
        {name: buffer for name, buffer in each.named_buffers() if "running" in name} for each in (sparse, masked)
    ]
    torch.testing.assert_close(*statistics, **tolerance)


def train(model, steps=3, seed=1):
    """A few steps of SGD; the loss of the last."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for input, target in batches(steps, seed):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(input), target)
        loss.backward()
        optimizer.step()
    return loss.detach()


def batches(count, seed=1):
    """`count` pairs of images and their classes, always the same."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(6, 3, 8, 8, generator=generator), torch.randint(10, (6,), generator=generator))
        for _ in range(count)
    ]


def images(count=6, seed=2):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
