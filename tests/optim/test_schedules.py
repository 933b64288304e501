"""Every learning-rate schedule of torch drives our optimizers as it drives torch's, through pruning."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from dense_training import DenseTraining, batch, set_masks, sparse_net, sparse_step  # noqa: E402
from torch.optim import lr_scheduler, swa_utils  # noqa: E402

from mpl_sparse import optim  # noqa: E402

SCHEDULES = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    "MultiplicativeLR": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.9),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 3, 0.5),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 5]),
    "ConstantLR": lambda optimizer: lr_scheduler.ConstantLR(optimizer, 0.3, 4),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, total_iters=4),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.8),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, 9, 2.0),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 5),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3, 2),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.001, 0.05, 3),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=12),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, threshold=0.5),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer, 0.1, 3), lr_scheduler.ExponentialLR(optimizer, 0.9)], [3]
    ),
    "ChainedScheduler": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.1, 3), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    ),
    "SWALR": lambda optimizer: swa_utils.SWALR(optimizer, 0.001, 4),
}
OPTIMIZERS = {"SGD": {"lr": 0.02, "momentum": 0.9}, "Adam": {"lr": 0.02}, "Rprop": {"lr": 0.02}}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def test_they_are_all_of_torchs():
    kinds = {
        name
        for name, kind in vars(lr_scheduler).items()
        if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert kinds - {"LRScheduler"} <= set(SCHEDULES)


def schedule_step(schedule, number):
    if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
        schedule.step(1.0 / (number + 1))
    else:
        schedule.step()


def settings(optimizer):
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


@every_schedule
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_as_over_the_masked_dense_training(schedule, name):
    if name == "Rprop" and schedule in (SCHEDULES["CyclicLR"], SCHEDULES["OneCycleLR"]):
        pytest.skip("torch's own asks for momentum")
    model, options = sparse_net(), OPTIMIZERS[name]
    optimizer = getattr(optim, name)(model.parameters(), **options)
    dense = DenseTraining(model, lambda parameters: getattr(torch.optim, name)(parameters, **options))
    schedules = [schedule(each) for each in (optimizer, dense.optimizer)]
    for number in range(11):
        data = batch()
        sparse_step(model, optimizer, *data)
        dense.step(*data)
        dense.assert_same()
        for each in schedules:
            schedule_step(each, number)
        assert settings(optimizer) == settings(dense.optimizer)
        if number in (3, 6):
            model.prune_by_pct(0.3) if number == 3 else set_masks(model)
            if name == "Rprop":
                dense.fresh["step_size"] = dense.optimizer.param_groups[0]["lr"]
            dense.follow()


@every_schedule
def test_a_checkpoint_of_optimizer_and_schedule_goes_on_alike(schedule):
    trainings = []
    for _ in range(2):
        model = sparse_net()
        optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        trainings.append((model, optimizer, schedule(optimizer)))
    for number in range(4):
        sparse_step(*trainings[0][:2], *batch())
        schedule_step(trainings[0][2], number)
        trainings[0][0].prune_by_pct(0.1)
    saved = [copy.deepcopy(part.state_dict()) for part in trainings[0]]
    for part, state in zip(trainings[1], saved):
        part.load_state_dict(state)
    for number in range(4, 8):
        data = batch()
        for model, optimizer, its_schedule in trainings:
            sparse_step(model, optimizer, *data)
            schedule_step(its_schedule, number)
            model.prune_by_pct(0.1)
        assert settings(trainings[0][1]) == settings(trainings[1][1])
        assert all(torch.equal(a, b) for a, b in zip(trainings[0][0].parameters(), trainings[1][0].parameters()))
