#!/usr/bin/env bash
# Builds everything with clang, the second compiler, under ThreadSanitizer, and runs the tests in which
# threads meet: engine, server, thread pool, log, ranks.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/threads

CC=clang-16 CXX=clang++-16 cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Debug -DMOESAIC_TESTS=ON \
  -DMOESAIC_SANITIZE=thread >/dev/null
ninja -C $build

# Fewer schedules of the simulator, which has one thread, and none of the goldens, which have none.
export TSAN_OPTIONS=halt_on_error=1 MOESAIC_SIMULATOR_SCHEDULES=200
ctest --test-dir $build --output-on-failure -j "$(nproc)" -R \
  '^(Engine|Ranked|Simulator|Host|Life|Hostile|Completions|Chat|ByteBudget|TokenIds|ThreadPool|Log|Metrics|MemoryClaim)'
