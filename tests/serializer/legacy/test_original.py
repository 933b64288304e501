"""Pickles of the original library: its tensors, and the state of its layers and models."""

import io
import os
import pickle
import subprocess
import sys

import file_samples
import foreign_samples
import numpy as np
import pytest

import mpl_sparse
from mpl_sparse.serializer import BadPickle, BadPositions, FileError, ForbiddenPickle, TooLarge

torch = pytest.importorskip("torch")
matrix = foreign_samples.matrix


def imported(data, **options):
    return mpl_sparse.import_legacy(io.BytesIO(data), **options)


def test_a_tensor_as_a_bitmap():
    made = mpl_sparse.import_legacy(foreign_samples.GOLDEN / "original_bitmap.pickle")
    assert made.layout == torch.sparse_coo and made.is_coalesced() and made.dtype == torch.float32
    assert np.array_equal(made.to_dense().numpy(), matrix(7, 13, 0.5))


def test_tensors_as_indices():
    made = mpl_sparse.import_legacy(foreign_samples.GOLDEN / "original_indices.pickle")
    for name, shape in (("uint8", (30, 40, 0.02)), ("int16", (10, 400, 0.02)), ("int32", (2, 40000, 0.0005))):
        assert made[name].is_coalesced() and np.array_equal(made[name].to_dense().numpy(), matrix(*shape))
    assert torch.equal(made["dense"], torch.arange(6.0).reshape(2, 3))
    assert made["epoch"] == 3 and made["rates"] == [0.5, None] and list(made)[-1] == "rates"


def test_layers_become_the_state_of_ours():
    made = mpl_sparse.import_legacy(foreign_samples.GOLDEN / "original_layers.pickle")
    mask = torch.from_numpy(file_samples.mask(7, 13, 0.5))
    weight = torch.arange(1.0, 92).reshape(7, 13)
    for layer, name in (
        (mpl_sparse.nn.DenseLinear(13, 7), "linear"),
        (mpl_sparse.nn.SparseLinear(13, 7), "sparse_linear"),
        (mpl_sparse.nn.DenseLinear(13, 7), "sparse_linear"),
    ):
        layer.load_state_dict(made[name])
        assert torch.equal(layer.mask, mask) and torch.equal(layer.bias, torch.arange(7.0))
        dense = layer.weight.to_dense() if layer.weight.is_sparse else layer.weight * layer.mask
        assert torch.equal(dense, weight * mask)
    mask = torch.from_numpy(file_samples.mask(3, 12, 0.5)).reshape(3, 2, 3, 2)
    for layer, name in (
        (mpl_sparse.nn.DenseConv2d(2, 3, (3, 2), padding=1), "conv"),
        (mpl_sparse.nn.SparseConv2d(2, 3, (3, 2), padding=1), "sparse_conv"),
    ):
        layer.load_state_dict(made[name])
        x = torch.randn(2, 2, 5, 6)
        expected = torch.nn.functional.conv2d(
            x, torch.arange(1.0, 37).reshape(3, 2, 3, 2) * mask, torch.arange(3.0), padding=1
        )
        assert torch.allclose(layer(x), expected, rtol=1e-5, atol=1e-4)
    assert made["step"] == 1


def test_the_layers_that_are_saved_are_layers_of_the_format():
    made = mpl_sparse.import_legacy(foreign_samples.GOLDEN / "original_layers.pickle")
    infos = {info.name: info for info in mpl_sparse.inspect(io.BytesIO(mpl_sparse.dumps(made)))}
    assert infos["sparse_linear"].nnz == file_samples.mask(7, 13, 0.5).sum()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.03, 0.04, 0.5, 1.0])
def test_every_protocol_and_density(protocol, density):
    pytest.importorskip("PIL")
    dense = torch.from_numpy(matrix(33, 41, density)).double()
    tensor = dense.to_sparse()
    if tensor._nnz() == 0:
        tensor = torch.eye(1, 300).double().to_sparse()  # the original cannot save an empty one
        dense = tensor.to_dense()
    made = imported(foreign_samples.original_dumps([tensor, dense], protocol))
    assert made[0].is_coalesced() and torch.equal(made[0].to_dense(), dense) and torch.equal(made[1], dense)
    assert torch.equal(mpl_sparse.loads(mpl_sparse.dumps(made))[0].to_dense(), dense)


def test_a_model_becomes_its_state():
    pytest.importorskip("PIL")
    with foreign_samples.original() as mpl:
        model = mpl["mpl.models.leaf"].Conv2()
        linear = mpl["mpl.nn.linear"].DenseLinear()
        linear.weight, linear.bias = torch.nn.Parameter(torch.randn(3, 4)), None
        linear.mask = torch.rand(3, 4) < 0.5
        sparse = mpl["mpl.nn.linear"].SparseLinear()
        weight = (linear.weight.detach() * linear.mask).to_sparse()
        sparse.weight, sparse.mask = torch.nn.Parameter(weight, requires_grad=False), linear.mask
        sparse.dense_weight_placeholder = torch.nn.Parameter(torch.full((3, 4), torch.nan))
        sparse.weight.dense, sparse.weight.is_sparse_param = sparse.dense_weight_placeholder, True
        sparse.bias = torch.nn.Parameter(torch.arange(3.0).reshape(3, 1))
        model.features = torch.nn.Sequential(linear, torch.nn.ReLU(), torch.nn.BatchNorm1d(3))
        model.tied, model.classifier = model.features[2], sparse
        model.register_buffer("passing", torch.ones(2), persistent=False)
        model.register_buffer("kept", torch.ones(2))
        model.prunable_layers = [linear, sparse]
        saved = [pickle.dumps(model, protocol) for protocol in (2, 3, 4, 5)]
        saved.append(pickle.dumps({"model": model, "epoch": 7}))
        buffer = io.BytesIO()
        torch.save(model, buffer)
        saved.append(buffer.getvalue())
    for data in saved:
        made = imported(data)
        if "epoch" in made:
            made = made["model"]
        norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
        assert list(made) == [
            "kept",
            "features.0.weight",
            "features.0.mask",
            *(f"features.2.{name}" for name in norm),
            *(f"tied.{name}" for name in norm),
            *(f"classifier.{name}" for name in ("values", "row_ptr", "col_idx", "bias")),
        ]
        assert torch.equal(made["features.0.weight"], linear.weight) and torch.equal(
            made["features.0.mask"], linear.mask
        )
        assert made["tied.weight"] is made["features.2.weight"] and made["classifier.bias"].shape == (3,)
        layer = mpl_sparse.nn.SparseLinear(4, 3)
        layer.load_state_dict({name[11:]: made[name] for name in made if name.startswith("classifier")})
        assert torch.equal(layer.weight.to_dense(), weight.to_dense())


