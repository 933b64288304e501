"""LSTMs with what records or transforms a model: their recurrence is one kernel only where that can be seen."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import fx, nn  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from mpl_sparse.nn import DenseLSTM, prunable, prunable_layers, to_sparse  # noqa: E402


class Tagger(nn.Module):
    """Input (N, 5, 4), output (N, 3)."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(4, 6)
        self.lstm = DenseLSTM(6, 8, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(16, 3)

    def forward(self, input):
        output, _ = self.lstm(self.embedding(input))
        return self.out(output[:, -1])


@pytest.fixture(params=["masked", "sparse"])
def model(request):
    masked = prunable(Tagger()).eval()
    for _, layer in prunable_layers(masked):
        layer.random_prune_by_pct(0.8)
    return masked if request.param == "masked" else to_sparse(masked)


@pytest.fixture
def input():
    return torch.randn(3, 5, 4)


def jit_trace(model, input):
    return torch.jit.trace(model, input)


def exported(model, input):
    return torch.export.export(model, (input,)).module()


def graph_of_dispatches(model, input):
    return make_fx(model)(input)


def mapped(model, input):
    return lambda images: torch.vmap(model)(images[:, None])[:, 0]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("record", [jit_trace, exported, graph_of_dispatches])
def test_recorded(model, input, record):
    other = torch.randn(3, 5, 4)
    torch.testing.assert_close(record(model, input)(other), model(other))


def test_symbolic_trace_keeps_the_lstm(model, input):
    traced = fx.symbolic_trace(model)
    assert traced.lstm is model.lstm and len(prunable_layers(traced)) == 10
    assert torch.equal(traced(input), model(input))


def test_vmap_and_grad(input):
    masked = prunable(Tagger()).eval()
    for _, layer in prunable_layers(masked):
        layer.random_prune_by_pct(0.8)
    sparse = to_sparse(masked)
    torch.testing.assert_close(mapped(sparse, input)(input), masked(input))

    def loss(parameters):
        return torch.func.functional_call(sparse, parameters, (input,)).square().sum()

    found = torch.func.grad(loss)(dict(sparse.named_parameters()))
    masked(input).square().sum().backward()
    for name, layer in prunable_layers(masked):
        torch.testing.assert_close(found[f"{name}.values"], layer.weight.grad[layer.mask])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits(model, input, dtype):
    half = copy.deepcopy(model).to(dtype)
    output = half(input.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output, half.float()(input.to(dtype).float()).to(dtype), rtol=0.02, atol=0.02)


def test_on_the_meta_device(model, input):
    assert model.to("meta")(input.to("meta")).shape == (3, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_onnx(model, input, dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (input,), path, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    other = torch.randn(3, 5, 4)
    (output,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(other).detach(), rtol=1e-4, atol=1e-5)
