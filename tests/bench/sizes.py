"""How many bytes positions and files take at each density, beside the entropy bound and what others take.

    python tests/bench/sizes.py                # writes tests/bench/results/sizes: RESULTS.md and positions.png
    python tests/bench/sizes.py --size 512 --write build/sizes     # smaller masks: seconds

Needs torch, scipy, zstandard, safetensors, matplotlib, tqdm. Every byte is counted, none is timed: it gives the same
everywhere, but for what the libraries' own versions change.
"""

from __future__ import annotations

import argparse
import io
import math
import shlex
import sys
import warnings
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import safetensors.torch
import scipy.sparse
import torch
import zstandard
from tqdm import tqdm

import mpl_sparse
from mpl_sparse.demo import digits, training

# As a script this is in no package: make one of the folder, and keep its files from hiding modules of the same names.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import sizes_picture
from bench.machine import circumstances

DENSITIES = (0.0001, 0.001, 0.01, 1 / 32, 0.05, 0.1, 0.2, 0.25, 0.333, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99)
RESULTS = Path(__file__).resolve().parent / "results" / "sizes"
RESTART = 32768  # positions between two restart points of the format
CODE_LENGTHS = {0: [4], 1: [5] * 6, 2: [5] * 4 + [6] * 11, 3: [6] * 20, 4: [7] * 15, 5: [8] * 5 + [9], 6: [9]}
BLOCK = 16


class Mask(NamedTuple):
    """A bool mask (rows, cols), and how it was made."""

    kind: str
    mask: np.ndarray

    @property
    def nnz(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def density(self) -> float:
        return self.nnz / self.mask.size


class Sizes(NamedTuple):
    """Of one mask: bytes of its positions, by coding of ours and by peer, and of whole files with float32 values."""

    kind: str
    density: float
    nnz: int
    bound: float  # bytes
    encoding: str
    chosen: int
    codings: Dict[str, Tuple[int, str]]  # bytes, and which parameters are best
    peers: Dict[str, float]
    files: Dict[str, int]

    def bits(self, size: float) -> float:
        """Per nonzero."""
        return 8 * size / self.nnz


# ----- masks -----


def random_masks(size: int) -> Iterator[Mask]:
    """Each position is there or not, independently: of all masks of a density these have the most entropy."""
    draw = np.random.default_rng(0)
    for density in DENSITIES:
        yield Mask("random", draw.random((size, size), np.float32) < density)


def row_masks(size: int) -> Iterator[Mask]:
    """Whole rows are there, chosen at random."""
    draw = np.random.default_rng(1)
    for density in DENSITIES:
        mask = np.zeros((size, size), np.bool_)
        mask[draw.permutation(size)[: max(1, round(density * size))]] = True
        yield Mask("whole rows", mask)


def block_masks(size: int) -> Iterator[Mask]:
    """Whole blocks are there, chosen at random."""
    draw, blocks = np.random.default_rng(2), size // BLOCK
    for density in DENSITIES:
        chosen = np.zeros(blocks * blocks, np.bool_)
        chosen[draw.permutation(chosen.size)[: max(1, round(density * chosen.size))]] = True
        yield Mask(f"blocks of {BLOCK}x{BLOCK}", np.kron(chosen.reshape(blocks, -1), np.ones((BLOCK, BLOCK), np.bool_)))


def trained_masks(epochs: int) -> Iterator[Mask]:
    """The largest magnitudes of a layer that was trained on the demo's digits."""
    torch.manual_seed(0)
    network = training.network()
    data = training.as_tensors(digits.split_digits(digits.load_digits())[0])
    training.train(network, torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9), data, epochs)
    weight = network[6].weight.detach().abs().numpy()
    order = np.argsort(-weight, axis=None, kind="stable")
    for density in DENSITIES[1:]:
        mask = np.zeros(weight.size, np.bool_)
        mask[order[: round(density * weight.size)]] = True
        yield Mask("trained", mask.reshape(weight.shape))


# ----- positions: ours, counted from the words of FORMAT.md and not with the library -----


