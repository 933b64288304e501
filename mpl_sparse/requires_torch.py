"""What needs torch imports this first: where there is none, one sentence says what to install."""

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        "this part of mpl_sparse needs PyTorch: pip install torch (there is none for 32-bit ARM, where "
        "mpl_sparse.Pattern and mpl_sparse.functional work on numpy arrays)",
        name="torch",
    ) from None

__all__ = ["torch"]
