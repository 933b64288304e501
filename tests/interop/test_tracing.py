"""What records a model: torch.compile, torch.export, torch.fx, torch.jit, dispatch modes."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from torch import fx, nn  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from twins import assert_alike, batches, images, train, twins  # noqa: E402

from mpl_sparse.nn import SparseConv2d, SparseLinear, fuse, prunable_layers  # noqa: E402


@pytest.fixture
def pair():
    return twins()


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def step(model, run):
    ((input, target),) = batches(1)
    model.zero_grad()
    loss = nn.functional.cross_entropy(run(input), target)
    loss.backward()
    return loss.detach()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_step(pair, backend):
    masked, sparse = pair
    compiled = torch.compile(sparse, fullgraph=True, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(step(sparse, compiled), step(masked, masked))
    assert_alike(masked, sparse)
    if backend == "aot_eager":
        for model in pair:
            model[7].prune_by_pct(0.5)
        torch.testing.assert_close(step(sparse, compiled), step(masked, masked))
        assert_alike(masked, sparse)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("kind", ["masked", "fused", "float16", "bfloat16"])
def test_compiled_inference(pair, kind):
    masked, sparse = (model.eval() for model in pair)
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    model = {"masked": masked, "fused": fuse(sparse)}.get(kind, sparse).to(dtype)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images().to(dtype)), model(images().to(dtype)))


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_under_autocast(pair):
    _, sparse = pair
    compiled = torch.compile(sparse.eval(), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = compiled(images())
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, sparse(images()))


@pytest.mark.parametrize("kind", ["masked", "sparse", "fused", "bfloat16"])
def test_export(pair, kind):
    masked, sparse = (model.eval() for model in pair)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    model = {"masked": masked, "fused": fuse(sparse)}.get(kind, sparse).to(dtype)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images().to(dtype),), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    torch.testing.assert_close(again(images(3).to(dtype)), model(images(3).to(dtype)))


def test_symbolic_trace_keeps_the_layers(pair):
    for model in pair:
        traced = fx.symbolic_trace(model)
        assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == list("01234567")
        assert all(layer is model.get_submodule(name) for name, layer in prunable_layers(traced))
        assert len(prunable_layers(traced)) == 3
        copied = copy.deepcopy(traced)
        train(model)
        train(copied)
        assert_alike(model, copied)
        copied.get_submodule("7").prune_by_pct(0.5)
        assert copied.eval()(images()).shape == (6, 10)


def test_fuse_after_symbolic_trace(pair):
    sparse = pair[1].eval()
    traced = fuse(fx.symbolic_trace(sparse))
    assert traced.get_submodule("0").activation == "relu"
    torch.testing.assert_close(traced(images()), sparse(images()))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (SparseConv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 2, 5, 5)),
        (SparseConv2d(2, 4, 3, padding="same"), (2, 2, 5, 5)),
        (SparseLinear(6, 4, bias=False), (3, 6)),
    ],
)
def test_symbolic_trace_of_a_layer_itself(layer, shape):
    layer.prune_by_pct(0.5)
    traced = fx.symbolic_trace(layer)
    input = torch.randn(shape)
    torch.testing.assert_close(traced(input), layer(input))
    torch.testing.assert_close(traced(input[0]), layer(input[0]))
    values = dict(traced.named_parameters())["values"]
    (grad,) = torch.autograd.grad(traced(input).sum(), values)
    assert grad.shape == (layer.num_weight,)


def test_make_fx(pair):
    sparse = pair[1].eval()
    graph = make_fx(sparse)(images())
    torch.testing.assert_close(graph(images(6, seed=5)), sparse(images(6, seed=5)))
    assert torch.ops.mpl_sparse.linear.default in {node.target for node in graph.graph.nodes}


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(str(op))
        return op(*args, **(kwargs or {}))


def test_a_dispatch_mode_sees_the_operations(pair):
    masked, sparse = pair
    with Recorder() as seen:
        step(sparse, sparse)
    step(masked, masked)
    assert_alike(masked, sparse)
    for name in ("conv2d", "linear"):
        for kind in ("", "_grad_input", "_grad_values"):
            assert f"mpl_sparse.{name}{kind}.default" in seen.names


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["sparse", "fused", "masked"])
def test_jit_trace(pair, kind):
    masked, sparse = (model.eval() for model in pair)
    model = {"masked": masked, "fused": fuse(sparse), "sparse": sparse}[kind]
    traced = torch.jit.trace(model, images())
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    again = torch.jit.load(file)
    torch.testing.assert_close(again(images(3, seed=5)), model(images(3, seed=5)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_jit_script_is_refused(pair):
    for model, kind in zip(pair, ("Dense", "Sparse")):
        before = str(model)
        with pytest.raises(TypeError, match=f"torch.jit.script cannot compile {kind}Conv2d: use torch.compile"):
            torch.jit.script(model)
        with pytest.raises(TypeError, match=f"torch.jit.script cannot compile {kind}Linear"):
            torch.jit.script(model[7])
        assert str(model) == before
