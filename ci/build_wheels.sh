#!/usr/bin/env bash
# Makes the sdist and, from the sdist, a cp39-abi3 wheel for each architecture; checks them and says their sizes.
#   ci/build_wheels.sh OUTDIR [x86_64] [aarch64] [armv7l] [armv6l] [cp314t]      without names: the first three
# x86_64, aarch64 and armv7l become manylinux_2_17; armv6l (Pi Zero and Pi 1, for which there is no manylinux) stays linux_armv6l. cp314t is
# the wheel of free-threaded Python for this machine; it needs a python3.14t on the path or in $MPL_SPARSE_PYTHON314T.
# Needs python3 (3.10 or later) with venv and headers. Compilers come from PyPI; they and their libraries are cached, see ci/cache.sh.
set -euo pipefail
if [ $# -lt 1 ]; then
  sed -n '2,6s/^# *//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
outdir=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- x86_64 aarch64 armv7l

ci=$(cd "$(dirname "$0")" && pwd)
repository=$(dirname "$ci")
. "$ci/cache.sh"
tools=$(cached_venv "$ci/wheel-tools.txt" wheel-tools)
PATH=$tools/bin:$PATH
export ZIG_GLOBAL_CACHE_DIR=$cache/zig ZIG_LOCAL_CACHE_DIR=$cache/zig
zig=$(python -c 'import pathlib, ziglang; print(pathlib.Path(ziglang.__file__).with_name("zig"))')

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The date in the archives is the commit's, so that the same commit gives the same files.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$repository" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
python -m build --sdist --no-isolation --outdir "$work/sdist" "$repository" >"$work/sdist.log" || { cat "$work/sdist.log"; exit 1; }
mv "$work"/sdist/*.tar.gz "$outdir"
sdist=$(ls "$outdir"/mpl_sparse-*.tar.gz | tail -n 1)
tar -xzf "$sdist" -C "$work"
sources=$work/$(basename "$sdist" .tar.gz)

zig_commands() {  # folder, target, CPU: the compiler's commands for one target
  mkdir -p "$1"
  local name
  for name in cc c++; do
    printf '#!/bin/sh\nexec "%s" %s -target %s -mcpu=%s "$@"\n' "$zig" $name "$2" "$3" >"$1/$name"
  done
  for name in ar ranlib; do
    printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$zig" $name >"$1/$name"
  done
  chmod +x "$1"/*
}

cross_wheel() {  # architecture, zig's target, zig's CPU, bytes of a pointer
  local log=$work/$1.log
  zig_commands "$work/zig-$1" "$2" "$3"
  python "$ci/zig/headers.py" "$work/headers-$1" "$4"
  MPL_SPARSE_ZIG_COMMANDS=$work/zig-$1 MPL_SPARSE_ZIG_PROCESSOR=$1 _PYTHON_HOST_PLATFORM=linux-$1 \
    python -m build --wheel --no-isolation --outdir "$work/built-$1" "$sources" \
    -C cmake.toolchain-file="$ci/zig/toolchain.cmake" -C cmake.define.Python_INCLUDE_DIR="$work/headers-$1" \
    -C build-dir="$work/build-$1" >"$log" 2>&1 || { cat "$log"; return 1; }
  if [ "$1" = armv6l ]; then
    mv "$work/built-$1"/*.whl "$outdir"
  else
    auditwheel repair --wheel-dir "$outdir" "$work/built-$1"/*.whl >"$log" 2>&1 || { cat "$log"; return 1; }
  fi
}

free_threaded_wheel() {
  local python=${MPL_SPARSE_PYTHON314T:-python3.14t}
  if ! command -v "$python" >/dev/null; then
    echo "cp314t needs $python, which is not here" >&2
    return 1
  fi
  "$python" -m venv "$work/python314t"
  "$work/python314t/bin/pip" install --quiet --disable-pip-version-check -r <(grep -E '^(build|cython|scikit-build-core)=' "$ci/wheel-tools.txt")
  zig_commands "$work/zig-cp314t" x86_64-linux-gnu.2.17 x86_64
  MPL_SPARSE_ZIG_COMMANDS=$work/zig-cp314t MPL_SPARSE_ZIG_PROCESSOR=x86_64 \
    "$work/python314t/bin/python" -m build --wheel --no-isolation --outdir "$work/built-cp314t" "$sources" \
    -C cmake.toolchain-file="$ci/zig/toolchain.cmake" -C build-dir="$work/build-cp314t" >"$work/cp314t.log" 2>&1 || { cat "$work/cp314t.log"; return 1; }
  auditwheel repair --wheel-dir "$outdir" "$work"/built-cp314t/*.whl >"$work/cp314t.log" 2>&1 || { cat "$work/cp314t.log"; return 1; }
}

for architecture in "$@"; do
  echo "building for $architecture"
  case $architecture in
    x86_64) cross_wheel x86_64 x86_64-linux-gnu.2.17 x86_64 8 ;;
    aarch64) cross_wheel aarch64 aarch64-linux-gnu.2.17 generic 8 ;;
    armv7l) cross_wheel armv7l arm-linux-gnueabihf.2.17 generic+v7a+vfp4+neon 4 ;;
    armv6l) cross_wheel armv6l arm-linux-gnueabihf.2.17 arm1176jzf_s 4 ;;
    cp314t) free_threaded_wheel ;;
    *) echo "unknown architecture: $architecture" >&2; exit 2 ;;
  esac
done
python "$ci/check_wheels.py" "$outdir"
