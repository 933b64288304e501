#!/usr/bin/env bash
# Makes the sdist and, from the sdist, a cp39-abi3 wheel for each architecture; checks them and says their sizes.
#   ci/build_wheels.sh OUTDIR [x86_64] [aarch64] [armv7l] [armv6l] [cp314t]      without names: the first three
# These become manylinux_2_17. armv6l (Pi 1 and Zero), for which there is no manylinux, stays linux_armv6l. cp314t is the wheel
# for free-threaded Python on x86_64; it needs a python3.14t, on the path or in $MPL_SPARSE_PYTHON314T.
# Needs python3 (3.10 or later) with venv and headers. The compiler comes from PyPI; what it makes is kept, see ci/cache.sh.
set -euo pipefail
if [ $# -lt 1 ]; then
  sed -n '2,6s/^# *//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
outdir=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- x86_64 aarch64 armv7l

for name in "$@"; do
  case $name in
    x86_64 | aarch64 | armv7l | armv6l | cp314t) ;;
    *) echo "unknown architecture: $name" >&2; exit 2 ;;
  esac
done

ci=$(cd "$(dirname "$0")" && pwd)
repository=$(dirname "$ci")
. "$ci/cache.sh"
tools=$(cached_venv "$ci/wheel-tools.txt" wheel-tools)
PATH=$tools/bin:$PATH
. "$ci/zig/commands.sh"

work=$(mktemp -d)
trap 'jobs -p | xargs -r kill 2>/dev/null || true; wait; rm -rf "$work"' EXIT

# The date in the archives is the commit's, so that the same commit gives the same files.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$repository" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
python -m build --sdist --no-isolation --outdir "$work/sdist" "$repository" >"$work/sdist.log" || { cat "$work/sdist.log"; exit 1; }
tar -xzf "$work"/sdist/*.tar.gz -C "$work"
sources=$work/$(basename "$work"/sdist/*.tar.gz .tar.gz)
mv "$work"/sdist/*.tar.gz "$outdir"

wheel() {  # name of the build, interpreter, processor, zig's target, zig's CPU, bytes of a pointer
  local log=$work/$1.log
  zig_commands "$work/zig-$1" "$4" "$5"
  "$2" "$ci/zig/headers.py" "$work/headers-$1" "$6"
  {
    MPL_SPARSE_ZIG_COMMANDS=$work/zig-$1 MPL_SPARSE_ZIG_PROCESSOR=$3 _PYTHON_HOST_PLATFORM=linux-$3 \
      "$2" -m build --wheel --no-isolation --outdir "$work/built-$1" "$sources" \
      -C cmake.toolchain-file="$ci/zig/toolchain.cmake" -C cmake.define.Python_INCLUDE_DIR="$work/headers-$1" \
      -C build-dir="$work/build-$1" \
    && if [ "$3" = armv6l ]; then
      mv "$work/built-$1"/*.whl "$outdir"
    else
      auditwheel repair --wheel-dir "$outdir" "$work/built-$1"/*.whl
    fi
  } >"$log" 2>&1 || { cat "$log"; return 1; }
}

free_threaded() {  # prints an interpreter, free-threaded and with the build requirements
  local python=${MPL_SPARSE_PYTHON314T:-python3.14t}
  if ! command -v "$python" >/dev/null; then
    echo "cp314t needs $python, which is not here" >&2
    return 1
  fi
  grep -E '^(build|cython|scikit-build-core)=' "$ci/wheel-tools.txt" >"$work/free-threaded.txt"
  echo "$(cached_venv "$work/free-threaded.txt" free-threaded "$python")/bin/python"
}

build() {
  case $1 in
    x86_64) wheel x86_64 python x86_64 x86_64-linux-gnu.2.17 x86_64 8 ;;
    aarch64) wheel aarch64 python aarch64 aarch64-linux-gnu.2.17 generic 8 ;;
    armv7l) wheel armv7l python armv7l arm-linux-gnueabihf.2.17 generic+v7a+vfp3d16-neon 4 ;;
    armv6l) wheel armv6l python armv6l arm-linux-gnueabihf.2.17 arm1176jzf_s 4 ;;
    cp314t)
      local python314t
      python314t=$(free_threaded)
      wheel cp314t "$python314t" x86_64 x86_64-linux-gnu.2.17 x86_64 8
      ;;
  esac
}

# All at once: zig makes its C++ library on one core, the first time.
echo "building for $*"
builds=()
for name in "$@"; do
  build "$name" &
  builds+=($!)
done
for number in "${builds[@]}"; do wait "$number"; done
python "$ci/check_wheels.py" "$outdir"
