# Shared by the set-up scripts: where things are cached and how progress is told.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/delayd
downloads=$cache/downloads
mkdir -p "$downloads"

say() { printf '\033[1m[set-up]\033[0m %s\n' "$*" >&2; }
fail() {
  printf '\033[1;31m[set-up] %s\033[0m\n' "$1" >&2
  shift
  for line in "$@"; do printf '         %s\n' "$line" >&2; done
  exit 1
}

# verify FILE SHA256: whether a file is there and whole.
verify() { [ -s "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }

# fetch_from_pypi FILE SHA256 REQUIREMENT [PIP OPTIONS…]: downloads one file of a
# PyPI package by name into the cache, and checks it.
fetch_from_pypi() {
  local file=$downloads/$1 sha256=$2 requirement=$3
  shift 3
  if verify "$file" "$sha256"; then
    say "$requirement is in the cache"
    return
  fi
  say "fetching $requirement from PyPI"
  rm -f "$file"
  python3 -m pip download --no-deps --disable-pip-version-check --dest "$downloads" "$@" "$requirement" >&2 ||
    fail "could not fetch $requirement from PyPI" \
      "Is the network there? \`python3 -m pip download $requirement\` must work." \
      "Behind a proxy or a mirror, set PIP_INDEX_URL or pip.conf as usual and start again."
  verify "$file" "$sha256" ||
    fail "$requirement arrived, but $1 is not the file that was expected (SHA-256 differs)" \
      "Remove $downloads and start again; if it stays, the index serves something else."
}
