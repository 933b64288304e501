"""LeNet-300-100 of LeCun et al., "Gradient-based learning applied to document recognition" (1998)."""

from __future__ import annotations

from torch import Tensor, nn

from ..nn import DenseLinear
from .base_model import BaseModel
from .origin import constructor

__all__ = ["LeNet5", "lenet5"]


class LeNet5(BaseModel):
    """784 -> 300 -> 100 -> 10. Input (..., 784), output (..., 10). The original library gave it this name."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            DenseLinear(784, 300),
            nn.ReLU(inplace=True),
            DenseLinear(300, 100),
            nn.ReLU(inplace=True),
            DenseLinear(100, 10),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(inputs)


@constructor
def lenet5() -> LeNet5:
    """A fresh `LeNet5`."""
    return LeNet5()


CONSTRUCTORS = (lenet5,)
