"""Sparse: a layer that stores only the values of its remaining weights, and their pattern."""

from __future__ import annotations

import warnings
from typing import Any, Dict, List, Optional, Tuple, Type, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.utils.parametrize import is_parametrized

from ..autograd import remember_pattern
from ..pattern import Pattern
from .dense_weight import dense_weight, read_pruned_weight, settings_without_pruning
from .masked import Masked
from .prunable_layer import (
    Prunable,
    checked_mask,
    copied_settings,
    copy_bias,
    pattern_as_mask,
    take_settings,
)
from .values import bind_pattern, carry

__all__ = ["Sparse"]

Layer = TypeVar("Layer", bound="Sparse")
Dense = TypeVar("Dense", bound=Masked)


class Sparse(Prunable, nn.Module):
    """Mixin of a layer whose weight is `values`, an ordinary 1-D Parameter (nnz,), beside an immutable `pattern`.

    The pattern is the truth. The persistent buffers `row_ptr` and `col_idx` are its copies, for state_dict and export.
    A new pattern replaces the memory of `values` inside the same Parameter, so an optimizer never holds a stale one.

    DistributedDataParallel sizes its buckets, and hooks onto each parameter, when it is made: prune all processes
    alike, then make it anew. Only a pattern of as many positions, the same everywhere, may be set beneath it.

    `activation` is "none", or "relu" where `mpl_sparse.fuse` has made relu a part of the layer.
    """

    activation: str = "none"
    values: nn.Parameter
    bias: Optional[nn.Parameter]
    row_ptr: Tensor
    col_idx: Tensor
    _pattern: Pattern
    _written: Optional[int]  # row_ptr's count of writes, when it was last known to be the pattern's

    @classmethod
    def _from_layer(cls: Type[Layer], layer: nn.Module, pattern: Optional[Pattern]) -> Layer:
        sparse = cls.__new__(cls)
        sparse._build(layer, pattern)
        return sparse

    def _build(self, layer: Any, pattern: Optional[Pattern]) -> None:
        """Take over a dense layer: its settings, its bias, and its weight at `pattern` or where it is not zero."""
        _, parameter, mask = dense_weight(layer)
        if isinstance(layer, Masked):
            mask = layer.mask if mask is None else layer.mask & mask
        weight = parameter.detach() if mask is None else torch.where(mask, parameter.detach(), 0)
        if pattern is None:
            pattern = self._pattern_of(weight)
        self._check_pattern(pattern, weight.shape)
        take_settings(self, settings_without_pruning(copied_settings(layer)))
        # by position, not by mask: this also works on the meta device
        values = weight.reshape(-1)[torch.from_numpy(pattern.flat_positions()).to(weight.device)]
        self.register_parameter("values", nn.Parameter(values, requires_grad=parameter.requires_grad))
        copy_bias(layer, self)
        self._set_positions(pattern)

    @staticmethod
    def _pattern_of(weight: Tensor) -> Pattern:
        if weight.is_meta:
            raise ValueError("the weight is on the meta device, where it is not known which of its numbers are zero")
        return Pattern.from_dense(weight.cpu())

    @staticmethod
    def _check_pattern(pattern: Any, shape: torch.Size) -> None:
        if not isinstance(pattern, Pattern):
            raise TypeError(f"pattern must be a mpl_sparse.Pattern, got {type(pattern).__name__}")
        if pattern.shape != shape:
            raise ValueError(f"pattern must have shape {tuple(shape)}, got {pattern.shape}")

    def _set_positions(self, pattern: Pattern) -> None:
        device = self.values.device
        self._pattern = pattern
        self.register_buffer("row_ptr", torch.tensor(pattern.row_ptr, device=device))
        self.register_buffer("col_idx", torch.tensor(pattern.col_idx, device=device))
        self._bind()

    def _bind(self) -> None:
        bind_pattern(self.values, self._pattern)
        remember_pattern(self.row_ptr, self.col_idx, self._pattern)
        self._written = None if self.row_ptr.is_inference() else self.row_ptr._version

    @property
    def pattern(self) -> Pattern:
        """The positions of the values. Setting it carries survivors over and starts grown weights at 0."""
        return self._pattern

    @pattern.setter
    @torch.no_grad()
    def pattern(self, pattern: Pattern) -> None:
        self._check_pattern(pattern, self.weight_shape)
        values, old = self.values, self._pattern
        data, grad = carry(values, old, pattern), None if values.grad is None else carry(values.grad, old, pattern)
        values.grad = None
        if data.shape != values.shape:
            _warn_of_data_parallel(values)
            # by way of another dtype: only so does torch forget the old size, which a graph that still lives would keep
            values.data = values.new_empty(0, dtype=torch.complex64)
        values.data = data
        values.grad = grad
        self._set_positions(pattern)

    @property
    def mask(self) -> Tensor:
        """A new dense bool mask of the remaining positions, of the weight's shape."""
        return pattern_as_mask(self._pattern, self.values.device)

    @property
    def weight(self) -> Tensor:
        """The weight as a coalesced torch sparse COO tensor of its full shape; differentiable in `values`."""
        positions = torch.from_numpy(self._pattern.flat_positions()).to(self.values.device)
        indices = torch.stack(torch.unravel_index(positions, self.weight_shape))
        return torch.sparse_coo_tensor(
            indices, self.values, self.weight_shape, is_coalesced=True, check_invariants=False
        )

    @property
    def num_weight(self) -> int:
        """The number of remaining weights."""
        return self._pattern.nnz

    @property
    def weight_shape(self) -> torch.Size:
        """The shape of the dense weight."""
        return torch.Size(self._pattern.shape)

    def _weights(self) -> Tuple[Tensor, Optional[Tensor]]:
        """`values` and `bias`, without nn.Module.__getattr__, which costs more than a small kernel."""
        buffers: Any = self._buffers
        if self.training and self._written is not None and buffers["row_ptr"]._version != self._written:
            self._check_positions()
        parameters = self._parameters
        try:
            return parameters["values"], parameters["bias"]  # type: ignore[return-value]
        except KeyError:  # torch.nn.utils.parametrize has made the bias a property
            return self.values, self.bias

    def train(self: Layer, mode: bool = True) -> Layer:
        """As nn.Module's. RuntimeError if others have written other positions to row_ptr and col_idx."""
        if self._written is not None and self.row_ptr._version != self._written:
            self._check_positions()
        return super().train(mode)

    def _check_positions(self) -> None:
        """RuntimeError if others have written other positions to the pattern's copies."""
        if not self._positions_hold():
            raise RuntimeError(
                "row_ptr and col_idx were overwritten and no longer are the layer's pattern. DistributedDataParallel "
                "does so where processes differ: give all of them one pattern (load one state_dict) before it is made; "
                "averages of models do so too: take mpl_sparse.optim.AveragedModel"
            )
        self._bind()

    def _positions_hold(self) -> bool:
        copies = (self.row_ptr, self._pattern.row_ptr), (self.col_idx, self._pattern.col_idx)
        return all(np.array_equal(buffer.cpu().numpy(), positions) for buffer, positions in copies)

    def remaining_weight(self) -> Tensor:
        """The remaining weights, detached, 1-D, in row-major order of position."""
        return self.values.detach()

    def set_mask(self, mask: Tensor) -> None:
        """Keep exactly the positions where `mask`, bool and of the weight's shape, is True. See `Prunable.set_mask`."""
        self.pattern = Pattern.from_mask(checked_mask(mask, self.weight_shape).cpu())

    def _keep(self, kept: Tensor) -> None:
        self.pattern = self._pattern.keep(kept.cpu().numpy())

    def _densified(self, cls: Type[Dense]) -> Dense:
        if self.activation != "none":
            raise ValueError(
                f"a layer with activation={self.activation} has no dense form: convert the model that was given to fuse"
            )
        if is_parametrized(self):
            raise ValueError(f"{self} is parametrized: call torch.nn.utils.parametrize.remove_parametrizations first")
        dense = cls.__new__(cls)
        take_settings(dense, copied_settings(self))
        mask = self.mask
        weight = self.values.new_zeros(self.weight_shape)
        weight[mask] = self.values.detach()
        dense.register_parameter("weight", nn.Parameter(weight, requires_grad=self.values.requires_grad))
        dense.register_buffer("mask", mask)
        copy_bias(self, dense)
        return dense

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bind()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if not self.row_ptr.is_meta and not self._positions_hold():  # to_empty leaves them as it finds their memory
            self._set_positions(self._pattern)
        self._bind()
        return self

    def _load_from_state_dict(
        self,
        state_dict: Dict[str, Any],
        prefix: str,
        local_metadata: Dict[str, Any],
        strict: bool,
        missing_keys: List[str],
        unexpected_keys: List[str],
        error_msgs: List[str],
    ) -> None:
        """Accept its own state_dict, whose pattern it adopts, and a dense layer's {weight, bias[, mask]}.

        With a mask, that is the new pattern; without, the pattern stays and reads its values from the weight. Errors
        are reported as torch reports them. A wrong shape or position changes nothing of this layer; values and
        positions are loaded together or not at all; other missing or unexpected keys stop nothing, as in torch.
        """
        local = {key[len(prefix) :]: tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        try:
            pattern = self._read_pattern(local)
        except (TypeError, ValueError) as error:
            error_msgs.append(f"While reading the layer {prefix[:-1]!r}: {error}")
            return
        if pattern is not None:
            if pattern != self._pattern:
                self.pattern = pattern
            local.update(row_ptr=self.row_ptr, col_idx=self.col_idx)
        state_dict = {prefix + name: tensor for name, tensor in local.items()}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._bind()

    def _read_pattern(self, local: Dict[str, Any]) -> Optional[Pattern]:
        """The pattern of a state_dict, after turning a dense one into a sparse one; None if it has no values."""
        read_pruned_weight(local)
        if "weight" in local:
            weight, mask = local.pop("weight"), local.pop("mask", self.mask)
            if weight.shape != self.weight_shape:
                raise ValueError(f"weight must have shape {tuple(self.weight_shape)}, got {tuple(weight.shape)}")
            pattern = Pattern.from_mask(checked_mask(mask, self.weight_shape).cpu())
            local["values"] = weight.detach()[mask]
        else:
            stored = {"values", "row_ptr", "col_idx"}
            if not stored <= local.keys():
                for name in stored & local.keys():
                    del local[name]
                return None
            pattern = Pattern.from_csr(local["row_ptr"].cpu(), local["col_idx"].cpu(), self.weight_shape)
        for name, size in (("values", pattern.nnz), ("bias", self.weight_shape[0])):
            if local.get(name) is not None and local[name].shape != (size,):
                raise ValueError(f"{name} must have shape ({size},), got {tuple(local[name].shape)}")
        return pattern


def _warn_of_data_parallel(values: nn.Parameter) -> None:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and values.requires_grad and _is_held_by_autograd(values):
        warnings.warn(
            "the number of a layer's weights changed: a DistributedDataParallel that was made before no longer reduces "
            "their gradients; make it anew",
            stacklevel=5,
        )


def _is_held_by_autograd(values: nn.Parameter) -> bool:
    """Whether the node that accumulates the parameter's gradient lives: in DistributedDataParallel, or in a graph."""
    _notes(values)["mpl_sparse"] = "seen"  # a node that nobody holds is gone after this line
    return "mpl_sparse" in _notes(values)


def _notes(values: nn.Parameter) -> Any:
    return get_gradient_edge(values).node.metadata
