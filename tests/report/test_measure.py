"""What summary(model, inputs) counts and times, and that the model comes out as it went in."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given  # noqa: E402
from samples import conv2d_cases  # noqa: E402
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, to_sparse  # noqa: E402
from mpl_sparse.report import summary  # noqa: E402


def counts(table):
    return [(row["calls"], row["dense_multiply_adds"], row["sparse_multiply_adds"]) for row in table.rows]


def pruned(layer, pct=0.75):
    layer.prune_by_pct(pct)
    return layer


# by hand: weights, left weights, times positions of the output
@pytest.mark.parametrize(
    ("layer", "size", "dense", "sparse"),
    [
        (DenseConv2d(4, 8, 3), (1, 4, 7, 9), 8 * 4 * 9 * 5 * 7, 72 * 5 * 7),
        (DenseConv2d(4, 8, 3), (4, 7, 9), 8 * 4 * 9 * 5 * 7, 72 * 5 * 7),
        (DenseConv2d(4, 8, 3, padding=1), (2, 4, 7, 9), 8 * 4 * 9 * 2 * 7 * 9, 72 * 2 * 7 * 9),
        (DenseConv2d(4, 8, 3, stride=2), (3, 4, 8, 9), 8 * 4 * 9 * 3 * 3 * 4, 72 * 3 * 3 * 4),
        (DenseConv2d(4, 8, 3, dilation=3), (1, 4, 7, 9), 8 * 4 * 9 * 1 * 3, 72 * 1 * 3),
        (DenseConv2d(4, 8, 3, groups=4), (1, 4, 7, 9), 8 * 1 * 9 * 5 * 7, 18 * 5 * 7),
        (DenseConv2d(4, 8, (1, 3), padding="same", bias=False), (1, 4, 7, 9), 8 * 4 * 3 * 7 * 9, 24 * 7 * 9),
        (DenseLinear(20, 10), (20,), 200, 50),
        (DenseLinear(20, 10), (7, 20), 7 * 200, 7 * 50),
        (DenseLinear(20, 10), (2, 3, 20), 6 * 200, 6 * 50),
    ],
)
def test_by_hand(layer, size, dense, sparse):
    layer = pruned(layer)
    for each in (layer, to_sparse(layer)):
        assert counts(summary(each, size)) == [(1, dense, sparse)]


@given(case=conv2d_cases())
def test_a_convolution_of_ones_counts_its_own_multiply_adds(case):
    input, _, mask, _ = (None if array is None else torch.from_numpy(array) for array in case.arrays())
    layer = DenseConv2d(input.shape[1], len(mask), case.kernel, dtype=input.dtype, **case.options)
    layer.set_mask(mask)
    ones = F.pad(torch.ones_like(input, dtype=torch.float64), layer._reversed_padding_repeated_twice, value=1.0)
    options = {**case.options, "padding": 0}
    dense, sparse = (F.conv2d(ones, weight.double(), **options).sum() for weight in (torch.ones_like(mask), mask))
    for each in (layer, to_sparse(layer)):
        assert counts(summary(each, example_inputs=input)) == [(1, dense, float(each.num_weight and sparse))]


def test_dense_and_sparse_are_equal_where_nothing_is_pruned():
    table = summary(nn.Sequential(DenseConv2d(3, 5, 3), nn.Flatten(), DenseLinear(60, 7)), (2, 3, 5, 6))
    assert table.total["dense_multiply_adds"] == table.total["sparse_multiply_adds"] == 2 * (135 * 12 + 420)


class Odd(nn.Module):
    """Calls `twice` twice, `never` never; takes two inputs, the second by name."""

    def __init__(self):
        super().__init__()
        self.twice, self.once, self.never = pruned(DenseLinear(4, 4)), DenseLinear(4, 2), DenseLinear(3, 3)

    def forward(self, first, second=None):
        return self.once(self.twice(self.twice(first)[0]) + (0 if second is None else second))


def test_calls_are_counted_each():
    # first (3, 2, 4): all of it, then its first (2, 4)
    assert counts(summary(Odd(), (3, 2, 4))) == [(2, 16 * 8, 4 * 8), (1, 8 * 2, 8 * 2), (0, 0, 0)]


def test_several_inputs():
    expected = counts(summary(Odd(), (3, 2, 4)))
    first, second = torch.rand(3, 2, 4), torch.rand(2, 4)
    for size in ([(3, 2, 4), (2, 4)], ((3, 2, 4), [2, 4])):
        assert counts(summary(Odd(), size)) == expected
    for example in (first, (first, second), [first, second], {"first": first, "second": second}):
        assert counts(summary(Odd(), example_inputs=example)) == expected


def test_torch_size_and_list_are_sizes():
    layer = DenseLinear(4, 4)
    sizes = torch.Size([2, 4]), [2, 4], (2, 4)
    assert len({str(summary(layer, size, timed_runs=0)) for size in sizes}) == 1


def test_inputs_have_the_dtype_of_the_model_and_the_same_values_each_time():
    seen = []
    model = DenseLinear(3, 2, dtype=torch.float64)
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    summary(model, (5, 3), timed_runs=0)
    torch.rand(3)
    summary(model, (5, 3), timed_runs=0)
    assert seen[0].dtype == torch.float64 and seen[0].std() > 0
    assert torch.equal(*seen)


class Recurrent(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.embedding, self.recurrent, self.head = nn.Embedding(11, 6), recurrent, pruned(DenseLinear(4, 8))

    def forward(self, tokens):
        return self.head(self.recurrent(self.embedding(tokens))[0])


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_multiply_at_each_step(kind, gates):
    tokens = torch.randint(11, (5, 3))
    model = Recurrent(kind(6, 4, num_layers=2))
    numel = gates * 4 * (6 + 4 + 4 + 4)
    expected = [(1, 0, 0), (1, 15 * numel, 15 * numel), (1, 15 * 32, 15 * 8)]
    assert counts(summary(model, example_inputs=tokens, all_layers=True)) == expected


def test_other_layers_with_weights():
    model = nn.Sequential(nn.ConvTranspose2d(3, 5, 2, stride=2), nn.Flatten(2), nn.Conv1d(5, 4, 3))
    expected = [60 * 2 * 12, 60 * 2 * 46]  # weights, batch, positions
    assert counts(summary(model, (2, 3, 3, 4), all_layers=True)) == [(1, each, each) for each in expected]
    assert counts(summary(nn.LSTMCell(22, 6), (2, 22), all_layers=True)) == [(1, 24 * 28 * 2, 24 * 28 * 2)]


def test_packed_sequences_are_one_argument():
    packed = nn.utils.rnn.pack_sequence([torch.rand(4, 5), torch.rand(2, 5)])
    table = summary(nn.GRU(5, 7, bidirectional=True), example_inputs=packed, all_layers=True)
    numel = 2 * 21 * (5 + 7)
    assert counts(table) == [(1, 6 * numel, 6 * numel)]


def test_what_is_not_known_is_not_counted():
    class Mystery(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.layer = nn.Parameter(torch.rand(3, 3)), DenseLinear(3, 3)

        def forward(self, input):
            return self.layer(input @ self.weight)

    table = summary(Mystery(), (2, 3), timed_runs=0, all_layers=True)
    assert counts(table) == [(1, None, None), (1, 18, 18)]
    assert table.total["dense_multiply_adds"] == 18
    assert str(table).splitlines()[2].split()[-2:] == ["-", "-"]


class UsesItsChildren(nn.Module):
    """Computes with its children's weights, and says how often."""

    def __init__(self, clock=None):
        super().__init__()
        self.large, self.small, self.clock = pruned(DenseLinear(4, 6)), pruned(DenseLinear(6, 2)), clock

    def forward(self, input):
        if self.clock:
            self.clock.now += 0.036
        return F.linear(F.linear(input, self.large.masked_weight), self.small.masked_weight)

    def weight_uses(self, output):
        return {"large": len(output), "small": len(output)}


