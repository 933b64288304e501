"""Each score against its formula, computed with plain torch in float64, and what scoring leaves of the model: all."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

import odd_models  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from odd_models import batches, odd_forms, plain_weight  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from mpl_sparse import optim, pruning  # noqa: E402
from mpl_sparse.nn import prunable, prunable_layers, to_dense, to_sparse  # noqa: E402
from mpl_sparse.pruning.scores import cross_entropy  # noqa: E402

every_form = pytest.mark.parametrize("form", odd_models.FORMS)


def check(scores, expected, masks):
    """`expected` are dense, by name."""
    assert scores.keys() == masks.keys()
    for name, mask in masks.items():
        torch.testing.assert_close(scores[name], expected[name][mask], rtol=1e-9, atol=1e-14)


def gradients(plain, masks, data, **options):
    """For each batch: the dense gradients of its cross entropy, by name."""
    weights = [plain_weight(plain, name) for name in masks]
    for inputs, classes in data:
        loss = F.cross_entropy(plain(inputs), classes)
        found = torch.autograd.grad(loss, weights, allow_unused=True, **options)
        yield {name: torch.zeros_like(w) if g is None else g for name, w, g in zip(masks, weights, found)}


def mean(terms):
    terms = list(terms)
    return {name: sum(term[name] for term in terms) / len(terms) for name in terms[0]}


@every_form
@pytest.mark.parametrize("training", [True, False])
def test_snip(form, training):
    plain, model, masks = odd_forms(form)
    plain.train(training), model.train(training)
    g = mean(gradients(copy.deepcopy(plain), masks, batches()))
    expected = {name: (g[name] * plain_weight(plain, name)).abs() for name in masks}
    check(pruning.SNIP(batches()).of(model), expected, masks)


@every_form
def test_taylor_squares_within_each_batch(form):
    plain, model, masks = odd_forms(form)
    squares = mean(
        {name: (g * plain_weight(plain, name)).square() for name, g in each.items()}
        for each in gradients(plain, masks, batches())
    )
    check(pruning.Taylor(batches()).of(model), squares, masks)


@every_form
def test_squared_gradient_by_time(form):
    plain, model, masks = odd_forms(form)
    squares = mean({n: g.square() for n, g in each.items()} for each in gradients(plain, masks, batches()))
    check(pruning.SquaredGradient(batches()).of(model), squares, masks)
    times = {name: 0.5 + number for number, name in enumerate(masks)}
    expected = {name: squares[name] / times[name] for name in masks}
    check(pruning.SquaredGradient(batches(), times=times).of(model), expected, masks)
    free = pruning.SquaredGradient(batches(), times={**times, "first": 0.0}).of(model)
    assert free["first"].isinf().all()


@every_form
@pytest.mark.parametrize("count", [1, 3])
def test_grasp(form, count):
    plain, model, masks = odd_forms(form)
    data = batches(count)
    whole = {name: g.detach() * masks[name] for name, g in mean(gradients(plain, masks, data)).items()}
    products = []
    weights = [plain_weight(plain, name) for name in masks]
    for each in gradients(plain, masks, data, create_graph=True):
        flow = sum((each[name] * whole[name]).sum() for name in masks)
        found = torch.autograd.grad(flow, weights, allow_unused=True)
        products.append({n: torch.zeros_like(w) if p is None else p for n, w, p in zip(masks, weights, found)})
    expected = {name: plain_weight(plain, name) * product for name, product in mean(products).items()}
    check(pruning.GraSP(data, cross_entropy).of(model), expected, masks)


def test_grasp_softens_the_classes_by_itself():
    """The paper's code: logits by 200."""
    _, model, masks = odd_forms("masked")
    soft = pruning.GraSP(batches(), lambda model, batch: F.cross_entropy(model(batch[0]) / 200, batch[1])).of(model)
    torch.testing.assert_close(pruning.GraSP(batches()).of(model), soft)


