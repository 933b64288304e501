"""Layers whose weight or type other code looks at: they are found, and the model computes what it did."""

import collections
import copy
import functools
import gc
import importlib
import operator
import re
import sys
import weakref

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from mpl_sparse import conversion_report, prunable, to_sparse  # noqa: E402
from mpl_sparse.nn import prunable_layers  # noqa: E402


class Base(nn.Module):
    """`a` may be prunable, `b` not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)


class Direct(Base):
    def forward(self, x):
        return F.linear(self.a(x), self.b.weight)


class ByName(Base):
    def forward(self, x):
        return F.linear(self.a(x), getattr(self.b, "weight"))  # noqa: B009


class ByVariable(Base):
    def forward(self, x):
        layer = self.b if x.dim() == 2 else None
        weight = layer.weight
        return self.a(x) @ weight.t()


class InAMethod(Base):
    def forward(self, x):
        return self._mix(self.a(x))

    def _mix(self, x):
        return x @ self.b.weight.T


class InAnotherModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Base()

    def forward(self, x):
        return F.linear(self.pair.a(x), self.pair.b.weight)


class OfAMethod(Base):
    def forward(self, x):
        return self.apply_to(self.b, self.a(x))

    @staticmethod
    def apply_to(layer, x):
        return x @ layer.weight


def project(x, *, layer):
    return x @ layer.weight


class InAFunction(Base):
    def forward(self, x):
        return project(self.a(x), layer=self.b)


class InAProperty(Base):
    @property
    def table(self):
        return self.b.weight

    def forward(self, x):
        return F.linear(self.a(x), self.table)


class OfAProperty(Base):
    @property
    def last(self):
        return self.b

    def forward(self, x):
        return F.linear(self.a(x), self.last.weight)


class InALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bs = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        x = self.a(x)
        for _, layer in enumerate(self.bs):
            x = x @ layer.weight
        return x


class InAComprehension(InALoop):
    def forward(self, x):
        return self.a(x) @ sum(w for w in [layer.weight for layer in self.bs[:1]])


class OfItsParameters(Base):
    def forward(self, x):
        weight, _ = self.b.parameters()
        return self.a(x) @ weight


class Functional(Base):
    def forward(self, x):
        weights = {"weight": self.a(x)[:4] * 0 + 1, "bias": x.new_zeros(4)}
        return torch.func.functional_call(self.b, weights, (x,))


class Hidden(Base):
    """A reference that registration does not see, as of a decoder to its encoder."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Module()
        self.decoder = Decoder(self.b)

    def forward(self, x):
        return self.decoder(self.a(x))


class Decoder(nn.Module):
    def __init__(self, source):
        super().__init__()
        self.sources = [source]

    def forward(self, x):
        return x @ self.sources[0].weight


class TypeTest(Base):
    def forward(self, x):
        for layer in [self.b]:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                x = x.relu()
        return self.a(x)


class TypeComparison(Base):
    def forward(self, x):
        x = self.b(x)
        return self.a(x.relu() if type(self.b) is nn.Linear else x)


class Wrapped(Base):
    def logged(function):
        @functools.wraps(function)
        def call(self, *args):
            return function(self, *args)

        return call

    @logged
    def forward(self, x):
        return F.linear(self.a(x), self.b.weight)


class Inherited(Direct):
    def forward(self, x):
        return super().forward(x) + 1


class Overridden(Base):
    """Its forward was replaced on the object."""

    def __init__(self):
        super().__init__()
        self.forward = functools.partial(Direct.forward, self).func.__get__(self)


class ByLambda(Base):
    def __init__(self):
        super().__init__()
        self.function = lambda x: F.linear(x, self.b.weight)

    def forward(self, x):
        return self.function(self.a(x))


class ByClosure(Base):
    def __init__(self):
        super().__init__()
        layer = self.b

        def function(x):
            return x @ layer.weight

        self.function = function

    def forward(self, x):
        return self.function(self.a(x))


class ByPartial(Base):
    def __init__(self):
        super().__init__()
        self.function = functools.partial(project, layer=self.b)

    def forward(self, x):
        return self.function(self.a(x))


