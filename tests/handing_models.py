"""Models that hand their layer `b`, or what reads its weight, to something else: functions, objects, modules, torch."""

import collections
import functools
import weakref

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from reading_models import Base, Holder  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402


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
