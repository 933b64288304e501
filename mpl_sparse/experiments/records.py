"""What was measured, a line of JSON for each finished training: a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import List, NamedTuple, Tuple

__all__ = ["Record", "append", "read"]


class Record(NamedTuple):
    """`accuracy` of a method at a density, from one seed. `weights` is how many remain in the prunable layers."""

    method: str
    density: float
    seed: int
    epochs: int
    accuracy: float
    weights: int

    @property
    def key(self) -> Tuple[str, float, int, int]:
        """What was run."""
        return self.method, self.density, self.seed, self.epochs


def read(path: Path) -> List[Record]:
    """All records; a last line that a kill has cut off is left out.

    Raises:
        ValueError: another line is no record.
    """
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    records = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            records.append(Record(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return records


def append(path: Path, record: Record) -> None:
    """Add a line; what a kill has cut off before goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(json.dumps(record._asdict()).encode() + b"\n")
