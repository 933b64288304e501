"""SparseGPT against the update of the paper computed with plain inverses, against least squares, and in the large."""

from __future__ import annotations

import copy
import math

import pytest

torch = pytest.importorskip("torch")

import odd_models  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from odd_models import batches, odd_forms  # noqa: E402
from torch import nn  # noqa: E402

from mpl_sparse.nn import prunable, prunable_layers, to_sparse  # noqa: E402
from mpl_sparse.pruning import NM, prune, sparsegpt  # noqa: E402

every_form = pytest.mark.parametrize("form", odd_models.FORMS)


def by_the_paper(weight, mask, hessian, widths, drop):
    """Column by column with an inverse of what is left of H, the mask of a block chosen when its turn comes.

    `drop(block number, scores (rows, width))` gives the positions that go.
    """
    weight, mask = weight.clone(), mask.clone()
    start = 0
    for number, width in enumerate(widths):
        diagonal = torch.stack([torch.linalg.inv(hessian[j:, j:])[0, 0] for j in range(start, start + width)])
        scores = weight[:, start : start + width].square() / diagonal
        scores[~mask[:, start : start + width]] = -1
        mask[:, start : start + width] &= ~drop(number, scores)
        for j in range(start, start + width):
            inverse = torch.linalg.inv(hessian[j:, j:])
            for row in range(weight.shape[0]):
                if not mask[row, j]:
                    weight[row, j:] -= weight[row, j] / inverse[0, 0] * inverse[0]
        start += width
    return torch.where(mask, weight, 0), mask


def lowest(count):
    def drop(_, scores):
        going = torch.zeros(scores.numel(), dtype=torch.bool)
        going[scores.flatten().argsort(stable=True)[:count]] = True
        return going.view_as(scores)

    return drop


def gram(inputs, damping):
    hessian = inputs.T @ inputs
    return hessian + damping * hessian.diagonal().mean() * torch.eye(hessian.shape[0], dtype=torch.float64)


def linear(form, rows=5, cols=12, seed=0):
    torch.manual_seed(seed)
    model = prunable(nn.Sequential(nn.Linear(cols, rows)).double())
    inputs = torch.randn(40, cols, dtype=torch.float64) @ torch.randn(cols, cols, dtype=torch.float64)
    return (model if form == "masked" else to_sparse(model)), inputs


def dense(layer):
    weight = torch.zeros(layer.weight_shape, dtype=layer.remaining_weight().dtype)
    weight[layer.mask] = layer.remaining_weight()
    return weight


@pytest.mark.parametrize("form", ["masked", "sparse"])
@pytest.mark.parametrize(
    ("block_size", "widths", "drops"), [(128, [12], [30]), (4, [4] * 3, [10] * 3), (1, [1] * 12, None)]
)
def test_the_papers_update(form, block_size, widths, drops):
    model, inputs = linear(form)
    weight = dense(model[0])
    sparsegpt(model, 0.5, [inputs[:13], inputs[13:]], block_size=block_size, damping=0.02)
    drops = drops or [int(number) for number in torch.diff(torch.floor(torch.arange(13) * 2.5 + 0.5))]
    expected, mask = by_the_paper(
        weight, torch.ones(5, 12, dtype=torch.bool), gram(inputs, 0.02), widths, lambda n, s: lowest(drops[n])(n, s)
    )
    assert torch.equal(model[0].mask, mask)
    torch.testing.assert_close(dense(model[0]), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("form", ["masked", "sparse"])
def test_n_of_m(form):
    model, inputs = linear(form, cols=10)
    weight = dense(model[0])
    sparsegpt(model, NM(2, 4), [inputs])

    def drop(_, scores):
        order = scores.argsort(dim=1, stable=True)[:, : max(scores.shape[1] - 2, 0)]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)

    full = torch.ones(5, 10, dtype=torch.bool)
    expected, mask = by_the_paper(weight, full, gram(inputs, 0.01), [4, 4, 2], drop)
    assert torch.equal(model[0].mask, mask)
    torch.testing.assert_close(dense(model[0]), expected, rtol=1e-8, atol=1e-10)


def test_n_of_m_of_a_convolution_goes_along_its_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(12, 8, 3, groups=2))
    sparsegpt(model, NM(1, 4), [torch.randn(4, 12, 9, 9)])
    mask = model[0].mask  # (8, 6, 3, 3): groups of four and of two inputs
    assert (mask[:, :4].sum(1) == 1).all() and (mask[:, 4:].sum(1) == 1).all()


