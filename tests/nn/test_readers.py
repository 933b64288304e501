"""Layers whose weight or type other code looks at: they are found, and the model computes what it did."""

import copy
import gc
import importlib
import re
import sys
import weakref

import pytest

torch = pytest.importorskip("torch")

import handing_models  # noqa: E402
import reading_models  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from reading_models import Base, Direct, Functional  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from mpl_sparse import conversion_report, prunable, to_sparse  # noqa: E402
from mpl_sparse.nn import prunable_layers  # noqa: E402

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


@pytest.mark.parametrize("kind", [*reading_models.READERS, *handing_models.READERS], ids=lambda kind: kind.__name__)
def test_what_is_read_stays_dense(kind):
    model, x = kind().double(), torch.randn(4, 4, dtype=torch.float64)
    plain = copy.deepcopy(model)
    sparse, masked = convert(model, 1)
    torch.testing.assert_close(sparse(x), masked(x))
    plain.load_state_dict(masked.state_dict(), strict=False)  # pruned weights are zero in it
    torch.testing.assert_close(sparse(x), plain(x))
    said = [row.why for row in conversion_report(model).left]
    assert said and all(re.search("reads its|asks for its type|calls it with|gives it to", why) for why in said)


@pytest.mark.parametrize("kind", reading_models.UNKNOWN)
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
