"""DenseLSTM and SparseLSTM against nn.LSTM in float64, with the masked weights in it."""

from __future__ import annotations

import copy
import io
import pickle
import re
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_sequence  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse import conversion_report, prunable, random_prune_by_pct, to_dense, to_sparse  # noqa: E402
from mpl_sparse.nn import DenseLinear, DenseLSTM, SparseLinear, SparseLSTM, prunable_layers  # noqa: E402
from mpl_sparse.optim import SGD, follow_patterns  # noqa: E402

FORMS = ["steps first", "batch first", "one sequence", "packed", "packed as it comes"]
STORAGES = ["masked", "sparse", "mixed", "masked hh", "hooked"]


def pruned(*arguments, density=0.5, **options):
    """A masked LSTM in float64 without exact zeros among the weights that remain."""
    lstm = DenseLSTM(*arguments, dtype=torch.float64, **options)
    for child in lstm.children():
        child.set_mask(torch.rand(child.weight.shape) < density)
    return lstm


def stored(masked, storage):
    """The masked LSTM with some of its children sparse, or with a hook on each."""
    if storage == "masked":
        return copy.deepcopy(masked)
    lstm = masked.to_sparse()
    if storage == "mixed":  # every other pair of layers
        kept = [name for name, _ in masked.named_children()][::4] + [name for name, _ in masked.named_children()][1::4]
    else:
        kept = [name for name, _ in masked.named_children() if storage == "masked hh" and name.startswith("hh")]
    for name in kept:
        setattr(lstm, name, copy.deepcopy(getattr(masked, name)))
    if storage == "hooked":
        for child in lstm.children():
            child.register_forward_hook(lambda *_: None)
    return lstm


def plain(lstm):
    """The nn.LSTM with the weights of `lstm`, pruned ones being 0."""
    arguments = lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.bias, lstm.batch_first, lstm.dropout
    reference = nn.LSTM(*arguments, lstm.bidirectional, dtype=torch.float64).train(lstm.training)
    for name, child in lstm.named_children():
        sparse = isinstance(child, SparseLinear)
        with torch.no_grad():
            getattr(reference, f"weight_{name}").copy_(child.weight.to_dense() if sparse else child.masked_weight)
            if lstm.bias:
                getattr(reference, f"bias_{name}").copy_(child.bias)
    return reference


def tensors(result):
    output, (hidden, cell) = result
    return [output.data if isinstance(output, PackedSequence) else output, hidden, cell]


def assert_same_step(lstm, reference, input, states=None):
    """Equal results, and gradients to the input, the first states, the biases and the weights that remain."""
    leaves, results = [], []
    for module in (lstm, reference):
        data = input.data.clone().requires_grad_()
        own = input._replace(data=data) if isinstance(input, PackedSequence) else data
        hx = None if states is None else tuple(state.clone().requires_grad_() for state in states)
        result = module(own, hx)
        results.append(result)
        leaves.append([data, *(hx or ())])
        generator = torch.Generator().manual_seed(3)
        parts = [torch.rand(each.shape, generator=generator, dtype=each.dtype) for each in tensors(result)]
        sum((each * part).sum() for each, part in zip(tensors(result), parts)).backward()
    assert type(results[0][0]) is type(results[1][0])
    if isinstance(input, PackedSequence):
        assert all(a is b for a, b in zip(results[0][0][1:], input[1:]))
    for actual, expected in zip(tensors(results[0]), tensors(results[1])):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected)
    for actual, expected in zip(*leaves):
        torch.testing.assert_close(actual.grad, expected.grad)
    for name, child in lstm.named_children():
        grad = getattr(reference, f"weight_{name}").grad[child.mask]
        torch.testing.assert_close(
            child.values.grad if isinstance(child, SparseLinear) else child.weight.grad[child.mask], grad
        )
        if lstm.bias:
            torch.testing.assert_close(child.bias.grad, getattr(reference, f"bias_{name}").grad)


