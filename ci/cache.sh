# shellcheck shell=bash
# Sourced by the other scripts: what they make once and keep, in $MPL_SPARSE_CACHE (default: ~/.cache/mpl-sparse).
cache=${MPL_SPARSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mpl-sparse}
mkdir -p "$cache"

cached_venv() {  # requirements file, name [, interpreter]: a virtual environment with exactly those; prints where
  local venv stamp
  venv=$cache/$2-$(cat "$1" <("${3:-python3}" -VV) | sha256sum | cut -c 1-12)
  stamp=$venv/complete
  if [ ! -e "$stamp" ]; then
    rm -rf "$venv"
    "${3:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$1" >&2
    touch "$stamp"
  fi
  echo "$venv"
}