def test_a_module_may_say_how_often_it_uses_its_childrens_weights():
    model = nn.Sequential(UsesItsChildren())
    assert counts(summary(model, (5, 4))) == [(1, 5 * 24, 5 * 6), (1, 5 * 12, 5 * 3)]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(mpl_sparse.report.measure, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_time_is_that_of_the_calls_in_the_quickest_run(clock):
    durations = iter([0.9, 0.9, 0.004, 0.003, 0.002, 0.006])  # two calls a run; the first run is not timed

    class Slow(DenseLinear):
        def forward(self, input):
            clock.now += next(durations)
            return super().forward(input)

    model = Odd()
    model.twice = Slow(4, 4)
    model.once.register_forward_pre_hook(lambda *_: setattr(clock, "now", clock.now + 1))
    table = summary(model, (3, 2, 4), timed_runs=2)
    assert [row["ms"] for row in table.rows] == pytest.approx([7, 0, 0])
    assert counts(table)[0][0] == 2


def test_time_inside_a_layer_counts_once(clock):
    class Inner(DenseLinear):
        def forward(self, input):
            clock.now += 0.002
            return super().forward(input)

    class Outer(DenseLinear):
        def forward(self, input):
            clock.now += 0.003
            return super().forward(self.inner(input))

    model = Outer(3, 3)
    model.inner = Inner(3, 3)
    table = summary(nn.Sequential(model), (1, 3), timed_runs=1)
    assert [row["ms"] for row in table.rows] == pytest.approx([3, 2])


def test_time_of_used_children_is_divided_by_their_work(clock):
    table = summary(UsesItsChildren(clock), (5, 4), timed_runs=3)
    assert [row["ms"] for row in table.rows] == pytest.approx([24, 12])


def test_time_of_a_called_child_is_its_own(clock):
    class Slow(DenseLinear):
        def forward(self, input):
            clock.now += 0.001
            return super().forward(input)

    class Calls(UsesItsChildren):
        def forward(self, input):
            return super().forward(self.first(input))

    model = Calls(clock)
    model.first = nn.Sequential(Slow(4, 4))
    table = summary(model, (5, 4), timed_runs=1)
    assert {row["name"]: row["ms"] for row in table.rows} == pytest.approx({"large": 24, "small": 12, "first.0": 1})


def test_children_that_are_used_get_no_hooks_and_share_the_time_by_what_they_compute(clock):
    class NeedsNoHooks(UsesItsChildren):
        def forward(self, input):
            clock.now += 0.036
            assert not any(child._forward_hooks or child._forward_pre_hooks for child in self.children())
            return self.small(self.large(input))

    model = to_sparse(NeedsNoHooks())
    model.large.prune_by_pct(0.5)  # 3 left, and 3 in the small one
    assert [row["ms"] for row in summary(model, (5, 4), timed_runs=1).rows] == pytest.approx([18, 18])


def test_an_error_that_the_model_catches(clock):
    class Fails(DenseLinear):
        def forward(self, input):
            clock.now += 1
            raise RuntimeError

    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fails, self.works = Fails(3, 3), DenseLinear(3, 3)

        def forward(self, input):
            try:
                self.fails(input)
            except RuntimeError:
                return self.works(input)

    table = summary(Catches(), (2, 3), timed_runs=1)
    assert counts(table) == [(0, 0, 0), (1, 18, 18)]
    assert [row["ms"] for row in table.rows] == [0, 0]


def test_meta():
    model = nn.Sequential(
        pruned(DenseConv2d(3, 5, 3, padding=1, padding_mode="reflect")), nn.Flatten(), pruned(DenseLinear(60, 7))
    )
    sparse = to_sparse(model)
    expected = counts(summary(sparse, (2, 3, 3, 4)))
    sparse.to("meta")
    assert counts(summary(sparse, (2, 3, 3, 4))) == expected
    assert not any("forward" in vars(module) for module in sparse.modules())
    masked = summary(model.to("meta"), (2, 3, 3, 4))
    assert [row["density"] for row in masked.rows] == [1, 1]
    assert masked.total["dense_multiply_adds"] == sum(dense for _, dense, _ in expected)
    with pytest.raises(ValueError, match="timed_runs must be 0 for a model that is not on the CPU, got 3 on meta"):
        summary(sparse, (2, 3, 3, 4), timed_runs=3)


def test_a_compiled_model_is_run_as_it_is_written():
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("torch < 2.6")
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model = nn.Sequential(DenseLinear(3, 3))
    assert counts(summary(torch.compile(model, backend=backend), (2, 3), timed_runs=1)) == [(1, 18, 18)]
    model[0].compile(backend=backend)
    assert counts(summary(model, (2, 3))) == [(1, 18, 18)]
    assert not compiled


class Fickle(nn.Module):
    """Random in eval mode too; sees whether gradients and training are off; may fail."""

    def __init__(self, fails=False):
        super().__init__()
        self.conv, self.norm, self.dropout = DenseConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()
        self.inner = nn.Sequential(DenseLinear(4, 4), nn.ReLU())
        self.fails, self.seen = fails, []

    def forward(self, input):
        self.seen.append((torch.is_grad_enabled(), any(module.training for module in self.modules())))
        output = self.inner(F.dropout(self.norm(self.conv(input)), training=True).mean((2, 3)))
        self.dropout.train()
        if self.fails:
            raise KeyError("no such luck")
        return output

    def train(self, mode=True):
        raise AssertionError("train() may be overridden to do more")


def state(model):
    tables = [{name: value for name, value in vars(each).items() if "_hooks" in name} for each in model.modules()]
    hooks = [{name: list(value.items()) for name, value in table.items()} for table in tables]
    flags = [module.training for module in model.modules()]
    return hooks, flags, {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_out_as_it_went_in(fails):
    model = Fickle(fails)
    rng = random.Random(3)
    for module in model.modules():
        module.training = rng.random() < 0.5
    calls = []
    model.conv.register_forward_hook(lambda *_: calls.append(_))
    assert len({module.training for module in model.modules()}) == 2
    hooks, flags, tensors, generator = state(model)
    if fails:
        with pytest.raises(
            ValueError, match=r"not run on input_size=\(2, 3, 5, 5\) .*KeyError: 'no such luck'"
        ) as info:
            summary(model, (2, 3, 5, 5), timed_runs=2)
        assert isinstance(info.value.__cause__, KeyError)
    else:
        summary(model, (2, 3, 5, 5), timed_runs=2)
    assert calls and model.seen[0] == (False, False)
    after = state(model)
    assert after[:2] == (hooks, flags)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in after[2].items())
    assert torch.equal(after[3], generator)
    assert torch.is_grad_enabled() and all(parameter.grad is None for parameter in model.parameters())


def test_a_hook_that_changes_the_output_changes_no_count():
    layer = DenseLinear(3, 4)
    layer.register_forward_hook(lambda module, args, output: output[:1])
    assert counts(summary(layer, (5, 3))) == [(1, 60, 60)]


@pytest.mark.parametrize("size", [(), [], [()], (0, 3), (-1, 3), [(1, 3), (1, -3)]])
def test_sizes_out_of_range(size):
    with pytest.raises(ValueError, match="input_size must have entries, each at least 1, got ") as info:
        summary(DenseLinear(3, 3), size)
    assert repr(size) in str(info.value)


@pytest.mark.parametrize("size", [3, 2.0, "13", (1, 3.0), (True, 3), [(1, 3), 3], [(1, 3), (1, None)], (1, "3")])
def test_sizes_that_are_not_integers(size):
    with pytest.raises(TypeError, match="input_size must be a tuple of integers, batch included, or a list") as info:
        summary(DenseLinear(3, 3), size)
    assert repr(size) in str(info.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": (1, 3), "example_inputs": torch.rand(1, 3)}, ValueError, "give input_size or example_inputs"),
        ({"timed_runs": 3}, ValueError, "timed_runs needs input_size or example_inputs, got timed_runs=3 alone"),
        ({"input_size": (1, 3), "timed_runs": -1}, ValueError, "timed_runs must be at least 0, got -1"),
        ({"input_size": (1, 3), "timed_runs": 1.0}, TypeError, "timed_runs must be an integer, got 1.0"),
        ({"input_size": (1, 3), "timed_runs": True}, TypeError, "timed_runs must be an integer, got True"),
        ({"input_size": (1, 4)}, ValueError, r"does not run on input_size=\(1, 4\) \(torch.float32 on cpu\): RuntimeE"),
        ({"example_inputs": "text"}, ValueError, "the model does not run on example_inputs: TypeError"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        summary(DenseLinear(3, 3), **arguments)


def test_time_is_taken_by_default_on_the_cpu_only():
    layer = DenseLinear(4, 4)
    assert summary(layer, (2, 4)).total["ms"] > 0
    assert "ms" not in summary(layer, (2, 4), timed_runs=0).total
    assert "ms" not in summary(DenseLinear(4, 4, device="meta"), (2, 4)).total
