#!/usr/bin/env bash
# Builds the rooms up to the server with clang, the second compiler, under ThreadSanitizer, and runs the
# tests in which threads meet: engine, server, thread pool, log, ranks.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/threads

CC=clang-16 CXX=clang++-16 cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Debug -DMOESAIC_TESTS=ON \
  -DMOESAIC_SANITIZE=thread >/dev/null
ninja -C $build test_base test_backend test_engine test_server

# Fewer schedules of the simulator, which has one thread.
export TSAN_OPTIONS=halt_on_error=1 MOESAIC_SIMULATOR_SCHEDULES=${MOESAIC_SIMULATOR_SCHEDULES:-200}
run() {
  echo "threads: $1 ${2:-}"
  "$build/src/$1" --gtest_brief=1 ${2:+--gtest_filter="$2"}
}
run base/test_base 'ThreadPool*:Log*:Metrics*:MemoryClaim*'
run backend/test_backend '*Ranks*'
run engine/test_engine
run server/test_server 'Life*:Hostile*:Completions*:Chat*:ByteBudget*:TokenIds*:Http*:Metrics*'