def ceil_bytes(bits: int) -> int:
    return -(-bits // 8)


def huffman_bytes(mask: np.ndarray) -> int:
    flat = np.zeros(-(-mask.size // 6) * 6, np.bool_)
    flat[: mask.size] = mask.reshape(-1)
    symbols = np.packbits(flat.reshape(-1, 6), axis=1, bitorder="little").reshape(-1)
    by_ones = sorted(range(64), key=lambda symbol: (bin(symbol).count("1"), symbol))
    lengths = dict(zip(by_ones, (length for lengths in CODE_LENGTHS.values() for length in lengths)))
    counts = np.bincount(symbols, minlength=64)
    return ceil_bytes(sum(int(counts[symbol]) * length for symbol, length in lengths.items()))


def golomb_bytes(gaps: np.ndarray, shift: int, ternary: bool) -> int:
    size = 16 * (max(0, gaps.size - 1) // RESTART) + ceil_bytes(gaps.size * shift)
    quotients = gaps >> shift
    if ternary:
        quotients, digits_ = np.divmod(quotients, 3)
        size += ceil_bytes(gaps.size) + ceil_bytes(int(np.count_nonzero(digits_)))
    return size + ceil_bytes(gaps.size + int(quotients.sum()))


def codings(mask: np.ndarray) -> Dict[str, Tuple[int, str]]:
    """Bytes and the best parameters of each coding of the format."""
    sizes = {"bitmap": (ceil_bytes(mask.size), "")}
    zeros = 2 * np.count_nonzero(mask) > mask.size
    coded = ~mask if zeros else mask
    of_zeros = "of the zeros" if zeros else ""
    sizes["huffman"] = huffman_bytes(coded), of_zeros
    gaps = np.diff(np.flatnonzero(coded), prepend=-1) - 1
    for name, ternary in (("golomb 2^b", False), ("golomb 3*2^b", True)):
        found = min((golomb_bytes(gaps, shift, ternary), shift) for shift in range(30))
        sizes[name] = found[0], f"b = {found[1]}" + (f" {of_zeros}" if zeros else "")
    return sizes


def entropy_bytes(nnz: int, numel: int) -> float:
    """Of positions that are independent of each other: log2 of how many masks have so many."""
    logarithm = math.lgamma(numel + 1) - math.lgamma(nnz + 1) - math.lgamma(numel - nnz + 1)
    return logarithm / math.log(2) / 8


# ----- positions: others -----


def original(mask: np.ndarray, nnz: int) -> float:
    """Below 1/32 the index of each value, in the smallest of 8 to 64 bits; else a bitmap."""
    if 32 * nnz >= mask.size:
        return ceil_bytes(mask.size)
    return nnz * next(size for size, most in ((1, 2**8), (2, 2**15), (4, 2**31), (8, 2**63)) if mask.size <= most)


def zstd_bitmap(mask: np.ndarray, nnz: int) -> float:
    return len(zstandard.ZstdCompressor(level=19).compress(np.packbits(mask).tobytes()))


def varint(mask: np.ndarray, nnz: int) -> float:
    """Gaps in 7 bits a byte."""
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    return nnz + sum(int(np.count_nonzero(gaps >= 1 << shift)) for shift in range(7, 63, 7))


def elias_fano(mask: np.ndarray, nnz: int) -> float:
    """By its formula, without what makes it searchable."""
    shift = max(0, int(math.floor(math.log2(mask.size / nnz))))
    return ceil_bytes(nnz * shift) + ceil_bytes(nnz + (mask.size >> shift))


def compressed(index_bytes: int) -> Callable[[np.ndarray, int], float]:
    """CSR: a column for each nonzero, and a pointer for each row."""
    return lambda mask, nnz: index_bytes * (nnz + len(mask) + 1)


def bitmask(mask: np.ndarray, nnz: int) -> float:
    """compressed-tensors: each row's bits in whole bytes, and int64 offsets of the rows."""
    return len(mask) * (ceil_bytes(mask.shape[1]) + 8)


PEERS: Dict[str, Callable[[np.ndarray, int], float]] = {
    "original": original,
    "zstd -19 of bitmap": zstd_bitmap,
    "varint gaps": varint,
    "Elias-Fano": elias_fano,
    "CSR int32": compressed(4),
    "CSR int64": compressed(8),
    "compressed-tensors": bitmask,
    "COO int64": lambda mask, nnz: 16 * nnz,
}


# ----- whole files -----


class Counter(io.RawIOBase):
    """Keeps nothing, knows how much there was."""

    count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        self.count += size
        return size


def saved(obj: object) -> int:
    counter = Counter()
    torch.save(obj, counter)
    return counter.count


def files(mask: np.ndarray, pattern: mpl_sparse.Pattern, positions: Dict[str, float]) -> Dict[str, int]:
    """Bytes of whole files with float32 values, random ones: no compression finds anything in them."""
    values = np.random.default_rng(3).standard_normal(pattern.nnz, np.float32)
    dense = np.zeros(mask.shape, np.float32)
    dense[mask] = values
    tensor = torch.from_numpy(dense)
    csr = scipy.sparse.csr_matrix((values, pattern.col_idx, pattern.row_ptr), mask.shape)
    npz = io.BytesIO()
    scipy.sparse.save_npz(npz, csr)
    return {
        "ours": len(mpl_sparse.dumps((pattern, values))),
        "original's rule": int(positions["original"]) + values.nbytes,
        "compressed-tensors": int(positions["compressed-tensors"]) + values.nbytes,
        "scipy npz": npz.getbuffer().nbytes,
        "torch CSR": saved(tensor.to_sparse_csr()),
        "torch COO": saved(tensor.to_sparse()),
        "torch dense": saved(tensor),
        "safetensors dense": len(safetensors.torch.save({"weight": tensor})),
    }


# ----- all of it -----


def measure(mask: Mask, with_files: bool) -> Sizes:
    """Every size of one mask. The library's own choice must be the smallest coding, and as large as counted here."""
    array, nnz = mask.mask, mask.nnz
    pattern = mpl_sparse.Pattern.from_mask(array)
    (info,) = mpl_sparse.inspect(io.BytesIO(mpl_sparse.dumps(pattern)))
    counted = codings(array)
    if info.nbytes != min(size for size, _ in counted.values()):
        raise AssertionError(f"{mask.kind}, {mask.density}: {info} where these were counted: {counted}")
    peers = {name: peer(array, nnz) for name, peer in PEERS.items()}
    sizes = files(array, pattern, peers) if with_files else {}
    bound = entropy_bytes(nnz, array.size)
    return Sizes(mask.kind, mask.density, nnz, bound, info.encoding, info.nbytes, counted, peers, sizes)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python tests/bench/sizes.py", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the masks; a multiple of 16")
    parser.add_argument("--epochs", type=int, default=10, help="of training, for the trained layer")
    parser.add_argument("--write", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    options = parser.parse_args(words)
    if options.size < 256 or options.size % BLOCK:
        parser.error(f"argument --size: must be a multiple of {BLOCK} and at least 256, got {options.size}")
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    found: List[Sizes] = []
    with tqdm(total=4 * len(DENSITIES) - 1, unit="mask", disable=None) as bar:
        for masks in (random_masks(options.size), row_masks(options.size), block_masks(options.size)):
            for mask in masks:
                bar.set_description(f"{mask.kind}, density {mask.density:.4g}")
                found.append(measure(mask, mask.kind == "random"))
                bar.update()
        for mask in trained_masks(options.epochs):
            bar.set_description(f"{mask.kind}, density {mask.density:.4g}")
            found.append(measure(mask, False))
            bar.update()
    options.write.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "tests/bench/sizes.py", *words])
    picture = sizes_picture.draw(found, options.write / "positions.png")
    (options.write / "RESULTS.md").write_text(report(found, options.size, command, picture.name), encoding="utf-8")
    for file in (options.write / "RESULTS.md", picture):
        print(f"wrote {file}")


# ----- the report -----


def report(found: Sequence[Sizes], size: int, command: str, picture: str) -> str:
    """All of RESULTS.md."""
    around = circumstances()
    random = [sizes for sizes in found if sizes.kind == "random"]
    parts = [
        "# Sizes: positions and files at each density",
        f"Made by `{command}` (mpl-sparse {around['commit']}, {around['versions']}, zstandard "
        f"{zstandard.__version__}, scipy {scipy.__version__}, {around['date']}). Sizes are counted, not timed.",
        f"![{picture}]({picture})",
        f"## Random masks of {size} x {size}: bits for the positions, per nonzero",
        "The format's codings, each with its best parameters; the smallest is the one that is stored. The bound is the "
        "logarithm of how many masks have so many nonzeros, divided by these: no coding that knows only the density "
        "takes less on average.",
        codings_table(random),
        "## The same masks in other formats, bits per nonzero",
        "*original*: the library's first version, pairs of value and index below 1/32 and else a bitmap. "
        "*compressed-tensors*: its `sparse-bitmask`. CSR is what scipy (int32) and torch (int64) save; COO is torch's.",
        peers_table(random),
        "## Whole files with float32 values, MB",
        "Values are random, and nothing is compressed but in scipy's npz, which is (deflate). *original's rule* and "
        "*compressed-tensors* are counted without headers.",
        files_table(random),
    ]
    for kind in dict.fromkeys(sizes.kind for sizes in found if sizes.kind != "random"):
        some = [sizes for sizes in found if sizes.kind == kind]
        parts += [f"## {TITLES.get(kind, f'Masks of {kind}')}: bits per nonzero", STRUCTURED.get(kind, "")]
        parts.append(structured_table(some))
    return "\n\n".join(part for part in parts if part) + "\n"


TITLES = {"trained": "A trained layer, the largest magnitudes kept"}
STRUCTURED = {
    "trained": "Linear(1024, 256) of the demo's network, trained on digits.",
    "whole rows": "Such a mask has almost no information, and a compressor of the bitmap finds that; the format's "
    "codings know one number, the density. Beside 32 bits for a value it is what structured pruning pays.",
}


def number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """Markdown; the first `words` columns are words, the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(heading) - words)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heading, rule, *rows))


def codings_table(found: Sequence[Sizes]) -> str:
    names = list(found[0].codings)
    rows = []
    for sizes in found:
        best = min(names, key=lambda name: sizes.codings[name][0])
        cells = [
            f"**{sizes.bits(size):.3f}**" if name == best else f"{sizes.bits(size):.3f}"
            for name, (size, _) in sizes.codings.items()
        ]
        chosen = " ".join(part for part in (best, sizes.codings[best][1]) if part)
        ratio = sizes.chosen / sizes.bound
        rows.append([chosen, f"{sizes.density:.4g}", *cells, f"{sizes.bits(sizes.bound):.3f}", f"{ratio:.4f}"])
    return table(["stored", "density", *names, "bound", "stored / bound"], rows, 1)


def peers_table(found: Sequence[Sizes]) -> str:
    rows = [
        [
            f"{sizes.density:.4g}",
            f"{sizes.bits(sizes.chosen):.2f}",
            *(number(sizes.bits(size)) for size in sizes.peers.values()),
        ]
        for sizes in found
    ]
    return table(["density", "ours", *found[0].peers], rows, 0)


def files_table(found: Sequence[Sizes]) -> str:
    rows = []
    for sizes in found:
        saving = sizes.files["safetensors dense"] / sizes.files["ours"]
        rows.append([f"{sizes.density:.4g}", *(f"{size / 1e6:.3f}" for size in sizes.files.values()), number(saving)])
    return table(["density", *found[0].files, "dense / ours"], rows, 0)


def structured_table(found: Sequence[Sizes]) -> str:
    rows = [
        [
            sizes.encoding,
            f"{sizes.density:.4g}",
            f"{sizes.bits(sizes.chosen):.3f}",
            f"{sizes.bits(sizes.bound):.3f}",
            *(number(sizes.bits(sizes.peers[name])) for name in ("zstd -19 of bitmap", "CSR int32", "original")),
        ]
        for sizes in found
    ]
    return table(
        ["stored", "density", "ours", "random at this density", "zstd -19 of bitmap", "CSR int32", "original"], rows, 1
    )


if __name__ == "__main__":
    main()
