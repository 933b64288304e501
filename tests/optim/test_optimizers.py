"""Each optimizer is torch's, step for step: on the same values bit for bit, across changes of the pattern, and close to
the masked dense training."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from dense_training import DenseTraining, batch, run_both, set_masks, sparse, sparse_net, sparse_step  # noqa: E402
from optimizer_table import ELEMENTWISE, NAMES, label, ours, rows, torchs  # noqa: E402
from torch import nn  # noqa: E402

from mpl_sparse import optim  # noqa: E402
from mpl_sparse.nn import pattern_of  # noqa: E402

every_row = pytest.mark.parametrize("row", list(rows()), ids=label)
every_name = pytest.mark.parametrize("name", NAMES)
every_class = pytest.mark.parametrize("name", [name for name in optim.optimizers.__all__ if name != "FollowsPatterns"])


class PlainValues:
    """torch's optimizer over plain vectors, in which the state of each position is moved by hand."""

    def __init__(self, model, make_optimizer):
        self.model, self.make_optimizer = model, make_optimizer
        self.optimizer = None
        self.follow()

    def follow(self):
        before = self.optimizer
        if before is not None:
            old, old_positions = self.parameters, self.positions
        self.parameters = [nn.Parameter(parameter.detach().clone()) for parameter in self.model.parameters()]
        self.positions = [self.positions_of(parameter) for parameter in self.model.parameters()]
        self.optimizer = self.make_optimizer(self.parameters)
        if before is None:
            return
        fresh = self.fresh_state()
        for parameter, its_old, now, then in zip(self.parameters, old, self.positions, old_positions):
            state = before.state[its_old]
            if now is not None:
                for name, entries in state.items():
                    if isinstance(entries, torch.Tensor) and entries.dim() == 1:
                        known = dict(zip(then, entries.tolist()))
                        state[name] = entries.new_tensor(
                            [known.get(position, fresh.get(name, 0.0)) for position in now]
                        )
            self.optimizer.state[parameter] = state

    @staticmethod
    def positions_of(parameter):
        pattern = pattern_of(parameter)
        return None if pattern is None else pattern.flat_positions().tolist()

    def fresh_state(self):
        group = self.optimizer.param_groups[0]
        return {"sum": group.get("initial_accumulator_value"), "step_size": group["lr"]}

    def step(self):
        for parameter, twin in zip(self.model.parameters(), self.parameters):
            twin.grad = parameter.grad.clone()
            if isinstance(self.optimizer, torch.optim.SparseAdam):
                twin.grad = sparse(twin.grad)
        self.optimizer.step()

    def assert_same(self):
        for parameter, twin in zip(self.model.parameters(), self.parameters):
            assert torch.equal(parameter, twin)


@every_row
def test_bitwise_torchs_on_the_same_values(row):
    name, options = row
    dtype = torch.float32
    model = sparse_net(dtype)
    optimizer = ours(name, **options)(model.parameters())
    plain = PlainValues(model, torchs(name, **options))
    for change in (
        None,
        lambda: model.prune_by_pct(0.3),
        lambda: set_masks(model),
        lambda: model.head.prune_by_rank(9),
    ):
        if change is not None:
            change()
            plain.follow()
        for _ in range(5):
            sparse_step(model, optimizer, *batch(dtype))
            plain.step()
            plain.assert_same()


@pytest.mark.parametrize("row", list(rows(ELEMENTWISE)), ids=label)
def test_close_to_the_masked_dense_training(row):
    name, options = row
    model = sparse_net()
    optimizer = ours(name, **options)(model.parameters())
    dense = DenseTraining(model, torchs(name, **options))
    model.prune_by_pct(0.2)  # before there is any state, but Adagrad's
    dense.follow()
    for change in (None, lambda: model.prune_by_pct(0.3), lambda: set_masks(model), lambda: set_masks(model)):
        if change is not None:
            change()
            dense.follow()
        run_both(model, optimizer, dense, 6)


@every_name
def test_nothing_left_and_grown_again(name):
    model = sparse_net()
    optimizer = ours(name, lr=0.01)(model.parameters())
    for _ in range(2):
        for density in (0.0, 0.5):
            sparse_step(model, optimizer, *batch())
            model.head.set_mask(torch.rand(model.head.weight_shape) < density)
            sparse_step(model, optimizer, *batch())
    assert model.head.num_weight and all(parameter.isfinite().all() for parameter in model.parameters())
    for state in optimizer.state.values():
        assert all(entries.isfinite().all() for entries in state.values() if isinstance(entries, torch.Tensor))


