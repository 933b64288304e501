"""Models whose forward reads the weight of their layer `b`, or asks for its type, where the layer stands."""

import copy
import functools
import operator

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402


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


# which layer it is that is read cannot be told
UNKNOWN = [ByVars, ByPath, ByStateDict, ByAttrgetter, ByATableOfItsOwn, ByAppending, Penalised, OfACopy]

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
]
