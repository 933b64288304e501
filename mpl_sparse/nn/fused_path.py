"""torch's fused inference path for transformer encoders, which reads the weights of layers instead of calling them."""

from __future__ import annotations

from torch import nn

from .prunable_layer import Prunable

__all__ = ["calls_its_layers", "leave_fused_path"]

_METHODS = {"forward", "_sa_block", "_ff_block"}
_ENCODERS = (nn.TransformerEncoderLayer, nn.TransformerEncoder)


def calls_its_layers(module: nn.Module) -> bool:
    """Whether `module` is an encoder of torch's own, which calls its layers once `leave_fused_path` has been here."""
    return any(isinstance(module, each) and _computes_as(type(module), each) for each in _ENCODERS)


def _computes_as(cls: type, encoder: type) -> bool:
    return all(getattr(cls, name) is method for name, method in vars(encoder).items() if name in _METHODS)


def leave_fused_path(model: nn.Module) -> None:
    """Let the transformer encoders of `model` that have prunable layers call them in eval mode, as they do in training.

    Where a padding mask is given, the outputs at padded positions are then what they are in training, not 0.
    """
    for module in model.modules():
        if calls_its_layers(module) and any(isinstance(inner, Prunable) for inner in module.modules()):
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0  # read by nobody else: "not an activation of the fused path"
            else:
                module.use_nested_tensor = False  # type: ignore[assignment]
