"""Models that nobody here wrote: families of timm, from prunable to a checkpoint of the sparse model."""

import pytest

torch = pytest.importorskip("torch")

from signals import assert_same_signals, keep_signals  # noqa: E402

import mpl_sparse  # noqa: E402
from mpl_sparse.nn import prunable_layers  # noqa: E402

# Each has something of its own: weights read by their parents (eva, efficientvim), convolutions that standardise their
# weight (nf_regnet), linear layers with a forward of their own (lcnet), heads of several kinds.
NAMES = [
    *("vit_tiny_patch16_224", "eva02_tiny_patch14_224", "efficientvim_m1", "xcit_nano_12_p16_224", "gmlp_ti16_224"),
    *("nf_regnet_b0", "lcnet_050", "mobilevit_xxs", "resnest14d", "levit_128s", "convnext_atto", "res2net50_48w_2s"),
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def timm(torchvision):
    return pytest.importorskip("timm")


@pytest.mark.parametrize("name", NAMES)
def test_from_prunable_to_a_checkpoint(timm, name):
    model = timm.create_model(name, num_classes=7).double().eval()
    size = (
        64
        if "224" not in name and "levit" not in name and "mobilevit" not in name
        else model.default_cfg["input_size"][1]
    )
    images, labels = torch.randn(2, 3, size, size, dtype=torch.float64), torch.tensor([1, 5])
    parameters = list(model.parameters())
    mpl_sparse.random_prune_by_pct(mpl_sparse.prunable(model), 0.8, torch.Generator().manual_seed(0))
    assert all(a is b for a, b in zip(model.parameters(), parameters))
    keep_signals(model, images)
    sparse = mpl_sparse.to_sparse(model)
    assert len(prunable_layers(sparse)) == len(prunable_layers(model)) > 10
    assert not [row for row in mpl_sparse.conversion_report(sparse).left if row.was.startswith("Dense")]
    outputs = []
    for each in (model, sparse):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.01)
        torch.nn.functional.cross_entropy(each(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(each.parameters(), 1.0)
        optimizer.step()
        outputs.append(each(images).detach())
    assert_same_signals(outputs[1], outputs[0])
    fresh = mpl_sparse.to_sparse(mpl_sparse.prunable(timm.create_model(name, num_classes=7).double().eval()))
    fresh.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(fresh(images), sparse.train().eval()(images))  # some models keep what they computed
