"""fuse: a model for inference, with batch norms folded into the layers before them and ReLUs in the kernels."""

from __future__ import annotations

import collections
import copy
from typing import Any, Dict, List, NamedTuple, Optional, Set

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .conv2d import DenseConv2d, SparseConv2d
from .convert import check_module
from .forwards import children_only_called, is_rewritable, traces
from .linear import DenseLinear, SparseLinear
from .pooling import SeparableMaxPool2d
from .sparse import Sparse

__all__ = ["Folded", "fuse"]

# The batch norm that may follow a layer; subclasses may compute something else.
_NORM_AFTER: Dict[type, Any] = {
    **dict.fromkeys((SparseConv2d, DenseConv2d, nn.Conv2d), nn.BatchNorm2d),
    **dict.fromkeys((SparseLinear, DenseLinear, nn.Linear), nn.BatchNorm1d),
}
_RELU_FUNCTIONS = {F.relu, F.relu_, torch.relu, torch.relu_}
_RELU_METHODS = {"relu", "relu_"}


class Folded(nn.Module):
    """What `fuse` leaves where a batch norm or ReLU stood that is now a part of `layer`: it returns its input."""

    def __init__(self, module: nn.Module, layer: str) -> None:
        super().__init__()
        self.kind = type(module).__name__
        self.layer = layer
        self.eval()

    def forward(self, input: Tensor) -> Tensor:
        """The input. Of a BatchNorm1d: (batch, features) only, for its features are not the last of three axes."""
        if self.kind == "BatchNorm1d" and input.dim() != 2:
            raise ValueError(
                f"a BatchNorm1d folded into {self.layer!r} takes (batch, features), got {tuple(input.shape)}: "
                "fuse the other parts of the model alone"
            )
        return input

    def extra_repr(self) -> str:
        """What stood here, and where it went."""
        return f"{self.kind} into {self.layer!r}"


