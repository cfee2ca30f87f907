#!/usr/bin/env bash
# Layout, static checks and layers. clang-tidy looks at the rooms that changed since the commit named by
# MOESAIC_LINT_BASE (default HEAD~1), or at every room with MOESAIC_LINT_BASE=all.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "lint: clang-format"
git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs clang-format-16 --dry-run --Werror

echo "lint: layers"
python3 scripts/check_layers.py

echo "lint: ruff"
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .

echo "lint: cargo fmt and clippy"
if cargo clippy --version >/dev/null 2>&1; then
  (cd src/text/rust && cargo fmt --check &&
    CARGO_TARGET_DIR=../../../build/rust cargo clippy --release --locked --quiet -- -D warnings)
else
  echo "lint: cargo clippy is not installed here; skipped"
fi

build=${MOESAIC_LINT_BUILD:-build/release}
base=${MOESAIC_LINT_BASE:-HEAD~1}
if [[ $base != all ]] && git rev-parse --quiet --verify "$base" >/dev/null; then
  rooms=$(git diff --name-only "$base" -- src | cut -d/ -f2 | sort -u)
else
  rooms=$(ls src)
fi
files=$(for room in $rooms; do git ls-files "src/$room/*.cpp" | grep -v '_test\.cpp$\|^src/backend/cuda/' || true; done)
if [[ -n $files ]]; then
  echo "lint: clang-tidy on $(echo "$rooms" | tr '\n' ' ')"
  [[ -f $build/compile_commands.json ]] ||
    cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
  echo "$files" | xargs -P "$(nproc)" -n 4 clang-tidy-16 -p "$build" --quiet 2>/dev/null
fi
echo "lint: clean"