@dataclass(frozen=True)
class Case:
    sizes: tuple
    layers: int
    bias: bool
    bidirectional: bool
    form: str
    batch: int
    length: int
    given_states: bool
    density: float
    storage: str
    seed: int

    def operands(self):
        """The masked LSTM, an input for it, and first states or None."""
        torch.manual_seed(self.seed)
        options = {"bias": self.bias, "bidirectional": self.bidirectional, "batch_first": self.form == "batch first"}
        lstm = pruned(*self.sizes, self.layers, density=self.density, **options)
        shapes = {
            "steps first": (self.length, self.batch),
            "batch first": (self.batch, self.length),
            "one sequence": (self.length,),
        }
        batch = (self.batch,)
        if self.form in shapes:
            input = torch.randn(*shapes[self.form], self.sizes[0], dtype=torch.float64)
            batch = () if self.form == "one sequence" else batch
        else:
            batch = (max(self.batch, 1),)
            lengths = torch.randint(1, self.length + 1, batch).tolist()
            ordered = self.form == "packed"
            lengths = sorted(lengths, reverse=True) if ordered else lengths
            sequences = [torch.randn(length, self.sizes[0], dtype=torch.float64) for length in lengths]
            input = pack_sequence(sequences, enforce_sorted=ordered)
        shape = (self.layers * (1 + self.bidirectional), *batch, self.sizes[1])
        states = tuple(torch.randn(2, *shape, dtype=torch.float64)) if self.given_states else None
        return lstm, input, states


cases = st.builds(
    Case,
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 9)),
    layers=st.integers(1, 3),
    bias=st.booleans(),
    bidirectional=st.booleans(),
    form=st.sampled_from(FORMS),
    batch=st.integers(0, 4),
    length=st.integers(1, 5),
    given_states=st.booleans(),
    density=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    storage=st.sampled_from(STORAGES),
    seed=st.integers(0, 2**32 - 1),
)


@given(cases)
def test_everything_equals_nn_lstm(case):
    masked, input, states = case.operands()
    lstm = stored(masked, case.storage)
    assert_same_step(lstm, plain(lstm), input, states)
    with torch.no_grad():
        for actual, expected in zip(tensors(lstm(input, states)), tensors(plain(lstm)(input, states))):
            torch.testing.assert_close(actual, expected)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("storage", STORAGES)
def test_every_form_of_input_with_every_storage(form, storage):
    case = Case((7, 20), 2, True, True, form, 3, 4, True, 0.5, storage, 0)
    masked, input, states = case.operands()
    lstm = stored(masked, storage)
    assert_same_step(lstm, plain(lstm), input, states)


def test_a_masked_lstm_computes_with_the_kernel_of_torch():
    lstm = DenseLSTM(9, 7, 2, bidirectional=True)
    lstm.hh_l1.prune_by_pct(0.5)
    reference = nn.LSTM(9, 7, 2, bidirectional=True)
    reference.load_state_dict(
        {
            f"{kind}_{name}": child.masked_weight if kind == "weight" else child.bias
            for name, child in lstm.named_children()
            for kind in ("weight", "bias")
        }
    )
    input = torch.randn(5, 3, 9)
    assert all(torch.equal(a, b) for a, b in zip(tensors(lstm(input)), tensors(reference(input))))


@pytest.mark.parametrize("storage", STORAGES)
def test_dropout_is_between_the_layers_and_in_training_only(storage):
    masked = pruned(4, 5, 3, dropout=1.0, bidirectional=True)
    lstm = stored(masked, storage)
    input = torch.randn(6, 2, 4, dtype=torch.float64)
    assert_same_step(lstm, plain(lstm), input)  # of the layers above, every input is dropped
    lstm.eval()
    lstm.zero_grad()
    assert_same_step(lstm, plain(lstm), input)
    lstm.train().dropout = 0.5
    assert not torch.equal(lstm(input)[0], lstm(input)[0])
    lstm.eval()
    assert torch.equal(lstm(input)[0], lstm(input)[0])


