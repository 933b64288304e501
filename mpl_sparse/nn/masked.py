"""Masked: a dense layer with a bool mask over its weight."""

from __future__ import annotations

from typing import Any, Dict, Type, TypeVar

import torch
from torch import Tensor, nn

from ..autograd import masked
from ..pattern import Pattern
from .dense_weight import DenseWeight, dense_parameters, dense_weight, read_pruned_weight, settings_without_pruning
from .prunable_layer import Prunable, checked_mask, pattern_as_mask, take_settings

__all__ = ["Masked"]

Layer = TypeVar("Layer", bound="Masked")


class Masked(Prunable, nn.Module):
    """Mixin over nn.Conv2d or nn.Linear: the layer computes with `weight` where `mask` is True, with nothing elsewhere.

    `mask` is a persistent bool buffer, True everywhere at first.
    """

    weight: Tensor
    mask: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", torch.ones_like(self.weight, dtype=torch.bool))

    @classmethod
    def _from_layer(cls: Type[Layer], layer: nn.Module) -> Layer:
        weight = dense_weight(layer)
        made = cls.__new__(cls)
        take_settings(made, settings_without_pruning(vars(layer)))
        made._take_over(layer, weight)
        return made

    @classmethod
    def make_prunable(cls, layer: nn.Module) -> None:
        """Turn `layer` itself, an nn.Conv2d or nn.Linear, into its masked form: whoever holds it holds that.

        Raises:
            ValueError: its weight cannot have a mask; it stays as it is.
        """
        weight = dense_weight(layer)
        settings = settings_without_pruning(vars(layer))
        vars(layer).pop("weight", None)  # what torch.nn.utils.prune made of it
        vars(layer).update(settings)
        layer.__class__ = cls
        layer._take_over(layer, weight)  # type: ignore[operator]

    @staticmethod
    def check_plain(layer: nn.Module) -> None:
        """ValueError, in words that tell why, unless `make_prunable` takes the layer."""
        dense_weight(layer)

    def _take_over(self, layer: nn.Module, weight: DenseWeight) -> None:
        """The parameters and buffers of `layer`: the very same objects, so that an optimizer with them works on."""
        parameters, buffers = dense_parameters(layer, weight), dict(layer._buffers)
        buffers.pop("weight_mask", None)
        self._parameters = parameters
        self._buffers = buffers
        mask = weight.mask
        if "mask" not in buffers:
            self.register_buffer("mask", torch.ones_like(weight.parameter, dtype=torch.bool) if mask is None else mask)

    @property
    def masked_weight(self) -> Tensor:
        """The weight that the layer computes with: differentiable, and zero (never weight * 0) where it is pruned."""
        return masked(self.weight, self.mask)

    @property
    def pattern(self) -> Pattern:
        """The positions of the remaining weights, as the mask has them now."""
        return Pattern.from_mask(self.mask.cpu())

    @property
    def num_weight(self) -> int:
        """The number of remaining weights."""
        return int(self.mask.sum())

    @property
    def weight_shape(self) -> torch.Size:
        """The shape of the weight."""
        return self.weight.shape

    def remaining_weight(self) -> Tensor:
        """The remaining weights, detached, 1-D, in row-major order of position."""
        return self.weight.detach()[self.mask]

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Keep exactly the positions where `mask`, bool and of the weight's shape, is True. See `Prunable.set_mask`."""
        self.mask.copy_(checked_mask(mask, self.weight.shape))

    def _keep(self, kept: Tensor) -> None:
        self.mask[self.mask.clone()] = kept.to(self.mask.device)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        """Accept also a plain dense state_dict (the mask stays) and a sparse layer's (its pattern is the mask)."""
        local = {key[len(prefix) :]: tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        read_pruned_weight(local)
        if "values" in local:
            values, row_ptr, col_idx = (local.pop(name, None) for name in ("values", "row_ptr", "col_idx"))
            try:
                pattern = Pattern.from_csr(row_ptr, col_idx, self.weight.shape)
                mask = pattern_as_mask(pattern, torch.device("cpu"))
                if values.shape != (pattern.nnz,):
                    raise ValueError(f"values must have shape ({pattern.nnz},), got {tuple(values.shape)}")
            except (TypeError, ValueError) as error:
                args[-1].append(f"While reading the sparse positions of {prefix[:-1]!r}: {error}")
                return
            weight = values.new_zeros(self.weight.shape)
            weight[mask] = values.detach()
            local.update(weight=weight, mask=mask)
        local.setdefault("mask", self.mask)
        state_dict = {prefix + name: tensor for name, tensor in local.items()}
        super()._load_from_state_dict(state_dict, prefix, *args)