class Holder:
    """Not a module."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return x @ self.layer.weight


class ByAnObject(Base):
    def __init__(self):
        super().__init__()
        self.holder = Holder(self.b)

    def forward(self, x):
        return self.holder(self.a(x))


class OfAnObject(Base):
    def __init__(self):
        super().__init__()
        self.holders = {"first": {"second": Holder(self.b)}}

    def forward(self, x):
        return self.a(x) @ self.holders["first"]["second"].layer.weight


class InAnInnerFunction(Base):
    def forward(self, x):
        def inner(layer, x):
            return x @ layer.weight

        return inner(self.b, self.a(x))


class InAMap(Base):
    def forward(self, x):
        (weight,) = map(lambda layer: layer.weight, [self.b])
        return self.a(x) @ weight


class InAGenerator(Base):
    def weights(self):
        yield self.b.weight

    def forward(self, x):
        x = self.a(x)
        for weight in self.weights():
            x = x @ weight
        return x


class ByTheParameterItself(Base):
    def __init__(self):
        super().__init__()
        self.weights = [self.b.weight]

    def forward(self, x):
        return self.a(x) @ self.weights[0]


class OfTheClass(Base):
    kept = []

    def __init__(self):
        super().__init__()
        self.kept[:] = [self.b]

    def forward(self, x):
        return self.a(x) @ OfTheClass.kept[0].weight


class ByAnotherName(Base):
    def __getattr__(self, name):
        return super().__getattr__("b" if name == "projection" else name)

    def forward(self, x):
        return self.a(x) @ self.projection.weight


class InAHook(Base):
    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda module, _, output: output @ module.b.weight)

    def forward(self, x):
        return self.a(x)


class ByAMethodInAVariable(Base):
    def forward(self, x):
        for function in (self.mix, self.mix):
            mix = function
        return mix(self.a(x))

    def mix(self, x):
        return x @ self.b.weight


class Made:
    """Whatever is asked of it is new."""

    def __getattr__(self, name):
        return Made()


class ByNewObjects(Base):
    def __getattr__(self, name):
        return Made() if name == "made" else super().__getattr__(name)

    def forward(self, x):
        made = self.made
        return self.a(x) @ self.b.weight if made else x


def scale(layer, x):
    return x @ layer.weight


class ByCheckpoint(Base):
    def forward(self, x):
        return checkpoint(scale, self.b, self.a(x), use_reentrant=False)


class ByCheckpointOfAMethod(Base):
    def forward(self, x):
        return checkpoint(self.mix, self.a(x), use_reentrant=False)

    def mix(self, x):
        return x @ self.b.weight


class ByAnAutogradFunction(Base):
    def forward(self, x):
        return Product.apply(self.a(x), self.b)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        return x @ layer.weight

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class ByPartialOfABuiltin(Base):
    def __init__(self):
        super().__init__()
        self.function = functools.partial(F.linear, weight=self.b.weight)

    def forward(self, x):
        return self.function(self.a(x))


class ByNamedLambda(Base):
    def forward(self, x):
        mix = lambda layer, x: x @ layer.weight  # noqa: E731
        return mix(self.b, self.a(x))


class OfAnInnerFunction(Base):
    def forward(self, x):
        def pick():
            return self.b

        return self.a(x) @ pick().weight


class ByAWeakReference(Base):
    def __init__(self):
        super().__init__()
        self.references = [weakref.ref(self.b)]

    def forward(self, x):
        return self.a(x) @ self.references[0]().weight


Named = collections.namedtuple("Named", "layer")


class OfANamedTuple(Base):
    def __init__(self):
        super().__init__()
        self.named = Named(self.b)

    def forward(self, x):
        return self.a(x) @ self.named.layer.weight


class BySpreadArguments(Base):
    def forward(self, x):
        return scale(*(self.b, self.a(x)))


class BySpreadKeywords(Base):
    def forward(self, x):
        keywords = {"layer": self.b, "x": self.a(x)}
        return scale(**keywords)


class ByAnyKeywords(Base):
    def forward(self, x):
        return self.mix(layer=self.b, x=self.a(x))

    @staticmethod
    def mix(**keywords):
        return keywords["x"] @ keywords["layer"].weight


class ByADefault(Base):
    def __init__(self):
        super().__init__()

        def function(x, layer=self.b):
            return x @ layer.weight

        self.function = function

    def forward(self, x):
        return self.function(self.a(x))


class OfASum(Base):
    def forward(self, x):
        x = self.a(x)
        for layer in [self.b] + [self.b]:
            x = x @ layer.weight
        return x


class OfACachedMethod(Base):
    @functools.lru_cache  # noqa: B019
    def table(self):
        return self.b.weight

    def forward(self, x):
        return self.a(x) @ self.table()


class Dispatched(Base):
    @functools.singledispatchmethod
    def mix(self, x):
        return x

    @mix.register
    def _(self, x: torch.Tensor):
        return x @ self.b.weight

    def forward(self, x):
        return self.mix(self.a(x))


class WeightOf:
    def __get__(self, owner, cls=None):
        return owner.b.weight


class ByADescriptor(Base):
    table = WeightOf()

    def forward(self, x):
        return self.a(x) @ self.table


class ByItsCall(Base):
    def __call__(self, x):
        return super().__call__(x) @ self.b.weight

    def forward(self, x):
        return self.a(x)


class WhenItsModeChanges(Base):
    """It keeps a weight for eval mode."""

    def __init__(self):
        super().__init__()
        self.kept = None

    def train(self, mode=True):
        self.kept = None if mode else self.b.weight.detach().T
        return super().train(mode)

    def forward(self, x):
        return self.b(self.a(x)) if self.kept is None else self.a(x) @ self.kept


class GivenToAModule(Base):
    def __init__(self):
        super().__init__()
        self.user = User()

    def forward(self, x):
        return self.user(self.a(x), self.b)


class User(nn.Module):
    def forward(self, x, layer):
        return x @ layer.weight


class GivenToANewObject(Base):
    def forward(self, x):
        return Holder(self.b)(self.a(x))


class ByAForeignForward(Base):
    def forward(self, x):
        return nn.Linear.forward(self.b, self.a(x))


class InABackwardHook(Base):
    def __init__(self):
        super().__init__()
        self.b.register_full_backward_hook(lambda layer, to_input, _: (to_input[0] @ layer.weight,))

    def forward(self, x):
        return self.b(self.a(x))


class TypeByClass(Base):
    def forward(self, x):
        x = self.b(x)
        return self.a(x.relu() if self.b.__class__ is nn.Linear else x)


class TypeByName(Base):
    def forward(self, x):
        x = self.b(x)
        return self.a(x.relu() if type(self.b).__name__ == "Linear" else x)


class TypeByTable(Base):
    activations = {nn.Linear: torch.relu}

    def forward(self, x):
        return self.a(self.activations.get(type(self.b), torch.sin)(self.b(x)))


READERS = [
    Direct,
    ByName,
    ByVariable,
    InAMethod,
    InAnotherModule,
    OfAMethod,
    InAFunction,
    InAProperty,
    OfAProperty,
    InALoop,
    InAComprehension,
    OfItsParameters,
    Functional,
    Hidden,
    TypeTest,
    TypeComparison,
    Wrapped,
    Inherited,
    Overridden,
    ByLambda,
    ByClosure,
    ByPartial,
    ByAnObject,
    OfAnObject,
    InAnInnerFunction,
    InAMap,
    InAGenerator,
    ByTheParameterItself,
    OfTheClass,
    ByAnotherName,
    InAHook,
    ByAMethodInAVariable,
    ByNewObjects,
    ByCheckpoint,
    ByCheckpointOfAMethod,
    ByAnAutogradFunction,
    ByPartialOfABuiltin,
    ByNamedLambda,
    OfAnInnerFunction,
    ByAWeakReference,
    OfANamedTuple,
    BySpreadArguments,
    BySpreadKeywords,
    ByAnyKeywords,
    ByADefault,
    OfASum,
    OfACachedMethod,
    Dispatched,
    ByADescriptor,
    ByItsCall,
    WhenItsModeChanges,
    GivenToAModule,
    GivenToANewObject,
    ByAForeignForward,
    InABackwardHook,
    TypeByClass,
    TypeByName,
    TypeByTable,
]


class ByATableOfItsOwn(Base):
    """What is in the table is not known before the forward runs."""

    def __init__(self):
        super().__init__()
        self.table = {}

    def forward(self, x):
        self.table["last"] = self.b
        return self.a(x) @ self.table["last"].weight


class ByAppending(Base):
    def forward(self, x):
        layers = []
        layers.append(self.b)
        return self.a(x) @ layers[0].weight


class Penalised(Base):
    def forward(self, x):
        return self.b(self.a(x)) + sum(parameter.pow(2).sum() for parameter in self.parameters())


class OfACopy(Base):
    def forward(self, x):
        return self.a(x) @ copy.deepcopy(self.b).weight


class ByVars(Base):
    def forward(self, x):
        return self.a(x) @ vars(self)["_modules"]["b"].weight


class ByPath(Base):
    def forward(self, x):
        return self.a(x) @ self.get_parameter("b.weight")


class ByStateDict(Base):
    def forward(self, x):
        return self.a(x) @ self.state_dict()["b.weight"]


class ByAttrgetter(Base):
    def forward(self, x):
        return self.a(x) @ operator.attrgetter("b.weight")(self)


UNKNOWN = [ByVars, ByPath, ByStateDict, ByAttrgetter, ByATableOfItsOwn, ByAppending, Penalised, OfACopy]

WITHOUT_SOURCE = """
class Typed(Base):
    def forward(self, x):
        return F.linear(self.a(x), self.b.weight)

