"""What is loaded equals what was saved, bit for bit: tensors of torch, and all that holds them."""

import io
from collections import Counter, OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse import Pattern, dumps, inspect, load, loads, save  # noqa: E402
from mpl_sparse.nn import DenseConv2d, SparseConv2d, SparseLinear  # noqa: E402
from mpl_sparse.serializer import BadValues, NoSuchTensor, TooLarge, UnknownPattern  # noqa: E402
from mpl_sparse.serializer.values import compressed, decompressed  # noqa: E402

DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.complex128),
]
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def raw(tensor):
    """The bytes of a dense tensor, NaN payloads and signs of zeros included."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def parts(tensor):
    if tensor.layout == torch.strided:
        return [tensor]
    if tensor.layout == torch.sparse_coo:
        return [tensor.detach()._indices(), tensor.detach()._values()]
    rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    positions = (tensor.crow_indices(), tensor.col_indices()) if rows else (tensor.ccol_indices(), tensor.row_indices())
    return [*positions, tensor.detach().values()]


def assert_same(made, saved):
    assert type(made) is type(saved)
    if isinstance(saved, torch.Tensor):
        assert (made.layout, made.dtype, made.shape) == (saved.layout, saved.dtype, saved.shape)
        assert made.requires_grad == saved.requires_grad and made.is_leaf
        if saved.layout == torch.sparse_coo:
            assert made.is_coalesced() == saved.is_coalesced()
        for one, other in zip(parts(made), parts(saved)):
            assert one.dtype == other.dtype and one.shape == other.shape and raw(one) == raw(other)
    elif isinstance(saved, dict):
        assert list(made) == list(saved) and list(map(type, made)) == list(map(type, saved))
        assert getattr(made, "_metadata", None) == getattr(saved, "_metadata", None)
        for key in saved:
            assert_same(made[key], saved[key])
    elif isinstance(saved, (list, tuple)):
        assert len(made) == len(saved)
        for one, other in zip(made, saved):
            assert_same(one, other)
    elif isinstance(saved, np.ndarray):
        assert (made.dtype, made.shape, made.tobytes()) == (saved.dtype, saved.shape, saved.tobytes())
    elif isinstance(saved, float):
        assert np.float64(made).tobytes() == np.float64(saved).tobytes()
    else:
        assert made == saved


def assert_comes_back(obj, **options):
    assert_same(loads(dumps(obj, **options)), obj)


def random_bits(dtype, shape, density, seed):
    """Any bits at all, zeroed where a coin says so."""
    random, size = np.random.default_rng(seed), torch.empty(0, dtype=dtype).element_size()
    numel = int(np.prod(shape))
    bits = random.integers(0, 2 if dtype == torch.bool else 256, (numel, size), np.uint8)
    bits[random.random(numel) >= density] = 0
    if not numel:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(bits.reshape(-1)).view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(shapes, st.sampled_from([0, 0.05, 0.5, 1]), st.integers(0, 99))
def test_dense(dtype, shape, density, seed):
    assert_comes_back(random_bits(dtype, shape, density, seed))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(shapes.filter(len), st.sampled_from([0, 0.1, 0.5, 0.95, 1]), st.integers(0, 99))
def test_sparse(dtype, shape, density, seed):
    """Stored zeros stay stored: positions are those of a mask, values are any bits."""
    mask = torch.from_numpy(np.random.default_rng(seed).random(shape) < density)
    indices = mask.nonzero().T.contiguous()
    values = random_bits(dtype, (indices.shape[1],), 0.7, seed)
    coo = torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True)
    assert_comes_back(coo)
    if len(shape) == 2:
        row_ptr = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
        for index in (torch.int32, torch.int64):
            assert_comes_back(torch.sparse_csr_tensor(row_ptr.to(index), indices[1].to(index), values, shape))


@pytest.mark.parametrize("density", [0.002, 0.04, 0.2, 0.35, 0.5, 0.62, 0.9, 0.999])
def test_every_coding(density):
    weight = torch.randn(300, 401) * (torch.rand(300, 401) < density)
    assert_comes_back({"dense": weight, "coo": weight.to_sparse(), "csr": weight.to_sparse_csr(), "mask": weight != 0})


def test_many_dimensions():
    """torch has 64, numpy 1 has 32."""
    for tensor in (torch.randn((1,) * 63 + (2,)), torch.eye(2).reshape((1,) * 38 + (2, 2)).to_sparse()):
        assert_comes_back(tensor)


def test_sparse_tensors_of_other_kinds():
    dense = torch.randn(4, 6) * (torch.rand(4, 6) < 0.5)
    uncoalesced = torch.sparse_coo_tensor([[1, 0, 1], [2, 0, 2]], [1.0, -0.0, 3.0], (3, 3))
    flagless = torch.sparse_coo_tensor([[2, 0], [0, 1]], [1.0, 2.0], (3, 3))
    hybrid = torch.randn(3, 4, 2).to_sparse(1)
    batched = torch.stack([dense.bool().double()] * 2).to_sparse_csr()
    rest = dense.to_sparse_csc(), dense.to_sparse_bsr((2, 3)), dense.to_sparse_bsc((2, 3))
    huge = torch.sparse_coo_tensor([[2**30], [5]], [1.0], (2**31, 2**31 + 1)).coalesce()  # no int64 for a position
    for tensor in (uncoalesced, flagless, hybrid, batched, *rest, huge):
        assert_comes_back(tensor)


def test_views_and_strides_come_back_as_values():
    base = torch.randn(6, 4, dtype=torch.complex64)
    for tensor in (base.T, base[::2, 1], base.conj(), base.imag, torch._neg_view(base.real), torch.ones(1).expand(5)):
        made = loads(dumps(tensor))
        assert torch.equal(made, tensor) and made.dtype == tensor.dtype and made.is_contiguous()


def test_gradients_and_parameters():
    parameter = nn.Parameter(torch.randn(3, 3))
    frozen = nn.Parameter(torch.randn(3), requires_grad=False)
    sparse = torch.eye(3).to_sparse().requires_grad_()
    csr = torch.eye(3).to_sparse_csr().requires_grad_()
    assert_comes_back([parameter, frozen, torch.ones(2, requires_grad=True), sparse, csr])


def test_nested_objects():
    nan = np.uint64(0xFFF8000000000123).view(np.float64).item()
    assert_comes_back(
        {
            "text": "ä\ud800\0",
            "numbers": [0, -(2**70), 2**13_999, True, None, 1.5, -0.0, 5e-324, float("inf"), nan],
            3: (torch.ones(2), [torch.zeros(0, 2)], ()),
            (1, ("a", None)): OrderedDict(b=torch.eye(3), a={}),
            2.5: np.arange(6, dtype=np.int16).reshape(2, 3),
            None: np.array(-0.0),
            False: "no",
            "counter": Counter(a=2, b=1),
        }
    )


def test_bools_of_other_bytes_are_true():
    twos = torch.tensor([2, 0, 255, 1], dtype=torch.uint8)
    for obj in (twos.view(torch.bool), twos.numpy().view(np.bool_), torch.cat([twos, torch.zeros(400)]).bool()):
        assert loads(dumps(obj)).tolist() == [bool(element) for element in obj]


def test_one_tensor_in_two_places_is_stored_once():
    weight = torch.randn(1000)
    data = dumps({"a": weight, "b": weight.detach(), "c": weight[:500], "d": nn.Parameter(weight)})
    assert len(data) < 4000 + 2000 + 4000 + 2500
    made = loads(data)
    assert made["a"] is made["b"] and made["a"] is not made["d"]
    assert_same(made["c"], weight[:500])


def test_names_that_meet():
    obj = {
        "a.b": torch.ones(1),
        "a": {"b": torch.ones(2)},
        "w": torch.eye(40).to_sparse(),
        "w.mpl.values": torch.ones(3),
    }
    obj["__metadata__"], obj["x\ud800"], obj[""] = torch.ones(4), torch.ones(5), torch.ones(6)
    assert_comes_back(obj)
    assert len({info.name for info in inspect(io.BytesIO(dumps(obj)))}) == len(obj)


def test_names_that_all_meet_take_no_longer():
    """All are "??" in a file. 400 million steps if each looked for a free name from the first one on."""
    odd = [chr(0xD800 + one) + chr(0xD800 + other) for one in range(100) for other in range(200)]
    obj = {name: np.arange(at, at + 2, dtype=np.uint8) for at, name in zip(range(1, 200), odd)}
    obj.update((name, number) for number, name in enumerate(odd[200:]))
    assert_comes_back(obj)
    names = {info.name for info in inspect(io.BytesIO(dumps(obj)))}
    assert names == {"??", *(f"??#{copy}" for copy in range(2, 200))}


def test_bytes_that_can_change_are_not_kept():
    tensor = torch.arange(1.0, 9.0)
    data = bytearray(dumps({"full": tensor, "coo": tensor.to_sparse()}))
    made = loads(data)
    data[-32:] = bytes(32)
    assert torch.equal(made["full"], tensor) and torch.equal(made["coo"].to_dense(), tensor)
    made["full"].add_(1)
    assert data[-32:] == bytes(32)


def pruned_layers():
    conv = SparseConv2d(3, 5, 3, bias=False)
    conv.random_prune_by_pct(0.7)
    linear = SparseLinear(40, 30)
    linear.random_prune_by_pct(0.9)
    with torch.no_grad():
        linear.values[:3] = torch.tensor([0.0, -0.0, float("nan")])
    return conv, linear


def test_states_of_layers_and_models():
    conv, linear = pruned_layers()
    masked = DenseConv2d(3, 4, 3)
    masked.random_prune_by_pct(0.5)
    model = nn.Sequential(conv, nn.BatchNorm2d(5), masked, nn.Flatten(), linear)
    for module in (conv, linear, masked, model):
        assert_comes_back(module.state_dict())
        assert_comes_back(dict(module.state_dict(keep_vars=True)))
    assert [info.name for info in inspect(io.BytesIO(dumps(conv.state_dict())))] == ["layer"]
    names = {info.name: info.nnz for info in inspect(io.BytesIO(dumps(model.state_dict())))}
    assert names["0"] == conv.num_weight and names["4"] == linear.num_weight and "4.bias" in names


def test_what_only_looks_like_a_layer():
    values, row_ptr, col_idx = torch.ones(2), torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([3, 0]).int()
    good = {"values": values, "row_ptr": row_ptr, "col_idx": col_idx}
    for change in (
        {"values": torch.ones(3)},
        {"values": 5},
        {"row_ptr": torch.tensor([0, 2, 2]).int(), "col_idx": torch.tensor([1, 1]).int()},
        {"row_ptr": torch.tensor([1, 1, 2]).int()},
        {"row_ptr": torch.tensor([]).int()},
        {"col_idx": torch.tensor([-1, 0]).int()},
        {"col_idx": torch.tensor([3, 0])},
        {"col_idx": torch.tensor([[3, 0]]).int()},
    ):
        assert_comes_back({**good, **change})
        assert_comes_back({"m": {f"0.{key}": value for key, value in {**good, **change}.items()}})
    assert_comes_back(good)


def test_patterns_and_pairs():
    mask = torch.rand(4, 3, 5, 5) < 0.2
    pattern = Pattern.from_mask(mask)
    made = loads(
        dumps([pattern, (pattern, torch.randn(pattern.nnz)), (pattern, torch.ones(pattern.nnz + 1)), (pattern,)])
    )
    assert made[0] == pattern and torch.equal(made[0].to_mask(), mask)
    assert (
        made[1][0] == pattern and made[2][0] == pattern and made[3] == (pattern,) and len(made[2][1]) == pattern.nnz + 1
    )


def test_known_patterns_are_not_stored():
    _, linear = pruned_layers()
    other = Pattern.from_mask(np.eye(30, 40, dtype=bool))
    state, weight = linear.state_dict(), linear.weight.detach()
    for obj in (state, weight, (linear.pattern, linear.values.detach()), linear.pattern):
        data = dumps(obj, known=[other, linear.pattern])
        assert "ref" in {info.encoding for info in inspect(io.BytesIO(data))}
        made = loads(data, known=[linear.pattern])
        assert_same(made, obj) if obj is not linear.pattern else None
        with pytest.raises(UnknownPattern, match=linear.pattern.id):
            loads(data, known=[other])


def test_names(tmp_path):
    conv, linear = pruned_layers()
    state = {"conv": conv.state_dict(), "linear": linear.state_dict(), "steps": [torch.ones(1), torch.ones(2)]}
    save(state, tmp_path / "file")
    assert {"linear", "conv", "steps.0", "steps.1"} < {info.name for info in inspect(tmp_path / "file")}
    made = load(tmp_path / "file", names=["steps.1", "linear"])
    assert list(made) == ["steps.1", "linear"] and torch.equal(made["steps.1"], torch.ones(2))
    assert_same(made["linear"], {key: state["linear"][key] for key in ("values", "row_ptr", "col_idx")})
    with pytest.raises(NoSuchTensor, match="nobody") as caught:
        load(tmp_path / "file", names=["steps.1", "nobody"])
    assert caught.value.tensor == "nobody"
    # the other tensors are not looked at
    data = bytearray((tmp_path / "file").read_bytes())
    data[-1] ^= 1  # the positions of a layer: the smallest elements come last
    assert torch.equal(loads(data, names=["steps.0"])["steps.0"], torch.ones(1))


def test_a_default_device_does_not_matter():
    eye = torch.eye(3)
    obj = [eye, eye.to_sparse(), eye.to_sparse_csr(), eye.to_sparse_csc(), SparseLinear(3, 2).state_dict()]
    data = dumps(obj)
    with torch.device("meta"):
        made = loads(data)
    assert_same(made, obj)


def test_max_elements():
    sparse, dense = torch.eye(100).to_sparse(), torch.zeros(100, 100)
    assert_same(loads(dumps(sparse), max_elements=200), sparse)
    with pytest.raises(TooLarge, match="200 elements, max_elements is 199"):  # two indices each
        loads(dumps(sparse), max_elements=199)
    with pytest.raises(TooLarge, match="10000 elements, max_elements is 9999"):
        loads(dumps(dense), max_elements=9999)
    assert_same(loads(dumps(dense), max_elements=10_000), dense)
    assert_same(loads(dumps({"a": sparse, "b": dense}), max_elements=200, names=["a"]), {"a": sparse})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.bfloat16, np.float16])
def test_rounded_values(dtype):
    narrow = torch.bfloat16 if "bfloat" in str(dtype) else torch.float16
    special = torch.tensor(
        [0.0, -0.0, float("inf"), -float("inf"), 1e-45, 6e-8, 70000.0, 3e38, 1 + 2**-8, 1 + 3 * 2**-9]
    )
    weight = torch.cat([special, torch.randn(2000) * torch.rand(2000).mul(60).sub(40).exp2()])
    nans = torch.tensor([0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    obj = {
        "w": weight,
        "d": weight.double(),
        "n": nans,
        "s": weight.to_sparse(),
        "i": torch.arange(5),
        "h": weight.half(),
    }
    made = loads(dumps(obj, dtype=dtype))
    for name in ("w", "d", "s"):
        assert made[name].dtype == obj[name].dtype and torch.equal(
            made[name].to_dense(), obj[name].to_dense().float().to(narrow).to(obj[name].dtype)
        )
    assert made["n"].isnan().all()
    assert_same({name: made[name] for name in "ih"}, {name: obj[name] for name in "ih"})
    assert len(dumps(weight, dtype=dtype)) < 0.6 * len(dumps(weight))


def test_zstd():
    pytest.importorskip("zstandard")
    weight = torch.randn(200, 300) * (torch.rand(200, 300) < 0.1)
    obj = {
        "w": weight,
        "s": weight.to_sparse(),
        "z": torch.zeros(1000).int() + 7,
        "c": weight.to(torch.complex64),
        "e": torch.ones(0),
    }
    assert_comes_back(obj, compress="zstd")
    assert_same(loads(dumps(obj, compress="zstd", dtype="float16"))["z"], obj["z"])
    assert len(dumps(obj, compress="zstd")) < len(dumps(obj)) - 3900


def test_a_frame_cannot_ask_for_memory():
    """zstd's window is bounded: here one of 128 MB."""
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = np.frombuffer(frame.compress(bytes(4000)) + frame.flush(), np.uint8)
    with pytest.raises(BadValues, match="do not decompress"):
        decompressed(packed, 1000, "<u4")


