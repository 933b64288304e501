"""Training with torch's own tools: what they do to a masked model they do to its sparse form."""

import copy
import functools

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils import checkpoint  # noqa: E402
from twins import assert_alike, batches, gradients, images, train, twins, weights  # noqa: E402

from mpl_sparse.nn import prunable_layers  # noqa: E402


@pytest.fixture
def pair():
    return twins()


def backward(model, run=None):
    ((input, target),) = batches(1)
    model.zero_grad()
    nn.functional.cross_entropy((run or model)(input), target).backward()


def test_steps_of_sgd(pair):
    losses = [train(model) for model in pair]
    torch.testing.assert_close(*losses)
    assert_alike(*pair)


def clip_norm(model):
    return nn.utils.clip_grad_norm_(model.parameters(), 0.1)


def clip_value(model):
    return nn.utils.clip_grad_value_(model.parameters(), 0.01)


@pytest.mark.parametrize("clip", [clip_norm, clip_value])
def test_clipping(pair, clip):
    for model in pair:
        backward(model)
    before = gradients(pair[1])
    norms = [clip(model) for model in pair]
    torch.testing.assert_close(*norms)
    assert_alike(*pair)
    assert not torch.equal(gradients(pair[1])["7.values"], before["7.values"])


def test_grad_scaler(pair):
    results = []
    for model in pair:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step, (input, target) in enumerate(batches(3)):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(input), target)
            scaler.scale(loss).backward()
            if step == 1:  # a step that overflowed is left out
                model[7].bias.grad[0] = torch.inf
            scaler.unscale_(optimizer)
            before = weights(model)
            scaler.step(optimizer)
            skipped = all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
            assert skipped == (step == 1)
            scaler.update()
        results.append(scaler.get_scale())
    assert results == [512.0, 512.0]
    assert_alike(*pair, rtol=0.05, atol=0.02)  # the masked layers compute in bfloat16, the sparse ones do not


def halves_twice(model):
    """By checkpoint_sequential: it takes a model apart."""
    return lambda input: checkpoint.checkpoint_sequential(model, 2, input.requires_grad_(), use_reentrant=False)


def reentrant(model):
    return lambda input: checkpoint.checkpoint(model, input.requires_grad_(), use_reentrant=True)


def not_reentrant(model):
    return lambda input: checkpoint.checkpoint(model, input, use_reentrant=False)


def selective(model):
    contexts = functools.partial(
        checkpoint.create_selective_checkpoint_contexts,
        [torch.ops.mpl_sparse.conv2d.default, torch.ops.mpl_sparse.linear.default],  # to be kept, not computed again
    )
    return lambda input: checkpoint.checkpoint(model, input, use_reentrant=False, context_fn=contexts)


@pytest.mark.parametrize("how", [halves_twice, reentrant, not_reentrant, selective])
def test_gradient_checkpointing(pair, how):
    masked, sparse = pair
    backward(masked)
    backward(sparse, how(sparse))
    torch.testing.assert_close(gradients(sparse), gradients(masked))


def test_hooks(pair):
    seen = {model: [] for model in pair}
    for model in pair:
        for name, layer in prunable_layers(model):
            notes = seen[model]
            layer.register_forward_pre_hook(lambda layer, inputs, notes=notes: notes.append(inputs[0].detach()))
            layer.register_forward_hook(lambda layer, inputs, output, notes=notes: notes.append(output.detach()))
            layer.register_full_backward_hook(
                lambda layer, grads, outputs, notes=notes, name=name: notes.extend(
                    grad for grad in (*grads, *outputs) if grad is not None
                )
            )
        backward(model)
    torch.testing.assert_close(seen[pair[1]], seen[pair[0]])
    assert len(seen[pair[1]]) == 3 * 2 + 2 * 3 - 1  # the images need no gradient


def test_a_hook_may_replace_what_passes(pair):
    for model in pair:
        model[7].register_forward_hook(lambda layer, inputs, output: 2 * output)
        model[3].register_full_backward_pre_hook(lambda layer, grads: (3 * grads[0],))
        model[3].bias.register_hook(lambda grad: grad + 1)
        backward(model)
    assert_alike(*pair)
    assert gradients(pair[1])["3.bias"].mean() > 0.5


