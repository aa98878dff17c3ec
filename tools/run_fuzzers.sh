#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds every fuzz target (preset fuzz) and runs each for some seconds: run_fuzzers.sh [SECONDS] [TARGET...]
# BUILD_FUZZ names another build directory. What a fuzzer finds lands in .cache/fuzz/TARGET with its corpus; a crash ends with a line that runs it again.
set -uo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
[ $# -eq 0 ] || shift
build=${BUILD_FUZZ:-build-fuzz}
cmake --preset fuzz -B "$build" >/dev/null && cmake --build "$build" -j "$(nproc)" --target fuzzers || exit 1

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(find "$build" -type f -name '*_fuzz' -perm -u+x -printf '%f\n' | sort)
passed=0
failed=0
for target in "${targets[@]}"; do
  program=$(find "$build" -type f -name "$target" -perm -u+x | head -n 1)
  [ -n "$program" ] || { echo "no fuzz target $target"; failed=$((failed + 1)); continue; }
  corpus=.cache/fuzz/$target
  mkdir -p "$corpus/corpus"
  if "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
      -artifact_prefix="$corpus/" "$corpus/corpus" </dev/null >"$corpus/log" 2>&1; then
    echo "ok     $target $(sed -n 's/^stat::number_of_executed_units: */runs: /p' "$corpus/log")"
    passed=$((passed + 1))
  else
    echo "FAILED $target"
    grep -E 'ERROR|SUMMARY|runtime error|Test unit written' "$corpus/log" | head -n 5
    artifact=$(sed -n 's/.*Test unit written to //p' "$corpus/log" | tail -n 1)
    [ -z "$artifact" ] || echo "       again with: $program $artifact"
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
