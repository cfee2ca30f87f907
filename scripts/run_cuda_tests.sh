#!/usr/bin/env bash
# run_cuda_tests.sh [BUILD_FOLDER]: compiles the CUDA backend for what MOESAIC_CUDA_TARGETS says (by default
# compute capability 9.0 and portable PTX) with its test programs, and runs them. In a folder where the rest is
# built already nothing else is compiled. Without a card every test is skipped, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/release}

cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOESAIC_TESTS=ON -DMOESAIC_CUDA=ON >/dev/null
ninja -C "$build" cuda_tests
for name in test_cuda test_cuda_products; do
  echo "cuda: $name"
  "$build/src/backend/$name" --gtest_brief=1 | sed '/: Skipped$/d' | uniq
done
