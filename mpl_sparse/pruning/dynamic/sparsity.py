"""Dynamic sparse training: every so many steps some weights are dropped and as many are grown."""

from __future__ import annotations

from typing import Any, Dict, Iterable, NamedTuple, Optional, Tuple

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from .drop import DropRule, smallest_magnitude
from .fractions import Fraction, checked_count, checked_fraction, constant_fraction, cosine_fraction
from .gradients import GrowthGradients, movable_layers
from .grow import AtRandom, GrowRule, LargestGradient
from .positions import Placement, checked_optimizer, move_layer, placement, positions_of, set_weights, trained_by
from .start import StartRule, uniform_start, zero_start

__all__ = ["SET", "DynamicSparsity", "RigL"]


class _Move(NamedTuple):
    """What an update does to a layer."""

    dropped: Tensor  # bool: which of the remaining weights go
    grown: Tensor  # positions of the flat weight
    values: Tensor  # what the grown ones start with
    to: Placement


class DynamicSparsity:
    """Moves weights of a pruned model while it trains: a drop rule x a grow rule x a start rule x a schedule of the
    share.

    At the training steps `interval`, 2 * `interval`, ... below `until`, in each layer the drop rule takes away
    `fraction(step)` of the weights, and as many grow where the grow rule says. A layer's number of weights never
    changes. Grown weights start as the start rule says, with a fresh optimizer state and a gradient of 0; a weight that
    is dropped and grown in one update is a grown one. Survivors keep their value and state. Layers of which nothing is
    pruned, those whose weight requires no gradient at that moment or is not in the optimizer, and, where growth needs
    gradients, those that were not called, stay as they are.

    Call :meth:`step` once each training step, after backward and before the optimizer's step::

        topology = RigL(model, optimizer, until=steps * 3 // 4)
        for input, target in batches:
            optimizer.zero_grad()
            loss_function(model(input), target).backward()
            if not topology.step():
                optimizer.step()

    It returns True where it moved weights. RigL's paper then does not step the optimizer, as above; whoever steps it
    all the same moves the survivors, for the gradient of a grown weight is 0. A masked model and a sparse one train
    alike.

    A grow rule that needs the gradient has it recorded in the step of an update and in no other: see
    :class:`~mpl_sparse.pruning.dynamic.GrowthGradients` for what that costs. torch.compile leaves out hooks that come
    later, so in that step run the model itself: `forward = model if topology.is_recording else compiled`. Each process
    of a data-parallel training would choose by its own gradients: that is not supported.

    Args:
        model: pruned already, masked or sparse.
        optimizer: of `mpl_sparse.optim`, or one of torch's that `follow_patterns` was called on.
        drop: what goes: see `smallest_magnitude`, `smallest_by_sign`.
        grow: what comes: `LargestGradient()`, `AtRandom()`.
        start: what it starts with: `zero_start`, `uniform_start`.
        fraction: a function of the training step, counted from 1: the share of a layer's weights, in [0, 1].
        interval: steps from one update to the next (RigL's delta T).
        until: no update at this step or later (RigL's T_end); None for no end.
        generator: for what grows or starts at random; if None, one of its own, seeded from torch's default one.

    Raises:
        TypeError, ValueError: an argument of another kind or range, or an optimizer that does not follow patterns.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        drop: DropRule,
        grow: GrowRule,
        start: StartRule = zero_start,
        fraction: Fraction,
        interval: int,
        until: Optional[int] = None,
        generator: Optional[Generator] = None,
    ) -> None:
        for name, rule in (("drop", drop), ("start", start), ("fraction", fraction)):
            if not callable(rule):
                raise TypeError(f"{name} must be a function, got {rule!r}")
        if not isinstance(grow, GrowRule):
            raise TypeError(f"grow must be a GrowRule such as LargestGradient(), got {grow!r}")
        if generator is not None and not isinstance(generator, Generator):
            raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
        self.interval = checked_count("interval", interval)
        self.until = None if until is None else checked_count("until", until)
        self.drop, self.grow, self.start, self.fraction = drop, grow, start, fraction
        self._layers = movable_layers(model)
        self._gradients = GrowthGradients(self._layers)
        self._optimizer = checked_optimizer(optimizer, self._layers)
        if generator is None:
            generator = Generator("cpu").manual_seed(int(torch.randint(2**62, (), device="cpu")))
        self.generator = generator
        self.steps = 0
        self._await_update()

    @property
    def is_recording(self) -> bool:
        """Whether the next forward and backward are recorded, for the update that the next :meth:`step` makes."""
        return self._gradients.is_armed

    def step(self) -> bool:
        """Count a training step, and move weights if an update is due. True if it was.

        Raises:
            RuntimeError: the grow rule needs gradients, and no backward ran since the last step; nothing is changed.
            ValueError: `fraction` gave no number in [0, 1], or the optimizer follows no more; nothing is changed.
        """
        due = self._is_due(self.steps + 1)
        if due:
            self._update(self.steps + 1)
        self.steps += 1
        self._await_update()
        return due

    def state_dict(self) -> Dict[str, Any]:
        """The count of steps and the generator's state. With the model's and the optimizer's own, a training that goes
        on from them is the same bit for bit. Take it between two steps."""
        return {"steps": self.steps, "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            ValueError: it has other keys.
        """
        if set(state_dict) != {"steps", "generator"}:
            raise ValueError(f"state_dict must have the keys 'generator' and 'steps', got {sorted(state_dict)}")
        self.generator.set_state(state_dict["generator"])
        self.steps = state_dict["steps"]
        self._await_update()

    def _is_due(self, step: int) -> bool:
        return step % self.interval == 0 and (self.until is None or step < self.until)

    def _await_update(self) -> None:
        """Record gradients if the next step updates, and only then."""
        self._gradients.disarm()
        self._gradients.clear()
        if self.grow.needs_gradients and self._is_due(self.steps + 1):
            self._gradients.arm()

    def _update(self, step: int) -> None:
        fraction = checked_fraction("fraction", self.fraction(step))
        optimizer = checked_optimizer(self._optimizer, self._layers)
        trained = trained_by(optimizer, self._layers)
        if self.grow.needs_gradients and trained and not any(map(self._gradients.calls, trained)):
            raise RuntimeError(
                "no gradients to grow by: call step() after the backward of its training step, and where is_recording "
                "is True run the model itself and not what torch.compile made of it"
            )
        moves = {name: move for name in trained for move in [self._choose(name, fraction)] if move is not None}
        for name, move in moves.items():
            move_layer(self._layers[name], move.to, optimizer, move.dropped)
            set_weights(self._layers[name], move.grown, move.values)

    def _choose(self, name: str, fraction: float) -> Optional[_Move]:
        """None if the layer stays as it is."""
        layer = self._layers[name]
        numel = layer.weight_shape.numel()
        if layer.num_weight == numel or (self.grow.needs_gradients and not self._gradients.calls(name)):
            return None
        dropped = self.drop(layer.remaining_weight(), fraction).cpu()
        count = int(dropped.sum())
        if not count:
            return None
        kept = positions_of(layer)[~dropped]
        blocks: Iterable[Tuple[range, Tensor]] = self._gradients.blocks(name) if self.grow.needs_gradients else ()
        grown = self.grow.choose(kept, numel, count, blocks, self.generator)
        positions = torch.cat((kept, grown))
        positions.numpy().sort()  # in place: torch's sort makes as many indices besides
        return _Move(dropped, grown, self.start(layer, count, self.generator), placement(layer, positions))


