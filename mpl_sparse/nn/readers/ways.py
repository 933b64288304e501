"""The ways to a weight, or to the type of its layer, by their names."""

from __future__ import annotations

import re

__all__ = ["ASKS", "CALLS", "FACTS", "READS", "TABLES", "TABLES_OF_A_LAYER", "TYPE_TESTS", "WEIGHT"]

# What is asked of a weight without reading its numbers.
FACTS = {"dtype", "device", "shape", "ndim", "layout", "requires_grad", "is_cuda", "size", "dim", "numel", "type"}
FACTS |= {"element_size", "is_floating_point", "requires_grad_"}
WEIGHT = re.compile(r"weight(_orig|_[ih]h_l\d+(_reverse)?)?$")
# Other ways to the weights of a layer, or of all layers of a module.
TABLES_OF_A_LAYER = {"parameters", "_parameters", "all_weights", "_flat_weights", "_all_weights"}
TABLES = {"state_dict", "named_parameters", "get_parameter"}
CALLS = {"functional_call", "attrgetter", *TABLES}
TYPE_TESTS = {"isinstance", "issubclass", "type", "__class__"}
READS, ASKS = "reads its weight", "asks for its type"
