"""Pruner: pruning during training, by a schedule."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Union

from torch import nn

from ..nn import Prunable, prunable_layers
from .early_stop import EarlyStop, checked_number
from .granularity import NM, Granularity
from .method import find_method, layers_to_prune
from .schedules import OneShot, Schedule
from .scores import Score
from .scores.batches import Loss
from .scores.running import training_flags_restored
from .selection import Densities, Pool, listed, pools_by_density, positions_of, remaining_of
from .snapshot import Snapshot

__all__ = ["Pruner"]


class Pruner:
    """Brings a model to a density during training, step by step of a schedule:

        pruner = Pruner(model, density=0.05, schedule=Cubic(begin=100, end=1000, every=50))
        for batch in batches:
            ...
            optimizer.step()
            pruner.step()

    Let the optimizer follow sparse layers: one of `mpl_sparse.optim`, or `follow_patterns(torch.optim...)`.

    What each layer or pool has at first and is to have in the end is settled when the pruner is made. A step never
    brings a weight back. With "er" and "erk" every layer goes from its own first density to its own last one.

    Args:
        model, density, score, granularity, selection, exclude, data, loss: as in `mpl_sparse.pruning.prune`; without a
            density for `NM(n, m)`, which prunes at one step.
        schedule: when and how far; by default all at the first step.
        stop: when to stop for the sake of accuracy. It is looked at before each pruning, when training has had its
            time to recover from the one before; after the last one call `check`.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    def __init__(
        self,
        model: nn.Module,
        density: Optional[Densities] = None,
        *,
        schedule: Optional[Schedule] = None,
        score: Union[str, Score] = "magnitude",
        granularity: Union[str, Granularity, NM] = "weight",
        selection: Optional[str] = None,
        exclude: Union[str, Sequence[str]] = (),
        data: Optional[Iterable[Any]] = None,
        loss: Optional[Loss] = None,
        stop: Optional[EarlyStop] = None,
    ) -> None:
        if schedule is None:
            schedule = OneShot()
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule such as Cubic(begin, end), got {schedule!r}")
        if stop is not None and not isinstance(stop, EarlyStop):
            raise TypeError(f"stop must be an EarlyStop, got {stop!r}")
        density = listed(density)
        if selection is None and isinstance(density, (Mapping, Sequence)):
            selection = "layer"
        self._method = find_method(score, granularity, selection, data, loss)
        by_pattern = isinstance(self._method.granularity, NM)
        if (density is None) is not by_pattern:
            wanted = "no density" if by_pattern else "a density"
            raise ValueError(f"granularity={granularity!r} takes {wanted}, got density={density!r}")
        if by_pattern and not isinstance(schedule, OneShot):
            raise ValueError(
                f"granularity={granularity!r} prunes at one step, OneShot(step), got schedule={schedule!r}"
            )
        self.model = model
        self.schedule = schedule
        self._stop = stop
        layers = layers_to_prune(model, exclude)
        self._names = list(layers)
        self._pools = [] if density is None else pools_by_density(layers, density, self._method.selection)
        self._initial = [_density(layers, pool.names) for pool in self._pools]
        self._step = 0
        self._baseline = None if stop is None or stop.baseline is None else float(stop.baseline)
        self._before: Optional[Snapshot] = None  # what an undoing brings back
        self._unchecked = False  # whether the model was pruned since it was last evaluated
        self._stopped = False

    @property
    def density(self) -> float:
        """The density of the layers that take part, together."""
        return _density(self._layers(), self._names)

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return self._step

    @property
    def stopped(self) -> bool:
        """Whether pruning has been stopped for the sake of accuracy."""
        return self._stopped

    @property
    def done(self) -> bool:
        """Whether no pruning is to come."""
        return self._stopped or self._step > self.schedule.last

    def step(self) -> bool:
        """Count a step of training, and prune if it is time. Whether the model was pruned or brought back.

        An error, as from a loss that is not finite, leaves the model and the count of steps as they were.
        """
        due = not self._stopped and self.schedule.is_due(self._step)
        changed = False
        if due:
            changed = self._prune() if self.check() else True
        self._step += 1
        return changed

    def check(self) -> bool:
        """Evaluate the model if it was pruned since the last time; if it has lost too much, stop, and undo the last
        pruning if `stop` says so. Whether pruning may go on.
        """
        stop = self._stop
        if stop is None or self._stopped:
            return not self._stopped
        if self._unchecked or self._baseline is None:
            with training_flags_restored(self.model):
                reached = checked_number("the result of evaluate", stop.evaluate(self.model))
            if self._baseline is None:
                self._baseline = reached
            elif reached < self._baseline - stop.tolerance:
                self._stopped = True
                if self._before is not None:
                    self._before.restore(self.model)
            self._unchecked, self._before = False, None
        return not self._stopped

    def state_dict(self) -> Dict[str, Any]:
        """All that is needed to go on, as dicts of tensors and numbers; for torch.save and `mpl_sparse.save`.

        Not in it: the model, and torch's random numbers, which `score="random"` and data that is shuffled use.
        """
        score = self._method.score
        return {
            "step": self._step,
            "pools": [[list(pool.names), pool.density] for pool in self._pools],
            "initial": list(self._initial),
            "baseline": self._baseline,
            "unchecked": self._unchecked,
            "stopped": self._stopped,
            "before": None if self._before is None else self._before.state_dict(),
            "score": score.state_dict() if hasattr(score, "state_dict") else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the pruner that gave this `state_dict` was. Make this one with the same arguments, and load the
        model's own state too.

        Raises:
            ValueError: it is no such state, or one for other layers.
        """
        if not isinstance(state, Mapping) or not set(self.state_dict()) <= state.keys():
            raise ValueError("state must be what Pruner.state_dict gave")
        pools = [Pool(tuple(names), density) for names, density in state["pools"]]
        if [pool.names for pool in pools] != [pool.names for pool in self._pools]:
            raise ValueError(
                f"state is for the layers {[pool.names for pool in pools]}, not {[pool.names for pool in self._pools]}"
            )
        if state["score"] is not None:
            self._method.score.load_state_dict(state["score"])  # type: ignore[union-attr]
        self._pools, self._initial = pools, list(state["initial"])
        self._step, self._baseline = state["step"], state["baseline"]
        self._unchecked, self._stopped = state["unchecked"], state["stopped"]
        self._before = None if state["before"] is None else Snapshot.from_state_dict(state["before"])

    def _prune(self) -> bool:
        before = Snapshot(self.model) if self._stop is not None and self._stop.undo else None
        layers = self._layers()
        count = remaining_of(layers, self._names)
        if isinstance(self._method.granularity, NM):
            self._method.prune_to_pattern(self.model, {name: layers[name] for name in self._names})
        else:
            self._method.prune_to(self.model, layers, self._pools_now())
        changed = remaining_of(layers, self._names) != count
        if changed:
            self._before, self._unchecked = before, True
        return changed

    def _pools_now(self) -> List[Pool]:
        density = self.schedule.density
        return [
            Pool(pool.names, density(self._step, max(first, pool.density), pool.density))
            for first, pool in zip(self._initial, self._pools)
        ]

    def _layers(self) -> Dict[str, Prunable]:
        return dict(prunable_layers(self.model))


def _density(layers: Mapping[str, Prunable], names: Sequence[str]) -> float:
    return remaining_of(layers, names) / max(positions_of(layers, names), 1)