def test_grasp_is_the_change_of_the_gradients_norm():
    """The paper's S: what a step away from weight q does to g^T g is about -2 w_q (H g)_q; ours is minus half of it."""
    torch.manual_seed(1)
    model = prunable(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False)).double())
    data = [(torch.randn(7, 4).double(), torch.randint(2, (7,)))]

    def flow():
        loss = F.cross_entropy(model(data[0][0]), data[0][1])
        return sum(g.square().sum() for g in torch.autograd.grad(loss, [model[0].weight, model[2].weight])).item()

    scores = pruning.GraSP(data, cross_entropy).of(model)
    step = 1e-5
    for name, layer in prunable_layers(model):
        flat = layer.weight.data.view(-1)
        for place in range(flat.numel()):
            weight = flat[place].item()
            ends = []
            for sign in (1, -1):
                flat[place] = weight * (1 - sign * step)
                ends.append(flow())
            flat[place] = weight
            change = (ends[0] - ends[1]) / (2 * step)
            assert scores[name][place].item() == pytest.approx(-change / 2, rel=1e-6, abs=1e-12)


@every_form
def test_synflow(form):
    plain, model, masks = odd_forms(form)
    twin = copy.deepcopy(plain).eval()
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.abs_()
    twin(torch.ones(1, 4, 9, 8, dtype=torch.float64)).sum().backward()
    expected = {}
    for name in masks:
        weight = plain_weight(twin, name)
        expected[name] = torch.zeros_like(weight) if weight.grad is None else (weight.grad * weight).abs()
    check(pruning.SynFlow(batches()).of(model.train()), expected, masks)
    assert pruning.SynFlow(batches()).rounds == 100


def test_synflow_in_float32_is_computed_in_float64():
    """Sixty layers of factor 10 each are far beyond float32."""
    model = prunable(nn.Sequential(*(nn.Linear(10, 10, bias=False) for _ in range(60))))
    for layer in model:
        nn.init.ones_(layer.weight)
    scores = pruning.SynFlow([torch.ones(1, 10)]).of(model)
    torch.testing.assert_close(scores["7"], torch.full((100,), 1e59, dtype=torch.float64))
    conserved = [score.sum().item() for score in scores.values()]
    assert conserved == pytest.approx([1e61] * 60)  # the paper's theorem 1


def test_synflow_of_a_negative_derivative():
    model = prunable(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).double())
    nn.init.normal_(model[1].weight)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.abs_()
    twin(torch.ones(1, 6).double()).sum().backward()
    scores = pruning.SynFlow([torch.randn(2, 6)]).of(model)
    assert (twin[0].weight.grad < 0).any()
    torch.testing.assert_close(scores["0"], (twin[0].weight.grad * twin[0].weight).abs().reshape(-1))


