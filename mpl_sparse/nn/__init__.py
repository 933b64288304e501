"""Prunable layers, masked and sparse, and the conversion of whole models between the two."""

from .. import requires_torch  # noqa: F401
from .conv2d import DenseConv2d, SparseConv2d
from .conversions import ConversionReport, conversion_report
from .convert import prunable, prunable_layers, to_dense, to_sparse
from .fusion import Folded, fuse
from .linear import DenseLinear, SparseLinear
from .lstm import DenseLSTM, PrunableLSTM, SparseLSTM
from .prunable_layer import Prunable, check_pct, check_rank, check_threshold, lowest
from .values import carry, pattern_of, times_bound

__all__ = [
    "ConversionReport",
    "DenseConv2d",
    "DenseLSTM",
    "DenseLinear",
    "Folded",
    "Prunable",
    "PrunableLSTM",
    "SparseConv2d",
    "SparseLSTM",
    "SparseLinear",
    "carry",
    "check_pct",
    "check_rank",
    "check_threshold",
    "conversion_report",
    "fuse",
    "lowest",
    "pattern_of",
    "prunable",
    "prunable_layers",
    "times_bound",
    "to_dense",
    "to_sparse",
]
