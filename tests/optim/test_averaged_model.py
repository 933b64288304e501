"""AveragedModel: torch's averages where nothing is pruned, the masked model's where something is."""

import copy
import functools
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch.optim import swa_utils  # noqa: E402
from twins import assert_alike, batches, images, train, twins, weights  # noqa: E402

from mpl_sparse.nn import prunable_layers  # noqa: E402
from mpl_sparse.optim import AveragedModel  # noqa: E402

EMA = functools.partial(swa_utils.get_ema_multi_avg_fn, 0.7)
functions = pytest.mark.parametrize("function", [lambda: None, EMA], ids=["swa", "ema"])


@pytest.fixture
def pair():
    return twins()


def averaged_training(models, kind, **options):
    """The averages of the models along a training."""
    averages = [kind(model, **options) for model in models]
    for seed in range(3):
        for model, average in zip(models, averages):
            train(model, seed=seed)
            average.update_parameters(model)
    return averages


@functions
@pytest.mark.parametrize("kind", [0, 1], ids=["masked", "sparse"])
def test_the_same_as_torchs_without_pruning(kind, function):
    ours, theirs = (
        averaged_training([twins()[kind]], cls, multi_avg_fn=function())[0]
        for cls in (AveragedModel, swa_utils.AveragedModel)
    )
    for average in (ours, theirs):
        swa_utils.update_bn([input for input, _ in batches(3)], average)
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


@functions
def test_buffers_are_averaged_but_no_positions(pair, function):
    averages = averaged_training(pair, AveragedModel, multi_avg_fn=function(), use_buffers=True)
    assert_alike(*(average.module for average in averages))
    assert not torch.equal(averages[1].module[1].running_mean, pair[1][1].running_mean)
    for model, average in zip(pair, averages):
        for name in (name for name in model.state_dict() if name.endswith(("mask", "row_ptr", "col_idx"))):
            assert torch.equal(average.module.state_dict()[name], model.state_dict()[name])
    torch.testing.assert_close(averages[1].eval()(images()), averages[0].eval()(images()))


@functions
@pytest.mark.parametrize("use_buffers", [False, True])
def test_it_follows_a_pruned_model(pair, function, use_buffers):
    averages = averaged_training(pair, AveragedModel, multi_avg_fn=function(), use_buffers=use_buffers)
    for model, average in zip(pair, averages):
        model[0].prune_by_pct(0.5)
        model[7].prune_by_pct(0.5)
        train(model)
        average.update_parameters(model)
        assert [layer.pattern for _, layer in prunable_layers(average)] == [
            layer.pattern for _, layer in prunable_layers(model)
        ]
    assert_alike(*(average.module for average in averages))
    torch.testing.assert_close(averages[1].eval()(images()), averages[0].eval()(images()))


def test_weights_that_grow_start_from_zero(pair):
    model = pair[1]
    average = AveragedModel(model, multi_avg_fn=EMA())
    average.update_parameters(model)
    before = dict(zip(model[7].pattern.flat_positions().tolist(), model[7].values.tolist()))
    model[7].set_mask(model[7].mask.roll(1, 1))
    with torch.no_grad():
        model[7].values.fill_(1.0)
    average.update_parameters(model)
    found = zip(average.module[7].pattern.flat_positions().tolist(), average.module[7].values.tolist())
    for position, value in found:
        assert value == pytest.approx(0.7 * before.get(position, 0.0) + 0.3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda average: pickle.loads(pickle.dumps(average))])
def test_copies_go_on(pair, copied):
    average = AveragedModel(pair[1])
    average.update_parameters(pair[1])
    other = copied(average)
    train(pair[1])
    for each in (average, other):
        each.update_parameters(pair[1])
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(average).items())


def test_another_model_is_refused_and_changes_nothing(pair):
    average = AveragedModel(pair[1])
    average.update_parameters(pair[1])
    before = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    with pytest.raises(ValueError, match="model must have the prunable layers .*SparseConv2d.* got .*DenseConv2d"):
        average.update_parameters(pair[0])
    with pytest.raises(TypeError, match="model must be an nn.Module"):
        average.update_parameters(None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.state_dict().items())
