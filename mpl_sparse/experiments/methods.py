"""The ways to prune that are compared. Each trains a new network to a density and returns it."""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple

from torch import nn

from ..nn import prunable, prunable_layers, to_sparse
from ..pruning import (
    SET,
    Cubic,
    DynamicSparsity,
    Iterative,
    OneShot,
    PruneFL,
    Pruner,
    Rewinding,
    RigL,
    Schedule,
    TimeModel,
    prune,
)
from .training import Training, network, rescale

__all__ = ["METHODS", "Method"]

FIRST, LAST = 0.2, 0.6  # shares of all steps between which gradual methods prune; at LAST one shot does
UNTIL = 0.7  # and until here patterns move
SCORE_BATCHES = 16


class Method(NamedTuple):
    """`train(training, density)` gives the trained network; `about` says how it spends its steps."""

    train: Callable[[Training, float], nn.Module]
    about: str


def _dense(training: Training, density: float) -> nn.Module:
    model = network()
    training.run(model, training.optimizer(model), 0, training.total)
    return model


def _scheduled(schedule: Callable[[int], Schedule], score: str = "magnitude") -> Callable[[Training, float], nn.Module]:
    """Prune during training, masked."""

    def train(training: Training, density: float) -> nn.Module:
        model = prunable(network())
        optimizer = training.optimizer(model)
        pruner = Pruner(model, density, schedule=schedule(training.total), score=score)
        for _, images, labels in training.steps(optimizer, 0, training.total):
            training.backward(model, optimizer, images, labels)
            optimizer.step()
            pruner.step()
        return model

    return train


def _at_start(score: str, selection: str = "global") -> Callable[[Training, float], nn.Module]:
    """Prune the new network, then train it sparse."""

    def train(training: Training, density: float) -> nn.Module:
        model = _started(training, density, score, selection)
        training.run(model, training.optimizer(model), 0, training.total)
        return model

    return train


def _started(training: Training, density: float, score: str, selection: str) -> nn.Module:
    data = None if score in ("random", "magnitude") else training.batches(SCORE_BATCHES)
    model = prune(prunable(network()), density, score=score, selection=selection, data=data)
    model = to_sparse(model)
    if score == "random":
        rescale(model)
    return model


def _moving(make: Callable[..., DynamicSparsity]) -> Callable[[Training, float], nn.Module]:
    """Start from a random pattern with the densities of Erdos, Renyi and kernel; let it move while it trains."""

    def train(training: Training, density: float) -> nn.Module:
        model = _started(training, density, "random", "erk")
        optimizer = training.optimizer(model)
        interval, until = max(training.total // 50, 1), max(int(UNTIL * training.total), 1)
        topology = make(model, optimizer, interval=interval, until=until)
        for _, images, labels in training.steps(optimizer, 0, training.total):
            training.backward(model, optimizer, images, labels)
            if not topology.step():
                optimizer.step()
        return model

    return train


def _prunefl(training: Training, density: float) -> nn.Module:
    """A time model with the same time for every weight, so that the result depends on no clock."""
    model = _started(training, density, "random", "erk")
    optimizer = training.optimizer(model)
    times = TimeModel(1e-4, {name: 1e-9 for name, _ in prunable_layers(model)})
    control = PruneFL(model, optimizer, times, max_density=density, half_life=10)
    interval, until = max(training.total // 50, 1), int(UNTIL * training.total)
    for step, images, labels in training.steps(optimizer, 0, training.total):
        if step < until and step % interval >= interval - 3:
            with control.accumulating():
                training.backward(model, optimizer, images, labels)
        else:
            training.backward(model, optimizer, images, labels)
        optimizer.step()
        if step < until and step % interval == interval - 1:
            control.reconfigure(step // interval)
    return model


def _lottery(training: Training, density: float) -> nn.Module:
    model = prunable(network())
    early = training.total // 20
    optimizer = training.optimizer(model)
    training.run(model, optimizer, 0, early)
    rewinding, rounds = Rewinding(model), 4
    for done in range(1, rounds + 1):
        training.run(model, optimizer, early, training.total // rounds)
        prune(model, density ** (done / rounds))
        rewinding.rewind(model)
        optimizer = training.optimizer(model)
    training.run(model, optimizer, early, training.total)
    return model


METHODS: Dict[str, Method] = {
    "dense": Method(_dense, "not pruned"),
    "magnitude, one shot": Method(
        _scheduled(lambda total: OneShot(int(LAST * total))), "trained dense for 60% of the steps, pruned, trained on"
    ),
    "magnitude, iterative": Method(
        _scheduled(lambda total: Iterative(8, max(total // 20, 1), int(FIRST * total))),
        "pruned in 8 rounds between 20% and 60% of the steps",
    ),
    "magnitude, cubic": Method(
        _scheduled(lambda total: Cubic(int(FIRST * total), int(LAST * total) + 1, max(total // 70, 1))),
        "pruned every 1.4% of the steps between 20% and 60%, after Zhu and Gupta",
    ),
    "lottery rewinding": Method(
        _lottery,
        "4 short trainings (a quarter of the steps each), each pruned by magnitude and rewound to step 5%, and a whole "
        "one of the ticket: about twice the steps of the others",
    ),
    "random": Method(_at_start("random", "erk"), "a random pattern (ERK) before training, sparse from then on"),
    "SNIP": Method(_at_start("snip"), "pruned before training, sparse from then on"),
    "GraSP": Method(_at_start("grasp"), "pruned before training, sparse from then on"),
    "SynFlow": Method(_at_start("synflow"), "pruned before training, without data, sparse from then on"),
    "SET": Method(
        _moving(SET),
        "a random pattern (ERK) that moves 35 times until 70% of the steps; what grows starts at random; always sparse",
    ),
    "RigL": Method(_moving(RigL), "the same, but weights grow where gradients are large, and start at 0"),
    "PruneFL": Method(
        _prunefl, "the same start and times, reconfigured by squared gradients of 3 batches, at most this density"
    ),
}
