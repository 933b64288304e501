"""`mpl-sparse demo`: train, prune, convert and time a small convolutional network on real handwritten digits."""

from .. import requires_torch  # noqa: F401
from .story import run

__all__ = ["run"]