def fuse(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference: equal results up to rounding, fewer passes. The model itself stays as it is.

    - A BatchNorm2d after a convolution, or a BatchNorm1d after a linear layer, sparse, masked or nn's own, is folded
      into that layer's weight and bias, in float64, rounded once; a :class:`Folded` stands in its place.
    - A ReLU after a sparse layer, or after its batch norm, becomes the layer's `activation`: the kernel applies it as
      it stores its results. An nn.ReLU that is called once gives way to a :class:`Folded`. One that is called in
      several places stays for the others, and F.relu, torch.relu or x.relu() is a line of code: there the module whose
      forward makes the call becomes a torch.fx.GraphModule of the same name and attributes, without that call.

    - An nn.MaxPool2d becomes a :class:`~mpl_sparse.nn.pooling.SeparableMaxPool2d`: the same values in less time.

    Modules, names, hooks, state_dict (but for what is folded) and pickling stay as they are otherwise. Parameters have
    requires_grad=False. A fused layer is still right where its input requires a gradient (it then applies relu after
    the kernel), and under torch.compile and torch.export.

    Left alone is what cannot be known to be equal: a layer, batch norm or ReLU that is called in several places, whose
    value has another use, that has hooks, or that a branch may skip; a batch norm without running statistics;
    subclasses of these layers; a chain that begins in one module's forward and ends in another's. Of a forward that
    torch.fx cannot trace, only children that it merely calls are looked into: an nn.Sequential among them is fused
    still. Fusing a fused model changes nothing.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: a part of it is in training mode.
    """
    check_module(model)
    for name, module in model.named_modules():
        if module.training:
            which = f"its part {name!r}" if name else "it"
            raise ValueError(f"model must be in eval mode, but {which} is in training mode: call model.eval()")
    plan = _Plan(copy.deepcopy(model))  # tracing runs forwards, which may leave something behind
    return _carry_out(plan, copy.deepcopy(model)).requires_grad_(False)


class _Chain(NamedTuple):
    """A layer, and the batch norm and the ReLU that follow it: by their names in the whole model."""

    layer: str
    norm: Optional[str]
    relu: Optional[str]  # an nn.ReLU that is called here only
    call: Optional[fx.Node]  # of another ReLU, to be taken out of its graph


class _Plan:
    """What to fuse in a model: the chains of each module's own forward, and the graphs of those to be rewritten."""

    def __init__(self, model: nn.Module) -> None:
        self.chains: List[_Chain] = []
        self.graphs: Dict[str, fx.Graph] = {}
        self._names = {module: name for name, module in model.named_modules()}
        self._untouchable: Set[nn.Module] = set()
        self._calls: collections.Counter = collections.Counter()
        graphs = {module: self._look(module) for module in self._names if module._modules}
        for module, traced in graphs.items():
            if traced:
                self._plan(module, traced)

    def _look(self, module: nn.Module) -> Optional[List[fx.Graph]]:
        """The module's graphs, after noting which modules they call and which they use in other ways."""
        if type(module) in (nn.ModuleList, nn.ModuleDict):
            return None  # they call nothing
        graphs = traces(module)
        if graphs is None:
            only_called = children_only_called(module)
            for name, child in module.named_children():
                if name not in only_called:
                    self._untouchable.update(child.modules())
                else:
                    self._calls[child] += 1
            return None
        most: collections.Counter = collections.Counter()
        for graph in graphs:
            calls: collections.Counter = collections.Counter()
            for node in graph.nodes:
                if node.op == "call_module":
                    calls[module.get_submodule(node.target)] += 1
                elif node.op == "get_attr":  # a forward that reads a layer's parameters
                    owner, _, _ = node.target.rpartition(".")
                    self._untouchable.add(module.get_submodule(owner))
            most |= calls
        self._calls.update(most)
        return graphs

    def _plan(self, module: nn.Module, graphs: List[fx.Graph]) -> None:
        rewritable = is_rewritable(module, graphs) and _is_plain(module)
        first, *others = [self._chains(module, graph, rewritable) for graph in graphs]
        if rewritable:
            others = []  # for then all graphs are alike
        chains = [chain for chain in first if all(chain in other for other in others)]
        self.chains += chains
        if any(chain.call is not None for chain in chains):
            self.graphs[self._names[module]] = graphs[0]

    def _chains(self, module: nn.Module, graph: fx.Graph, rewritable: bool) -> List[_Chain]:
        chains = []
        for node in graph.nodes:
            layer = self._called(module, node)
            if type(layer) not in _NORM_AFTER or not self._only_here(layer):
                continue
            if isinstance(layer, Sparse) and layer.activation != "none":
                continue
            after = _only_user(node)
            norm = self._called(module, after)
            if norm is not None and self._only_here(norm) and _folds(layer, norm):
                after = _only_user(after)
            else:
                norm = None
            relu, call = None, None
            if isinstance(layer, Sparse) and after is not None:
                relu = self._called(module, after)
                if type(relu) is not nn.ReLU or not self._only_here(relu):
                    if rewritable and (_is_relu(after) or (type(relu) is nn.ReLU and _is_plain(relu))):
                        call = after
                    relu = None
            if norm is not None or relu is not None or call is not None:
                norm_name, relu_name = (None if each is None else self._names[each] for each in (norm, relu))
                chains.append(_Chain(self._names[layer], norm_name, relu_name, call))
        return chains

    def _called(self, module: nn.Module, node: Optional[fx.Node]) -> Any:
        """The module that a node calls with one value; None if it does something else."""
        if node is None or node.op != "call_module" or node.kwargs or len(node.args) != 1:
            return None
        return module.get_submodule(node.target)  # type: ignore[arg-type]

    def _only_here(self, module: nn.Module) -> bool:
        return _is_plain(module) and self._calls[module] == 1 and module not in self._untouchable


def _only_user(node: Optional[fx.Node]) -> Optional[fx.Node]:
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _is_relu(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _RELU_FUNCTIONS and bool(node.args) and isinstance(node.args[0], fx.Node)
    return node.op == "call_method" and node.target in _RELU_METHODS


def _is_plain(module: nn.Module) -> bool:
    """Whether a call of the module is a call of its class's forward, and no hook sees it."""
    state = vars(module)
    return "forward" not in state and not any(
        state[name] for name in state if name.endswith("_hooks") and ("forward" in name or "backward" in name)
    )


def _folds(layer: Any, norm: Any) -> bool:
    """Whether `norm` is a batch norm that computes a fixed scale and shift for each output of `layer`."""
    if type(norm) is not _NORM_AFTER[type(layer)] or norm.running_mean is None or norm.running_var is None:
        return False
    weight = layer.values if isinstance(layer, Sparse) else layer._parameters.get("weight")
    outputs = layer.weight_shape[0] if isinstance(layer, Sparse) else len(layer.weight)
    tensors = [weight, norm.running_mean, norm.running_var, norm.weight, norm.bias, layer.bias]
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors if tensor is not None}
    return weight is not None and norm.num_features == outputs and len(kinds) == 1


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    """W' = W * s and b' = (b - mean) * s + beta, where s = gamma / sqrt(var + eps)."""
    mean, scale = norm.running_mean.double(), (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -mean if layer.bias is None else layer.bias.double() - mean
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    if isinstance(layer, Sparse):
        counts = layer.row_ptr.diff()
        values = layer.values.double() * scale.repeat_interleave(counts.long())
        layer.values = nn.Parameter(values.to(layer.values.dtype))
        layer._bind()
    else:
        weight = layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
        layer.weight = nn.Parameter(weight.to(layer.weight.dtype))
    layer.bias = nn.Parameter(bias.to(norm.running_mean.dtype))


def _carry_out(plan: _Plan, model: nn.Module) -> nn.Module:
    """Fuse in `model`, in place, as planned for a copy of it; what takes its place if its own forward is rewritten."""
    modules = dict(model.named_modules())
    folded: Dict[nn.Module, nn.Module] = {}
    for chain in plan.chains:
        layer: Any = modules[chain.layer]
        if chain.norm is not None:
            _fold(layer, modules[chain.norm])
        if chain.relu is not None or chain.call is not None:
            layer.activation = "relu"
        if chain.call is not None:
            chain.call.replace_all_uses_with(chain.call.args[0])  # type: ignore[arg-type]
            chain.call.graph.erase_node(chain.call)
        for name in (chain.norm, chain.relu):
            if name is not None:
                folded[modules[name]] = Folded(modules[name], chain.layer)
    _replace(model, folded)
    for module in modules.values():
        if type(module) is nn.MaxPool2d:
            module.__class__ = SeparableMaxPool2d  # hooks, names and sharing stay
    for name, graph in reversed(list(plan.graphs.items())):  # what lies inside before what holds it
        rewritten = _rewritten(modules[name], graph)
        if modules[name] is model:
            return rewritten
        _replace(model, {modules[name]: rewritten})
    return model


def _replace(model: nn.Module, replaced: Dict[nn.Module, nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]


def _rewritten(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """`module` with this graph for its forward, and all else that it has."""
    rewritten = fx.GraphModule(module, graph, type(module).__name__)
    settings = {name: value for name, value in vars(module).items() if name not in vars(rewritten)}
    vars(rewritten).update(settings)
    rewritten.meta["_user_preserved_attributes"] = settings  # what a deepcopy of a GraphModule keeps
    for name in ("_parameters", "_buffers", "_modules"):
        own = vars(rewritten)[name]
        own.update({key: value for key, value in vars(module)[name].items() if key not in own})
    rewritten._non_persistent_buffers_set |= module._non_persistent_buffers_set
    return rewritten
