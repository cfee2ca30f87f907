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

# A sanitized program takes a quarter of a second to start, so that there a program runs all its tests.
run_program() {
  local output
  if output=$("$1" --gtest_brief=1 2>&1); then echo "passed: $1"; else printf '%s\n' "$output" && false; fi
}
if [[ $type == Debug ]]; then
  export MOESAIC_SIMULATOR_SCHEDULES=${MOESAIC_SIMULATOR_SCHEDULES:-1000}
  export -f run_program
  find "$PWD/$build/src" -name 'test_*' -type f -executable -printf '%s %p\n' | sort -rn | cut -d' ' -f2 |
    xargs -P "$(nproc)" -I{} bash -c 'run_program {}'
else
  ctest --test-dir "$build" --output-on-failure -j "$(nproc)"
fi
CARGO_TARGET_DIR=$PWD/build/rust cargo test --release --locked --quiet \
  --manifest-path src/text/rust/Cargo.toml
# A sanitized build takes minutes for what others take seconds: it runs fewer schedules of the simulator (above)
# and, of the end-to-end tests, the hostile files and bodies.
tests=(tests)
[[ $type == Debug ]] && tests=(tests/hostile/test_file_kinds.py tests/hostile/test_inflight_bytes.py)
MOESAIC_BINARY=$PWD/$build/moesaic .venv/bin/python -m pytest -q "${tests[@]}"
