"""Models in a file: the registry's name, arguments and state make the same model again, and nothing else is made."""

import json

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse import dumps, load, loads, models, save  # noqa: E402
from mpl_sparse.models import origin_of  # noqa: E402
from mpl_sparse.nn import prunable_layers  # noqa: E402
from mpl_sparse.serializer import UnknownModel, container  # noqa: E402
from mpl_sparse.serializer import models as serializer_models  # noqa: E402

CASES = {
    "masked": lambda: models.conv2(),
    "sparse": lambda: models.lenet5().to_sparse(),
    "some sparse": lambda: mpl_sparse.to_sparse(models.conv4(), exclude="features.4"),
    "arguments": lambda: models.synthetic_logistic_regression(12, classes=3).to_sparse(),
    "lstm": lambda: models.shakespeare_lstm(characters=30).to_sparse(),
    "by name": lambda: models.get_model("reddit_lstm", words=50),
}


def assert_same_model(made, model):
    assert [(name, type(module)) for name, module in made.named_modules()] == [
        (name, type(module)) for name, module in model.named_modules()
    ]
    state, expected = made.state_dict(), model.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in expected)
    assert [layer.pattern for _, layer in prunable_layers(made)] == [
        layer.pattern for _, layer in prunable_layers(model)
    ]
    assert made.training == model.training and origin_of(made) == origin_of(model)
    grads = ({name: tensor.requires_grad for name, tensor in each.named_parameters()} for each in (made, model))
    assert next(grads) == next(grads)


@pytest.mark.parametrize("case", CASES)
def test_a_model_comes_back(case, tmp_path):
    model = CASES[case]().eval()
    mpl_sparse.random_prune_by_pct(model, 0.9)
    next(model.parameters()).requires_grad_(False)
    save(model, tmp_path / "model")
    assert_same_model(load(tmp_path / "model"), model)
    target = CASES[case]().eval()
    assert load(tmp_path / "model", model=target) is target
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_of_torchvision(torchvision):
    model = models.resnet18(num_classes=7, exclude=["layer1.*"])
    model.random_prune_by_pct(0.95)
    model = model.to_sparse()
    assert_same_model(loads(dumps(model)), model)


def test_arguments_that_weights_change(torchvision):
    model = models.googlenet(init_weights=False, transform_input=True, aux_logits=False)
    made = loads(dumps(model))
    assert made.transform_input and not made.aux_logits and made.aux1 is None


def test_models_inside_other_objects(tmp_path):
    model, teacher = models.conv2().to_sparse().eval(), models.lenet5()
    optimizer = torch.optim.Adam(model.parameters())
    checkpoint = {"models": [model, teacher], "optimizer": optimizer.state_dict(), "epoch": 3}
    save(checkpoint, tmp_path / "checkpoint")
    made = load(tmp_path / "checkpoint")
    assert_same_model(made["models"][0], model)
    assert_same_model(made["models"][1], teacher)
    assert made["epoch"] == 3 and made["optimizer"]["param_groups"] == checkpoint["optimizer"]["param_groups"]
    names = {info.name for info in mpl_sparse.inspect(tmp_path / "checkpoint")}
    assert {"models.1.classifier.0.weight", "models.0.features.0"} <= names
    with pytest.raises(TypeError, match=r"obj\['models.0'\] is a Linear that no function of mpl_sparse.models made"):
        dumps({"models": [nn.Linear(2, 2)]})


