"""Saving, loading and copying a model: state_dict, torch.save, pickle, copy, shared memory."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

from twins import assert_alike, images, masked_model, train, twins, weights  # noqa: E402

from mpl_sparse.nn import SparseLinear, prunable_layers, to_sparse  # noqa: E402


def patterns(model):
    return [layer.pattern for _, layer in prunable_layers(model)]


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


def test_a_state_dict_goes_through_a_safe_file_into_another_pattern():
    _, source = twins()
    _, target = twins(seed=3)
    train(source)
    assert patterns(source) != patterns(target)
    target.load_state_dict(torch.load(saved(source.state_dict()), weights_only=True))
    assert patterns(source) == patterns(target)
    assert torch.equal(source.eval()(images()), target.eval()(images()))


def test_training_goes_on_as_if_it_had_not_been_interrupted():
    _, model = twins()
    _, other = twins(seed=3)
    train(model)
    other.load_state_dict(torch.load(saved(model.state_dict()), weights_only=True))
    assert train(model) == train(other)
    assert_alike(model, other)


def test_a_masked_checkpoint_into_a_sparse_model_and_back():
    masked, sparse = twins()
    train(masked)
    _, target = twins(seed=3)
    target.load_state_dict(torch.load(saved(masked.state_dict()), weights_only=True))
    assert patterns(target) == patterns(masked)
    again = masked_model(seed=3)
    again.load_state_dict(target.state_dict())
    torch.testing.assert_close(target.eval()(images()), masked.eval()(images()))
    assert torch.equal(again.eval()(images()), masked(images()))


def test_a_checkpoint_without_masks_keeps_the_patterns():
    masked, sparse = twins()
    dense = masked_model(seed=3)
    before = patterns(sparse)
    state = {name: tensor for name, tensor in dense.state_dict().items() if not name.endswith("mask")}
    sparse.load_state_dict(state)
    assert patterns(sparse) == before
    for (_, layer), (_, source) in zip(prunable_layers(sparse), prunable_layers(dense)):
        assert torch.equal(layer.values, source.weight[layer.mask])


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda state: state.pop("7.bias"), r'Missing key\(s\) in state_dict: "7.bias"'),
        (lambda state: state.pop("3.col_idx"), r"Missing key.*3\.values"),
        (lambda state: state.update(more=torch.ones(1)), r'Unexpected key\(s\) in state_dict: "more"'),
        (lambda state: state.update({"3.values": torch.ones(2)}), r"layer '3': values must have shape"),
        (lambda state: state.update({"7.row_ptr": state["7.row_ptr"].flip(0)}), "layer '7': .*row_ptr"),
    ],
)
def test_a_strict_load_names_what_is_wrong(spoil, words):
    _, sparse = twins()
    state = sparse.state_dict()
    spoil(state)
    with pytest.raises(RuntimeError, match=words):
        twins(seed=3)[1].load_state_dict(state)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved_whole(model):
    return torch.load(saved(model), weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved_whole])
@pytest.mark.parametrize("kind", [0, 1], ids=["masked", "sparse"])
def test_a_copy_trains_and_is_pruned_alone(kind, copied):
    model = twins()[kind]
    train(model)
    other = copied(model)
    before = weights(model)
    assert torch.equal(model.eval()(images()), other.eval()(images()))
    other[7].prune_by_pct(0.5)
    train(other.train())
    assert weights(model).keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


def test_a_whole_model_is_no_safe_file():
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(saved(twins()[1]), weights_only=True)


def test_a_shallow_copy_shares_its_parameters_as_torchs_layers_do():
    layer = twins()[1][7]
    other = copy.copy(layer)
    with torch.no_grad():
        layer.values.mul_(2)
    input = torch.randn(2, 256)
    assert other.values is layer.values and torch.equal(other(input), layer(input))


def test_shared_memory():
    _, model = twins()
    expected = model.eval()(images())
    model.share_memory()
    assert all(tensor.is_shared() for tensor in model.state_dict().values())
    assert torch.equal(model(images()), expected)


def test_a_half_converted_model_loads_both_kinds():
    masked, sparse = twins()
    mixed = copy.deepcopy(masked)
    mixed[7] = SparseLinear.from_dense(mixed[7])
    for source in (masked, sparse):
        mixed.load_state_dict(source.state_dict())
        torch.testing.assert_close(mixed.eval()(images()), to_sparse(masked).eval()(images()))
