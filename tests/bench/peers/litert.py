"""XNNPACK's sparse convolutions through LiteRT."""

from __future__ import annotations

from typing import List, Optional

from ..task import Candidate, Task
from .peer import Peer


class LiteRT(Peer):
    name = "LiteRT"

    def unavailable(self) -> Optional[str]:
        return "to do"

    def candidates(self, task: Task) -> List[Candidate]:
        return []
