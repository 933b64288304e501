"""`mpl-sparse convert IN OUT`."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import util
from typing import Any

from ..serializer.conversion import as_dense, as_ours, opened_source
from ..serializer.files import opened, write_atomically
from ..serializer.save_load import checked_options

__all__ = ["convert"]

LARGE = 10_000_000  # elements that take long enough to show progress


def convert(options: argparse.Namespace) -> int:
    """Run the command: the exit status."""
    source, target = options.source, options.target
    if os.path.lexists(target) and not options.force:
        return _failed(f"{target} is there already: --force replaces it")
    place = source
    try:
        settings = checked_options(options.compress, options.dtype)._replace(unsigned_zeros=options.unsigned_zeros)
        with opened(source) as buffer:
            plan = opened_source(buffer)
            with _Progress(os.path.basename(source), plan.elements) as done:
                buffers = as_dense(plan, done) if options.dense else as_ours(plan, settings, done)
            before = len(buffer)
            place = target
            write_atomically(target, buffers)
    except OSError as error:
        return _failed(f"{place}: {error.strerror or error}")
    except (TypeError, ValueError, ImportError, RuntimeError) as error:  # FileErrors name the tensor
        return _failed(f"{source}: {error}")
    after = os.stat(target).st_size
    print(f"{target}: {after:,} bytes, {after / before:.1%} of the {before:,} bytes of {source}")
    return 0


def _failed(message: str) -> int:
    print(f"mpl-sparse convert: {' '.join(message.split())}", file=sys.stderr)
    return 1


class _Progress:
    """A bar on stderr for a large file, if stderr is a terminal and tqdm is installed; calling it moves the bar."""

    def __init__(self, name: str, elements: int) -> None:
        self._bar: Any = None
        if elements >= LARGE and sys.stderr.isatty() and util.find_spec("tqdm") is not None:
            from tqdm import tqdm

            self._bar = tqdm(total=elements, desc=name, unit=" values", unit_scale=True, leave=False)

    def __call__(self, elements: int) -> None:
        if self._bar is not None:
            self._bar.update(elements)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