@pytest.mark.parametrize("kind", [DenseLSTM, SparseLSTM])
def test_a_new_lstm_is_the_one_that_torch_makes(kind):
    arguments = {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.3, "dtype": torch.float64}
    torch.manual_seed(0)
    reference = nn.LSTM(5, 4, **arguments)
    following = torch.rand(3)
    torch.manual_seed(0)
    lstm = kind(5, 4, **arguments)
    assert torch.equal(torch.rand(3), following)
    names = [name for name, _ in lstm.named_children()]
    assert names == [f"{part}_l{k}{way}" for k in (0, 1) for way in ("", "_reverse") for part in ("ih", "hh")]
    assert [name for name, _ in mpl_sparse.nn.prunable_layers(nn.ModuleDict({"lstm": lstm}))] == [
        f"lstm.{name}" for name in names
    ]
    for name, child in lstm.named_children():
        assert child.num_weight == child.weight_shape.numel()
        assert torch.equal(child.remaining_weight(), getattr(reference, f"weight_{name}").flatten())
        assert torch.equal(child.bias, getattr(reference, f"bias_{name}"))
    assert isinstance(lstm, nn.LSTM) and lstm.extra_repr() == reference.extra_repr()
    for setting in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
        assert getattr(lstm, setting) == getattr(reference, setting)
    assert (lstm.mode, lstm.proj_size) == ("LSTM", 0)
    assert lstm.flatten_parameters() is None
    assert [[each.numel() for each in layer] for layer in lstm.all_weights] == [
        [each.numel() for each in layer] for layer in reference.all_weights
    ]
    before = lstm.hh_l1.remaining_weight().clone()
    lstm.reset_parameters()
    assert not torch.equal(lstm.hh_l1.remaining_weight(), before) and lstm.hh_l1.remaining_weight().abs().max() <= 0.5
    assert all(parameter.is_meta for parameter in kind(3, 2, device="meta").parameters())


def test_conversions_keep_settings_hooks_and_flags():
    lstm = pruned(3, 4, 2, batch_first=True, bias=False).eval()
    lstm.ih_l0.weight.requires_grad_(False)
    calls = []
    handle = lstm.register_forward_hook(lambda *_: calls.append(1))
    lstm.hh_l0.register_forward_hook(lambda *_: calls.append(2))
    sparse = lstm.to_sparse()
    assert type(sparse) is SparseLSTM and all(type(child) is SparseLinear for child in sparse.children())
    assert not sparse.training and not sparse.ih_l0.values.requires_grad and sparse.hh_l0.values.requires_grad
    assert sparse.extra_repr() == lstm.extra_repr()
    sparse(torch.zeros(1, 2, 3, dtype=torch.float64))
    assert calls == [2, 2, 1]
    handle.remove()
    assert len(sparse._forward_hooks) == 1 and not lstm._forward_hooks
    dense = sparse.to_dense()
    assert type(dense) is DenseLSTM and all(type(child) is DenseLinear for child in dense.children())
    assert not dense.training and len(dense._forward_hooks) == 1
    for child, again in zip(lstm.children(), dense.children()):
        assert torch.equal(child.mask, again.mask) and torch.equal(child.masked_weight, again.masked_weight)
        assert child.weight is not again.weight
    sparse.hh_l0.prune_by_pct(1.0)
    assert lstm.hh_l0.num_weight == dense.hh_l0.num_weight > 0


def test_whole_models_are_converted_and_pruned():
    """With the masked class around sparse layers, too: that is what a conversion layer by layer leaves."""
    model = nn.ModuleDict({"lstm": pruned(3, 4, 2), "head": nn.Linear(4, 2)})
    sparse = mpl_sparse.to_sparse(model)
    assert all(isinstance(child, SparseLinear) for child in sparse["lstm"].children())
    input = torch.randn(5, 2, 3, dtype=torch.float64)
    assert_same_step(sparse["lstm"], plain(model["lstm"]), input)
    mpl_sparse.prune_by_pct(sparse, 0.5)
    sparse.zero_grad()
    assert_same_step(sparse["lstm"], plain(sparse["lstm"]), input)
    assert [row["name"] for row in mpl_sparse.summary(sparse).rows] == [
        f"lstm.{part}_l{k}" for k in (0, 1) for part in ("ih", "hh")
    ]
    assert mpl_sparse.to_dense(sparse)["lstm"].hh_l1.num_weight == sparse["lstm"].hh_l1.num_weight