FAMILIES = {
    "densenet121": {},
    "efficientnet_b0": {},
    "mobilenet_v3_small": {},
    "regnet_y_400mf": {},
    "resnext50_32x4d": {},
    "shufflenet_v2_x0_5": {},
    "squeezenet1_1": {"dropout": 0.3},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_torchvision(torchvision, family):
    if family not in models.list_models():
        pytest.skip(f"{family} is not in the registry")
    model = models.get_model(family, num_classes=5, **FAMILIES[family])
    mpl_sparse.random_prune_by_pct(model, 0.98)
    model = mpl_sparse.to_sparse(model)
    assert_same_model(loads(dumps(model)), model)


def test_a_model_of_another_dtype():
    model = models.lenet5().double()
    model.random_prune_by_pct(0.5)
    for each in (model, model.to_sparse(), models.lenet5().to_sparse().to(torch.bfloat16)):
        made = loads(dumps(each))
        assert_same_model(made, each)
        assert {tensor.dtype for tensor in made.parameters()} == {tensor.dtype for tensor in each.parameters()}


def test_a_loaded_model_trains_and_tells_what_it_is():
    model = models.lenet5()
    model.random_prune_by_pct(0.75)
    sparse = mpl_sparse.to_sparse(model, exclude="classifier.4")
    made = loads(dumps(sparse))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    images = torch.randn(2, 784)
    assert torch.equal(made(images), sparse(images))
    made(images).sum().backward()
    optimizer.step()
    assert not torch.equal(made(images), sparse(images))
    rows = {row.name: (row.now, row.why) for row in mpl_sparse.nn.conversion_report(made).rows}
    assert rows["classifier.4"] == ("DenseLinear", "not sparse in the file")
    assert rows["classifier.0"] == ("SparseLinear", "75.0% pruned")


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("classifier.4.bias"),
        lambda state: state.update({"classifier.4.bias": torch.ones(99)}),
        lambda state: state.update({"classifier.4.col_idx": state["classifier.4.col_idx"].flip(0)}),
        lambda state: state.update({"more": torch.ones(1)}),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(damage, tmp_path):
    model, other = models.lenet5().to_sparse(), models.lenet5()
    other.random_prune_by_pct(0.5)
    state = other.to_sparse().state_dict()
    damage(state)
    save(state, tmp_path / "state")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="in loading state_dict"):
        load(tmp_path / "state", model=model)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("obj", [[], 1, {5: torch.ones(1)}])
def test_what_is_no_state_is_not_loaded(obj):
    with pytest.raises(TypeError, match="must hold a model or a state_dict"):
        loads(dumps(obj), model=nn.Linear(1, 1))


def test_models_that_are_not_from_the_registry():
    with pytest.raises(
        TypeError, match="obj is a Linear that no function of mpl_sparse.models made: save its state_dict"
    ):
        dumps(nn.Linear(2, 2))
    model = models.lenet5()
    model.classifier[4] = nn.Linear(100, 3)
    with pytest.raises(ValueError, match="no longer what mpl_sparse.models.lenet5 makes"):
        dumps(model)
    with pytest.raises(ValueError, match="no longer what mpl_sparse.models.lenet5 makes"):
        dumps(mpl_sparse.fuse(models.lenet5().to_sparse().eval()))


def rewritten(data, change):
    """The file with another object in it, all checksums in order."""
    file = container.read(data)
    change(file.tree)
    return b"".join(container.write([(record, file.arrays(record)) for record in file.records], file.tree))


def set_in(tree, at, value):
    tree[at] = value


@pytest.mark.parametrize(
    "name, change, error",
    [
        ("another model", lambda tree: set_in(tree, 1, "conv2"), "does not fit"),
        ("an unknown one", lambda tree: set_in(tree, 1, "os.system"), "name must be one of"),
        ("a private one", lambda tree: set_in(tree, 1, "__init__"), "name must be one of"),
        ("unknown arguments", lambda tree: set_in(tree, 2, ["dict", [["x", 1]]]), "unexpected keyword"),
        ("a weight less", lambda tree: set_in(tree[3][1][0], 0, "other"), "does not fit"),
        ("sparse layers", lambda tree: set_in(tree, 4, ["classifier.0"]), "classifier.0"),
        ("layers that are not", lambda tree: set_in(tree, 4, ["nobody"]), "nobody"),
        ("parameters that are not", lambda tree: set_in(tree, 5, ["nobody"]), "nobody"),
    ],
)
def test_a_file_that_names(name, change, error):
    with pytest.raises(UnknownModel, match=error) as caught:
        loads(rewritten(dumps(models.synthetic_logistic_regression()), change))
    assert isinstance(caught.value, mpl_sparse.serializer.FileError), name


def test_a_file_cannot_ask_for_weights_or_memory():
    data = dumps(models.synthetic_logistic_regression())
    with pytest.raises(mpl_sparse.serializer.BadHeader, match="other weights"):
        loads(rewritten(data, lambda tree: set_in(tree, 2, ["dict", [["weights", "DEFAULT"]]])))
    with pytest.raises(UnknownModel, match="does not fit"):  # made without memory, and compared, before it is made
        loads(rewritten(data, lambda tree: set_in(tree, 2, ["dict", [["features", 2**40]]])))
    assert json.loads(json.dumps(container.read(data).tree))[1] == "synthetic_logistic_regression"


def test_a_file_cannot_ask_for_memory_by_batch_norms(torchvision):
    outline = serializer_models._outline("mobilenet_v2", {"num_classes": 2**40, "width_mult": 0.5})
    assert (
        sum(tensor.numel() for tensor in outline.state_dict().values() if not tensor.is_meta) < 100
    )  # counts of batches
