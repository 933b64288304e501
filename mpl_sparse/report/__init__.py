"""What a model holds, what it computes and how long that takes: layer by layer, as a table, a dict or a picture."""

from .. import requires_torch  # noqa: F401
from .table import Summary, summary

__all__ = ["Summary", "summary"]