def test_hooks_of_the_values_stay_when_a_layer_is_pruned(pair):
    calls = []
    layer = pair[1][7]
    layer.values.register_hook(lambda grad: calls.append("gradient"))
    layer.values.register_post_accumulate_grad_hook(lambda parameter: calls.append("accumulated"))
    layer.prune_by_pct(0.5)
    backward(pair[1])
    assert calls == ["gradient", "accumulated"]


def test_anomaly_mode(pair):
    with torch.autograd.set_detect_anomaly(True):
        for model in pair:
            backward(model)
        assert_alike(*pair)
        with torch.no_grad():
            pair[1][7].values[0] = torch.nan
        with (
            pytest.raises(RuntimeError, match="returned nan values"),
            pytest.warns(UserWarning, match="Error detected"),
        ):
            backward(pair[1])


def test_inference_mode(pair):
    masked, sparse = (model.eval() for model in pair)
    with torch.inference_mode():
        output = sparse(images())
        assert output.is_inference()
        torch.testing.assert_close(output, masked(images()))
        born = copy.deepcopy(sparse).train()  # its parameters are inference tensors
        born(images())
    backward(sparse)
    backward(masked)
    assert_alike(*pair)


def test_zeroed_and_dropped_gradients(pair):
    for model in pair:
        backward(model)
        model.zero_grad(set_to_none=False)
    assert all(not grad.any() for grad in gradients(pair[1]).values())
    assert pair[1][7].values.grad.shape == pair[1][7].values.shape
    pair[1].zero_grad(set_to_none=True)
    assert all(parameter.grad is None for parameter in pair[1].parameters())


def test_accumulated_gradients(pair):
    for model in pair:
        for input, target in batches(3):
            nn.functional.cross_entropy(model(input), target).backward()
    assert_alike(*pair)


def test_freezing(pair):
    for model in pair:
        model[3].requires_grad_(False)
        before = weights(model)
        backward(model)
        train(model)
        changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
        assert not any(name.startswith("3.") for name in changed) and "0.values" in changed
    assert pair[1][3].values.grad is None
    assert_alike(*pair)
    with torch.no_grad():
        pair[1].requires_grad_(False)(images())


def test_parameters_as_one_vector(pair):
    model = pair[1]
    other = copy.deepcopy(model)
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (sum(parameter.numel() for parameter in model.parameters()),)
    nn.utils.vector_to_parameters(2 * vector, other.parameters())
    assert torch.equal(nn.utils.parameters_to_vector(other.parameters()), 2 * vector)
    torch.testing.assert_close(other[7](torch.ones(1, 256)), 2 * model[7](torch.ones(1, 256)))
    backward(other)  # the values are views of the vector now
    other[7].prune_by_pct(0.5)
    backward(other)


class Positive(nn.Module):
    def forward(self, bias):
        return nn.functional.softplus(bias)


def test_a_parametrized_bias(pair):
    for model in pair:
        nn.utils.parametrize.register_parametrization(model[7], "bias", Positive())
        train(model)
    assert_alike(*pair)
    torch.testing.assert_close(pair[1].eval()(images()), pair[0].eval()(images()))


SWA = torch.optim.swa_utils.get_swa_multi_avg_fn
EMA = functools.partial(torch.optim.swa_utils.get_ema_multi_avg_fn, 0.7)


@pytest.mark.parametrize("function", [SWA, EMA], ids=["swa", "ema"])
def test_averages_of_weights(pair, function):
    averages = [torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=function()) for model in pair]
    for seed in range(3):
        for model, average in zip(pair, averages):
            train(model, seed=seed)
            average.update_parameters(model)
    for average in averages:
        torch.optim.swa_utils.update_bn([input for input, _ in batches(3)], average)
    torch.testing.assert_close(averages[1].eval()(images()), averages[0].eval()(images()))
    assert_alike(*(average.module for average in averages))


def test_an_average_of_a_pruned_model_is_refused(pair):
    """mpl_sparse.optim.AveragedModel makes it; torch's own does not know what moved."""
    model = pair[1]
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    model[7].set_mask(model[7].mask.roll(1, 1))  # as many weights, elsewhere: taken for the same
    average.update_parameters(model)
    with pytest.raises(RuntimeError, match="take mpl_sparse.optim.AveragedModel"):
        average.eval()
    model[7].prune_by_pct(0.5)
    with pytest.raises(RuntimeError, match="size"):
        average.update_parameters(model)
