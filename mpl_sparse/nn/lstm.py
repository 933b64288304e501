"""Prunable LSTMs: masked (DenseLSTM) and sparse (SparseLSTM), their weight matrices being prunable linear layers."""

from __future__ import annotations

import copy
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..autograd import lstm as recurrence
from ..autograd import runs_on_kernels
from ..pattern import Pattern
from .linear import DenseLinear, SparseLinear
from .prunable_layer import copied_settings, take_settings
from .symbolic import called_as_one, is_symbolic

__all__ = ["DenseLSTM", "PrunableLSTM", "SparseLSTM"]

Pair = Tuple[Tensor, Tensor]
LSTM = TypeVar("LSTM", bound="PrunableLSTM")


class PrunableLSTM(nn.LSTM):
    """What DenseLSTM and SparseLSTM have in common: nn.LSTM, but for where the weights are.

    Layer k has the children `ih_l{k}` and `hh_l{k}`, and with `bidirectional` also `ih_l{k}_reverse` and
    `hh_l{k}_reverse`: linear layers from the input and from the hidden state to the 4 * hidden_size gates (in torch's
    order: input, forget, candidate, output), each with its bias. They are pruned, counted, saved and optimised as such.
    Each may be masked or sparse, whatever the others are, and have hooks: those of `ih` see all steps of all sequences
    as the rows of one matrix, those of `hh` are called at every step.

    While all children are masked, torch's own kernel computes with the masked weights, as for nn.LSTM. Otherwise the
    layers are computed one after the other: the input's share of the gates for all steps at once, then step by step the
    hidden state's. This is differentiable once.

    It loads the state_dict of an nn.LSTM (weight_ih_l0, ...), and DenseLSTM and SparseLSTM load each other's.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        _check_proj_size(proj_size)
        settings = input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        super().__init__(*settings, device=device, dtype=dtype)
        _settle(self, {name: self._at_first(layer) for name, layer in _masked_layers(self).items()})

    @staticmethod
    def _at_first(layer: DenseLinear) -> nn.Module:
        """A new LSTM's child for a masked layer of which all weights remain."""
        return layer

    def __getattr__(self, name: str) -> Any:
        """`weight_ih_l0` and its like, as an nn.LSTM has them: the weight or bias of a child."""
        kind, _, child = name.partition("_")
        if kind in ("weight", "bias") and child in vars(self).get("_modules", ()):
            return getattr(self._modules[child], kind)
        return super().__getattr__(name)

    @property
    def all_weights(self) -> List[List[nn.Parameter]]:
        """Of each layer and direction: the weights (or their values) of `ih` and `hh`, then their biases."""
        weights = []
        for ih, hh in self._pairs():
            biases = [] if ih.bias is None else [ih.bias, hh.bias]
            weights.append([_stored(ih), _stored(hh), *biases])
        return weights

    def flatten_parameters(self) -> None:
        """Nothing: only cuDNN wants the weights in one piece."""

    def forward(self, input: Any, hx: Optional[Pair] = None) -> Tuple[Any, Pair]:
        """As nn.LSTM: `output, (h_n, c_n)`.

        Shape:
            L steps, N sequences, D = 2 if bidirectional else 1.
            input (L, N, input_size), with batch_first (N, L, input_size), of one sequence (L, input_size); or a
            PackedSequence. hx = (h_0, c_0), zeros if None, each (D * num_layers, N, hidden_size), of one sequence
            without N. Output as the input, with D * hidden_size features; h_n, c_n as h_0, c_0.

        Raises:
            TypeError: `input` is no tensor or PackedSequence, or `hx` no pair of tensors.
            ValueError: `input` has not 2 or 3 dimensions, or `input` or `hx` another dtype than the weights.
            RuntimeError: other shapes do not fit, as in nn.LSTM.
        """
        if is_symbolic(self, input):
            return called_as_one(self, input, hx)
        packed = input if isinstance(input, PackedSequence) else None
        batch_sizes = None if packed is None else packed.batch_sizes
        data = _tensor("input", input if packed is None else packed.data)
        if packed is None and data.dim() not in (2, 3):
            raise ValueError(f"{type(self).__name__}: Expected input to be 2D or 3D, got {data.dim()}D instead")
        unbatched = packed is None and data.dim() == 2
        batch_dim = 0 if self.batch_first else 1
        if unbatched:
            data = data.unsqueeze(batch_dim)
        self.check_input(data, batch_sizes)
        if packed is None and data.shape[1 - batch_dim] == 0:
            raise RuntimeError(f"Expected sequence length to be larger than 0 in RNN, got input {tuple(data.shape)}")
        states = self._first_states(data, batch_sizes, hx, unbatched)
        if packed is not None and hx is not None:
            states = self.permute_hidden(states, packed.sorted_indices)

        all_masked = all(_is_plain(child, DenseLinear) for pair in self._pairs() for child in pair)
        compute = self._fused if all_masked else self._by_layers
        output, hidden, cell = compute(data, batch_sizes, states)

        if packed is not None:
            order, back = packed.sorted_indices, packed.unsorted_indices
            return PackedSequence(output, packed.batch_sizes, order, back), self.permute_hidden((hidden, cell), back)
        if unbatched:
            return output.squeeze(batch_dim), (hidden.squeeze(1), cell.squeeze(1))
        return output, (hidden, cell)

    def check_input(self, input: Tensor, batch_sizes: Optional[Tensor]) -> None:
        """ValueError or RuntimeError, in nn.LSTM's words, if `input` has a wrong dtype or shape."""
        dtype = _stored(next(self._pairs())[0]).dtype
        if input.dtype != dtype and not torch._C._is_any_autocast_enabled():
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
            )
        dimensions = 3 if batch_sizes is None else 2
        if input.dim() != dimensions:
            raise RuntimeError(f"input must have {dimensions} dimensions, got {input.dim()}")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}"
            )

    def _first_states(self, data: Tensor, batch_sizes: Optional[Tensor], hx: Any, unbatched: bool) -> Pair:
        """(h_0, c_0) with the dimension of the batch, checked; zeros for None."""
        if hx is None:
            zeros = data.new_zeros(self.get_expected_hidden_size(data, batch_sizes))
            return zeros, zeros
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            raise TypeError(f"hx must be a pair of tensors (h_0, c_0), got {type(hx).__name__}")
        hidden, cell = (_tensor(f"hx[{index}]", state) for index, state in enumerate(hx))
        if batch_sizes is None:
            kind, dimensions = ("unbatched 2-D", 2) if unbatched else ("batched 3-D", 3)
            if hidden.dim() != dimensions or cell.dim() != dimensions:
                raise RuntimeError(
                    f"For {kind} input, hx and cx should also be {dimensions}-D "
                    f"but got ({hidden.dim()}-D, {cell.dim()}-D) tensors"
                )
            if unbatched:
                hidden, cell = hidden.unsqueeze(1), cell.unsqueeze(1)
        expected = self.get_expected_hidden_size(data, batch_sizes)
        for index, state in enumerate((hidden, cell)):
            self.check_hidden_size(state, expected, f"Expected hidden[{index}] size {{}}, got {{}}")
            if state.dtype != data.dtype and not torch._C._is_any_autocast_enabled():
                raise ValueError(f"hx[{index}] must be {data.dtype} as the input, got {state.dtype}")
        return hidden, cell

    def _fused(self, data: Tensor, batch_sizes: Optional[Tensor], states: Pair) -> Tuple[Tensor, Tensor, Tensor]:
        weights = []
        for ih, hh in self._pairs():
            weights += [ih.masked_weight, hh.masked_weight, *([ih.bias, hh.bias] if self.bias else [])]
        settings = self.bias, self.num_layers, self.dropout, self.training, self.bidirectional
        if batch_sizes is None:
            return torch._VF.lstm(data, states, weights, *settings, self.batch_first)
        return torch._VF.lstm(data, batch_sizes, states, weights, *settings)

    def _by_layers(self, data: Tensor, batch_sizes: Optional[Tensor], states: Pair) -> Tuple[Tensor, Tensor, Tensor]:
        if batch_sizes is None:
            steps = data.transpose(0, 1) if self.batch_first else data
            length, batch = steps.shape[:2]
            rows, sizes = steps.reshape(length * batch, self.input_size), [batch] * length
        else:
            rows, sizes = data, batch_sizes.tolist()
        directions = 2 if self.bidirectional else 1
        hidden: List[Tensor] = []
        cell: List[Tensor] = []
        outputs: List[Tensor] = []
        for index, (ih, hh) in enumerate(self._pairs()):
            layer, reverse = divmod(index, directions)
            if layer and not reverse:
                rows = F.dropout(_joined(outputs), self.dropout, self.training)
                outputs = []
            # autocast may have made some of them half: the recurrence keeps to the weights' dtype
            dtype = _stored(hh).dtype
            shares, h, c = (each.to(dtype) for each in (ih(rows), states[0][index], states[1][index]))
            for results, result in zip((outputs, hidden, cell), _recur(hh, shares, h, c, sizes, bool(reverse))):
                results.append(result)
        output = _joined(outputs)
        if batch_sizes is None:
            output = output.view(length, batch, directions * self.hidden_size)
            output = output.transpose(0, 1) if self.batch_first else output
        return output, torch.stack(hidden), torch.stack(cell)

    def weight_uses(self, output: Any) -> Dict[str, int]:
        """How many multiply-adds each weight of each child took part in, in the call that returned `output`."""
        steps = output[0].data if isinstance(output[0], PackedSequence) else output[0]
        return dict.fromkeys(_names(self), steps.numel() // steps.shape[-1])

    def _pairs(self) -> Any:
        """(ih, hh) of each layer and direction, in nn.LSTM's order."""
        names = _names(self)
        return ((self._modules[ih], self._modules[hh]) for ih, hh in zip(names[::2], names[1::2]))

    def _converted(self, kind: Type[LSTM], convert: Callable[[Optional[nn.Module]], Optional[nn.Module]]) -> LSTM:
        other = kind.__new__(kind)
        take_settings(other, copied_settings(self))
        other._modules = {name: convert(child) for name, child in self._modules.items()}
        return other

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        """Give the entries of an nn.LSTM the names that the children read. torch hands over a dict of its own."""
        for name in _names(self):
            for kind in ("weight", "bias"):
                of_lstm, own = f"{prefix}{kind}_{name}", f"{prefix}{name}.{kind}"
                if of_lstm in state_dict and own not in state_dict:
                    state_dict[own] = state_dict.pop(of_lstm)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __setstate__(self, state: Dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # nn.LSTM's own looks for the names of flat weights
        self._flat_weight_refs = []


class DenseLSTM(PrunableLSTM):
    """nn.LSTM whose weights have masks: it computes with them where the mask is True. All remain at first.

    Args:
        The same as those of nn.LSTM, except that `proj_size` must be 0. Weights start as those of an nn.LSTM.

    Raises:
        TypeError, ValueError: an argument that nn.LSTM refuses, or a `proj_size` other than 0.

    Its weights are in children: see :class:`PrunableLSTM`.
    """

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM) -> DenseLSTM:
        """The masked form of `lstm`: the same Parameter objects, settings and hooks; all weights remain.

        Raises:
            TypeError: `lstm` is not an nn.LSTM.
            ValueError: it has a projection, or a weight that is not a parameter of its own.
        """
        if not isinstance(lstm, nn.LSTM):
            raise TypeError(f"lstm must be an nn.LSTM, got {type(lstm).__name__}")
        layers = _masked_layers(lstm)
        masked = cls.__new__(cls)
        take_settings(masked, {**vars(lstm), "_modules": {}})
        _settle(masked, layers)
        return masked

    @classmethod
    def make_prunable(cls, lstm: nn.LSTM) -> None:
        """Turn `lstm` itself into its masked form: its Parameters move into the children, all else stays with it.

        Raises:
            ValueError: it has a projection, or a weight that is not a parameter of its own; it stays as it is.
        """
        layers = _masked_layers(lstm)
        lstm.__class__ = cls
        _settle(lstm, layers)

    @staticmethod
    def check_plain(lstm: nn.LSTM) -> None:
        """ValueError, in words that tell why, unless `make_prunable` takes the LSTM."""
        _masked_layers(lstm)

    def to_sparse(self) -> SparseLSTM:
        """The sparse form: what the masks drop and weights that are zero now are gone. The LSTM stays as it is."""
        return self._converted(SparseLSTM, _sparse)


class SparseLSTM(PrunableLSTM):
    """LSTM that stores and computes only its remaining weights.

    Args:
        The same as those of nn.LSTM, except that `proj_size` must be 0. It computes on the CPU, in float32 and float64;
        float16 and bfloat16 step by step, as a SparseLinear does. Weights start as those of an nn.LSTM, and all of them
        are stored.

    Raises:
        TypeError, ValueError: an argument that nn.LSTM refuses, or a `proj_size` other than 0.

    Its weights are in children: see :class:`PrunableLSTM`.
    """

    @staticmethod
    def _at_first(layer: DenseLinear) -> nn.Module:
        return SparseLinear.from_dense(layer, Pattern.from_mask(np.ones(layer.weight.shape, bool)))

    def to_dense(self) -> DenseLSTM:
        """The masked form: the masks are the patterns, pruned weights are 0. The LSTM stays as it is."""
        return self._converted(DenseLSTM, _masked)


def _check_proj_size(proj_size: int) -> None:
    if proj_size != 0:
        raise ValueError(f"proj_size must be 0: prunable LSTMs have no projection, got {proj_size!r}")


def _names(lstm: nn.LSTM) -> List[str]:
    """Of the children: ih_l0, hh_l0, ih_l0_reverse, ... ; an nn.LSTM calls their weights weight_ih_l0, ..."""
    suffixes = ("", "_reverse") if lstm.bidirectional else ("",)
    return [f"{part}_l{k}{suffix}" for k in range(lstm.num_layers) for suffix in suffixes for part in ("ih", "hh")]


def _masked_layers(lstm: nn.LSTM) -> Dict[str, DenseLinear]:
    """The layers that hold the very Parameters of `lstm`, by the names of the children; ValueError if it is no good."""
    _check_proj_size(lstm.proj_size)
    kinds = ("weight", "bias") if lstm.bias else ("weight",)
    for name in _names(lstm):
        for kind in kinds:
            if type(lstm._parameters.get(f"{kind}_{name}")) is not nn.Parameter:
                raise ValueError(
                    f"its {kind}_{name} is not a plain parameter: it is made by a hook or parametrization (remove that "
                    "first), or the LSTM is prunable already"
                )
    layers = {}
    for name in _names(lstm):
        weight: Any = lstm._parameters[f"weight_{name}"]
        layer = nn.Linear(weight.shape[1], weight.shape[0], lstm.bias, device="meta").train(lstm.training)
        for kind in kinds:
            setattr(layer, kind, lstm._parameters[f"{kind}_{name}"])
        layers[name] = DenseLinear.from_linear(layer)
    return layers


def _settle(lstm: nn.LSTM, layers: Mapping[str, nn.Module]) -> None:
    """Replace the weights of `lstm` by the layers that hold them."""
    for name in layers:
        for kind in ("weight", "bias"):
            lstm._parameters.pop(f"{kind}_{name}", None)
    # where nn.LSTM keeps its weights a second time: its methods find none
    lstm._flat_weights_names, lstm._all_weights, lstm._flat_weights, lstm._flat_weight_refs = [], [], [], []
    lstm._modules.update(layers)


def _sparse(child: Optional[nn.Module]) -> Optional[nn.Module]:
    return child.to_sparse() if isinstance(child, DenseLinear) else copy.deepcopy(child)


def _masked(child: Optional[nn.Module]) -> Optional[nn.Module]:
    return child.to_dense() if isinstance(child, SparseLinear) else copy.deepcopy(child)


def _tensor(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}")
    return value


def _stored(layer: Any) -> Any:
    """What holds the weights of a child: not the property `weight` of a sparse layer, which builds a tensor."""
    return layer.values if isinstance(layer, SparseLinear) else layer.weight


def _is_plain(layer: Any, kind: type) -> bool:
    """Whether the child does what its class does and no more: then it need not be called."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) is kind and not hooks and "forward" not in vars(layer)


def _joined(outputs: List[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


def _recur(
    hh: Any, shares: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: Sequence[int], reverse: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """All steps of one direction of one layer: outputs of all rows, last hidden and cell states.

    Shape:
        shares (rows, 4 * size) are the input's share of the gates, hidden and cell (batch, size).
    """
    product = hh
    if _is_plain(hh, DenseLinear):
        weight, bias = hh.masked_weight, hh.bias  # the mask is applied once, not at every step
        if runs_on_kernels(weight):
            return recurrence(shares, hidden, cell, weight, bias, None, batch_sizes, reverse)

        def product(rows: Tensor) -> Tensor:
            return F.linear(rows, weight, bias)

    elif _is_plain(hh, SparseLinear) and hh.activation == "none" and runs_on_kernels(hh.values):
        weight, bias = hh._weights()
        return recurrence(shares, hidden, cell, weight, bias, hh.pattern, batch_sizes, reverse)

    outputs = []
    steps = list(zip(batch_sizes, shares.split(batch_sizes)))
    for count, share in reversed(steps) if reverse else steps:
        in_, forget, candidate, out = (share + product(hidden[:count])).chunk(4, 1)
        c = forget.sigmoid() * cell[:count] + in_.sigmoid() * candidate.tanh()
        h = out.sigmoid() * c.tanh()
        outputs.append(h)
        whole = count == hidden.shape[0]
        # the rest are sequences that have ended, or in reverse have not begun
        hidden, cell = (h, c) if whole else (torch.cat((h, hidden[count:])), torch.cat((c, cell[count:])))
    return torch.cat(outputs[::-1] if reverse else outputs), hidden, cell
