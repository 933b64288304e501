#!/usr/bin/env bash
# Runs the ARM wheels of a folder, as ci/build_wheels.sh makes them, on emulated processors. Nothing here is a measure of speed.
#   ci/test_arm.sh OUTDIR [--quick]
# The smoke test on Python 3.9, 3.11 and 3.13 for each processor; the tests that need numpy alone, with fewer examples; on
# aarch64 also the README's examples and training steps beside dense ones, with the torch that a Raspberry Pi 3 or 4 takes.
# NEON must be there and be chosen; where a processor lacks it, or MPL_SPARSE_BACKEND says so, the scalar backend. If OUTDIR
# has an armv6l wheel, that one too, and the core's own tests on an ARM1176. --quick: one processor and one Python each.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${2:---quick}" != --quick ]; then
  sed -n '2,8s/^# *//p' "$0" >&2
  exit 2
fi
outdir=$(cd "$1" && pwd)
quick=${2:-}

ci=$(cd "$(dirname "$0")" && pwd)
. "$ci/cache.sh"
. "$ci/roots.sh"
tools=$(cached_venv "$ci/wheel-tools.txt" wheel-tools)
PATH=$tools/bin:$PATH
. "$ci/zig/commands.sh"
work=$(mktemp -d)
mkdir "$work/logs" "$work/failed"
trap 'jobs -p | xargs -r kill 2>/dev/null || true; wait; rm -rf "$work"' EXIT
prepare_emulation