@pytest.mark.parametrize("change", [lambda packed: packed[:-1], lambda packed: packed[:20], lambda packed: packed * 2])
@pytest.mark.parametrize("count", [999, 1000, 1001])
def test_frames_of_other_sizes(change, count):
    pytest.importorskip("zstandard")
    bits = np.arange(1000, dtype="<u4")
    packed = compressed(bits).tobytes()
    assert np.array_equal(decompressed(np.frombuffer(packed, np.uint8), 1000, "<u4"), bits)
    with pytest.raises(BadValues):
        decompressed(np.frombuffer(change(packed), np.uint8), count, "<u4")


def test_a_plain_reader_opens_it():
    safetensors = pytest.importorskip("safetensors.torch")
    _, linear = pruned_layers()
    tensors = safetensors.load(dumps({"a.weight": torch.arange(6.0).reshape(2, 3) + 1, "l": linear.weight.detach()}))
    assert torch.equal(tensors["a.weight"], torch.arange(6.0).reshape(2, 3) + 1)
    assert raw(tensors["l.mpl.values"]) == raw(linear.values)


def test_the_originals_example():
    weight = torch.randn(1000, 1000) * (torch.rand(1000, 1000) < 0.5)
    assert len(dumps(weight.to_sparse())) <= 2.13e6