class SET(DynamicSparsity):
    """Sparse evolutionary training: drop the share `zeta` of the smallest weights, grow as many at random.

    Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity" (2018,
    arXiv:1707.04780), which updates after each epoch: let `interval` be its steps. By default the smallest |w| go, as
    the papers that compare with SET have it; with `drop=smallest_by_sign` the share is of each sign for itself, as the
    paper has it. Grown weights start at random, as in the authors' sparse programs; those papers, and the authors'
    masked program, let them start at 0 (`start=zero_start`). Then nearly all that grow are still the smallest at the
    next update, and go again, unless `interval` is long. See :class:`DynamicSparsity` for the use and the other
    arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        interval: int,
        zeta: float = 0.3,
        until: Optional[int] = None,
        drop: DropRule = smallest_magnitude,
        start: StartRule = uniform_start,
        generator: Optional[Generator] = None,
    ) -> None:
        fraction = constant_fraction(checked_fraction("zeta", zeta))
        super().__init__(
            model,
            optimizer,
            drop=drop,
            grow=AtRandom(),
            start=start,
            fraction=fraction,
            interval=interval,
            until=until,
            generator=generator,
        )


class RigL(DynamicSparsity):
    """RigL: drop the smallest |w|, grow where |gradient| is largest.

    Evci et al., "Rigging the lottery: making all tickets winners" (2020, arXiv:1911.11134), Algorithm 1: at each
    update k = int(alpha / 2 * (1 + cos(step * pi / until)) * n) of a layer's n weights go, and the k positions with the
    largest |gradient| among all that do not stay, just dropped ones included, start at 0. The authors' program lets a
    weight that is dropped and grown at once keep its value; this follows the paper. The gradient is that of the one
    step of the update. See :class:`DynamicSparsity` for the use.

    Args:
        until: T_end; the paper takes three quarters of all training steps.
        interval: delta T, 100 in the paper.
        alpha: 0.3 in the paper.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        until: int,
        interval: int = 100,
        alpha: float = 0.3,
        generator: Optional[Generator] = None,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            drop=smallest_magnitude,
            grow=LargestGradient(),
            fraction=cosine_fraction(alpha, until),
            interval=interval,
            until=until,
            generator=generator,
        )