@pytest.mark.parametrize("form", ["masked", "sparse"])
def test_dropping_the_last_columns_is_least_squares(form):
    """Where the weights that go come before those that stay, the correction is the exact minimum."""
    model, inputs = linear(form)
    weight = dense(model[0])
    with torch.no_grad():  # the first columns weigh nothing, so that they go
        scaled = weight.clone()
        scaled[:, :6] *= 1e-6
        model[0].load_state_dict({"weight": scaled, "bias": model[0].bias})
    sparsegpt(model, 0.5, [inputs])
    assert not model[0].mask[:, :6].any() and model[0].mask[:, 6:].all()
    hessian = gram(inputs, 0.01)
    best = torch.linalg.solve(hessian[6:, 6:], hessian[6:] @ scaled.T).T  # min over w of (w - w0) H (w - w0)
    torch.testing.assert_close(dense(model[0])[:, 6:], best, rtol=1e-8, atol=1e-12)


@every_form
@pytest.mark.parametrize("density", [0.0, 0.1, 0.3])
def test_odd_layers_keep_exactly_so_many(form, density):
    _, model, masks = odd_forms(form)
    before = {name: tensor.clone() for name, tensor in model.named_buffers() if "norm" in name}
    sparsegpt(model, density, batches(), block_size=5)
    for name, layer in prunable_layers(model):
        size = layer.weight_shape.numel()
        assert layer.num_weight == min(math.floor(density * size + 0.5), int(masks[name].sum()))
        assert not (layer.mask & ~masks[name]).any()
        assert layer.remaining_weight().isfinite().all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers() if name in before)


def test_masked_and_sparse_get_the_same_weights():
    results = []
    for form in odd_models.FORMS:
        _, model, _ = odd_forms(form)
        sparsegpt(model.eval(), 0.2, batches(), block_size=7)
        results.append({name: dense(layer) for name, layer in prunable_layers(model)})
    for other in results[1:]:
        for name, weight in results[0].items():
            torch.testing.assert_close(other[name], weight, rtol=1e-7, atol=1e-9)


def test_outputs_change_less_than_with_magnitude_and_wanda():
    """One layer of correlated inputs."""
    torch.manual_seed(0)
    model = prunable(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)))
    mixed = torch.nn.functional.avg_pool2d(torch.randn(8, 8, 12, 12), 3, 1, 1)
    data, wanted = [mixed], model(mixed).detach()

    def error(pruned):
        return (pruned(mixed) - wanted).square().mean().item()

    for density in (0.8, 0.5, 0.3):
        ours = error(sparsegpt(copy.deepcopy(model), density, data))
        magnitude = error(prune(copy.deepcopy(model), density, selection="layer"))
        wanda = error(prune(copy.deepcopy(model), density, score="wanda", data=data))
        assert ours < min(magnitude, wanda)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 10), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_any_sizes(rows, cols, block_size, first, density, seed):
    torch.manual_seed(seed)
    model = prune(nn.Sequential(nn.Linear(cols, rows)), first, score="random")
    mask = model[0].mask.clone()
    sparsegpt(model, density, [torch.randn(5, cols)], block_size=block_size)
    assert model[0].num_weight == min(int(mask.sum()), math.floor(density * rows * cols + 0.5))
    assert not (model[0].mask & ~mask).any()


def test_inputs_that_are_always_zero_go_first():
    model, inputs = linear("masked")
    inputs[:, 3] = 0
    sparsegpt(model, 11 / 12, [inputs])
    assert not model[0].mask[:, 3].any() and model[0].num_weight == 55


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"density": 1.5}, ValueError, "density must be in"),
        ({"density": [0.5, 0.5]}, ValueError, "density must have one value"),
        ({"data": iter([])}, TypeError, "data must be batches"),
        ({"data": []}, ValueError, "at least one batch"),
        ({"run": 3}, TypeError, "run must be a function"),
        ({"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
        ({"damping": 0.0}, ValueError, "damping must be positive"),
        ({"exclude": "nothing"}, ValueError, "matches no module"),
    ],
)
def test_bad_arguments_change_nothing(arguments, error, words):
    model, inputs = linear("masked")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=words):
        sparsegpt(model, **{"density": 0.5, "data": [inputs], **arguments})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("form", odd_models.FORMS)
def test_an_error_at_a_later_layer_brings_all_weights_back(form):
    _, model, _ = odd_forms(form)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls = []

    def run(model, batch):
        calls.append(batch)
        if len(calls) == 3:
            raise RuntimeError("the user's own")
        model(batch[0])

    with pytest.raises(RuntimeError, match="the user's own"):
        sparsegpt(model, 0.1, batches(1), run=run)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_must_be_finite(bad):
    model, inputs = linear("masked")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs[0, 0] = bad
    for pruned in (
        lambda: sparsegpt(model, 0.5, [inputs]),
        lambda: prune(model, 0.5, score="wanda", data=[inputs]),
        lambda: prune(model, 0.5, score="obs", data=[inputs]),
    ):
        with pytest.raises(ValueError, match="finite inputs to every layer, got NaN or infinity at the layer"):
            pruned()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