def test_from_lstm_shares_the_parameters():
    lstm = nn.LSTM(3, 4, 2, bidirectional=True).eval()
    lstm.register_forward_hook(lambda *_: None)
    masked = DenseLSTM.from_lstm(lstm)
    assert not masked.training and len(masked._forward_hooks) == 1
    for name, child in masked.named_children():
        assert child.weight is getattr(lstm, f"weight_{name}") and child.bias is getattr(lstm, f"bias_{name}")
        assert child.mask.all() and not child.training
    input = torch.randn(5, 2, 3)
    assert torch.equal(masked(input)[0], lstm(input)[0]) and not list(lstm.children())
    with pytest.raises(TypeError, match="lstm must be an nn.LSTM, got GRU"):
        DenseLSTM.from_lstm(nn.GRU(3, 4))
    with pytest.raises(ValueError, match="its weight_ih_l0 is not a plain parameter.*prunable already"):
        DenseLSTM.from_lstm(masked)


def test_make_prunable_in_place():
    lstm = nn.LSTM(3, 4, 2, bidirectional=True)
    holder = nn.ModuleList([lstm])
    lstm.note = "kept"
    lstm.register_buffer("extra", torch.ones(2))
    calls = []
    lstm.register_forward_hook(lambda *_: calls.append(1))
    parameters = {name: parameter for name, parameter in lstm.named_parameters()}
    input = torch.randn(5, 2, 3)
    expected = lstm(input)[0]
    assert prunable(lstm) is lstm
    assert type(lstm) is DenseLSTM and holder[0] is lstm and lstm.note == "kept" and lstm.extra.sum() == 2
    assert torch.equal(lstm(input)[0], expected) and calls == [1, 1]
    own = dict(lstm.named_parameters())
    assert len(own) == len(parameters)
    for name, child in lstm.named_children():
        assert own[f"{name}.weight"] is parameters[f"weight_{name}"] and child.training
        assert own[f"{name}.bias"] is parameters[f"bias_{name}"]
    assert copy.deepcopy(lstm.double()).hh_l0.weight.dtype == torch.float64


class Doubled(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


def with_own_forward():
    lstm = nn.LSTM(3, 4)
    lstm.forward = lstm.forward
    return lstm


def with_pruned_weight():
    from torch.nn.utils import prune

    return prune.random_unstructured(nn.LSTM(3, 4), "weight_hh_l0", 0.5)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Doubled(3, 4), "a subclass of LSTM that may compute otherwise"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "proj_size must be 0.*got 2"),
        (with_own_forward, "a subclass of LSTM|may compute otherwise"),
        (with_pruned_weight, "its weight_hh_l0 is not a plain parameter"),
    ],
)
def test_what_cannot_become_prunable_stays_as_it_is(make, words):
    lstm = make()
    kind, parameters = type(lstm), list(lstm._parameters)
    (row,) = conversion_report(prunable(lstm)).rows
    assert type(lstm) is kind and list(lstm._parameters) == parameters
    assert re.search(words, row.why), row.why


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.lstm = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, words):
        self.lstm.flatten_parameters()
        return self.head(self.lstm(self.embedding(words))[0])


def test_a_model_with_an_lstm_is_converted():
    model, words = Tagger().double(), torch.randint(9, (2, 7))
    expected, lstm = model(words), model.lstm
    checkpoint = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.equal(prunable(model)(words), expected) and model.lstm is lstm and type(lstm) is DenseLSTM
    assert [row.now for row in conversion_report(model).changed] == ["DenseLSTM", "DenseLinear"]
    assert len(prunable_layers(model)) == 9
    random_prune_by_pct(model, 0.5)
    sparse = to_sparse(model, exclude="lstm.hh_l1*")
    assert type(sparse.lstm) is SparseLSTM and type(sparse.lstm.ih_l0) is SparseLinear
    assert type(sparse.lstm.hh_l1_reverse) is DenseLinear and type(lstm) is DenseLSTM
    torch.testing.assert_close(sparse(words), model(words))
    dense = to_dense(sparse)
    assert type(dense.lstm) is DenseLSTM and type(sparse.lstm) is SparseLSTM
    torch.testing.assert_close(dense(words), model(words))
    sparse(words).sum().backward()
    model.load_state_dict(checkpoint)  # the masks stay
    sparse.load_state_dict(checkpoint)
    torch.testing.assert_close(sparse(words), model(words))
    assert type(prunable(Tagger(), exclude="lstm").lstm) is nn.LSTM


