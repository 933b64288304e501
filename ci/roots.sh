# shellcheck shell=bash
# Sourced by the other scripts, after cache.sh: Debian for ARM in folders, whose programs QEMU runs on this machine.
# Needs Debian or a relative of it, and root or sudo. What is missing is installed.
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo

prepare_emulation() {
  if ! { command -v qemu-arm-static && command -v mmdebstrap && command -v arch-test; } >/dev/null; then
    $as_root apt-get -qq update
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
      qemu-user-static mmdebstrap arch-test debian-archive-keyring >/dev/null
  fi
  local formats=/proc/sys/fs/binfmt_misc name
  [ -e $formats/register ] || $as_root mount -t binfmt_misc binfmt_misc $formats
  for name in aarch64 arm; do  # one write for each
    [ -e $formats/qemu-$name ] || tr -d '\n' <"/usr/lib/binfmt.d/qemu-$name.conf" | $as_root tee $formats/register >/dev/null
  done
}

debian_mirror() {  # where this machine's own apt finds Debian
  local uri=${MPL_SPARSE_DEBIAN_MIRROR:-}
  [ -n "$uri" ] || uri=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian //p' | head -n 1)
  if [ -z "$uri" ]; then
    echo "apt knows no mirror of Debian here: name one in MPL_SPARSE_DEBIAN_MIRROR" >&2
    return 1
  fi
  echo "$uri"
}

debian_root() {  # suite, Debian's architecture, packages with commas: a root with them, made once; prints where
  local root attempt
  root=$cache/roots/$1-$2-$(echo "$3" | sha256sum | cut -c 1-8)
  if [ ! -e "$root/complete" ]; then
    for attempt in 1 2 3; do
      $as_root rm -rf "$root"
      mkdir -p "$cache/roots"
      # Only unpacked: no maintainer script runs, which under emulation would take minutes. An index may be of last month, as
      # mirrors keep it; its signature is checked all the same.
      $as_root mmdebstrap --quiet --variant=extract --architectures="$2" --include="$3" \
        --aptopt='Acquire::Check-Valid-Until "false"' "$1" "$root" \
        "deb $(debian_mirror) $1 main" >&2 && break
      [ $attempt -lt 3 ] || return 1
      sleep 10
    done
    # What those scripts would have done for us.
    $as_root sh -c '
      cd "$0"
      mkdir -p proc sys dev mnt tmp root
      for folder in bin sbin lib; do [ -e $folder ] || ln -s usr/$folder $folder; done
      for library in usr/lib/*/blas/libblas.so.3 usr/lib/*/lapack/liblapack.so.3; do
        [ ! -e $library ] || ln -sf "${library#usr/lib/*/}" "${library%/*/*}"
      done
      touch complete' "$root"
  fi
  echo "$root"
}

in_root() {  # root, folder to see as /mnt, CPU for QEMU, NAME=value..., command...
  local root=$1 folder=$2 cpu=$3
  shift 3
  # The mounts are seen by this command alone, and end with it.
  $as_root unshare --mount --propagation private sh -c '
    root=$0 folder=$1 cpu=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    mount --bind "$folder" "$root/mnt"
    mount -t tmpfs tmpfs "$root/tmp"
    variables=
    while [ "${1#*=}" != "$1" ]; do
      variables="$variables $1"
      shift
    done
    exec env -i PATH="$PATH" HOME=/tmp LANG=C.UTF-8 QEMU_CPU="$cpu" $variables chroot "$root" "$@"
  ' "$root" "$folder" "$cpu" "$@"
}
