"""What a peer answers."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

from ..task import Candidate, Task


class Peer:
    """A library that computes the layers.

    Attributes:
        name: its name in tables and on the command line.
        environments: a folder for virtual environments of peers that need one of their own.
        backend: the instruction set of the run, by mpl_sparse's name; None for the machine's best.
    """

    name: str

    def __init__(self, environments: Path, backend: Optional[str] = None) -> None:
        self.environments = environments
        self.backend = backend

    def unavailable(self) -> Optional[str]:
        """Why it cannot take part here, or None if it can."""
        return None

    def candidates(self, task: Task) -> List[Candidate]:
        """Its candidates; none for a task that it does not do."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget what was made for the last task."""

    def close(self) -> None:
        """The end of the run."""
