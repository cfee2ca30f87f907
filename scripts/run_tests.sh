#!/usr/bin/env bash
# run_tests.sh BUILD_FOLDER BUILD_TYPE [cmake flags]: builds everything there and runs every test: the
# C++ tests through ctest, the Rust library's through cargo, the end-to-end ones through pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
type=$2
shift 2

cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE="$type" -DMOESAIC_TESTS=ON "$@" >/dev/null
ninja -C "$build"
ln -sf src/cli/moesaic "$build/moesaic"

ctest --test-dir "$build" --output-on-failure -j "$(nproc)"
CARGO_TARGET_DIR=$PWD/build/rust cargo test --release --locked --quiet \
  --manifest-path src/text/rust/Cargo.toml
# What the page asks of the server the other tests ask too; a sanitized build need not wait for a browser.
page=()
[[ $type == Debug ]] && page=(--ignore=tests/page)
MOESAIC_BINARY=$PWD/$build/moesaic .venv/bin/python -m pytest -q "${page[@]}" tests
