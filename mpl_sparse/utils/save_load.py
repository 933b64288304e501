"""`save` and `load` at the original library's import path."""

from ..serializer import load, save

__all__ = ["load", "save"]
