"""What a layer's weights see, for any geometry, against unfolded inputs; and what the second order means."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from mpl_sparse.nn import prunable, to_sparse  # noqa: E402
from mpl_sparse.pruning import OBS, GraSP  # noqa: E402
from mpl_sparse.pruning.scores.inputs import input_gram, square_sums  # noqa: E402

pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def layers_with_inputs(draw):
    """A prunable layer in one of its forms, its input, and (groups, cols, everything), the input unfolded."""
    torch.manual_seed(draw(st.integers(0, 99)))
    sparse = draw(st.booleans())
    if draw(st.booleans()):
        plain = nn.Linear(draw(st.integers(1, 5)), 3).double()
        input = torch.randn(*draw(st.lists(st.integers(1, 3), max_size=3)), plain.in_features, dtype=torch.float64)
        seen = input.reshape(-1, plain.in_features).T.unsqueeze(0)
    else:
        groups, mode = draw(st.integers(1, 3)), draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"]))
        same = draw(st.booleans())
        padding = "same" if same else draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        stride = 1 if same else draw(pair)
        channels = groups * draw(st.integers(1, 2))
        options = {"padding": padding, "dilation": draw(pair), "groups": groups, "padding_mode": mode}
        plain = nn.Conv2d(channels, groups, draw(pair), stride, **options).double()
        batch = draw(st.sampled_from([(), (1,), (2,)]))
        input = torch.randn(*batch, channels, 8, 9, dtype=torch.float64)
        if draw(st.booleans()):
            input = input.transpose(-1, -2).contiguous().transpose(-1, -2)
        images = input if batch else input.unsqueeze(0)
        pads = [each for each in plain._reversed_padding_repeated_twice]
        padded = F.pad(images, pads, "constant" if mode == "zeros" else mode)
        patches = F.unfold(padded, plain.kernel_size, plain.dilation, 0, plain.stride)
        seen = patches.transpose(0, 1).reshape(groups, -1, patches.shape[0] * patches.shape[2])
    model = prunable(nn.Sequential(plain))
    return (to_sparse(model) if sparse else model)[0], input, seen


@given(layers_with_inputs())
def test_square_sums_and_gram(case):
    layer, input, seen = case
    torch.testing.assert_close(square_sums(layer, input), seen.square().sum(2))
    torch.testing.assert_close(input_gram(layer, input), seen @ seen.transpose(1, 2))


def test_obs_is_the_error_after_the_others_have_adapted():
    torch.manual_seed(0)
    model = prunable(nn.Sequential(nn.Linear(6, 4, bias=False)).double())
    inputs = torch.randn(30, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    scores = OBS([inputs], damping=1e-12).of(model)["0"].view(4, 6)
    for row in range(4):
        target = inputs @ model[0].weight[row].detach()
        for column in range(6):
            others = [each for each in range(6) if each != column]
            best = torch.linalg.lstsq(inputs[:, others], target.unsqueeze(1)).solution
            error = (inputs[:, others] @ best - target.unsqueeze(1)).square().sum() / 2
            assert scores[row, column].item() == pytest.approx(error.item(), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_grasp_goes_through_attention(training):
    """torch's flash attention is differentiable once; with dropout off both ways of it are the same function."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).double().train(training)
    model = prunable(nn.Sequential(layer))
    data = [torch.randn(3, 5, 8, dtype=torch.float64)]
    scores = GraSP(data, lambda model, batch: model(batch).tanh().square().sum()).of(model)
    assert scores.keys() == {"0.linear1", "0.linear2"}
    weights = [layer.linear1.weight, layer.linear2.weight]

    def flow():
        return sum(g.square().sum() for g in torch.autograd.grad(model(data[0]).tanh().square().sum(), weights)).item()

    for name, weight in zip(scores, weights):
        flat, ends = weight.data.view(-1), []
        for value in (flat[3].item() * (1 + 1e-5), flat[3].item() * (1 - 1e-5)):
            before, flat[3] = flat[3].item(), value
            ends.append(flow())
            flat[3] = before
        assert scores[name][3].item() == pytest.approx((ends[0] - ends[1]) / 4e-5, rel=1e-5)
