"""`python -m mpl_sparse.experiments`: accuracy against density of the ways to prune, on the demo's digits."""

from .. import requires_torch  # noqa: F401
from .cli import main

__all__ = ["main"]
