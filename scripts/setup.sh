#!/usr/bin/env bash
# Installs what a stage (build, cuda, test, lint) needs and is missing: Debian packages, Rust, and for tests a
# Python environment in .venv. Says what it installs and why. Works as root or through sudo; on a system
# that is not Debian it looks for the tools and libraries themselves, names those it misses and stops.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=${1:-build}

case $stage in
  build) stages="build" ;;
  cuda) stages="build cuda" ;;
  test) stages="build test" ;;
  lint) stages="build test lint" ;;
  *) echo "setup: unknown stage '$stage'; use build, cuda, test or lint" >&2; exit 64 ;;
esac

# Whether what a package brings is here, whatever brought it.
brought() {
  case $1 in
    h:*) echo "#include <${1#h:}>" | c++ -std=c++20 -E -x c++ - >/dev/null 2>&1 ;;
    pc:*) pkg-config --exists "${1#pc:}" 2>/dev/null ;;
    py:*) python3 -c "import ${1#py:}" 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing=()
while read -r of package brings reason; do
  [[ -z $of || $of == \#* ]] && continue
  [[ " $stages " == *" $of "* ]] || continue
  if command -v dpkg-query >/dev/null; then
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] && continue
  elif brought "$brings"; then
    continue
  fi
  missing+=("$package")
  echo "setup: needs $package: $reason"
done < scripts/packages.txt

if ! command -v cargo >/dev/null; then
  missing+=(cargo-web rustc-web)
  echo "setup: needs cargo-web rustc-web: Rust, for the tokenizer and chat template library"
fi
if [[ $stage == lint ]] && ! cargo clippy --version >/dev/null 2>&1; then
  echo "setup: cargo clippy is not here; lint will say so and go on without it"
fi

if ((${#missing[@]})); then
  if ! command -v apt-get >/dev/null || ! grep -q '^ID=debian' /etc/os-release 2>/dev/null; then
    echo "setup: this is not Debian; install what it calls ${missing[*]} and run again." >&2
    exit 69
  fi
  sudo=""
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || { echo "setup: run as root, or install sudo" >&2; exit 69; }
    sudo=sudo
  fi
  echo "setup: installing ${#missing[@]} Debian packages"
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
fi

if [[ $stage == test || $stage == lint ]]; then
  wanted=$(sha256sum tests/requirements.txt | cut -d' ' -f1)
  if [[ ! -x .venv/bin/python || $(cat .venv/requirements.sha256 2>/dev/null) != "$wanted" ]]; then
    echo "setup: Python packages of tests/requirements.txt into .venv: real clients for end-to-end tests"
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
    echo "$wanted" > .venv/requirements.sha256
  fi
fi
