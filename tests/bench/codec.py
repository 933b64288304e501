"""How many million positions a second the core encodes and decodes, at each density.

    python tests/bench/codec.py                # writes tests/bench/results/codec/RESULTS.md
    python tests/bench/codec.py --nnz 200000 --rounds 3 --write build/codec

One thread. *choose* finds the smallest coding, *write* makes its bytes, *read* decodes them chunk by chunk. The
reference in numpy is timed beside, once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

# As a script this is in no package: make one of the folder, and keep its files from hiding modules of the same names.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.machine import circumstances
from mpl_sparse import _core
from mpl_sparse.serializer import reference
from mpl_sparse.serializer.positions import CHUNK, Encoder, chunks

RESULTS = Path(__file__).resolve().parent / "results" / "codec"
DENSITIES = (0.0001, 0.001, 0.01, 1 / 32, 0.05, 0.1, 0.2, 0.25, 0.32, 0.35, 0.4, 0.5, 0.6, 0.65, 0.75, 0.9, 0.99)


def random_positions(density: float, nnz: int) -> Tuple[np.ndarray, int]:
    """(about nnz positions, numel), of gaps as in a random mask."""
    positions = np.cumsum(np.random.default_rng(0).geometric(density, nnz)) - 1
    return positions, int(positions[-1]) + 1


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """The least of some rounds: what disturbs only adds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def row(density: float, nnz: int, rounds: int) -> str:
    """The line of the table."""
    positions, numel = random_positions(density, nnz)
    encoder = Encoder(positions, numel)
    coding, packed = encoder.coding, encoder.encode()
    buffer, out = np.empty(CHUNK, np.int64), np.empty_like(packed)
    core_encoder = _core.PositionEncoder(positions, numel)
    made = np.concatenate([chunk.copy() for chunk in chunks(packed, nnz, numel, coding)])
    if not np.array_equal(made, positions):
        raise AssertionError("the positions have changed")

    def read() -> None:
        decoder = _core.PositionDecoder(packed, nnz, numel, *coding)
        while decoder.read(buffer):
            pass

    choose = seconds(lambda: _core.PositionEncoder(positions, numel), rounds)
    write = seconds(lambda: core_encoder.write(out), rounds)
    times = [choose, write, choose + write, seconds(read, rounds)]
    times.append(seconds(lambda: reference.encode(positions, numel, coding), 1))
    times.append(seconds(lambda: reference.decode(packed, nnz, numel, coding), 1))
    cells = [f"{nnz / each / 1e6:.0f}" for each in times]
    kind = f"{coding.kind}{f' {coding.divisor}' if coding.divisor else ''}{' of the zeros' if coding.zeros else ''}"
    return f"| {density:.4g} | {kind} | " + " | ".join(cells) + " |"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python tests/bench/codec.py", description=__doc__.split("\n")[0])
    parser.add_argument("--nnz", type=int, default=4_000_000, help="positions of each mask")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", type=Path, default=RESULTS, metavar="DIR", help="where the results go")
    options = parser.parse_args(words)
    if options.nnz < 1 or options.rounds < 1:
        parser.error("--nnz and --rounds must be at least 1")
    lines: List[str] = [row(density, options.nnz, options.rounds) for density in tqdm(DENSITIES, disable=None)]
    around = circumstances()
    command = shlex.join(["python", "tests/bench/codec.py", *words])
    text = f"""# The codec of positions: million nonzeros a second

Random masks with {options.nnz:,} nonzeros, one thread, the best of {options.rounds} rounds. *choose* finds the
smallest coding, *write* makes its bytes, *read* decodes them in chunks of {CHUNK:,}. *numpy* is the reference, once.

- Machine: {around["machine"]}
- Versions: {around["versions"]}
- mpl-sparse: {around["commit"]}
- Date: {around["date"]}
- Command: `{command}`

| density | coding | choose | write | choose and write | read | numpy writes | numpy reads |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""
    options.write.mkdir(parents=True, exist_ok=True)
    (options.write / "RESULTS.md").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