def test_modules_of_others_are_refused():
    for module in (torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.ReLU())):
        with pytest.raises(ForbiddenPickle, match="save its state_dict"):
            imported(pickle.dumps(module))


def call(*arguments):
    with foreign_samples.original() as mpl:
        return pickle.dumps(foreign_samples.Calls(mpl["mpl.utils.save_load"].rebuild_dispatcher, *arguments))


def image(rows, cols, data=None):
    Image = pytest.importorskip("PIL.Image")
    made = Image.new("1", (cols, rows), 1)
    return made if data is None else foreign_samples.Calls(Image.Image, state=[{}, "1", (cols, rows), None, data])


VALUES = torch.arange(4.0)
INDICES = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]], dtype=torch.uint8)


@pytest.mark.parametrize(
    "error, arguments",
    [
        (BadPickle, lambda: ()),
        (BadPickle, lambda: (True, image(2, 2), VALUES)),
        (BadPickle, lambda: (1, image(2, 2), VALUES, torch.Size([2, 2]))),
        (BadPickle, lambda: (True, image(2, 2), VALUES, torch.Size([2, 2, 1]))),
        (BadPickle, lambda: (True, image(2, 2), VALUES, torch.Size([2**31, 2**31]))),
        (BadPickle, lambda: (True, image(2, 2), VALUES, torch.Size([2**62, 2**62]))),
        (BadPickle, lambda: (True, image(2, 2), VALUES, [2, -2])),
        (BadPickle, lambda: (True, image(2, 2, b"\xc0"), VALUES, torch.Size([2, 2]))),
        (BadPickle, lambda: (True, image(2, 2, "text"), VALUES, torch.Size([2, 2]))),
        (BadPickle, lambda: (True, INDICES, VALUES, torch.Size([2, 2]))),
        (BadPositions, lambda: (True, image(2, 2), VALUES[:3], torch.Size([2, 2]))),
        (BadPickle, lambda: (True, image(2, 2), VALUES.reshape(2, 2), torch.Size([2, 2]))),
        (BadPickle, lambda: (False, INDICES[:1], VALUES, torch.Size([2, 2]))),
        (BadPickle, lambda: (False, INDICES.float(), VALUES, torch.Size([2, 2]))),
        (BadPickle, lambda: (False, INDICES, VALUES[:3], torch.Size([2, 2]))),
        (BadPositions, lambda: (False, INDICES, VALUES, torch.Size([1, 2]))),
        (BadPositions, lambda: (False, INDICES, VALUES, torch.Size([2, 0]))),
        (BadPositions, lambda: (False, INDICES.to(torch.int16) - 1, VALUES, torch.Size([2, 2]))),
        (BadPositions, lambda: (False, INDICES[:, [0, 0, 1, 2]], VALUES, torch.Size([2, 2]))),
        (TooLarge, lambda: (False, INDICES[:, :1].expand(2, 10**7), VALUES[:1].expand(10**7), torch.Size([2, 2]))),
    ],
)
def test_arguments_that_make_no_matrix(error, arguments):
    with pytest.raises(FileError) as caught:
        imported(call(*arguments()), max_elements=10**6)
    assert type(caught.value) is error and caught.value.tensor == "tensor", caught.value


def test_unsorted_indices():
    order = [2, 0, 3, 1]
    made = imported(call(False, INDICES[:, order], VALUES[order], torch.Size([2, 2])))
    assert torch.equal(made.to_dense(), VALUES.reshape(2, 2)) and made.is_coalesced()


def test_without_torch():
    code = """
import sys; sys.modules["torch"] = None
import pathlib, numpy as np, mpl_sparse
sys.path.append(sys.argv[1])
from foreign_samples import GOLDEN, matrix
pattern, values = mpl_sparse.import_legacy(GOLDEN / "original_bitmap.pickle")
dense = np.zeros(pattern.shape, np.float32)
dense.reshape(-1)[pattern.flat_positions()] = values
assert np.array_equal(dense, matrix(7, 13, 0.5)) and pattern == mpl_sparse.Pattern.from_mask(matrix(7, 13, 0.5) != 0)
made = mpl_sparse.import_legacy(GOLDEN / "original_layers.pickle")
assert made["linear"]["mask"].dtype == bool and made["sparse_conv"]["row_ptr"].dtype == np.int32
for name in ("torch.pt", "torch_old.pt"):
    made = mpl_sparse.import_legacy(GOLDEN / name)
    assert np.array_equal(made["weight"], matrix(7, 13, 0.5)) and made["tied"] is made["weight"]
    assert made["half"].dtype == np.float16 and made["coo"][0] == pattern
"""
    folder = str(foreign_samples.GOLDEN.parents[2])
    result = subprocess.run([sys.executable, "-c", code, folder], env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