the_one() {  # pattern: the only file of OUTDIR that matches
  local files
  mapfile -t files < <(compgen -G "$outdir/$1")
  if [ ${#files[@]} -ne 1 ]; then
    echo "expected one $1 in $outdir, got: ${files[*]}" >&2
    return 1
  fi
  echo "${files[0]}"
}

install() {  # machine, folder below the machine's, requirements...: with this machine's pip, for CPython 3.11
  local machine=$1 target=$work/$1/$2 platforms=() platform
  shift 2
  for platform in linux manylinux_2_17 manylinux_2_28; do platforms+=(--platform "${platform}_$machine"); done
  pip install --quiet --disable-pip-version-check --target "$target" "${platforms[@]}" --only-binary :all: \
    --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none "$@"
}

job() {  # name, root, machine, CPU, command...: in the background, as many at once as there are cores
  local name=$1 root=$2 folder=$work/$3 cpu=$4
  shift 4
  while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
  (
    log=$work/logs/${name// /_}
    if in_root "$root" "$folder" "$cpu" "$@" >"$log" 2>&1; then
      echo "$name: $(tail -n 1 "$log")"
    else
      { echo "FAILED: $name"; tail -n 100 "$log"; } 2>&1
      touch "$work/failed/${name// /_}"
    fi
  ) &
}

python=(PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/mnt/wheel)
smoke=(/mnt/source/tests/wheel/smoke.py)
with_tests=(PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/mnt/wheel:/mnt/tests)
with_torch=(PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/mnt/torch:/mnt/wheel:/mnt/tests)
pytest=(/usr/bin/python3 -m pytest -c /mnt/source/pyproject.toml --rootdir /mnt/source -p no:cacheprovider -q --hypothesis-profile emulated)

sdist=$(the_one 'mpl_sparse-*.tar.gz')
for machine in aarch64 armv7l; do
  mkdir -p "$work/$machine/source"
  tar -xzf "$sdist" -C "$work/$machine/source" --strip-components 1
  wheel=$(the_one "mpl_sparse-*-abi3-*manylinux*_$machine.whl")
  install "$machine" wheel --no-deps --no-index "$wheel"
  install "$machine" tests pytest pytest-timeout hypothesis
done
# The torch that runs on a Raspberry Pi 3 and 4, and what it imports.
install aarch64 torch --no-deps torch==2.9.1 'numpy<2.3' filelock fsspec jinja2 markupsafe mpmath networkx sympy typing-extensions

bookworm_arm64=$(debian_root bookworm arm64 python3,python3-numpy,libstdc++6,ca-certificates)
bookworm_armhf=$(debian_root bookworm armhf python3,python3-numpy,ca-certificates)

numpy_tests() {  # root, machine, CPU
  job "numpy tests, $2, $3" "$1" "$2" "$3" "${with_tests[@]}" "${pytest[@]}" /mnt/source/tests \
    --ignore /mnt/source/tests/bench --ignore-glob '*/test_bench*' --ignore /mnt/source/tests/test_core_build.py
}
torch_tests() {  # CPU
  job "training steps, $1" "$bookworm_arm64" aarch64 "$1" "${with_torch[@]}" /usr/bin/python3 /mnt/source/tests/wheel/training_step.py
  job "README's examples, $1" "$bookworm_arm64" aarch64 "$1" "${with_torch[@]}" "${pytest[@]}" /mnt/source/tests/test_readme.py
}
smoke_tests() {  # Python's version, root, machine, CPU
  job "smoke test, Python $1, $3, $4" "$2" "$3" "$4" "${python[@]}" "/usr/bin/python$1" "${smoke[@]}" --backend neon
}
armv6_tests() {  # the wheel on a newer processor, as there is no Debian for this one; the core's own tests on the real thing
  mkdir -p "$work/armv6l/source"
  tar -xzf "$sdist" -C "$work/armv6l/source" --strip-components 1
  wheel=$(the_one 'mpl_sparse-*-abi3-linux_armv6l.whl')
  install armv6l wheel --no-deps --no-index "$wheel"
  job "smoke test, armv6l" "$bookworm_armhf" armv6l cortex-a7 "${python[@]}" /usr/bin/python3.11 "${smoke[@]}" --backend scalar --only
  echo "building the core's tests for an ARM1176"
  zig_commands "$work/zig-armv6l" arm-linux-musleabihf arm1176jzf_s
  {
    MPL_SPARSE_ZIG_COMMANDS=$work/zig-armv6l MPL_SPARSE_ZIG_PROCESSOR=armv6l cmake -G Ninja -S "$work/armv6l/source/src" -B "$work/core" \
      -DMPL_SPARSE_TESTS=ON -DCMAKE_TOOLCHAIN_FILE="$ci/zig/toolchain.cmake" \
      && cmake --build "$work/core" && QEMU_CPU=arm1176 ctest --test-dir "$work/core" --output-on-failure --no-tests=error -j "$(nproc)"
  } >"$work/logs/armv6" 2>&1 || { cat "$work/logs/armv6"; touch "$work/failed/core_on_ARM1176"; }
  echo "the core's tests on an ARM1176: $(grep 'tests passed' "$work/logs/armv6")"
}
root_with_python() {  # version, Debian's architecture
  case $1 in
    3.9) debian_root bullseye "$2" python3.9,ca-certificates ;;
    # A mirror may be out of step with its own index of trixie; forky has the same Python.
    3.13) debian_root trixie "$2" python3.13,ca-certificates || debian_root forky "$2" python3.13,ca-certificates ;;
  esac
}

numpy_tests "$bookworm_arm64" aarch64 cortex-a72
numpy_tests "$bookworm_armhf" armv7l cortex-a7
torch_tests cortex-a72
smoke_tests 3.11 "$bookworm_arm64" aarch64 cortex-a72
smoke_tests 3.11 "$bookworm_armhf" armv7l cortex-a7
job "smoke test, aarch64, scalar by the environment" "$bookworm_arm64" aarch64 cortex-a72 "${python[@]}" MPL_SPARSE_BACKEND=scalar /usr/bin/python3.11 "${smoke[@]}" --backend scalar
# The A9 has NEON without fused multiply-add; the A15 can be had without NEON.
job "smoke test, armv7l, cortex-a9 without fused multiply-add" "$bookworm_armhf" armv7l cortex-a9 "${python[@]}" /usr/bin/python3.11 "${smoke[@]}" --backend scalar --only
if [ -z "$quick" ]; then
  job "smoke test, armv7l without NEON" "$bookworm_armhf" armv7l cortex-a15,neon=off "${python[@]}" /usr/bin/python3.11 "${smoke[@]}" --backend scalar --only
  job "smoke test, armv7l, scalar by the environment" "$bookworm_armhf" armv7l cortex-a7 "${python[@]}" MPL_SPARSE_BACKEND=scalar /usr/bin/python3.11 "${smoke[@]}" --backend scalar
  for cpu in cortex-a53 cortex-a76; do
    numpy_tests "$bookworm_arm64" aarch64 $cpu
    torch_tests $cpu
    smoke_tests 3.11 "$bookworm_arm64" aarch64 $cpu
  done
  numpy_tests "$bookworm_armhf" armv7l cortex-a15
  smoke_tests 3.11 "$bookworm_armhf" armv7l cortex-a15
  for version in 3.9 3.13; do
    root=$(root_with_python $version arm64)
    for cpu in cortex-a53 cortex-a72 cortex-a76; do smoke_tests $version "$root" aarch64 $cpu; done
    root=$(root_with_python $version armhf)
    for cpu in cortex-a7 cortex-a15; do smoke_tests $version "$root" armv7l $cpu; done
  done
  if compgen -G "$outdir/mpl_sparse-*-linux_armv6l.whl" >/dev/null; then armv6_tests; fi
fi

while [ -n "$(jobs -rp)" ]; do wait -n || true; done
if [ -n "$(ls "$work/failed")" ]; then
  echo "failed: $(ls "$work/failed" | tr '\n' ' ')"
  exit 1
fi
echo "all ARM tests passed"