@every_name
def test_memory_is_proportional_to_the_remaining_weights(name):
    model = sparse_net()
    optimizer = ours(name, lr=0.01)(model.parameters())
    sparse_step(model, optimizer, *batch())
    model.prune_by_pct(0.9)
    sparse_step(model, optimizer, *batch())
    for parameter in model.parameters():
        for entries in optimizer.state[parameter].values():
            assert not isinstance(entries, torch.Tensor) or entries.numel() in (1, parameter.numel())


@every_name
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_copies_go_on_alike(name, copied):
    model = sparse_net()
    optimizer = ours(name, lr=0.01)(model.parameters())
    sparse_step(model, optimizer, *batch())
    model.prune_by_pct(0.2)
    twin, twin_optimizer = copied((model, optimizer))
    assert type(twin_optimizer) is type(optimizer)
    for _ in range(2):
        data = batch()
        mask = torch.rand(model.head.weight_shape) < 0.5
        for each, its_optimizer in ((model, optimizer), (twin, twin_optimizer)):
            each.head.set_mask(mask)
            sparse_step(each, its_optimizer, *data)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))
    data = batch()
    sparse_step(twin, twin_optimizer, *data)
    assert not torch.equal(model.head.values, twin.head.values)  # they are apart


@every_name
def test_groups_options_and_frozen_parameters(name):
    """A group of its own learning rate, added later; a layer that is frozen while it is pruned."""
    model = sparse_net()
    optimizer = ours(name, lr=0.01)(model.conv.parameters())
    if name == "Adagrad":  # torch's own makes its state in the constructor only
        optimizer = ours(name, lr=0.01)(
            [{"params": model.conv.parameters()}, {"params": model.head.parameters(), "lr": 0.05}]
        )
    else:
        optimizer.add_param_group({"params": model.head.parameters(), "lr": 0.05})
    sparse_step(model, optimizer, *batch())
    model.conv.requires_grad_(False)
    model.prune_by_pct(0.3)
    before = model.conv.values.clone()
    optimizer.zero_grad(set_to_none=True)
    sparse_step(model, optimizer, *batch())
    assert torch.equal(model.conv.values, before)
    model.prune_by_pct(0.3)
    model.conv.requires_grad_()
    sparse_step(model, optimizer, *batch())
    assert not torch.equal(model.conv.values, before[: model.conv.num_weight])
    for parameter, state in optimizer.state.items():
        assert all(
            entries.numel() in (1, parameter.numel()) for entries in state.values() if isinstance(entries, torch.Tensor)
        )


def test_a_grown_weight_starts_from_its_own_groups_options():
    model = sparse_net()
    optimizer = optim.Rprop(
        [{"params": model.conv.parameters()}, {"params": model.head.parameters(), "lr": 0.3}], lr=0.02
    )
    sparse_step(model, optimizer, *batch())
    masks = [layer.mask for layer in model.prunable_layers]
    for layer in model.prunable_layers:
        layer.set_mask(torch.ones_like(layer.mask))
    optimizer.state_dict()
    for layer, mask, lr in zip(model.prunable_layers, masks, (0.02, 0.3)):
        sizes = optimizer.state[layer.values]["step_size"]
        assert (sizes[~mask.flatten()] == lr).all()
        assert (optimizer.state[layer.values]["prev"][~mask.flatten()] == 0).all()


@every_class
def test_the_class_is_torchs(name):
    mine, theirs = getattr(optim, name), getattr(torch.optim, name)
    assert issubclass(mine, theirs) and mine.__name__ == name and getattr(sys.modules[mine.__module__], name) is mine
    assert inspect.signature(mine) == inspect.signature(theirs)
    assert mine.__doc__.startswith(f"torch.optim.{name}") and mine.__doc__.endswith(inspect.cleandoc(theirs.__doc__))
    assert name in optim.__all__


def test_every_optimizer_of_torch_is_there():
    kinds = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    assert kinds <= set(optim.__all__)
    assert kinds - set(NAMES) <= {"LBFGS", "Muon"}


