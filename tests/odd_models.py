"""A plain model of odd layers in float64 and its prunable forms, with the same weights."""

import copy

import torch
from torch import nn

from mpl_sparse.nn import prunable, prunable_layers, to_sparse

FORMS = ["masked", "sparse", "mixed"]


class Odd(nn.Module):
    """Strides, groups, dilation, reflected padding, no bias, batch norm, a layer called twice, an LSTM, one not used.

    Input (N, 4, 9, 8), output (N, 5).
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 9, (3, 2), padding=(2, 1), dilation=(2, 1), groups=3, padding_mode="reflect")
        self.twice = nn.Linear(5, 5, bias=False)
        self.lstm = nn.LSTM(9, 3, bidirectional=True)
        self.last = nn.Linear(6, 5)
        self.unused = nn.Linear(3, 2)

    def forward(self, input):
        hidden = torch.tanh(self.norm(self.first(input)))
        hidden = torch.tanh(self.grouped(hidden))  # (N, 9, 5, 5)
        hidden = self.twice(torch.sigmoid(self.twice(hidden)))
        steps = hidden.mean(3).permute(2, 0, 1)  # (5, N, 9)
        return self.last(self.lstm(steps)[0].mean(0))


def odd_forms(form, density=0.4, seed=0):
    """(plain with zeros where pruned, its prunable form, masks by the name of the prunable layer), all in float64."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    plain = Odd().double()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        plain.norm.running_mean.normal_()
        plain.norm.running_var.uniform_(0.5, 2)
    model = prunable(copy.deepcopy(plain))
    masks = {}
    for name, layer in prunable_layers(model):
        layer.set_mask(torch.rand(layer.weight_shape) < density)
        masks[name] = layer.mask.clone()
        with torch.no_grad():
            plain_weight(plain, name).masked_fill_(~masks[name], 0)
    if form == "sparse":
        model = to_sparse(model)
    elif form == "mixed":
        model = to_sparse(model, exclude=["first", "last", "lstm.hh_l0"])
    torch.random.set_rng_state(state)
    return plain, model, masks


def plain_weight(plain, name):
    """The weight of a plain model for the name of a prunable layer; an LSTM has it in itself."""
    owner, _, child = name.rpartition(".")
    return getattr(plain.get_submodule(owner), f"weight_{child}") if owner else plain.get_submodule(name).weight


def batches(count=3, size=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 4, 9, 8, generator=generator, dtype=torch.float64),
            torch.randint(5, (size,), generator=generator),
        )
        for _ in range(count)
    ]