def test_a_state_is_no_larger_than_its_dense_file():
    safetensors = pytest.importorskip("safetensors.torch")
    model = mpl_sparse.prunable(nn.Sequential(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)))
    for pct in (0.0, 0.01, 0.3, 0.6, 0.99):
        model.random_prune_by_pct(pct) if hasattr(model, "random_prune_by_pct") else mpl_sparse.random_prune_by_pct(
            model, pct
        )
        sparse = {name: tensor for name, tensor in mpl_sparse.to_sparse(model).state_dict().items()}
        dense = safetensors.save({name: tensor for name, tensor in model.state_dict().items() if "mask" not in name})
        assert len(dumps(sparse)) <= len(dense) + 2500


@pytest.mark.parametrize(
    "obj", [object(), {1, 2}, b"bytes", 1j, torch.float32, torch.Size([1]), [{"x": slice(1)}], {b"k": 1}]
)
def test_other_objects_are_refused(obj):
    with pytest.raises(TypeError, match="obj.*cannot be saved"):
        dumps(obj)


def test_refusals():
    cyclic = []
    cyclic.append(cyclic)
    with pytest.raises(ValueError, match="does it hold itself"):
        dumps(cyclic)
    with pytest.raises(ValueError, match=r"obj\['a'\] is an int of 14001 bits"):
        dumps({"a": 2**14000})
    deep = ()
    for _ in range(5000):
        deep = (deep,)
    with pytest.raises(ValueError, match=r"obj\['a'\] is nested deeper than 100"):
        dumps({"a": {deep: 1}})
    for obj in ({"a": "\ud83d\ude00"}, {"a": {"\ud83d\ude00": 1}}):  # JSON has one way to write this and U+1F600
        with pytest.raises(ValueError, match=r"obj\['a'\] is a str with surrogates in a pair"):
            dumps(obj)
    assert loads(dumps("\udc80 \ud83d \U0001f600")) == "\udc80 \ud83d \U0001f600"
    outside = torch.sparse_coo_tensor([[5]], torch.ones(1), (3,), check_invariants=False)
    with pytest.raises(ValueError, match=r"obj\['a'\] is no sparse_coo tensor"):
        dumps({"a": outside})
    with pytest.raises(TypeError, match=r"obj\['a'\] is a torch.strided UninitializedParameter"):
        dumps({"a": nn.UninitializedParameter()})
    with pytest.raises(ValueError, match=r"obj\['a.0'\] is on the meta device"):
        dumps({"a": [torch.empty(2, device="meta")]})
    with pytest.raises(TypeError, match="elements of type"):
        dumps(np.array(["a"]))
    with pytest.raises(TypeError, match="elements of type"):
        dumps(np.ones(2, ">f4"))
    with pytest.raises(TypeError, match="elements of type torch.qint8"):
        dumps(torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8))
    with pytest.raises(TypeError, match="nested tensor"):
        dumps(torch.nested.nested_tensor([torch.ones(2)]))
    with pytest.raises(TypeError, match="sparse_coo Parameter"):
        dumps(nn.Parameter(torch.eye(2).to_sparse()))
    with pytest.raises(TypeError, match="MaskedArray"):
        dumps(np.ma.ones(2))
    with pytest.raises(ValueError, match="compress must be"):
        dumps(1, compress="gzip")
    with pytest.raises(ValueError, match="dtype must be"):
        dumps(1, dtype=torch.float32)
    with pytest.raises(TypeError, match="known must hold"):
        dumps(1, known=[torch.ones(2)])
    with pytest.raises(ValueError, match="max_elements"):
        loads(dumps(1), max_elements=-1)
    for known in (None, Pattern.from_mask(np.eye(2, dtype=bool))):
        with pytest.raises(TypeError, match="known must be a list"):
            dumps(1, known=known)
    for names in ("weight", b"weight", 5, [5], [None]):
        with pytest.raises(ValueError, match="names must be a list"):
            loads(dumps(1), names=names)
    with pytest.raises(ValueError, match="names and model exclude each other"):
        loads(dumps({}), names=[], model=nn.Linear(1, 1))
    with pytest.raises(TypeError, match="model must be"):
        loads(dumps({}), model=1)
    with pytest.raises(TypeError, match="must hold a model or a state_dict"):
        loads(dumps([]), model=nn.Linear(1, 1))
