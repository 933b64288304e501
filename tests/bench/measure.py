"""Measures cases one by one: all candidates of a case take turns, and a record is what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch

import mpl_sparse

from . import models
from .layers import KINDS, Layer
from .machine import circumstances
from .peers import CONTESTANTS, LEFT_OUT, PEERS, Peer
from .peers.remote import RemoteError
from .records import Case, Entrant, Record, append, covered, read
from .task import MODELS, Candidate, check, make_task
from .timing import take_turns


@dataclass(frozen=True)
class Plan:
    """What to measure in this process.

    Attributes:
        whats: of task.WHATS.
        batches: None for each layer's own.
        networks: whole models, measured at batch 1.
        peers: names, beside ours and dense PyTorch.
        backend: one of mpl_sparse.backends().
        rounds, turn_seconds: of timing.take_turns.
        file: where the records go.
        environments: where peers' virtual environments are.
        command: how a user repeats this.
    """

    whats: Sequence[str]
    layers: Sequence[Layer]
    networks: Sequence[models.Network]
    sparsities: Sequence[float]
    batches: Optional[Sequence[int]]
    threads: int
    backend: str
    peers: Sequence[str]
    rounds: int
    turn_seconds: float
    file: Path
    environments: Path
    command: str

    def cases(self) -> Iterator[Tuple[Case, Optional[Layer], Optional[models.Network]]]:
        """Each with its layer or its model."""
        for what in self.whats:
            if what == MODELS:
                for network in self.networks:
                    yield Case(what, network.name, 1, self.threads, self.backend), None, network
                continue
            for layer in self.layers:
                for batch in self.batches or layer.batches:
                    yield Case(what, layer.name, batch, self.threads, self.backend), layer, None


def run(plan: Plan, say: Callable[[str], None] = print) -> None:
    """Measure what the plan asks for and its file does not hold yet, in this process, and append it to the file."""
    around = {**circumstances(), "command": plan.command}
    around["peers"] = ", ".join(sorted(plan.peers))
    done = covered(read(plan.file), around["commit"], set(plan.peers), plan.sparsities)
    todo = [entry for entry in plan.cases() if entry[0] not in done]
    peers, absent = _peers(plan) if todo else ([], {})
    around["without"] = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
    for name, reason in absent.items():
        say(f"without {name}: {reason}")
    before = mpl_sparse.backend(), torch.get_num_threads()
    mpl_sparse.set_backend(plan.backend)
    torch.set_num_threads(plan.threads)
    try:
        with torch.inference_mode():
            for number, (case, layer, network) in enumerate(todo, start=1):
                record = _measure(plan, case, layer, network, peers, around, say)
                append(plan.file, record)
                say(f"[{number}/{len(todo)}] {_line(record)}")
    finally:
        mpl_sparse.set_backend(before[0])
        torch.set_num_threads(before[1])
        for peer in peers:
            peer.close()


def _peers(plan: Plan) -> Tuple[List[Peer], Dict[str, str]]:
    """Those that can take part, and why each other one cannot."""
    capped = None if plan.backend == mpl_sparse.backends()[0] else plan.backend
    found: List[Peer] = []
    absent = dict(LEFT_OUT) if plan.peers else {}
    for kind in (*CONTESTANTS, *(peer for peer in PEERS if peer.name in plan.peers)):
        peer = kind(plan.environments, capped)
        reason = peer.unavailable()
        if reason is None:
            found.append(peer)
        else:
            absent[peer.name] = reason
            peer.close()
    return found, absent


def _measure(
    plan: Plan,
    case: Case,
    layer: Optional[Layer],
    network: Optional[models.Network],
    peers: Sequence[Peer],
    around: Dict[str, str],
    say: Callable[[str], None],
) -> Record:
    """One record."""
    if layer is not None:
        entrants = _layer_candidates(plan, case, layer, peers, say)
    else:
        assert network is not None
        entrants = models.candidates(network, plan.sparsities)
    named = {Entrant(entrant.peer, entrant.sparsity): entrant for entrant in entrants}
    times = take_turns({name: entrant.seconds for name, entrant in named.items()}, plan.rounds, plan.turn_seconds)
    for peer in peers:
        peer.clear()
    return Record(
        case,
        layer.kind if layer is not None else KINDS[-1],
        [name for name, entrant in named.items() if entrant.baseline],
        times,
        around,
    )


def _layer_candidates(
    plan: Plan, case: Case, layer: Layer, peers: Sequence[Peer], say: Callable[[str], None]
) -> List[Candidate]:
    task = make_task(case.what, layer, case.batch, case.threads, plan.sparsities)
    expected = {sparsity: task.expected(sparsity) for sparsity in (None, *plan.sparsities)}
    found: List[Candidate] = []
    for peer in peers:
        try:
            entrants = peer.candidates(task)
        except RemoteError as error:
            say(f"without {peer.name} for {layer.name}: {error}")
            continue
        try:
            for entrant in entrants:
                check(entrant, expected[entrant.sparsity])
        except AssertionError as error:
            if peer.name in (contestant.name for contestant in CONTESTANTS):
                raise
            say(f"without {peer.name} for {layer.name}, where its results are wrong: {str(error).splitlines()[0]}")
            continue
        found += entrants
    return found


def _line(record: Record) -> str:
    """What a waiting user sees of a case."""
    case = record.case
    ratios = [(sparsity, record.speedup(CONTESTANTS[0].name, sparsity)) for sparsity in record.sparsities]
    speedups = " ".join(f"{sparsity:.0%} {found.median:.3g}x" for sparsity, found in ratios if found)
    return f"{case.what} {case.layer}, batch {case.batch}, {case.threads} thread(s), {case.backend}: {speedups}"
