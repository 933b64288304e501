"""Optimizer state that follows the weights when a sparse layer changes its pattern.

A sparse layer keeps its nnz weights in one 1-D parameter, and so do the optimizer's momenta: entry i belongs to nonzero
i. When the layer is pruned, nonzero i is another weight. The hooks here remember for which pattern the state was made
and, before anyone reads it again, move every entry to the new place of its weight.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, TypeVar, Union
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import LBFGS, Adagrad, Optimizer, Rprop

from ..nn import carry, pattern_of, times_bound
from ..pattern import Pattern
from .lbfgs_history import carry_history

__all__ = [
    "Followed",
    "first_entry",
    "follow_as",
    "follow_patterns",
    "followed",
    "move_state",
    "note_group",
    "starts_of",
]

OptimizerT = TypeVar("OptimizerT", bound=Optimizer)
Starts = Mapping[str, Union[float, str]]

# Where a fresh weight's state does not start at 0: a number, or the option of its parameter group that tells.
_STARTS: Dict[type, Starts] = {Adagrad: {"sum": "initial_accumulator_value"}, Rprop: {"step_size": "lr"}}

_IDS = "pattern_ids"  # in a parameter group of a state_dict: for each parameter the id of its state's pattern, or None


@dataclasses.dataclass
class Followed:
    """The patterns that one optimizer's state was made for."""

    starts: Starts
    patterns: Dict[Tensor, Pattern] = dataclasses.field(default_factory=dict)
    awaited: Dict[Tensor, Optional[str]] = dataclasses.field(default_factory=dict)  # loaded before the model's pattern
    seen: Optional[Tuple[int, int]] = None  # the times bound, and the number of parameters, at the last look

    def __getstate__(self) -> Dict[str, Any]:
        return {**vars(self), "seen": None}  # another process counts otherwise


followed: WeakKeyDictionary[Optimizer, Followed] = WeakKeyDictionary()


