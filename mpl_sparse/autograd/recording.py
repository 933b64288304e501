"""Whether torch records what runs now, or only runs it."""

from __future__ import annotations

from torch._C import _is_tracing, _len_torch_dispatch_stack
from torch.compiler import is_dynamo_compiling

__all__ = ["is_recorded"]


def is_recorded() -> bool:
    """True under torch.compile, torch.export, torch.jit.trace and every dispatch mode (make_fx, FakeTensorMode, ...).

    They see operations of torch only: what a kernel writes would be left out without a word.
    """
    # torch.export without torch's compiler runs in a dispatch mode
    return is_dynamo_compiling() or _is_tracing() or _len_torch_dispatch_stack() > 0
