#!/usr/bin/env bash
# The core's own tests under address, undefined and thread sanitizers. Builds outside the repository.
#   ci/sanitize.sh [folder for the builds]
set -euo pipefail
sources=$(cd "$(dirname "$0")/../src" && pwd)
if [ $# -gt 0 ]; then
  builds=$1
else
  builds=$(mktemp -d)
  trap 'rm -rf "$builds"' EXIT
fi

sanitize() {  # sanitizers, then what ctest is to run
  local build=$builds/$1
  cmake -S "$sources" -B "$build" -DMPL_SPARSE_TESTS=ON -DMPL_SPARSE_SANITIZE="$1" -DCMAKE_BUILD_TYPE=RelWithDebInfo
  cmake --build "$build" --parallel 2
  ctest --test-dir "$build" --output-on-failure --no-tests=error "${@:2}"
}

export UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_stack_use_after_return=1
# Children that start threads after fork are what one test is about; ThreadSanitizer would end them at once.
export TSAN_OPTIONS=die_after_fork=0:second_deadlock_stack=1
sanitize address,undefined
sanitize thread --tests-regex '^(threads|plan_cache|backend)\.'
