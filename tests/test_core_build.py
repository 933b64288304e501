"""The C++ core on its own: its CMake project configures, builds and passes its own tests."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src"


def run(*command):
    command = [str(word) for word in command]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}"
    return result.stdout


@pytest.mark.timeout(1800)  # a compiler and all the core's tests
def test_the_core_builds_alone_and_passes_its_tests(tmp_path):
    for tool, names in {"CMake": ["cmake"], "CTest": ["ctest"], "a C++ compiler": ["c++", "g++", "clang++"]}.items():
        if not any(map(shutil.which, names)):
            pytest.skip(f"needs {tool} on the path ({', '.join(names)})")
    run("cmake", "-S", SOURCES, "-B", tmp_path, "-DMPL_SPARSE_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", tmp_path, "--parallel", 2)
    report = run("ctest", "--test-dir", tmp_path, "--output-on-failure", "--no-tests=error")
    assert "100% tests passed" in report
