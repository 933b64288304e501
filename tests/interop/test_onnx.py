"""ONNX: a sparse model is exported as it is; onnxruntime computes the same; the file is as small as the weights."""

import copy

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402
from twins import images, train, twins  # noqa: E402

from mpl_sparse import functional  # noqa: E402
from mpl_sparse.nn import DenseConv2d, DenseLinear, SparseConv2d, SparseLinear, fuse, to_sparse  # noqa: E402
from mpl_sparse.pattern import Pattern  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX export:UserWarning"),
]


@pytest.fixture(params=["dynamo", "torchscript"])
def exporter(request, tmp_path):
    """A function that exports a model, with a batch of any size, and returns the path of the file."""
    if request.param == "dynamo":
        pytest.importorskip("onnxscript")

    def export(model, input):
        path = tmp_path / "model.onnx"
        if request.param == "dynamo":
            shapes = ({0: torch.export.Dim("batch")},)
            options = {"dynamo": True, "external_data": False, "dynamic_shapes": shapes, "verbose": False}
        else:
            options = {"dynamo": False, "input_names": ["input"], "dynamic_axes": {"input": {0: "batch"}}}
        torch.onnx.export(model, (input,), path, **options)
        return path

    return export


def run(path, input):
    """What onnxruntime computes, of a file that onnx has checked."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: input.numpy()})
    return torch.from_numpy(output)


@pytest.mark.parametrize("kind", ["masked", "sparse", "fused"])
def test_a_model(exporter, kind):
    masked, sparse = twins()
    for model in (masked, sparse):
        train(model)
        model.eval()
    model = {"masked": masked, "sparse": sparse, "fused": fuse(sparse)}[kind]
    path = exporter(model, images(2))
    with torch.no_grad():
        torch.testing.assert_close(run(path, images(5)), model(images(5)), rtol=1e-4, atol=1e-5)
        assert model(images()).shape == (6, 10)  # it computes as before


LAYERS = [
    (lambda: SparseConv2d(4, 6, 3, stride=2, padding=(2, 1), dilation=(1, 2)), (2, 4, 9, 8)),
    (lambda: SparseConv2d(4, 4, (2, 3), padding="same", groups=4, bias=False), (2, 4, 9, 8)),
    (lambda: SparseConv2d(4, 6, 3, padding="valid"), (2, 4, 9, 8)),
    *(
        (lambda mode=mode: SparseConv2d(4, 6, (2, 3), padding="same", padding_mode=mode), (2, 4, 9, 8))
        for mode in ("reflect", "replicate", "circular")
    ),
    (lambda: SparseLinear(7, 5), (2, 7)),
    (lambda: SparseLinear(7, 5, bias=False), (2, 3, 7)),
]


@pytest.mark.parametrize("make, shape", LAYERS)
def test_a_layer(exporter, make, shape):
    layer = make()
    layer.random_prune_by_pct(0.7)
    for activation in ("none", "relu"):
        layer.activation = activation
        path = exporter(copy.deepcopy(layer).eval(), torch.randn(shape))
        input = torch.randn(3, *shape[1:])
        torch.testing.assert_close(run(path, input), layer(input).detach(), rtol=1e-4, atol=1e-5)


class Functional(nn.Module):
    """A user's own module over the functions."""

    def __init__(self):
        super().__init__()
        self.patterns = [Pattern.from_mask(torch.rand(shape) < 0.3) for shape in ((6, 2, 2, 3), (5, 72))]
        self.filters, self.weights = (nn.Parameter(torch.randn(pattern.nnz)) for pattern in self.patterns)

    def forward(self, input):
        options = {"padding": "same", "groups": 2, "kernel_size": (2, 3)}
        images = functional.conv2d(input, self.filters, self.patterns[0], **options)
        return functional.linear(images.flatten(1), self.weights, self.patterns[1])


def test_functions(exporter):
    model = Functional().eval()
    path = exporter(model, torch.randn(2, 4, 3, 4))
    input = torch.randn(5, 4, 3, 4)
    torch.testing.assert_close(run(path, input), model(input).detach(), rtol=1e-4, atol=1e-5)


def test_nothing_left(exporter):
    layer = SparseLinear(4, 3).eval()
    layer.prune_by_pct(1.0)
    input = torch.randn(2, 4)
    torch.testing.assert_close(run(exporter(layer, input), input), layer(input).detach())


def test_16_bits(exporter):
    layer = SparseLinear(64, 5).half().eval()
    layer.random_prune_by_pct(0.7)
    input = torch.randn(2, 64).half()
    torch.testing.assert_close(run(exporter(layer, input), input), layer(input).detach(), rtol=1e-2, atol=1e-2)


def test_the_file_is_as_small_as_the_sparse_weights(exporter):
    masked = nn.Sequential(DenseConv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), DenseLinear(64 * 16, 128)).eval()
    for layer in (masked[0], masked[3]):
        layer.random_prune_by_pct(0.9)
    sparse = to_sparse(masked)
    size = exporter(sparse, torch.randn(1, 32, 4, 4)).stat().st_size
    dense = sum(layer.weight.numel() for layer in (masked[0], masked[3])) * 4
    stored = sum(layer.num_weight for layer in (sparse[0], sparse[3])) * (4 + 8)  # a float and its position in int64
    assert stored <= size < stored + 20_000 < dense / 2
    assert exporter(masked, torch.randn(1, 32, 4, 4)).stat().st_size > dense
