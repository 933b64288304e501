"""The rules of the house: who imports whom, and what works without torch."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mpl_sparse

# Each part of the package, and the parts it may import: at the top, in functions and for type checking alike.
ARROWS = {
    "pattern": {"_core"},
    "geometry": {"_core", "pattern"},
    "threads": {"_core"},
    "functional": {"_core", "autograd", "geometry", "pattern", "threads"},
    "autograd": {"_core", "geometry", "pattern"},
    "nn": {"autograd", "geometry", "pattern"},
    "pruning": {"nn", "optim", "pattern", "report"},
    "optim": {"nn", "pattern"},
    "report": {"nn", "pattern"},
    "models": {"nn", "pruning", "report"},
    "serializer": {"_core", "models", "nn", "pattern"},
    "utils": {"serializer"},
}
FREE = {"__init__", "__main__", "cli", "demo", "experiments"}  # the public face and the programs: anything
FOR_ALL = {"requires_torch"}
TORCH_FREE = {"__init__", "__main__", "cli", "functional", "geometry", "pattern", "serializer", "threads", "utils"}

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "mpl_sparse"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
every_file = pytest.mark.parametrize("file", FILES, ids=str)


def part(file: Path) -> str:
    """`nn` for nn/conv2d.py, `pattern` for pattern.py."""
    return file.parts[0] if len(file.parts) > 1 else file.stem


def imports(nodes: list, file: Path) -> set:
    """The absolute names of the modules (or names in them) that the import statements among `nodes` load."""
    package = ["mpl_sparse", *file.parts[:-1]]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def parse(file: Path) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def top_level(tree: ast.Module) -> list:
    """The statements that run at import time: not those of functions, and not `if TYPE_CHECKING`."""
    found, queue = [], list(tree.body)
    while queue:
        node = queue.pop()
        type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not type_checking:
            found.append(node)
            queue.extend(
                child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.ExceptHandler))
            )
    return found


def test_every_part_has_its_arrows():
    assert {part(file) for file in FILES} - FREE - FOR_ALL == set(ARROWS)


@every_file
def test_import_arrows(file):
    own = part(file)
    if own in FREE | FOR_ALL:
        return
    used = {name.split(".")[1] for name in imports(list(ast.walk(parse(file))), file) if name.startswith("mpl_sparse.")}
    assert used - {own} - FOR_ALL <= ARROWS[own]


@every_file
def test_nothing_imports_the_tests(file):
    assert not {name for name in imports(list(ast.walk(parse(file))), file) if name.split(".")[0] == "tests"}


@every_file
def test_torch_is_imported_only_where_it_is_needed(file):
    if part(file) in TORCH_FREE:
        assert not {name for name in imports(top_level(parse(file)), file) if name.split(".")[0] == "torch"}


def test_there_are_no_drawers_for_everything():
    assert not {"utils.py", "helpers.py", "common.py", "misc.py"} & {file.name for file in FILES}


@pytest.mark.parametrize("place", ["include", "src", "mpl_sparse/_core.pyx", "mpl_sparse/_core.pxd"])
def test_the_core_knows_no_torch(place):
    root = REPOSITORY / place
    sources = [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else [root]
    for path in sources:
        code = path.read_text(encoding="utf-8").lower()
        assert "import torch" not in code and "<torch" not in code and "omp.h" not in code, path
        if root.is_dir():
            assert "python.h" not in code, path


# targets -> kernels -> simd. The standard library stays out of what is compiled once for each instruction set: an
# inline function of it, compiled with AVX-512, could replace the ordinary one everywhere.
INCLUDES = {
    "simd": {"simd/", "cstdint", "immintrin.h", "arm_neon.h"},
    "kernels": {"kernels/", "cstddef", "cstdint", "mpl_sparse/activation.h"},
    "targets": {"simd/", "kernels/"},
}


@pytest.mark.parametrize("folder", INCLUDES)
def test_kernel_includes(folder):
    for path in (REPOSITORY / "src" / folder).iterdir():
        for header in re.findall(r'#include [<"]([^>"]+)', path.read_text(encoding="utf-8")):
            assert any(header.startswith(allowed) for allowed in INCLUDES[folder]), (path.name, header)


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\n"


def test_importing_loads_nothing_but_numpy_and_the_standard_library():
    python("""
import sys
before = set(sys.modules)  # a site may have its own
import mpl_sparse
assert "numpy" not in sys.modules
mpl_sparse.Pattern, mpl_sparse.functional, mpl_sparse.backends()
loaded = set(sys.modules) - before
heavy = {name.split(".")[0] for name in loaded} - set(getattr(sys, "stdlib_module_names", sys.modules))
assert not {name for name in heavy if not name.startswith("_")} - {"mpl_sparse", "numpy", "cython_runtime"}, heavy
""")


def test_torch_is_loaded_for_torch_only():
    python("""
import sys, numpy as np, mpl_sparse
pattern = mpl_sparse.Pattern.from_mask(np.eye(3, dtype=bool))
mpl_sparse.functional.linear(np.ones((2, 3), np.float32), np.ones(3, np.float32), pattern)
assert "torch" not in sys.modules
""")


def test_numpy_arrays_work_without_torch():
    python(
        WITHOUT_TORCH
        + """
import numpy as np, mpl_sparse
mask = np.random.default_rng(0).random((4, 2, 3, 3)) < 0.5
pattern = mpl_sparse.Pattern.from_mask(mask)
values = np.ones(pattern.nnz)
output = mpl_sparse.functional.conv2d(np.ones((1, 2, 3, 3)), values, pattern)
assert np.array_equal(output.reshape(-1), mask.sum((1, 2, 3)).astype(float))
dense = mpl_sparse.Pattern.from_mask(np.ones((4, 5), bool))
assert np.array_equal(mpl_sparse.functional.linear(np.ones((1, 5)), np.ones(20), dense), np.full((1, 4), 5.0))
"""
    )


NEEDING_TORCH = ["nn", "optim", "models", "pruning", "prunable", "to_sparse", "fuse", "summary", "prune_by_pct"]


@pytest.mark.parametrize(
    "statement",
    [f"mpl_sparse.{name}" for name in NEEDING_TORCH]
    + [f"import mpl_sparse.{name}" for name in ["autograd", "nn", "optim", "models", "pruning", "report"]]
    + [f"import mpl_sparse.{name}" for name in ["demo", "experiments"]]
    + ["from mpl_sparse.models import conv2", "from mpl_sparse.nn.conv2d import SparseConv2d"],
)
def test_what_needs_torch_says_so(statement):
    python(
        WITHOUT_TORCH
        + f"""
import mpl_sparse
try:
    {statement}
except ImportError as error:
    assert str(error).startswith("this part of mpl_sparse needs PyTorch: pip install torch"), error
else:
    raise SystemExit("no error")
"""
    )


def test_the_public_names_are_there():
    pytest.importorskip("torch")
    for name in mpl_sparse.__all__:
        assert getattr(mpl_sparse, name) is not None
    assert callable(mpl_sparse.summary)
    assert not hasattr(mpl_sparse, "nonsense")
