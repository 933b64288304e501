"""The reference models of LEAF (Caldas et al., "LEAF: a benchmark for federated settings", arXiv:1812.01097).

The shapes are those of the code that LEAF publishes (github.com/TalwalkarLab/leaf, folder models/, constants in
baseline_constants.py); the weights start as torch starts them, except where LEAF's code says how. An LSTM cell of LEAF
has one vector of 4 * hidden biases, one of torch has two, which are added.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn import DenseConv2d, DenseLinear, DenseLSTM
from .base_model import BaseModel
from .origin import constructor

__all__ = [
    "Conv2",
    "Conv4",
    "RedditLSTM",
    "Sent140LSTM",
    "Sent140LogisticRegression",
    "ShakespeareLSTM",
    "SyntheticLogisticRegression",
    "conv2",
    "conv4",
    "reddit_lstm",
    "sent140_logistic_regression",
    "sent140_lstm",
    "shakespeare_lstm",
    "synthetic_logistic_regression",
]

SHAKESPEARE_CHARACTERS = 80
GLOVE_WORDS = 400_000  # of glove.6B.300d.txt, which LEAF's get_embs.sh takes the vocabulary of Sent140 from
REDDIT_WORDS = 10_000  # the vocabulary that LEAF's build_vocab.py makes


class Conv2(BaseModel):
    """LEAF's network for FEMNIST (femnist/cnn.py). Input (N, 1, 28, 28), output (N, 62)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            DenseConv2d(1, 32, kernel_size=5, padding=2),  # 32x28x28
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, stride=2),  # 32x14x14
            DenseConv2d(32, 64, kernel_size=5, padding=2),  # 64x14x14
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, stride=2),  # 64x7x7
        )
        self.classifier = nn.Sequential(
            DenseLinear(64 * 7 * 7, 2048),
            nn.ReLU(inplace=True),
            DenseLinear(2048, 62),
        )

    def forward(self, inp: Tensor) -> Tensor:
        return self.classifier(self.features(inp).flatten(1))


