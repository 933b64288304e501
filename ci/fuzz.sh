#!/usr/bin/env bash
# 100,000 changed files of each coding through Python and the core, which is built for the address and undefined-behaviour sanitizers.
# Builds outside the repository; needs g++, and a Python with numpy, cython and cmake, without mpl_sparse.
#   ci/fuzz.sh [python] [mutants of each coding]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

cmake=$("$python" -c 'import shutil, sysconfig; print(shutil.which("cmake", path=sysconfig.get_path("scripts")) or "cmake")')
"$cmake" -S "$root/mpl_sparse" -B "$build/cmake" -DMPL_SPARSE_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Fuzz -DCMAKE_CXX_FLAGS="-O1 -g1" \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" >"$build/log"
"$cmake" --build "$build/cmake" --parallel 2 >>"$build/log"
cp -r "$root/mpl_sparse" "$build/mpl_sparse"
rm -f "$build"/mpl_sparse/_core*.so
cp "$build"/cmake/_core*.so "$build/mpl_sparse/"

# Python itself is not built for them, so their libraries are loaded first; and what it leaves allocated at its end is no leak of ours.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export PYTHONPATH=$build:$root/tests
cd "$build"  # python -c looks here first
"$python" -c 'import mpl_sparse._core, pathlib, os; assert pathlib.Path(mpl_sparse._core.__file__).parent.parent == pathlib.Path(os.getcwd())'
"$python" "$root/tests/file_mutants.py" --mutants "${2:-100000}"
