"""What was measured, one JSON object a line: a run can stop and go on, and the report is made from all of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from .timing import Ratio, fastest, ratio


class Case(NamedTuple):
    """What stands in one record: everything that took turns together."""

    what: str
    layer: str
    batch: int
    threads: int
    backend: str


class Entrant(NamedTuple):
    """A candidate's name within a record; sparsity None is a dense weight."""

    peer: str
    sparsity: Optional[float]


@dataclass(frozen=True)
class Record:
    """One case.

    Attributes:
        kind: the layer's class.
        baseline: the entrants that are dense PyTorch.
        times: seconds a call, in each round, of each entrant.
        circumstances: versions, machine, date, commit, command.
    """

    case: Case
    kind: str
    baseline: Sequence[Entrant]
    times: Dict[Entrant, List[float]]
    circumstances: Dict[str, str]

    @property
    def dense(self) -> Entrant:
        """The faster of the baseline."""
        return fastest({entrant: self.times[entrant] for entrant in self.baseline})

    @property
    def sparsities(self) -> List[float]:
        """All there are, in order."""
        return sorted({entrant.sparsity for entrant in self.times if entrant.sparsity is not None})

    def speedup(self, peer: str, sparsity: Optional[float], over: Optional[Entrant] = None) -> Optional[Ratio]:
        """How many times faster than `over` (None: dense PyTorch) a peer is; None if it did not take part."""
        entrant = Entrant(peer, sparsity)
        if entrant not in self.times:
            return None
        return ratio(self.times[over or self.dense], self.times[entrant])


def read(file: Path) -> List[Record]:
    """The last record of each case, in the order in which the cases first came. No file, no records."""
    if not file.exists():
        return []
    records = map(_decode, file.read_text(encoding="utf-8").splitlines())
    return list({record.case: record for record in records}.values())


def append(file: Path, record: Record) -> None:
    """Add a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(_encode(record) + "\n")


def covered(records: Sequence[Record], commit: str, peers: Set[str], sparsities: Sequence[float]) -> Set[Case]:
    """The cases that need not be measured again: at this commit, with all these sparsities, against all these peers."""
    return {
        record.case
        for record in records
        if record.circumstances["commit"] == commit
        and set(record.circumstances["peers"].split(", ")) >= peers
        and set(record.sparsities) >= set(sparsities)
    }


def _encode(record: Record) -> str:
    times = [[*entrant, [float(f"{value:.4g}") for value in seconds]] for entrant, seconds in record.times.items()]
    return json.dumps({**asdict(record), "times": times})


def _decode(line: str) -> Record:
    fields = json.loads(line)
    times = {Entrant(peer, sparsity): seconds for peer, sparsity, seconds in fields["times"]}
    baseline = [Entrant(*entrant) for entrant in fields["baseline"]]
    return Record(Case(*fields["case"]), fields["kind"], baseline, times, fields["circumstances"])


def break_even(points: Sequence[Tuple[float, float]]) -> Optional[float]:
    """The sparsity at which (sparsity, speed-up) points cross 1 for good, straight lines between them in the logarithms
    of density and speed-up. None if they never do; the first sparsity if all are at least 1.
    """
    from math import exp, log

    if not points or points[-1][1] < 1:
        return None
    for (low, below), (high, above) in reversed(list(zip(points, points[1:]))):
        if below < 1:
            share = -log(below) / (log(above) - log(below))
            return 1 - exp((1 - share) * log(1 - low) + share * log(1 - high))
    return points[0][0]