@every_form
@pytest.mark.parametrize("training", [True, False])
def test_wanda(form, training):
    plain, model, masks = odd_forms(form)
    plain.train(training), model.train(training)
    seen = {}
    norms = patches_seen(copy.deepcopy(plain), batches(), seen)
    scores = pruning.Wanda(batches()).of(model)
    for name, expected in norms.items():
        per_output = expected.repeat_interleave(masks[name].shape[0] // expected.shape[0], 0)
        weight = plain_weight(plain, name)
        product = weight.abs() * per_output.reshape(weight.shape)
        torch.testing.assert_close(scores[name], product[masks[name]], rtol=1e-9, atol=1e-14)
    assert not scores["unused"].any()
    assert scores.keys() == masks.keys()


def patches_seen(plain, data, seen):
    """||x||_2 (groups, cols) of the layers that are no LSTM, from unfolded inputs of the plain model."""

    def see(name):
        def hook(module, inputs):
            seen.setdefault(name, []).append(unfolded(module, inputs[0]))

        return hook

    for name in ("first", "grouped", "twice", "last"):
        plain.get_submodule(name).register_forward_pre_hook(see(name))
    with torch.no_grad():
        for inputs, _ in data:
            plain(inputs)
    return {name: torch.cat(each, 2).square().sum(2).sqrt() for name, each in seen.items()}


def unfolded(module, input):
    """(groups, cols, everything)"""
    if isinstance(module, nn.Linear):
        return input.reshape(-1, input.shape[-1]).T.unsqueeze(0)
    if module.padding_mode != "zeros":
        input = F.pad(input, module._reversed_padding_repeated_twice, module.padding_mode)
    padding = module.padding if module.padding_mode == "zeros" else 0
    patches = F.unfold(input, module.kernel_size, module.dilation, padding, module.stride)
    return patches.transpose(0, 1).reshape(module.groups, -1, patches.shape[0] * patches.shape[2])


@every_form
def test_obs(form):
    plain, model, masks = odd_forms(form)
    seen = {}
    patches_seen(copy.deepcopy(plain), batches(), seen)
    scores = pruning.OBS(batches(), damping=0.02).of(model)
    for name, patches in seen.items():
        x = torch.cat(patches, 2)
        inverse = []
        for gram in x @ x.transpose(1, 2):
            damped = gram + 0.02 * gram.diagonal().mean() * torch.eye(gram.shape[0], dtype=torch.float64)
            inverse.append(torch.linalg.inv(damped).diagonal())
        weight = plain_weight(plain, name)
        per_output = torch.stack(inverse).repeat_interleave(weight.shape[0] // len(inverse), 0).reshape(weight.shape)
        expected = weight.square() / (2 * per_output)
        torch.testing.assert_close(scores[name], expected[masks[name]], rtol=1e-7, atol=1e-14)
    assert not scores["unused"].any()


@every_form
def test_movement_through_training_and_pruning(form):
    """SGD on the plain model and on the prunable one, with pruning between; the sums follow the weights."""
    plain, model, masks = odd_forms(form)
    movement = pruning.Movement()
    sums = {name: torch.zeros_like(mask, dtype=torch.float64) for name, mask in masks.items()}
    for step, (inputs, classes) in enumerate(batches(4)):
        for each in (plain, model):
            each.zero_grad()
            F.cross_entropy(each(inputs), classes).backward()
        movement.accumulate(model)
        with torch.no_grad():
            for name in masks:
                weight = plain_weight(plain, name)
                if weight.grad is not None:
                    sums[name] -= weight * weight.grad * masks[name]
            for each in (plain, model):
                for parameter in each.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.3 * parameter.grad
            if step == 1:
                pruning.prune_by_pct(model, 0.3)
            masks = {name: layer.mask.clone() for name, layer in prunable_layers(model)}
            for name, mask in masks.items():
                plain_weight(plain, name).masked_fill_(~mask, 0)
                sums[name].masked_fill_(~mask, 0)
    check(movement.of(model), sums, masks)
    fresh = pruning.Movement()
    fresh.load_state_dict(movement.state_dict())
    check(fresh.of(model), sums, masks)


@every_form
def test_movement_starts_anew_where_weights_grow(form):
    _, model, _ = odd_forms(form)
    movement = pruning.Movement()
    F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    movement.accumulate(model)
    before = dict(prunable_layers(model))["first"].mask.clone()
    layer = dict(prunable_layers(model))["first"]
    layer.set_mask(torch.ones(layer.weight_shape, dtype=torch.bool))
    assert not movement.of(model)["first"].reshape(layer.weight_shape)[~before].any()


@every_form
def test_movement_of_a_pruned_weight_is_forgotten(form):
    _, model, _ = odd_forms(form)
    movement, layer = pruning.Movement(), dict(prunable_layers(model))["first"]
    before = layer.mask.clone()
    for _ in range(2):
        model.zero_grad()
        F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
        movement.accumulate(model)
        layer.prune_by_pct(0.5)
    layer.prune_by_pct(0.0)
    kept = layer.mask.clone()
    model.zero_grad()
    F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    movement.accumulate(model)
    layer.set_mask(before)
    sums = torch.zeros_like(before, dtype=torch.float64)
    sums[before] = movement.of(model)["first"]
    assert not sums[~kept].any() and sums[kept].all()


@every_form
@pytest.mark.parametrize("convert", [to_sparse, to_dense])
def test_movement_goes_along_when_layers_change_their_form(form, convert):
    plain, model, masks = odd_forms(form)
    movement, sums = pruning.Movement(), {}
    for inputs, classes in batches(2):
        plain.zero_grad(), model.zero_grad()
        F.cross_entropy(plain(inputs), classes).backward()
        F.cross_entropy(model(inputs), classes).backward()
        movement.accumulate(model)
        for name in masks:
            weight = plain_weight(plain, name).detach()
            gradient = plain_weight(plain, name).grad
            sums[name] = sums.get(name, 0) - (torch.zeros_like(weight) if gradient is None else weight * gradient)
        model = convert(model)
        check(movement.of(model), sums, masks)


@every_form
def test_movement_keeps_what_a_new_task_needs(form):
    """The paper's figure 1: large weights of the old task move towards zero, small ones of the new one away from it."""
    model = nn.Sequential(nn.Linear(20, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight[:, :10], model[0].weight[:, 10:], model[1].weight[:] = 1.0, 0.1, 1.0
    prunable(model)
    if form != "masked":
        model = to_sparse(model, exclude="1" if form == "mixed" else ())
    movement, optimizer = pruning.Movement(), optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.randn(200, 20).double()
    for _ in range(20):
        optimizer.zero_grad()
        F.mse_loss(model(inputs), inputs[:, 10:].sum(1, keepdim=True)).backward()
        movement.accumulate(model)
        optimizer.step()
    new = torch.arange(20) >= 10
    assert (model[0].remaining_weight()[~new].min() > model[0].remaining_weight()[new].max()).item()
    pruning.prune(model, {"0": 0.5}, score=movement)
    assert torch.equal(model[0].mask.reshape(-1), new)


def test_movement_before_anything_moved():
    _, model, _ = odd_forms("masked")
    with pytest.raises(ValueError, match="no movements yet"):
        pruning.Movement().of(model)
    with pytest.raises(ValueError, match="what Movement.state_dict gave"):
        pruning.Movement().load_state_dict({"sums": {}})


NEED_DATA = [kind for kind in pruning.SCORES.values() if isinstance(kind, type)]


def everything(model):
    """What scoring must not change, and the objects that must stay the same objects."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    contents = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    flags = {name: module.training for name, module in model.named_modules()}
    hooks = {name: len(module._forward_pre_hooks) for name, module in model.named_modules()}
    return {name: id(tensor) for name, tensor in tensors.items()}, contents, grads, wanted, flags, hooks


@every_form
@pytest.mark.parametrize("kind", NEED_DATA, ids=lambda kind: kind.__name__)
def test_scoring_leaves_no_trace(form, kind):
    _, model, _ = odd_forms(form)
    model.train()
    model.norm.eval()
    model.drop = nn.Dropout(0.5)
    F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
    next(model.last.parameters()).requires_grad_(False)
    before, random = everything(model), torch.random.get_rng_state()
    samples = [sample for batch in batches() for sample in zip(*batch)]
    loader = torch.utils.data.DataLoader(samples, 3, shuffle=True)
    with torch.no_grad():
        kind(loader).of(model)
    after = everything(model)
    for old, new in zip(before, after):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), random)


@every_form
@pytest.mark.parametrize("kind", NEED_DATA, ids=lambda kind: kind.__name__)
def test_a_failing_run_leaves_no_trace(form, kind):
    _, model, _ = odd_forms(form)
    before, random = everything(model), torch.random.get_rng_state()

    def fail(model, batch):
        model(batch[0])
        torch.rand(3)
        raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        kind(batches(), fail).of(model)
    for old, new in zip(before, everything(model)):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), random)


class Checkpointed(nn.Module):
    """Runs its first layers again in the backward, if `again`; the forward writes its embeddings and buffers."""

    def __init__(self, again):
        super().__init__()
        self.again = again
        self.words = nn.Embedding(9, 12, max_norm=0.5)
        self.register_buffer("mask", torch.zeros(()))  # of its own, and written
        self.body = nn.Sequential(nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, words):
        inputs = self.words(words).flatten(1)
        self.mask += 1
        return self.head(checkpoint(self.body, inputs, use_reentrant=False) if self.again else self.body(inputs))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", NEED_DATA, ids=lambda kind: kind.__name__)
def test_a_model_that_runs_again_in_the_backward_and_writes_its_state(kind, sparse):
    plain, again = (prunable(Checkpointed(again)) for again in (False, True))
    again.load_state_dict(plain.state_dict())
    if sparse:
        plain, again = to_sparse(plain), to_sparse(again)
    data = [(torch.randint(9, (6, 3)), torch.randint(3, (6,))) for _ in range(2)]
    before = everything(again)
    expected, scores = kind(data).of(plain), kind(data).of(again)
    for old, new in zip(before, everything(again)):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", NEED_DATA, ids=lambda kind: kind.__name__)
def test_scores_of_a_layer_of_float32_and_of_an_empty_one(kind):
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    prunable(model)
    model[2].prune_by_pct(1.0)
    data = [(torch.randn(5, 2, 3, 3), torch.randint(2, (5,)))]
    for each in (model, to_sparse(model)):
        scores = kind(data).of(each)
        assert [tuple(scores[name].shape) for name in "024"] == [(24,), (0,), (32,)]
        assert all(not score.isnan().any() for score in scores.values())


def test_what_data_must_be():
    for bad in [iter(batches()), (batch for batch in batches()), torch.ones(3, 4), "data", 3]:
        for kind in NEED_DATA:
            with pytest.raises(TypeError, match="data must be"):
                kind(bad)
    _, model, _ = odd_forms("masked")
    for kind in NEED_DATA:
        with pytest.raises(ValueError, match="at least one batch"):
            kind([]).of(model)
        with pytest.raises(TypeError, match="must be a function"):
            kind(batches(), 3)


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (lambda model, batch: 1.0, TypeError, "loss must give a scalar tensor, got float"),
        (
            lambda model, batch: model(batch[0]),
            ValueError,
            r"loss must give a scalar tensor, got one of shape \(4, 5\)",
        ),
        (lambda model, batch: torch.ones(()), ValueError, "loss must depend on the weights"),
        (lambda model, batch: model(batch[0]).sum() * float("nan"), ValueError, "loss must be finite, got nan"),
    ],
)
def test_what_a_loss_must_give(loss, error, words):
    _, model, _ = odd_forms("masked")
    with pytest.raises(error, match=words):
        pruning.SNIP(batches(), loss).of(model)


def test_bad_settings():
    with pytest.raises(TypeError, match="times must map names of layers to seconds"):
        pruning.SquaredGradient(batches(), times=[1.0])
    with pytest.raises(TypeError, match="times must hold numbers, got 'a' for 'first'"):
        pruning.SquaredGradient(batches(), times={"first": "a"})
    with pytest.raises(ValueError, match="times must be finite and not negative, got -1 for 'first'"):
        pruning.SquaredGradient(batches(), times={"first": -1})
    with pytest.raises(ValueError, match="times has no entry for the layer 'grouped'"):
        pruning.SquaredGradient(batches(), times={"first": 1.0}).of(odd_forms("masked")[1])
    for bad, error in [(0, ValueError), (1.5, TypeError)]:
        with pytest.raises(error, match="rounds"):
            pruning.SynFlow(batches(), rounds=bad)
    for bad, error in [(0, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)]:
        with pytest.raises(error, match="damping"):
            pruning.OBS(batches(), damping=bad)