class Conv4(BaseModel):
    """LEAF's network for CelebA (celeba/cnn.py). Input (N, 3, 84, 84), output (N, 2).

    All shapes are LEAF's. As the original library has it, images of 21 and 11 pixels are padded by one more before the
    third and fourth convolution, where LEAF pads what it pools; and in eval mode the batch norms use their running
    statistics, where LEAF always uses the batch's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *self._block(3, padding=1),  # 32x42x42
            *self._block(32, padding=1),  # 32x21x21
            *self._block(32, padding=2),  # 32x11x11
            *self._block(32, padding=2),  # 32x6x6
        )
        self.classifier = DenseLinear(32 * 6 * 6, 2)

    @staticmethod
    def _block(in_channels: int, padding: int) -> tuple[nn.Module, ...]:
        return (
            DenseConv2d(in_channels, 32, kernel_size=3, padding=padding),
            nn.BatchNorm2d(32),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
        )

    def forward(self, inp: Tensor) -> Tensor:
        return self.classifier(self.features(inp).flatten(1))


class ShakespeareLSTM(BaseModel):
    """LEAF's network for Shakespeare (shakespeare/stacked_lstm.py): the next character after a line of them.

    Args:
        characters: the size of the alphabet.

    Shape:
        Input (N, L), the numbers of characters, int32 or int64; LEAF has L = 80. Output (N, characters): logits.
    """

    def __init__(self, characters: int = SHAKESPEARE_CHARACTERS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 8)
        self.lstm = DenseLSTM(8, 256, num_layers=2, batch_first=True)
        self.classifier = DenseLinear(256, characters)
        _forget_little(self.lstm)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embedding(inputs))
        return self.classifier(outputs[:, -1])


class Sent140LSTM(BaseModel):
    """LEAF's network for Sentiment140 (sent140/stacked_lstm.py): whether a tweet is a happy one.

    Args:
        words: the size of the vocabulary. The number `words` itself stands for unknown words and for padding.

    Shape:
        Input (N, L), the numbers of words, int32 or int64; LEAF has L = 25. Output (N, 2): logits.
    """

    def __init__(self, words: int = GLOVE_WORDS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + 1, 100)
        self.lstm = DenseLSTM(100, 100, num_layers=2, batch_first=True)
        self.classifier = nn.Sequential(DenseLinear(100, 128), DenseLinear(128, 2))
        _forget_little(self.lstm)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embedding(inputs))
        return self.classifier(outputs[:, -1])


class Sent140LogisticRegression(BaseModel):
    """LEAF's logistic regression for Sentiment140 on bags of words (sent140/bag_log_reg.py).

    Args:
        words: the size of the vocabulary.

    Shape:
        Input (N, words): how often each word occurs. Output (N, 2): logits, of which LEAF's loss takes the softmax.
    """

    def __init__(self, words: int = GLOVE_WORDS) -> None:
        super().__init__()
        self.classifier = DenseLinear(words, 2)
        nn.init.normal_(self.classifier.weight)
        nn.init.normal_(self.classifier.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(inputs)


class RedditLSTM(BaseModel):
    """LEAF's language model for Reddit (reddit/stacked_lstm.py): the next word after each word of a comment.

    Its weights start uniform in [-0.1, 0.1], the LSTM's biases at 0. Here each comment begins with zero states, where
    LEAF begins a client's next batch with those in which the last one has ended. LEAF's loss leaves out the padding at
    a comment's end, which changes no output before it.

    Args:
        words: the size of the vocabulary.

    Shape:
        Input (N, L), the numbers of words, int32 or int64; LEAF has L = 10. Output (N, L, words): logits.
    """

    def __init__(self, words: int = REDDIT_WORDS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 256)
        self.lstm = DenseLSTM(256, 256, num_layers=2, batch_first=True)
        self.classifier = DenseLinear(256, words)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
        for name, parameter in self.lstm.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embedding(inputs))
        return self.classifier(outputs)


class SyntheticLogisticRegression(BaseModel):
    """LEAF's logistic regression for its synthetic data (synthetic/log_reg.py).

    Args:
        features, classes: the sizes of the data, which LEAF's generator is told.

    Shape:
        Input (N, features), output (N, classes): sigmoids, which LEAF's loss takes for logits.
    """

    def __init__(self, features: int = 60, classes: int = 5) -> None:
        super().__init__()
        self.classifier = DenseLinear(features, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sigmoid(self.classifier(inputs))


def _forget_little(lstm: DenseLSTM) -> None:
    """Add 1 to the forget gates' biases, as TensorFlow's BasicLSTMCell does in every step."""
    with torch.no_grad():
        for layer in range(lstm.num_layers):
            _, forget, _, _ = lstm.get_parameter(f"ih_l{layer}.bias").chunk(4)
            forget += 1


@constructor
def conv2() -> Conv2:
    """A fresh `Conv2`."""
    return Conv2()


@constructor
def conv4() -> Conv4:
    """A fresh `Conv4`."""
    return Conv4()


@constructor
def shakespeare_lstm(characters: int = SHAKESPEARE_CHARACTERS) -> ShakespeareLSTM:
    """A fresh `ShakespeareLSTM`."""
    return ShakespeareLSTM(characters)


@constructor
def sent140_lstm(words: int = GLOVE_WORDS) -> Sent140LSTM:
    """A fresh `Sent140LSTM`."""
    return Sent140LSTM(words)


@constructor
def sent140_logistic_regression(words: int = GLOVE_WORDS) -> Sent140LogisticRegression:
    """A fresh `Sent140LogisticRegression`."""
    return Sent140LogisticRegression(words)


@constructor
def reddit_lstm(words: int = REDDIT_WORDS) -> RedditLSTM:
    """A fresh `RedditLSTM`."""
    return RedditLSTM(words)


@constructor
def synthetic_logistic_regression(features: int = 60, classes: int = 5) -> SyntheticLogisticRegression:
    """A fresh `SyntheticLogisticRegression`."""
    return SyntheticLogisticRegression(features, classes)


CONSTRUCTORS = (
    *(conv2, conv4, shakespeare_lstm, sent140_lstm, sent140_logistic_regression, reddit_lstm),
    synthetic_logistic_regression,
)
