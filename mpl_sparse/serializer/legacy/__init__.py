"""Files of other programs: `import_legacy` is the only way to read them, and none of them can run code.

torch.save's files, the original library's pickles, safetensors checkpoints, compressed-tensors' bitmasks.
"""

from .importing import import_legacy

__all__ = ["import_legacy"]
