"""The command line, without torch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import mpl_sparse
from mpl_sparse import cli


def test_info_tells_what_runs_here(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["backend"].strip() == mpl_sparse.backend()
    assert lines["backends"].split() == list(mpl_sparse.backends())
    assert lines["threads"].strip() == str(mpl_sparse.get_num_threads())
    assert {"mpl-sparse", "CPU", "CPU features", "page size", "Python", "numpy", "torch"} <= lines.keys()


def test_python_dash_m_is_info_and_imports_no_torch():
    code = "import runpy, sys; sys.argv = ['mpl_sparse']\ntry: runpy.run_module('mpl_sparse', run_name='__main__')\n"
    code += "except SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("mpl-sparse:")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_cannot_be_written():
    """Both when it is printed and, as by default, when the process ends."""
    for unbuffered in ("", "1"):
        options = {"env": {**os.environ, "PYTHONUNBUFFERED": unbuffered}, "stderr": subprocess.PIPE, "text": True}
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as broken, open("/dev/full", "w") as full:
            for output, expected in ((broken, ""), (full, "mpl-sparse info: No space left on device\n")):
                result = subprocess.run([sys.executable, "-m", "mpl_sparse"], stdout=output, **options)
                assert (result.returncode, result.stderr) == (1, expected)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--seed", "x"]])
def test_bad_arguments_end_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: mpl-sparse" in capsys.readouterr().err


def test_the_demo_says_that_it_needs_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as end:
        cli.main(["demo"])
    assert end.value.code == 1
    assert "pip install torch" in capsys.readouterr().err