def test_its_weights_have_their_old_names_too():
    lstm = prunable(nn.LSTM(3, 4, bidirectional=True))
    assert lstm.weight_hh_l0_reverse is lstm.hh_l0_reverse.weight and lstm.bias_ih_l0 is lstm.ih_l0.bias
    sparse = lstm.to_sparse()
    assert sparse.weight_ih_l0.shape == (16, 3) and sparse.weight_ih_l0.dtype is torch.float32
    for name in ("weight_ih_l1", "weight", "hh_l7"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(sparse, name)


def test_a_weight_of_an_lstm_that_is_read_or_tied_stays_dense():
    class Reader(Tagger):
        def forward(self, words):
            return super().forward(words) + self.lstm.weight_hh_l1.sum()

    for model in (Reader(), Tagger()):
        if type(model) is Tagger:
            model.own = model.lstm.weight_ih_l0
        assert type(prunable(model).lstm) is nn.LSTM and type(model.head) is DenseLinear


@pytest.mark.parametrize("kind", [DenseLSTM, SparseLSTM])
def test_refused_arguments(kind):
    with pytest.raises(ValueError, match="proj_size must be 0: prunable LSTMs have no projection, got 2"):
        kind(3, 4, proj_size=2)
    with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
        kind(3, 0)
    with pytest.raises(TypeError, match="bias should be of type bool"):
        kind(3, 4, bias=1)


BAD = [
    (lambda: ([1.0],), TypeError, "input must be a torch tensor, got list"),
    (lambda: (torch.ones(3),), ValueError, "Expected input to be 2D or 3D, got 1D"),
    (lambda: (torch.ones(2, 2, 4),), RuntimeError, "input_size. Expected 3, got 4"),
    (lambda: (torch.ones(0, 2, 3),), RuntimeError, r"sequence length to be larger than 0.*\(0, 2, 3\)"),
    (lambda: (torch.ones(2, 2, 3).double(),), ValueError, "input dtype .torch.float64. does not match"),
    (lambda: (torch.ones(2, 2, 3), torch.ones(4, 2, 4)), TypeError, r"hx must be a pair .* got Tensor"),
    (lambda: (torch.ones(2, 2, 3), (torch.ones(4, 2, 4), None)), TypeError, r"hx\[1\] must be a torch tensor"),
    (lambda: (torch.ones(2, 2, 3), [torch.ones(4, 4)] * 2), RuntimeError, "batched 3-D input, hx and cx"),
    (lambda: (torch.ones(2, 3), [torch.ones(4, 1, 4)] * 2), RuntimeError, "unbatched 2-D input, hx and cx"),
    (
        lambda: (torch.ones(2, 2, 3), (torch.ones(4, 2, 4), torch.ones(4, 1, 4))),
        RuntimeError,
        r"Expected hidden\[1\] size \(4, 2, 4\), got \[4, 1, 4\]",
    ),
    (lambda: (torch.ones(2, 2, 3), [torch.ones(4, 2, 4).double()] * 2), ValueError, r"hx\[0\] must be torch.float32"),
    (lambda: (pack_sequence([torch.ones(2, 4)]),), RuntimeError, "input_size. Expected 3, got 4"),
    (
        lambda: (pack_sequence([torch.ones(2, 3)]), [torch.ones(4, 2, 4)] * 2),
        RuntimeError,
        r"Expected hidden\[0\] size \(4, 1, 4\)",
    ),
]


@pytest.mark.parametrize("kind", [DenseLSTM, SparseLSTM])
@pytest.mark.parametrize("arguments, error, words", BAD)
def test_refused_inputs(kind, arguments, error, words):
    with pytest.raises(error, match=words):
        kind(3, 4, 2, bidirectional=True)(*arguments())


def test_copies_pickles_and_moves():
    for storage in ("masked", "sparse", "mixed"):
        lstm = stored(pruned(3, 4, 2), storage)
        input = torch.randn(5, 2, 3, dtype=torch.float64)
        buffer = io.BytesIO()
        torch.save(lstm, buffer)
        buffer.seek(0)
        others = copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm)), torch.load(buffer, weights_only=False)
        for other in others:
            assert str(other) == str(lstm) and torch.equal(other(input)[0], lstm(input)[0])
            mpl_sparse.prune_by_pct(other, 0.5)
            assert other.hh_l1.num_weight < lstm.hh_l1.num_weight
            assert_same_step(other, plain(other), input)
        assert lstm.float()(input.float())[0].dtype == torch.float32


