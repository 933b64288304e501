"""The demo from beginning to end, and its table. Every figure is measured in the run that prints it."""

from __future__ import annotations

from copy import deepcopy
from typing import Callable, Dict, List, NamedTuple, Sequence

import torch
from torch import nn
from tqdm import tqdm

from .. import backend
from ..nn import prunable, prunable_layers, to_sparse
from ..optim import SGD
from ..pruning import prune_by_pct
from ..report import summary
from .digits import load_digits, split_digits
from .timing import median_milliseconds
from .training import BATCH, Tensors, accuracy, as_tensors, network, train, training_step

__all__ = ["run"]

LEARNING_RATE, MOMENTUM = 0.05, 0.9
DENSE_EPOCHS, PRUNING_EPOCHS, SPARSE_EPOCHS = 10, 2, 3
PRUNING_STEPS = (0.5, 0.6, 0.5)  # of what remains: 50 %, then 80 %, then 90 % are gone


class Candidate(NamedTuple):
    """One column of the table."""

    name: str
    model: nn.Module
    epochs: int
    weights: int
    weight_bytes: int


def run(seed: int = 0) -> None:
    """Train, prune to 90 % and 95 %, convert, fine-tune sparse, measure, and print one table."""
    torch.manual_seed(seed)
    training_data, held_out = map(as_tensors, split_digits(load_digits()))
    epochs_in_all = DENSE_EPOCHS + len(PRUNING_STEPS) * PRUNING_EPOCHS + 2 * SPARSE_EPOCHS
    bar = tqdm(total=epochs_in_all, unit="epoch", leave=False, disable=None)  # None: only on a terminal

    def learn(model: nn.Module, optimizer: SGD, epochs: int, doing: str) -> None:
        bar.set_description(f"{doing}, {_share_left(model):.0%} of the weights")
        train(model, optimizer, training_data, epochs, bar.update)

    dense = network()
    learn(dense, _optimizer(dense), DENSE_EPOCHS, "training dense")

    masked = prunable(deepcopy(dense))
    optimizer = _optimizer(masked)
    for pct in PRUNING_STEPS:
        prune_by_pct(masked, pct)
        learn(masked, optimizer, PRUNING_EPOCHS, "training pruned")

    sparse = to_sparse(masked)
    with torch.no_grad():
        difference = (sparse(held_out[0]) - masked(held_out[0])).abs().max().item()
    optimizer = _optimizer(sparse)
    learn(sparse, optimizer, SPARSE_EPOCHS, "fine-tuning sparse")
    sparse_90 = deepcopy(sparse)

    prune_by_pct(sparse, 0.5)  # in the middle of a run: the optimizer keeps the momentum of the weights that stay
    learn(sparse, optimizer, SPARSE_EPOCHS, "fine-tuning sparse")

    whole = summary(masked).total
    epochs = DENSE_EPOCHS
    candidates = [Candidate("dense", dense, epochs, whole["numel"], whole["dense_bytes"])]
    epochs += len(PRUNING_STEPS) * PRUNING_EPOCHS
    for model in (sparse_90, sparse):
        epochs += SPARSE_EPOCHS
        left = summary(model).total
        name = f"sparse, {1 - left['density']:.0%} pruned"
        candidates.append(Candidate(name, model, epochs, left["nnz"], left["sparse_bytes"]))
    bar.set_description("measuring")
    timings = _timings([candidate.model for candidate in candidates], training_data)
    accuracies = [accuracy(candidate.model, held_out) for candidate in candidates]
    bar.close()

    print(f"{backend()} kernels against torch {torch.__version__}, {torch.get_num_threads()} threads.")
    print("In brackets: how many times faster than dense.\n")
    print(_table(candidates, accuracies, timings))
    print(f"\nLargest difference of any output before and after to_sparse(): {difference:.1e}.")
    print(_verdict(candidates, timings))


def _share_left(model: nn.Module) -> float:
    """The density of the prunable layers; 1 for a network that has none yet."""
    return summary(model).total["density"] if prunable_layers(model) else 1.0


def _optimizer(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)


def _timings(models: Sequence[nn.Module], data: Tensors) -> Dict[str, List[float]]:
    """Milliseconds of each model, for each row of the table. Trains copies, so the models stay as they are."""
    images, labels = data[0][:BATCH], data[1][:BATCH]

    def forward(model: nn.Module, count: int) -> Callable[[], object]:
        batch = images[:count]
        return torch.no_grad()(lambda: model(batch))

    def step(model: nn.Module) -> Callable[[], object]:
        model = deepcopy(model)
        optimizer = _optimizer(model)
        return lambda: training_step(model, optimizer, images, labels)

    one = median_milliseconds([forward(model, 1) for model in models])
    many = median_milliseconds([forward(model, BATCH) for model in models])
    return {
        "ms per image, batch 1": one,
        f"ms per image, batch {BATCH}": [batch_ms / BATCH for batch_ms in many],
        f"ms per training step, batch {BATCH}": median_milliseconds([step(model) for model in models]),
    }


def _table(candidates: Sequence[Candidate], accuracies: Sequence[float], timings: Dict[str, List[float]]) -> str:
    rows = [
        ["", *(candidate.name for candidate in candidates)],
        ["accuracy on held-out digits", *(f"{share:.1%}" for share in accuracies)],
        ["epochs of training so far", *(str(candidate.epochs) for candidate in candidates)],
        ["weights left", *(f"{candidate.weights:,}" for candidate in candidates)],
        ["bytes of weights (with positions)", *(f"{candidate.weight_bytes:,}" for candidate in candidates)],
        *(
            [label, f"{dense:.4f}", *(f"{ms:.4f} ({dense / ms:.2f}x)" for ms in sparse)]
            for label, (dense, *sparse) in timings.items()
        ),
    ]
    first, *others = ([len(cell) for cell in column] for column in zip(*rows))
    widths = [max(lengths) for lengths in others]
    return "\n".join("   ".join([row[0].ljust(max(first)), *map(str.rjust, row[1:], widths)]) for row in rows)


def _verdict(candidates: Sequence[Candidate], timings: Dict[str, List[float]]) -> str:
    """Where the sparse networks lost, in words."""
    slower = [
        f"{candidate.name}, {label} ({ms / dense:.2f}x the dense time)"
        for label, (dense, *sparse) in timings.items()
        for candidate, ms in zip(candidates[1:], sparse)
        if ms > dense
    ]
    if not slower:
        return "Sparse was faster than dense in every row of this run."
    return "\n  ".join(["Sparse was SLOWER than dense in this run:", *slower])