class Harmless(Base):
    def forward(self, x):
        return self.b(self.a(x))

class ByAnAssembledName(Base):
    def forward(self, x):
        return F.linear(self.a(x), getattr(self.b, "we" + "ight"))

class TypeTested(Base):
    def forward(self, x):
        return self.a(x).relu() if isinstance(self.b, nn.Linear) else self.b(x)
"""


def convert(model, count):
    """Prune what may be pruned to half and convert; the sparse model, and a dense one with the same weights."""
    prunable(model)
    names = [name.split(".")[-1] for name, _ in prunable_layers(model)]
    assert names == ["a"] * count, str(conversion_report(model))
    for _, layer in prunable_layers(model):
        layer.prune_by_pct(0.5)
        with torch.no_grad():
            layer.weight.mul_(layer.mask)
    return to_sparse(model), model


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.__name__)
def test_what_is_read_stays_dense(kind):
    model, x = kind().double(), torch.randn(4, 4, dtype=torch.float64)
    plain = copy.deepcopy(model)
    sparse, masked = convert(model, 1)
    torch.testing.assert_close(sparse(x), masked(x))
    plain.load_state_dict(masked.state_dict(), strict=False)  # pruned weights are zero in it
    torch.testing.assert_close(sparse(x), plain(x))
    said = [row.why for row in conversion_report(model).left]
    assert said and all(re.search("reads its|asks for its type|calls it with|gives it to", why) for why in said)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_where_it_is_not_known_which_is_read_all_stay_dense(kind):
    model = prunable(kind())
    assert not prunable_layers(model)
    assert all(row.why.startswith(f"{kind.__name__}.forward") for row in conversion_report(model).rows)


def test_without_source_the_names_tell():
    known = {"Base": Base, "F": F}
    exec(WITHOUT_SOURCE, known)
    model = prunable(known["Typed"]())
    assert not prunable_layers(model)
    (why, _) = (row.why for row in conversion_report(model).rows)
    assert why == "Typed.forward may read its weight, for its source is not at hand"
    assert len(prunable_layers(prunable(known["Harmless"]()))) == 2
    assert not prunable_layers(prunable(known["ByAnAssembledName"]()))
    assert not prunable_layers(prunable(known["TypeTested"]()))


def test_models_are_not_kept_alive():
    model = Functional()
    alive = weakref.ref(prunable(model)), weakref.ref(model.b)
    del model
    gc.collect()
    assert not any(each() is not None for each in alive)


class Facts(Base):
    """What is asked of a weight here holds for a sparse one too."""

    def __init__(self):
        super().__init__()
        del self.b

    def init_weights(self):
        nn.init.zeros_(self.a.weight)

    def forward(self, x):
        assert self.a.weight.device == x.device and self.a.weight.shape[0] == 4 and self.a.weight is not None
        assert isinstance(self.a, nn.Module) and self.a.in_features == 4
        return checkpoint(self.a, x.to(self.a.weight.dtype), use_reentrant=False)


class NextParameter(Facts):
    """Asks for the dtype of the first parameter, as many do."""

    def forward(self, x):
        first = next(self.parameters())
        return self.a(x.to(first.dtype).to(next(iter(self.parameters())).device))


class Batch(Facts):
    """Its input has weights of its own."""

    def forward(self, x):
        return self.a(getattr(x, "weight", x) if x.dim() == 2 else x.weight)


class Looping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(4, 4)}) for _ in range(3))

    def forward(self, x):
        for layer in self.layers[1:]:
            x = layer["a"](x)
        return self.run(self.layers[0]["a"], x)

    def run(self, layer, x, depth=2):
        return layer(x) if depth == 0 else self.run(layer, x, depth - 1)


@pytest.mark.parametrize("kind, count", [(Facts, 1), (NextParameter, 1), (Batch, 1), (Looping, 3)])
def test_what_is_only_called_is_prunable(kind, count):
    model, x = kind().double(), torch.randn(3, 4, dtype=torch.float64)
    sparse, masked = convert(model, count)
    torch.testing.assert_close(sparse(x), masked(x))


def test_multihead_attention_keeps_its_projection():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 2)})
    prunable(model)
    assert [name for name, _ in prunable_layers(model)] == ["head"]
    whys = {row.name: row.why for row in conversion_report(model).rows}
    assert whys["attention.out_proj"] == "MultiheadAttention.forward reads its weight"


@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_transformer_encoders_call_their_layers(batch_first, padded):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2).eval()
    plain = copy.deepcopy(model)
    x = torch.randn(3, 3, 8)
    padding = torch.tensor([[False, False, True], [False, False, False], [False, True, True]]) if padded else None
    prunable(model)
    assert len(prunable_layers(model)) == 4
    for _, layer in prunable_layers(model):
        layer.prune_by_pct(0.8)
        with torch.no_grad():
            layer.weight.mul_(layer.mask)
    plain.load_state_dict(model.state_dict(), strict=False)
    seen = torch.ones(3, 3, dtype=torch.bool) if padding is None else ~padding
    seen = seen if batch_first else seen.T
    with torch.no_grad():  # where torch takes its fused path
        expected = plain(x, src_key_padding_mask=padding)
        for each in (model, to_sparse(model)):
            torch.testing.assert_close(each(x, src_key_padding_mask=padding)[seen], expected[seen])


def test_an_fx_graph_that_reads_a_weight():
    graph = torch.fx.symbolic_trace(Direct())
    prunable(graph)
    assert [name for name, _ in prunable_layers(graph)] == ["a"]


def test_a_scripted_part_is_left_alone():
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 4))), nn.Linear(4, 4))
    x = torch.randn(2, 4)
    expected = model(x)
    assert [name for name, _ in prunable_layers(prunable(model))] == ["1"]
    assert torch.equal(model(x), expected)


class OwnFeedForward(nn.TransformerEncoderLayer):
    def _ff_block(self, x):
        return x @ self.linear1.weight.T @ self.linear2.weight.T


def test_an_encoder_with_a_block_of_its_own():
    model = prunable(OwnFeedForward(4, 2, 8, batch_first=True))
    assert not prunable_layers(model)


def test_the_activation_of_an_encoder():
    table = nn.Linear(8, 8)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, activation=lambda x: x @ table.weight)
    model = prunable(nn.ModuleList([table, encoder]))
    assert [name for name, _ in prunable_layers(model)] == ["1.linear1", "1.linear2"]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="match is of Python 3.10")
def test_a_match_of_its_type(tmp_path, monkeypatch):
    (tmp_path / "matching.py").write_text(
        """
from torch import nn

class Matching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        match self.b:
            case nn.Linear():
                return self.a(self.b(x).relu())
        return self.a(self.b(x))
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = prunable(importlib.import_module("matching").Matching())
    assert [name for name, _ in prunable_layers(model)] == ["a"]
