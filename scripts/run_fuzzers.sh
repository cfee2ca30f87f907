#!/usr/bin/env bash
# run_fuzzers.sh [NAME...]: builds the fuzzers of fuzz/ with clang and runs each, or those named, for
# FUZZ_SECONDS (default 60), from its seeds and from what earlier runs found worth keeping in build/fuzz.
# What one finds lies in build/fuzz/found, and the exit code is 1 then.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/fuzz
seconds=${FUZZ_SECONDS:-60}

CC=clang-16 CXX=clang++-16 cmake -S . -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOESAIC_TESTS=OFF \
  -DMOESAIC_FUZZ=ON >/dev/null
ninja -C $build fuzzers

names=("$@")
((${#names[@]})) || mapfile -t names < <(cd fuzz && ls -- *_fuzz.cpp | sed 's/_fuzz\.cpp$//')
failed=()
for name in "${names[@]}"; do
  mkdir -p "$build/corpus/$name" "$build/found"
  echo "fuzz: $name for $seconds s"
  log=$build/found/$name.log
  if "$build/fuzz/${name}_fuzz" "$build/corpus/$name" "fuzz/seeds/$name" -max_total_time="$seconds" \
    -max_len=4096 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/found/$name-" >"$log" 2>&1; then
    grep -E 'number_of_executed_units|peak_rss' "$log"
  else
    tail -n 40 "$log"
    failed+=("$name")
  fi
done
if ((${#failed[@]})); then
  echo "fuzz: ${failed[*]} found something: the inputs are in $build/found" >&2
  exit 1
fi
