"""The base class of the models: pruning, counting and conversion as methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any, Callable, List, Optional, Tuple, TypeVar, cast

from torch import Generator, Tensor, nn

from .. import pruning
from ..nn import Prunable, prunable, prunable_layers, to_dense, to_sparse
from ..pruning import PerLayer

__all__ = ["BaseModel"]

Self = TypeVar("Self", bound="BaseModel")


class BaseModel(nn.Module, ABC):
    """A model whose masked (`DenseConv2d`, `DenseLinear`) and sparse (`SparseConv2d`, `SparseLinear`) layers can be
    pruned and counted.

    The free functions of `mpl_sparse` do the same for any nn.Module; the methods only call them. The layers are looked
    up in the module tree at every call, in the order of `named_modules()`: nothing is stale after a layer has been
    replaced.
    """

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """The model's output for a batch of inputs."""

    @property
    def prunable_layers(self) -> List[Any]:
        """The masked and sparse layers."""
        return [layer for _, layer in prunable_layers(self)]

    @property
    def prunable_layer_prefixes(self) -> List[str]:
        """The names of `prunable_layers`, such as "features.0"."""
        return [name for name, _ in prunable_layers(self)]

    def clone_from_model(self, original_model: nn.Module) -> None:
        """Take deep copies of all submodules of `original_model`, and of the parameters and buffers it holds itself."""
        copy = deepcopy(original_model)
        self._modules.update(copy._modules)
        self._parameters.update(copy._parameters)
        self._buffers.update(copy._buffers)
        self._non_persistent_buffers_set.update(copy._non_persistent_buffers_set)

    def collect_prunable_layers(self) -> None:
        """Nothing to do: `prunable_layers` is always up to date. Kept for code written for the original library."""

    def convert_eligible_layers(self) -> None:
        """Replace every nn.Conv2d and nn.Linear by its masked form, in place. The parameters stay the same objects."""
        prunable(self)

    def find_layers(self, criterion: Callable[[nn.Module], bool]) -> Tuple[List[nn.Module], List[str]]:
        """The leaf modules for which `criterion` is true, and their names."""
        found = [
            (name, module)
            for name, module in self.named_modules()
            if name and not module._modules and criterion(module)
        ]
        return [module for _, module in found], [name for name, _ in found]

    def prune_by_threshold(self: Self, thr_arg: PerLayer[float]) -> Self:
        """See `mpl_sparse.prune_by_threshold`. Returns the model."""
        return pruning.prune_by_threshold(self, thr_arg)

    def prune_by_rank(self: Self, rank_arg: PerLayer[int]) -> Self:
        """See `mpl_sparse.prune_by_rank`. Returns the model."""
        return pruning.prune_by_rank(self, rank_arg)

    def prune_by_pct(self: Self, pct_arg: PerLayer[float]) -> Self:
        """See `mpl_sparse.prune_by_pct`. Returns the model."""
        return pruning.prune_by_pct(self, pct_arg)

    def random_prune_by_pct(self: Self, pct_arg: PerLayer[float], generator: Optional[Generator] = None) -> Self:
        """See `mpl_sparse.random_prune_by_pct`. Returns the model."""
        return pruning.random_prune_by_pct(self, pct_arg, generator)

    def calc_num_prunable_params(self, count_bias: bool = True, display: bool = False) -> Tuple[int, int]:
        """(remaining, all) parameters of the prunable layers; `display` prints them layer by layer."""
        total_remaining = total = 0
        for name, layer in prunable_layers(self):
            num_bias = layer.bias.numel() if count_bias and layer.bias is not None else 0
            remaining, size = layer.num_weight + num_bias, layer.weight_shape.numel() + num_bias
            total_remaining, total = total_remaining + remaining, total + size
            if display:
                print(f"Layer name: {name}. remaining/all: {remaining}/{size} = {_ratio(remaining, size)}")
        if display:
            print(f"Total: remaining/all: {total_remaining}/{total} = {_ratio(total_remaining, total)}")
        return total_remaining, total

    def nnz(self, count_bias: bool = True) -> int:
        """The number of remaining parameters of the prunable layers."""
        return self.calc_num_prunable_params(count_bias)[0]

    def nelement(self, count_bias: bool = True) -> int:
        """The number of parameters of the prunable layers, pruned ones included."""
        return self.calc_num_prunable_params(count_bias)[1]

    def density(self, count_bias: bool = True) -> float:
        """nnz / nelement; 0.0 for a model without prunable parameters."""
        return _ratio(*self.calc_num_prunable_params(count_bias))

    def get_module_by_name(self, module_name: str) -> nn.Module:
        """The submodule of that dotted name. AttributeError when there is none."""
        return self.get_submodule(module_name)

    def set_module_by_name(self, module_name: str, new_module: nn.Module) -> None:
        """Put `new_module` in the place of that dotted name. AttributeError when its parent does not exist."""
        parent, _, child = module_name.rpartition(".")
        setattr(self.get_submodule(parent), child, new_module)

    def get_mask_by_name(self, param_name: str) -> Optional[Tensor]:
        """The mask of the weight of that dotted name ("features.0.weight"); None for other parameters."""
        module_name, _, attribute = param_name.rpartition(".")
        module: Any = self.get_submodule(module_name)
        has_mask = isinstance(module, Prunable) and attribute != "bias"
        return module.mask if has_mask else None

    def reinit_from_model(self, final_model: BaseModel) -> None:
        """Take over the masks of `final_model` and keep the own weights: a lottery ticket (Frankle and Carbin, 2019,
        arXiv:1803.03635).

        Raises:
            TypeError: when `final_model` is of another class.
            ValueError: when its prunable layers have other shapes.
        """
        if not isinstance(final_model, type(self)):
            raise TypeError(f"final_model must be a {type(self).__name__}, got {type(final_model).__name__}")
        layers, final_layers = self.prunable_layers, final_model.prunable_layers
        shapes, final_shapes = ([tuple(layer.weight_shape) for layer in each] for each in (layers, final_layers))
        if shapes != final_shapes:
            raise ValueError(f"final_model must have weights of the shapes {shapes}, got {final_shapes}")
        for layer, final_layer in zip(layers, final_layers):
            layer.set_mask(final_layer.mask)

    def to_sparse(self: Self) -> Self:
        """See `mpl_sparse.to_sparse`: a new model with sparse layers."""
        return cast(Self, to_sparse(self))

    def to_dense(self: Self) -> Self:
        """See `mpl_sparse.to_dense`: a new model with masked dense layers."""
        return cast(Self, to_dense(self))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
