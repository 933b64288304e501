"""What the layers of a model do in a forward: how often they are called, what they multiply, how long they take."""

from __future__ import annotations

import collections
import contextlib
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.rnn import PackedSequence

from ..nn import SparseConv2d, SparseLinear
from ..nn.sparse import Sparse
from .inputs import Inputs

__all__ = ["Use", "measure"]

RUNS = 5  # a few seconds for the largest classifiers


class Use(NamedTuple):
    """What a layer did in one forward of the model.

    Attributes:
        calls: how often it was called.
        per_weight: how many multiply-adds each of its weights took part in; None if that is not known.
        ms: the milliseconds of its calls; None if not measured.
    """

    calls: int
    per_weight: Optional[int]
    ms: Optional[float]


def measure(
    model: nn.Module, sizes: Dict[nn.Module, int], inputs: Inputs, timed_runs: Optional[int]
) -> Dict[nn.Module, Use]:
    """The use of each of the layers in `sizes` in a forward of `model`, in eval mode and without gradients.

    One run counts, and warms up; `timed_runs` more (if None, RUNS of a model on the CPU) take the time, and the least
    of each layer stands. The model comes out as it went in, also where its forward fails: training flags, hooks, and
    torch's generators.

    Args:
        sizes: the layers, and the number of weights that each computes with.

    Raises:
        ValueError: the forward fails; or `timed_runs` is not 0 and the model is not on the CPU.
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    for device in devices:
        if timed_runs and device.type != "cpu":
            raise ValueError(f"timed_runs must be 0 for a model that is not on the CPU, got {timed_runs} on {device}")
    if timed_runs is None:
        timed_runs = RUNS if all(device.type == "cpu" for device in devices) else 0
    watch = _Watch(sizes)
    cuda = [device.index for device in devices if device.type == "cuda"]
    with contextlib.ExitStack() as states:
        states.enter_context(torch.random.fork_rng(devices=cuda))
        for state in (_evaluating(model), _not_compiled(model), _on_meta(model), watch.hooked(model), torch.no_grad()):
            states.enter_context(state)
        _run(model, inputs)
        calls, per_weight = dict(watch.calls), dict(watch.per_weight)
        times: List[Dict[nn.Module, float]] = []
        for _ in range(timed_runs):
            watch.seconds.clear()
            _run(model, inputs)
            times.append(dict(watch.seconds))

    def ms(layer: nn.Module) -> Optional[float]:
        return 1e3 * min(seconds.get(layer, 0.0) for seconds in times) if times else None

    return {layer: Use(calls.get(layer, 0), per_weight.get(layer, 0), ms(layer)) for layer in sizes}


def _run(model: nn.Module, inputs: Inputs) -> None:
    try:
        model(*inputs.args, **inputs.kwargs)
    except Exception as error:
        raise ValueError(f"the model does not run on {inputs.described}: {type(error).__name__}: {error}") from error


class _Watch:
    """Hooks that count and time the calls of layers.

    A module that computes with its children's weights without calling them, or would call them only if they have hooks,
    may have a method `weight_uses(output) -> {name of the child: multiply-adds for each weight}`. It is asked after
    each of its calls, whose time is divided among these children by their multiply-adds; its children get no hooks.
    """

    def __init__(self, sizes: Dict[nn.Module, int]) -> None:
        self.sizes = sizes
        self.calls: collections.Counter = collections.Counter()
        self.per_weight: Dict[nn.Module, Optional[int]] = {}
        self.seconds: Dict[nn.Module, float] = collections.defaultdict(float)
        self._entered: List[List[Any]] = []  # [module, seconds of the calls inside this one, start]

    @contextlib.contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        users = [module for module in model.modules() if hasattr(module, "weight_uses")]
        used = {child for module in users for child in module.children()}
        with contextlib.ExitStack() as hooks:
            for module in model.modules():
                if module in users or (module in self.sizes and module not in used):
                    # innermost: the user's hooks are not the layer's time, and may change its output
                    hooks.callback(module.register_forward_pre_hook(self._enter).remove)
                    leave = module.register_forward_hook(self._leave, prepend=True, with_kwargs=True)
                    hooks.callback(leave.remove)
            yield

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._entered.append([module, 0.0, time.perf_counter()])

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        now = time.perf_counter()
        # a call whose error the model caught has never left
        while (entered := self._entered.pop())[0] is not module:
            pass
        _, inside, start = entered
        if self._entered:
            self._entered[-1][1] += now - start
        if hasattr(module, "weight_uses"):
            self._add_children(module, output, now - start - inside)
        else:
            self._add(module, _per_weight(module, args, kwargs, output), now - start - inside)

    def _add(self, layer: nn.Module, per_weight: Optional[int], seconds: float) -> None:
        before = self.per_weight.get(layer, 0)
        self.calls[layer] += 1
        self.per_weight[layer] = None if before is None or per_weight is None else before + per_weight
        self.seconds[layer] += seconds

    def _add_children(self, module: Any, output: Any, seconds: float) -> None:
        uses = {module.get_submodule(name): count for name, count in module.weight_uses(output).items()}
        work = {layer: count * self.sizes[layer] for layer, count in uses.items() if layer in self.sizes}
        whole = sum(work.values())
        for layer, share in work.items():
            self._add(layer, uses[layer], seconds * share / whole if whole else 0.0)


def _per_weight(layer: Any, args: Sequence[Any], kwargs: Dict[str, Any], output: Any) -> Optional[int]:
    """The multiply-adds of each weight in one call: the positions where the layer applies it."""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return 0  # rows are looked up
    if isinstance(layer, _ConvTransposeNd):
        input = args[0] if args else kwargs.get("input")
        return _positions(input, layer.in_channels)
    if isinstance(layer, (_ConvNd, SparseConv2d)):
        return _positions(output, layer.out_channels)
    if isinstance(layer, (nn.Linear, SparseLinear)):
        return _positions(output, layer.out_features)
    if isinstance(layer, nn.RNNBase) and isinstance(output, tuple):
        output = output[0].data if isinstance(output[0], PackedSequence) else output[0]
        return _positions(output, output.shape[-1])
    if isinstance(layer, nn.RNNCellBase):
        return _positions(output[0] if isinstance(output, tuple) else output, layer.hidden_size)
    return None


def _positions(tensor: Any, channels: int) -> Optional[int]:
    # a subclass may return anything
    if not isinstance(tensor, Tensor) or (channels and tensor.numel() % channels):
        return None
    return tensor.numel() // channels if channels else 0


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode flag by flag: model.train() and model.eval() may be overridden to do more."""
    flags: List[Tuple[nn.Module, bool]] = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


def _not_compiled(model: nn.Module) -> Any:
    """Inside compiled code there are no single layers: the forward runs as it is written, from torch 2.6 on."""
    compiled = any(hasattr(each, "_orig_mod") or each._compiled_call_impl is not None for each in model.modules())
    if compiled and hasattr(torch.compiler, "set_stance"):
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


@contextlib.contextmanager
def _on_meta(model: nn.Module) -> Iterator[None]:
    """On the meta device the kernels of sparse layers have nothing to compute: torch's own find the shapes."""
    sparse: List[Any] = [each for each in model.modules() if isinstance(each, Sparse)]
    layers = [each for each in sparse if each.values.is_meta and "forward" not in vars(each)]
    try:
        for layer in layers:
            layer.forward = _shape_of(layer)
        yield
    finally:
        for layer in layers:
            del layer.forward


def _shape_of(layer: Any) -> Any:
    def forward(input: Tensor) -> Tensor:
        weight = input.new_empty(layer.weight_shape)
        if isinstance(layer, SparseLinear):
            return nn.functional.linear(input, weight)
        return nn.Conv2d._conv_forward(layer, input, weight, None)

    return forward