def test_functional_call():
    lstm = stored(pruned(3, 4), "sparse")
    input = torch.randn(5, 2, 3, dtype=torch.float64)
    parameters = {name: parameter.detach().requires_grad_() for name, parameter in lstm.named_parameters()}
    doubled = {name: 2 * parameter for name, parameter in parameters.items()}
    output, _ = torch.func.functional_call(lstm, doubled, (input,))
    output.sum().backward()
    twice = copy.deepcopy(lstm)
    with torch.no_grad():
        for parameter in twice.parameters():
            parameter.mul_(2)
    assert torch.equal(output, twice(input)[0])
    assert all(parameter.grad is not None for parameter in parameters.values())


class Reader(nn.Module):
    """An LSTM in a model that forwards tensors only."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm
        self.head = nn.Linear(lstm.hidden_size, 2, dtype=torch.float64)

    def forward(self, input):
        output, (hidden, _) = self.lstm(input)
        return self.head(torch.relu(output[-1] + hidden[-1]))


@pytest.mark.parametrize("storage", ["masked", "sparse", "masked hh"])
def test_compile_and_export(storage):
    model = Reader(stored(pruned(3, 4, 2), storage)).eval()
    input = torch.randn(5, 3, 3, dtype=torch.float64)
    expected = model(input)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(input), expected)
    batch = {1: torch.export.Dim("batch", min=2)}
    program = torch.export.export(model, (input,), dynamic_shapes=(batch,), strict=False)
    for part in (input, input[:, :2]):
        torch.testing.assert_close(program.module()(part), model(part))


@pytest.mark.parametrize("storage", ["sparse", "mixed"])
def test_fuse_leaves_an_lstm_as_it_is(storage):
    model = Reader(stored(pruned(3, 4, 2), storage)).eval()
    input = torch.randn(5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(mpl_sparse.fuse(model)(input), model(input))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("target", ["masked", "sparse"])
def test_loading_an_nn_lstm(target, bidirectional):
    """Alone and nested; the masks and patterns stay."""
    masked = pruned(3, 4, 2, bidirectional=bidirectional)
    lstm = stored(masked, target)
    source = nn.LSTM(3, 4, 2, bidirectional=bidirectional, dtype=torch.float64)
    state = source.state_dict()
    names = list(state)
    for holder, plain_holder in (
        (lstm, source),
        (nn.Sequential(nn.Sequential(lstm)), nn.Sequential(nn.Sequential(source))),
    ):
        mpl_sparse.nn.prunable_layers(holder)[0][1].bias.data.zero_()
        assert str(holder.load_state_dict(plain_holder.state_dict())) == "<All keys matched successfully>"
        for name, child in lstm.named_children():
            assert torch.equal(child.mask, getattr(masked, name).mask)
            assert torch.equal(child.remaining_weight(), getattr(source, f"weight_{name}")[child.mask])
            assert torch.equal(child.bias, getattr(source, f"bias_{name}"))
    assert list(state) == names
    single = {name: tensor.float() for name, tensor in state.items()}
    lstm.load_state_dict(single, assign=True)
    assert lstm.hh_l1.bias is not None and lstm.hh_l1.bias.dtype == torch.float32
    assert lstm(torch.randn(5, 2, 3))[0].dtype == torch.float32


@pytest.mark.parametrize("source, target", [("masked", "sparse"), ("sparse", "masked"), ("mixed", "mixed")])
def test_loading_masked_and_sparse_into_each_other(source, target):
    lstm, other = stored(pruned(3, 4, 2), source), stored(pruned(3, 4, 2), target)
    other.load_state_dict(lstm.state_dict())
    for child, loaded in zip(lstm.children(), other.children()):
        assert child.pattern == loaded.pattern
    input = torch.randn(5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(other(input), lstm(input))


@pytest.mark.parametrize("target", ["masked", "sparse"])
def test_a_bad_checkpoint_is_told(target):
    lstm = stored(pruned(3, 4), target)
    state = nn.LSTM(3, 4, dtype=torch.float64).state_dict()
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"weight_ih_l1"'):
        lstm.load_state_dict({**state, "weight_ih_l1": torch.ones(16, 4)})
    with pytest.raises(RuntimeError, match=r'Missing key.*"hh_l0.bias"'):
        lstm.load_state_dict({name: tensor for name, tensor in state.items() if name != "bias_hh_l0"})
    with pytest.raises(RuntimeError, match="(?s)hh_l0.*(shape|size)"):
        lstm.load_state_dict({**state, "weight_hh_l0": torch.ones(16, 5)})


@pytest.mark.parametrize(
    "make", [lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: follow_patterns(torch.optim.Adam(p))]
)
def test_training_with_pruning_equals_the_masked_dense_one(make):
    """Steps, pruning of both alike, more steps: what remains is equal."""
    masked = pruned(3, 4, 2, bidirectional=True)
    sparse = masked.to_sparse()
    models = [masked, sparse]
    optimizers = [make(model.parameters()) for model in models]
    input, target = (torch.randn(6, 2, size, dtype=torch.float64) for size in (3, 8))
    for step in range(6):
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(input)[0], target).backward()
            optimizer.step()
        if step == 2:
            for layer, twin in zip(masked.children(), sparse.children()):
                keep = layer.mask & (torch.rand(layer.mask.shape) < 0.7)
                layer.set_mask(keep)
                twin.set_mask(keep)
    for layer, twin in zip(masked.children(), sparse.children()):
        torch.testing.assert_close(twin.values, layer.weight[layer.mask])
        torch.testing.assert_close(twin.bias, layer.bias)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_output_may_be_changed_in_place(storage):
    lstm = stored(pruned(3, 4), storage)
    grads = []
    for module in (lstm, plain(lstm)):
        input = torch.ones(5, 2, 3, dtype=torch.float64, requires_grad=True)
        output, (hidden, cell) = module(input)
        output.relu_()
        hidden.mul_(2)
        (output.sum() + hidden.sum() + cell.sum()).backward()
        grads.append(input.grad)
    torch.testing.assert_close(*grads)


def test_differentiable_once():
    lstm = stored(pruned(3, 4), "sparse").requires_grad_(False)
    input = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(lstm(input)[0].sum(), input, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.square().sum().backward()


def test_pruning_between_forward_and_backward_is_told():
    lstm = stored(pruned(3, 4), "sparse")
    output = lstm(torch.randn(5, 2, 3, dtype=torch.float64))[0]
    lstm.hh_l0.prune_by_pct(0.5)
    with pytest.raises(RuntimeError, match="the values moved from"):
        output.sum().backward()


def test_hooks_see_all_rows_or_each_step():
    lstm = pruned(3, 4).to_sparse()
    shapes = []
    for child in lstm.children():
        child.register_forward_hook(lambda module, inputs, output: shapes.append((inputs[0].shape, output.shape)))
    lstm(pack_sequence([torch.randn(length, 3, dtype=torch.float64) for length in (2, 1)]))
    assert shapes == [((3, 3), (3, 16)), ((2, 4), (2, 16)), ((1, 4), (1, 16))]


def test_a_hook_may_change_the_gates():
    lstm = pruned(3, 4)
    lstm.hh_l0.register_forward_hook(lambda module, inputs, output: output * 0)
    lstm.ih_l0.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))
    reference = plain(lstm)
    with torch.no_grad():
        for parameter in (reference.weight_ih_l0, reference.weight_hh_l0, reference.bias_hh_l0):
            parameter.zero_()
    input = torch.randn(5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(lstm(input), reference(input))


def test_a_parametrized_bias_is_seen():
    class Doubled(nn.Module):
        def forward(self, bias):
            return 2 * bias

    lstm = pruned(3, 4).to_sparse()
    reference = plain(lstm)
    nn.utils.parametrize.register_parametrization(lstm.hh_l0, "bias", Doubled())
    with torch.no_grad():
        reference.bias_hh_l0.mul_(2)
    input = torch.randn(5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(lstm(input), reference(input))


def test_autocast_keeps_the_recurrence_in_the_dtype_of_the_weights():
    lstm = DenseLSTM(6, 8, 2)
    mpl_sparse.random_prune_by_pct(lstm, 0.5)
    lstm = lstm.to_sparse()
    input = torch.randn(5, 2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = lstm(input.bfloat16())
        assert output.dtype == torch.float32
    torch.testing.assert_close(output, lstm(input.bfloat16().float())[0])