def test_what_torch_does_not_have_is_not_there():
    code = """
import torch
for name in ("Adafactor", "Muon"):
    if hasattr(torch.optim, name):
        delattr(torch.optim, name)
from mpl_sparse import optim
from mpl_sparse.optim import *
assert not {"Adafactor", "Muon"} & set(optim.__all__) and not hasattr(optim, "Muon")
try:
    optim.Muon
except AttributeError as error:
    assert str(error) == f"mpl_sparse.optim has no Muon, for torch {torch.__version__} has none", error
try:
    from mpl_sparse.optim import Adafactor
except ImportError as error:
    assert "Adafactor" in str(error)
else:
    raise SystemExit("no error")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        optim.nonsense  # noqa: B018


def test_hooks_of_others_run_once():
    for name in ("Adam", "SparseAdam"):
        kind = getattr(optim, name)
        torchs(name, lr=0.1)([nn.Parameter(torch.ones(2))])  # torch hooks the step of a class at the first instance
        model = sparse_net()
        optimizer = kind(model.parameters(), lr=0.1)
        calls = []
        optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append("before"))
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append("after"))
        sparse_step(model, optimizer, *batch())
        assert calls == ["before", "after"]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SparseAdam"])
def test_a_closure_gives_the_loss(name):
    model = sparse_net()
    optimizer = ours(name, lr=0.01)(model.parameters())
    inputs, targets = batch()

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    for _ in range(5):
        last = optimizer.step(closure).item()
    assert last < first


def test_differentiable_steps_carry_gradients():
    values = torch.randn(6, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def after_two_steps(make, values, gradient):
        parameter = values.clone()
        optimizer = make([parameter], lr=0.1, differentiable=True)
        for _ in range(2):
            parameter.grad = gradient
            optimizer.step()
        return parameter

    for name in ("SGD", "RMSprop", "Adadelta"):
        results = [after_two_steps(getattr(kind, name), values, gradient) for kind in (optim, torch.optim)]
        assert torch.equal(*results)
        gradients = [torch.autograd.grad(result.sum(), (values, gradient)) for result in results]
        assert all(torch.equal(got, want) for got, want in zip(*gradients))


def test_bad_options_are_torchs_errors():
    with pytest.raises(ValueError, match="Nesterov"):
        optim.SGD(sparse_net().parameters(), lr=0.1, nesterov=True)
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.Adam([])


def test_muon_takes_matrices_and_no_values_of_a_sparse_layer():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(4, 6)) for _ in range(2)]
    weights[1].data = weights[0].data.clone()
    optimizers = [kind.Muon([weight], lr=0.1) for kind, weight in zip((optim, torch.optim), weights)]
    for _ in range(3):
        gradient = torch.randn(4, 6)
        for weight, optimizer in zip(weights, optimizers):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(*weights)
    model = sparse_net()
    with pytest.raises(ValueError, match="the values of a sparse layer are a vector: give them to another optimizer"):
        optim.Muon([model.head.values])
    with pytest.raises(ValueError, match="another optimizer"):
        optimizers[0].add_param_group({"params": model.conv.values})
    assert len(optimizers[0].param_groups) == 1
    with pytest.raises(ValueError, match="2D"):
        optim.Muon([nn.Parameter(torch.ones(3))])


class TestSparseAdam:
    def test_an_embedding_and_a_sparse_layer_together(self):
        torch.manual_seed(0)
        model = sparse_net(torch.float32)
        table, twin = (nn.Embedding(9, 5, sparse=True) for _ in range(2))
        twin.load_state_dict(table.state_dict())
        mine = optim.SparseAdam([*table.parameters(), *model.parameters()], lr=0.1)
        theirs = torch.optim.SparseAdam(twin.parameters(), lr=0.1)
        for _ in range(3):
            rows = torch.randint(9, (8,))
            mine.zero_grad(), theirs.zero_grad()
            (model(batch(torch.float32)[0]) + table(rows)).square().sum().backward()
            twin.weight.grad = table.weight.grad.clone()
            mine.step(), theirs.step()
            model.prune_by_pct(0.2)
        assert torch.equal(table.weight, twin.weight)
        assert table.weight.grad.is_sparse and not model.head.values.grad.is_sparse

    def test_the_formula_is_adams_but_for_eps(self):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(3, 4, dtype=torch.float64)) for _ in range(2)]
        parameters[1].data = parameters[0].data.clone()
        mine, adam = (
            optim.SparseAdam([parameters[0]], lr=0.1, eps=1e-30),
            torch.optim.Adam([parameters[1]], 0.1, eps=1e-30),
        )
        for _ in range(5):
            gradient = torch.randn(3, 4, dtype=torch.float64)
            for parameter, optimizer in zip(parameters, (mine, adam)):
                parameter.grad = gradient.clone()
                optimizer.step()
        torch.testing.assert_close(*parameters)

    def test_gradients_stay_as_they_are(self):
        for shape in ((), (0,), (3,), (2, 0), (2, 3, 2)):
            parameter = nn.Parameter(torch.ones(shape))
            parameter.grad = gradient = torch.full(shape, 2.0)
            optim.SparseAdam([parameter], lr=0.1).step()
            assert parameter.grad is gradient and (gradient == 2).all()
            torch.testing.assert_close(parameter.detach(), torch.full(shape, 0.9))

    def test_an_error_puts_the_gradients_back(self):
        parameters = [nn.Parameter(torch.ones(3)) for _ in range(2)]
        parameters[1].grad = gradient = torch.ones(3)
        optimizer = optim.SparseAdam(parameters)
        optimizer.state[parameters[1]] = {"step": 1}  # no moments
        with pytest.raises(KeyError):
            optimizer.step()
        assert parameters[1].grad is gradient
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: 1 / 0)
