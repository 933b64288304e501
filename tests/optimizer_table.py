"""The optimizers of torch.optim, and options to try each with. A new one is a row."""

from __future__ import annotations

import inspect

import torch

from mpl_sparse import optim

# what to try beside no option at all
OPTIONS = {
    "SGD": [
        {"lr": torch.tensor(0.03)},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True, "foreach": False},
        {"momentum": 0.9, "weight_decay": 0.1, "foreach": True},
        {"momentum": 0.9, "weight_decay": 0.1, "fused": True},
        {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True, "maximize": True, "foreach": True},
    ],
    "Adam": [
        {"lr": torch.tensor(0.03)},
        {"amsgrad": True, "foreach": True},
        {"amsgrad": True, "weight_decay": 0.1, "fused": True},
        {"betas": (0.5, 0.8), "eps": 1e-3, "maximize": True, "foreach": False},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "AdamW": [
        {"lr": torch.tensor(0.03), "weight_decay": 0.3},
        {"amsgrad": True, "foreach": True},
        {"amsgrad": True, "fused": True, "maximize": True},
    ],
    "Adamax": [{"weight_decay": 0.1}, {"betas": (0.5, 0.8), "foreach": True, "maximize": True}],
    "NAdam": [
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.1},
        {"foreach": True, "maximize": True},
    ],
    "RAdam": [
        {"betas": (0.9, 0.9)},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "foreach": True},
        {"maximize": True},
    ],
    "RMSprop": [
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.9, "weight_decay": 0.1, "foreach": True, "maximize": True},
    ],
    "Adagrad": [
        {"initial_accumulator_value": 0.1},
        {"initial_accumulator_value": 0.2, "lr_decay": 0.1, "weight_decay": 0.1, "foreach": True},
        {"initial_accumulator_value": 0.1, "fused": True, "maximize": True},
    ],
    "Adadelta": [{"lr": 0.5, "rho": 0.7, "weight_decay": 0.1}, {"foreach": True, "maximize": True}],
    "ASGD": [
        {"t0": 3, "lambd": 0.1},
        {"t0": 3, "alpha": 0.5, "weight_decay": 0.1, "foreach": True},
        {"maximize": True},
    ],
    "Rprop": [
        {"lr": torch.tensor(0.02)},
        {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1), "foreach": True},
        {"lr": 0.5, "step_sizes": (1e-3, 0.1), "maximize": True},
    ],
    "Adafactor": [{"weight_decay": 0.1}, {"d": 2.0, "eps": (1e-8, 1e-3), "foreach": True, "maximize": True}],
    "SparseAdam": [{"betas": (0.5, 0.8), "eps": 1e-3}, {"maximize": True}],
}

# All of torch's that this torch has, but for those that take no vectors, or one step only with a closure.
NAMES = [name for name in OPTIONS if hasattr(torch.optim, name)]

# Those that treat each weight by itself: leaving out zeros changes nothing for the others.
ELEMENTWISE = [name for name in NAMES if name != "Adafactor"]


def rows(names=None):
    """(name, options) of each case that this torch knows."""
    for name in names or NAMES:
        known = inspect.signature(getattr(torch.optim, name)).parameters
        for options in [{}, *OPTIONS[name]]:
            if options.keys() <= known.keys():
                yield name, {"lr": 0.01, **options}


def label(row):
    name, options = row
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"


def ours(name, **options):
    return lambda parameters: getattr(optim, name)(parameters, **options)


def torchs(name, **options):
    return lambda parameters: getattr(torch.optim, name)(parameters, **options)
