"""What tests/bench/neon.py reads: the plugin's report, listings of programs, llvm-mca's summary."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.fixture(scope="module")
def neon():
    specification = importlib.util.spec_from_file_location("bench_neon", BENCH / "neon.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


ONCE = """\
block 400100 3 loop ld1_v.4s*2;fmla_v.4s*8;cmp_x*1;b.ne*1
block 400200 1 main ret*1
"""
TWICE = """\
case x backend neon
block 400100 6 loop ld1_v.4s*2;fmla_v.4s*8;cmp_x*1;b.ne*1
block 400100 1 loop ld1_v.4s*2;fmla_v.4s*8;cmp_x*1;b.ne*1
block 400200 1 main ret*1
block 400300 2 other ldr_q*1;fmul_v.2d*1;fmla_s*1
"""


def test_one_call_is_what_two_ran_beyond_one(neon):
    call = neon.difference(neon.parse_blocks(TWICE), neon.parse_blocks(ONCE))
    assert {block.symbol: block.count for block in call.values()} == {"loop": 4, "other": 2}
    assert sum(block.instructions for block in call.values()) == 4 * 12 + 2 * 3
    assert sum(block.of_kind(neon.MULTIPLY_ADD) for block in call.values()) == 4 * 8 + 2
    assert sum(block.of_kind(neon.VECTOR_LOAD) for block in call.values()) == 4 * 2 + 2


@pytest.mark.parametrize(
    "kind, is_multiply_add, is_load",
    [
        ("fmla_v.4s", True, False),
        ("fmla_v.2d", True, False),
        ("vfma.f32_q", True, False),
        ("fmadd_s", False, False),
        ("vfma.f32_s", False, False),
        ("ldp_q", False, True),
        ("ldp_x", False, False),
        ("ld1_v.4s", False, True),
        ("ld1r_v.4s", False, True),
        ("vld1.32_d", False, True),
        ("ldrh_w", False, False),
        ("str_q", False, False),
    ],
)
def test_kinds_of_instructions(neon, kind, is_multiply_add, is_load):
    assert bool(neon.MULTIPLY_ADD.match(kind)) == is_multiply_add
    assert bool(neon.VECTOR_LOAD.match(kind)) == is_load


LISTING = """\
driver:     file format elf64-littleaarch64

0000000000401000 <accumulate>:
  401000:      \tmov\tx0, #0x0
  401004:      \tldrh\tw4, [x3], #0x2
  401008:      \tld1\t{ v28.4s, v29.4s }, [x4]
  40100c:      \tfmla\tv1.4s, v28.4s, v0.s[0]
  401010:      \tfmla\tv2.4s, v29.4s, v0.s[0]
  401014:      \tsubs\tx6, x6, #0x1
  401018:      \tb.ne\t0x401008 <accumulate+0x8>
  40101c:      \tcbnz\tx7, 0x401004 <accumulate+0x4>
  401020:      \tret
"""


def test_the_loop_of_an_address_is_the_innermost(neon):
    inner = neon.find_loop(LISTING, 0x40100C)
    assert inner.address == 0x401008
    assert inner.body[0] == "ld1 { v28.4s, v29.4s }, [x4]"
    assert inner.body[-2:] == ["subs x6, x6, #0x1", "b.ne .Lloop"]
    assert neon.multiply_adds_of(inner.body) == 2
    assert neon.find_loop(LISTING, 0x401004).body[-1] == "cbnz x7, .Lloop"
    assert neon.find_loop(LISTING, 0x401020) is None


def test_cycles_of_an_iteration(neon):
    report = "Iterations:        200\nInstructions:      26400\nTotal Cycles:      12018\nTotal uOps:        45000\n"
    assert neon.parse_cycles(report) == 12018 / 200
    with pytest.raises(ValueError, match="no summary"):
        neon.parse_cycles("error: invalid operand")


def test_what_is_not_installed_is_named(neon):
    with pytest.raises(neon.Missing, match=r"^not installed: no-such-program \(an example\)$"):
        neon.program("no-such-program", needed_for="an example")


def test_a_table_has_a_line_for_each_row(neon):
    row = neon.Row(
        "a", "f", 1700, 1000, 300, 0.875, 1.5, 1.4, {"cortex-a53": 0.25, "cortex-a72": 0.9, "neoverse-n1": 1.8}
    )
    lines = neon.table([row, row._replace(in_loop=None, per_cycle={})]).splitlines()
    assert lines[2].startswith(
        "| `a` | `f` | 1,700 | 1,000 | 88% | 1.70 | 1.50 | 1.40 | 0.30 | 0.25 (25%) | 0.90 (90%) "
    )
    assert lines[3].endswith("| - | 0.30 | - | - | - |")
    assert {line.count("|") for line in lines} == {13}


def test_the_plugin_counts_a_real_program(neon, tmp_path):
    qemu = "qemu-x86_64"
    for name in (qemu, "cc"):
        if not shutil.which(name):
            pytest.skip(f"needs {name} on the path")
    plugin = neon.build_plugin(qemu, tmp_path)
    blocks, _ = neon.blocks_of(qemu, "max", plugin, [shutil.which("true")])
    again, _ = neon.blocks_of(qemu, "max", plugin, [shutil.which("true")])
    assert sum(block.instructions for block in blocks.values()) > 1000
    assert blocks.keys() == again.keys()
