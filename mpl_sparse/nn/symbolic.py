"""What torch.fx.symbolic_trace sees of a prunable layer: one call, as of torch.nn's own layers."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

__all__ = ["called_as_one", "is_symbolic"]


def is_symbolic(layer: nn.Module, input: Any) -> bool:
    """Whether `input` is torch.fx's stand-in for a tensor, and `layer` a part of the model that is traced."""
    return isinstance(input, fx.Proxy) and getattr(input.tracer, "root", None) is not layer


def called_as_one(layer: nn.Module, input: Any, *others: Any) -> Any:
    """The stand-in for what `layer` makes of the stand-in `input`: a call_module node, so the layer stays prunable."""
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(layer), (input, *others), {})