def follow_patterns(optimizer: OptimizerT, starts: Optional[Starts] = None) -> OptimizerT:
    """Make any torch optimizer keep its state when sparse layers are pruned or regrown. Returns the optimizer.

    Every state tensor with one entry a weight (momentum, moments, running sums) is moved to the new positions before
    the next step, or after its closure if that prunes: surviving weights keep their entries, grown ones start where a
    fresh weight does, which is 0 but for Adagrad's sums and Rprop's step sizes. What a parameter has once, such as its
    count of steps, stays. A weight that goes and comes back between two steps counts as surviving. Of LBFGS,
    `lbfgs_history.carry_history` tells. Between two changes of a pattern nothing is touched: a step is torch's own, bit
    for bit.

    The state of a masked (dense) layer has the size of its weight and stays as it is. Under the mask the gradient is 0;
    momentum and weight decay go on there, unseen, and a weight that comes back has what they made of it.

    The state_dict is torch's, and its groups also hold the ids of the patterns ("pattern_ids"). It may be loaded before
    or after the model's own; if the model has another pattern at the next step, that is a ValueError. A state_dict of
    the same optimizer over the masked form of the model is taken too: the entries at the pattern's positions.

    torch does not copy hooks: call this again on a deepcopy or an unpickled copy of a plain torch optimizer
    (those of `mpl_sparse.optim` do so themselves).

    Args:
        starts: for optimizers that are not torch's: by the name of a state tensor, where a grown weight's entry starts,
            as a number or as the name of an option of the parameter group. What is not named starts at 0.

    Raises:
        TypeError: `optimizer` is not a torch optimizer, or `starts` not such a mapping.
        ValueError: `starts` names an option that a parameter group does not have.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if starts is not None:
        _check_starts(optimizer, starts)
    if optimizer not in followed:
        follow_as(optimizer, Followed(starts_of(optimizer)))
        settle_state(optimizer)
    if starts is not None:
        followed[optimizer].starts = {**followed[optimizer].starts, **starts}
    return optimizer


def follow_as(optimizer: Optimizer, record: Followed) -> None:
    """Begin to follow from what `record` knows."""
    followed[optimizer] = record
    optimizer.register_step_pre_hook(_before_step)
    optimizer.register_state_dict_pre_hook(move_state)
    optimizer.register_state_dict_post_hook(_write_ids)
    optimizer.register_load_state_dict_post_hook(settle_state)


def note_group(optimizer: Optimizer, group: Dict[str, Any]) -> None:
    """Note for which patterns the optimizer will make the state of a group that is new."""
    for parameter in group["params"]:
        pattern = pattern_of(parameter)
        if pattern is not None:
            followed[optimizer].patterns[parameter] = pattern


def settle_state(optimizer: Optimizer) -> None:
    """Note that the state, new or loaded, fits the patterns of this moment, or which ones it waits for."""
    record = followed[optimizer]
    record.patterns, record.awaited, record.seen = {}, {}, None
    for group in optimizer.param_groups:
        ids = group.pop(_IDS, None) or [None] * len(group["params"])
        for parameter, awaited in zip(group["params"], ids):
            pattern = pattern_of(parameter)
            if pattern is not None:
                if _suits(optimizer, parameter, pattern, awaited):
                    record.patterns[parameter] = pattern
                else:
                    record.awaited[parameter] = awaited


def _before_step(
    optimizer: Optimizer, args: Tuple[Any, ...], kwargs: Dict[str, Any]
) -> Optional[Tuple[Tuple[Any, ...], Dict[str, Any]]]:
    """Move the state now, and again after a closure, for that may prune."""
    move_state(optimizer)
    closure = args[1] if len(args) > 1 else kwargs.get("closure")  # the first of args is the optimizer
    if not callable(closure):
        return None

    def moving() -> Any:
        loss = closure()
        move_state(optimizer)
        return loss

    return ((optimizer, moving, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": moving})


def move_state(optimizer: Optimizer) -> None:
    """Bring the optimizer's state to the patterns of this moment.

    Raises:
        ValueError: it was loaded, and made for another pattern than the model has; nothing is moved.
    """
    record = followed[optimizer]
    seen = times_bound(), sum([len(group["params"]) for group in optimizer.param_groups])
    if seen == record.seen:
        return
    now: Dict[Tensor, Pattern] = {}
    for label, parameter in _labelled(optimizer):
        pattern = pattern_of(parameter) or record.patterns.get(parameter)  # in a copy the layer may not be there yet
        if pattern is None:
            continue
        now[parameter] = pattern
        if parameter not in record.patterns and not _suits(
            optimizer, parameter, pattern, record.awaited.get(parameter)
        ):
            raise ValueError(
                f"optimizer: the state of parameter {label} was made for another pattern than its layer has "
                f"({pattern.nnz} weights): load the model's state_dict that was saved with the optimizer's"
            )
    before = {parameter: record.patterns.get(parameter, pattern) for parameter, pattern in now.items()}
    if any(before[parameter] is not pattern and before[parameter] != pattern for parameter, pattern in now.items()):
        if isinstance(optimizer, LBFGS):
            carry_history(optimizer, before, now)
        else:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if before.get(parameter) is not now.get(parameter):
                        _carry_state(optimizer.state.get(parameter), before[parameter], now[parameter], group, record)
    record.patterns, record.awaited, record.seen = now, {}, seen


def _carry_state(state: Any, old: Pattern, new: Pattern, group: Dict[str, Any], record: Followed) -> None:
    """Move the state of one parameter of `group`, if there is any."""
    for name, entries in (state or {}).items():
        state[name] = _carried(entries, old, new, first_entry(record.starts, name, group))


def first_entry(starts: Starts, name: str, group: Dict[str, Any]) -> float:
    """Where the entry of a fresh weight starts in the state tensor `name` of a parameter of `group`."""
    start = starts.get(name, 0.0)
    return float(group[start] if isinstance(start, str) else start)


def _carried(entries: Any, old: Pattern, new: Pattern, start: float) -> Any:
    """The tensors with one entry a weight, also those in lists, tuples and dicts, moved; all else as it is."""
    if isinstance(entries, Tensor):
        return carry(entries, old, new, start) if entries.shape == (old.nnz,) else entries
    if isinstance(entries, dict):
        return {key: _carried(entry, old, new, start) for key, entry in entries.items()}
    if type(entries) in (list, tuple):
        return type(entries)(_carried(entry, old, new, start) for entry in entries)
    return entries


def _suits(optimizer: Optimizer, parameter: Tensor, pattern: Pattern, awaited: Optional[str]) -> bool:
    """Whether the state of `parameter` was made for `pattern`: that has the id `awaited`, or if None the sizes tell.

    State of the dense weight becomes that of the pattern.
    """
    flat = isinstance(optimizer, LBFGS)  # vectors over all parameters, kept with the first of them
    parameters = optimizer.param_groups[0]["params"]
    state = optimizer.state.get(parameters[0] if flat else parameter)
    if not state:
        return True
    size = sum([each.numel() for each in parameters]) if flat else pattern.nnz
    if not flat:
        for name, entries in state.items():
            if isinstance(entries, Tensor) and entries.shape == pattern.shape:
                state[name] = entries.reshape(-1)[torch.from_numpy(pattern.flat_positions()).to(entries.device)]
    if awaited is not None:
        return awaited == pattern.id
    shapes = {tuple(entries.shape) for entries in state.values() if isinstance(entries, Tensor)} - {(), (1,)}
    return not shapes or (size,) in shapes


def _labelled(optimizer: Optimizer) -> Iterator[Tuple[str, Tensor]]:
    """Each parameter with its name, if the optimizer knows it, or its number."""
    count = 0
    for group in optimizer.param_groups:
        names: List[str] = group.get("param_names") or []
        for i, parameter in enumerate(group["params"]):
            yield repr(names[i]) if names else str(count), parameter
            count += 1


def _write_ids(optimizer: Optimizer, state_dict: Dict[str, Any]) -> None:
    record = followed[optimizer]
    if any(optimizer.state.values()):
        for group, packed in zip(optimizer.param_groups, state_dict["param_groups"]):
            patterns = [record.patterns.get(parameter) for parameter in group["params"]]
            if any(patterns):
                packed[_IDS] = [None if pattern is None else pattern.id for pattern in patterns]


def starts_of(optimizer: Optimizer) -> Starts:
    """Where the state of a fresh weight starts in one of torch's optimizers, if not at 0."""
    found: Dict[str, Union[float, str]] = {}
    for kind, starts in _STARTS.items():
        if isinstance(optimizer, kind):
            found.update(starts)
    return found


def _check_starts(optimizer: Optimizer, starts: Any) -> None:
    if not isinstance(starts, Mapping) or not all(
        isinstance(name, str) and isinstance(start, (str, int, float)) for name, start in starts.items()
    ):
        raise TypeError(f"starts must map names of state to numbers or names of options, got {starts!r}")
    for name, start in starts.items():
        if isinstance(start, str) and not all(start in group for group in optimizer.param_groups):
            raise ValueError(f"starts: {name!r} is to start at {start!r}, which is no option of the parameter groups")
