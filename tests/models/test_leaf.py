"""LEAF's reference models: parameters counted from LEAF's shapes, outputs, and a step of sparse training."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import mpl_sparse.models as models  # noqa: E402
from mpl_sparse.nn import SparseConv2d, SparseLinear  # noqa: E402
from mpl_sparse.optim import SGD  # noqa: E402


def cell(inputs, hidden):
    """The parameters of one BasicLSTMCell or LSTMBlockCell: a kernel (inputs + hidden, 4 * hidden) and biases."""
    return (inputs + hidden) * 4 * hidden + 4 * hidden


# constructor, class, arguments, one input, the output's shape, LEAF's parameters, second bias vectors that torch adds
MODELS = [
    (
        models.conv2,
        models.Conv2,
        (),
        lambda: torch.randn(2, 1, 28, 28),
        (2, 62),
        (5 * 5 * 1 + 1) * 32 + (5 * 5 * 32 + 1) * 64 + (7 * 7 * 64 + 1) * 2048 + (2048 + 1) * 62,
        0,
    ),
    (
        models.conv4,
        models.Conv4,
        (),
        lambda: torch.randn(2, 3, 84, 84),
        (2, 2),
        (3 * 3 * 3 + 1) * 32 + 3 * (3 * 3 * 32 + 1) * 32 + 4 * 2 * 32 + (6 * 6 * 32 + 1) * 2,
        0,
    ),
    (
        models.shakespeare_lstm,
        models.ShakespeareLSTM,
        (),
        lambda: torch.randint(80, (2, 7)),
        (2, 80),
        80 * 8 + cell(8, 256) + cell(256, 256) + (256 + 1) * 80,
        2 * 1024,
    ),
    (
        models.sent140_lstm,
        models.Sent140LSTM,
        (500,),
        lambda: torch.randint(501, (2, 7)),
        (2, 2),
        501 * 100 + 2 * cell(100, 100) + (100 + 1) * 128 + (128 + 1) * 2,
        2 * 400,
    ),
    (
        models.sent140_logistic_regression,
        models.Sent140LogisticRegression,
        (500,),
        lambda: torch.randint(3, (2, 500)).float(),
        (2, 2),
        (500 + 1) * 2,
        0,
    ),
    (
        models.reddit_lstm,
        models.RedditLSTM,
        (300,),
        lambda: torch.randint(300, (2, 7)),
        (2, 7, 300),
        300 * 256 + 2 * cell(256, 256) + (256 + 1) * 300,
        2 * 1024,
    ),
    (
        models.synthetic_logistic_regression,
        models.SyntheticLogisticRegression,
        (),
        lambda: torch.randn(2, 60),
        (2, 5),
        (60 + 1) * 5,
        0,
    ),
]
every_model = pytest.mark.parametrize(
    "make, kind, arguments, input, shape, parameters, more", MODELS, ids=[row[1].__name__ for row in MODELS]
)


@every_model
def test_parameters_are_those_of_leaf(make, kind, arguments, input, shape, parameters, more):
    model = make(*arguments)
    assert type(model) is kind
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters + more
    # all but embeddings and batch norms can be pruned
    others = (each for each in model.modules() if isinstance(each, (nn.Embedding, nn.BatchNorm2d)))
    assert model.nelement() == parameters + more - sum(each.weight.numel() for each in others) - (
        4 * 32 if kind is models.Conv4 else 0
    )


@every_model
def test_prune_make_sparse_train_a_step(make, kind, arguments, input, shape, parameters, more):
    model = make(*arguments).prune_by_pct(0.7)
    sparse = model.to_sparse()
    assert type(sparse) is kind
    assert all(isinstance(layer, (SparseConv2d, SparseLinear)) for layer in sparse.prunable_layers)
    assert sparse.density(count_bias=False) == pytest.approx(0.3, abs=0.01)
    batch = input()
    expected = model.eval()(batch)
    assert expected.shape == shape
    output = sparse.eval()(batch)
    torch.testing.assert_close(output, expected)
    optimizer = SGD(sparse.train().parameters(), lr=0.01, momentum=0.9)
    classes = torch.randint(shape[-1], shape[:-1])
    before = [layer.remaining_weight().clone() for layer in sparse.prunable_layers]
    nn.functional.cross_entropy(sparse(batch).movedim(-1, 1), classes).backward()
    optimizer.step()
    for layer, weights in zip(sparse.prunable_layers, before):
        assert layer.num_weight == len(weights) and not torch.equal(layer.remaining_weight(), weights)
    assert sparse.to_dense().nnz() == sparse.nnz()


def test_sizes_without_an_argument_are_those_of_leaf():
    assert models.ShakespeareLSTM().embedding.num_embeddings == 80
    with torch.device("meta"):  # of real size, without its memory
        assert models.sent140_lstm().embedding.num_embeddings == 400_001
        assert models.sent140_logistic_regression().classifier.weight.shape == (2, 400_000)
        assert models.reddit_lstm().classifier.weight.shape == (10_000, 256)


def test_forget_gates_start_as_in_leaf():
    """BasicLSTMCell adds 1 to the forget gate, LSTMBlockCell here adds nothing and has zero biases."""
    for lstm in (models.shakespeare_lstm().lstm, models.sent140_lstm(5).lstm):
        bound = lstm.hidden_size**-0.5
        for layer in (lstm.ih_l0, lstm.ih_l1):
            first, forget, *last = layer.bias.detach().chunk(4)
            assert (forget - 1).abs().max() <= bound + 1e-6
            assert torch.cat([first, *last]).abs().max() <= bound
    model = models.reddit_lstm(5)
    assert not any(layer.bias.any() for layer in model.lstm.children())
    assert 0.09 < model.embedding.weight.abs().max() <= 0.1 and 0.09 < model.lstm.hh_l1.weight.abs().max() <= 0.1


def test_the_language_model_reads_from_left_to_right():
    model = models.reddit_lstm(50).prune_by_pct(0.5).to_sparse()
    words = torch.randint(50, (2, 6))
    output = model(words)
    words[:, 4:] = 0
    padded = model(words)
    assert torch.equal(padded[:, :4], output[:, :4]) and not torch.equal(padded[:, 4:], output[:, 4:])
