"""The command line: `mpl-sparse demo`, `info`, `inspect` and `convert`."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from importlib import util
from typing import Optional, Sequence

from .info import info

__all__ = ["info", "main"]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command and return the exit status: 0, or 1 after an error. `arguments` default to those of the process.

    Arguments that are none end the process with 2, as argparse does.
    """
    parser = argparse.ArgumentParser(
        prog="mpl-sparse", description="Sparse convolutional and linear layers for PyTorch on CPUs."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser(
        "demo", help="train, prune and time a small network on handwritten digits (under two minutes)"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the weights and the order of the images (default: 0)")
    commands.add_parser("info", help="what this build runs on this machine")
    _add_inspect(commands)
    convert = _add_convert(commands)
    options = parser.parse_args(arguments)
    is_dense = options.command == "convert" and options.dense
    if is_dense and (options.compress or options.dtype or options.unsigned_zeros):
        convert.error("--dense writes values as they are: it takes no --compress, --dtype or --unsigned-zeros")

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names come from files, and may not fit the terminal
    try:
        status = _run(parser, options)
        if sys.stdout is not None:  # closed by who started this
            sys.stdout.flush()
        return status
    except OSError as error:  # of the output: a full disk, or a reader such as `head` that has seen enough
        with contextlib.suppress(OSError, AttributeError):  # what could not be written is not tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if isinstance(error, BrokenPipeError) else _failed(options.command, error.strerror or str(error))
    except MemoryError:
        return _failed(options.command, "there is not enough memory")
    except KeyboardInterrupt:
        return _failed(options.command, "interrupted")


def _failed(command: str, why: str) -> int:
    print(f"mpl-sparse {command}: {why}", file=sys.stderr)
    return 1


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.command == "inspect":
        from .inspect import inspect

        return inspect(options.file, options.json)
    if options.command == "convert":
        from .convert import convert

        return convert(options)
    if options.command == "info":
        try:
            lines = info()
        except ValueError as error:  # a bad MPL_SPARSE_BACKEND or MPL_SPARSE_NUM_THREADS
            parser.exit(1, f"mpl-sparse info: {error}\n")
        for name, value in lines.items():
            print(f"{name + ':':<14}{value}")
        return 0
    for needed, why in (("torch", "trains with PyTorch"), ("tqdm", "shows its progress with tqdm")):
        if util.find_spec(needed) is None:
            parser.exit(1, f"mpl-sparse demo {why}, which is not installed: pip install {needed}\n")
    from ..demo import run

    run(options.seed)
    return 0


def _add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "inspect",
        help="what a file holds, and how small",
        description="List the tensors of a file of mpl_sparse.save or `mpl-sparse convert`, from its header alone.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "convert",
        help="any file of weights as a small one",
        description="Write the tensors of IN to OUT in the format mpl-sparse/1, each as small as it gets. IN is a file "
        "of torch.save, of safetensors (also with compressed-tensors' bitmasks), of the original ModelPruningLibrary, "
        "or of mpl_sparse.save; its content tells which. No code of IN is run. OUT appears whole or not at all.",
    )
    parser.add_argument("source", metavar="IN")
    parser.add_argument("target", metavar="OUT")
    parser.add_argument("--compress", choices=["zstd"], help="lossless compression of values, where it helps")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], help="LOSSY: store float values rounded to it")
    parser.add_argument(
        "--unsigned-zeros",
        action="store_true",
        help="LOSSY in the sign alone: store -0.0, as `weight * mask` leaves it, as 0.0, which takes no room",
    )
    parser.add_argument(
        "--dense", action="store_true", help="write a plain safetensors file of dense tensors, for other programs"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    return parser
