#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lines of the translator and the instruction table (src/dbt, src/isa) that unit tests, bare-metal guests, the differential instruction
# suite and hostile guests run through: coverage.sh [--list] [--no-build]. Ends with status 1 below the bar. --list names uncovered functions.
# Counters live in mapped files, so that processes that are killed or end without ceremony count, too.
set -euo pipefail
cd "$(dirname "$0")/.."
bar=80
build=${BUILD_COVERAGE:-build-coverage}
guests=${BUILD:-build}
list=0
make=1
for option in "$@"; do
  case $option in
    --list) list=1 ;;
    --no-build) make=0 ;;
    *) echo "usage: tools/coverage.sh [--list] [--no-build]" >&2; exit 2 ;;
  esac
done
targets=(isa_test cpu_test dbt_runtime_test dbt_system_test engine_conformance_test isa_conformance hostile_guest rhea)
if [ $make = 1 ]; then
  cmake --preset coverage -B "$build" >/dev/null
  cmake --build "$build" -j "$(nproc)" --target "${targets[@]}"
  # The guests are not what is measured: they come from the release build, whose compiler they are written for.
  cmake --preset release -B "$guests" >/dev/null
  cmake --build "$guests" -j "$(nproc)" --target guests
fi

profiles=$(mktemp -d)
trap 'rm -rf "$profiles"' EXIT
programs=()
for target in "${targets[@]}"; do programs+=("$(find "$build" -type f -name "$target" -perm -u+x | head -n 1)"); done
find_program() { find "$build" -type f -name "$1" -perm -u+x | head -n 1; }
run() {
  local name=$1
  shift
  # %c: the counters are a mapping of the file; %p: one for each process that was started.
  if LLVM_PROFILE_FILE="$profiles/$name-%c%p.profraw" "$@" >"$profiles/$name.log" 2>&1; then
    echo "ran    $name: $(tail -n 1 "$profiles/$name.log")"
  else
    echo "FAILED $name: $(tail -n 1 "$profiles/$name.log")"
  fi
}
run isa "$(find_program isa_test)"
run cpu "$(find_program cpu_test)"
run dbt_runtime "$(find_program dbt_runtime_test)"
run dbt_system "$(find_program dbt_system_test)"
run engine "$(find_program engine_conformance_test)"
run instructions "$(find_program isa_conformance)" --config all --cases 8
run guests tests/guest/run.py --build-dir "$guests" --rhea "$build/rhea"
run hostile "$(find_program hostile_guest)" --replay tests/hostile/corpus --artifacts "$profiles"

find "$profiles" -name '*.profraw' -size +0 >"$profiles/list"
llvm-profdata-19 merge -sparse --failure-mode=all -f "$profiles/list" -o "$profiles/all.profdata"
objects=("${programs[0]}")
for program in "${programs[@]:1}"; do objects+=(-object "$program"); done
report() { llvm-cov-19 "$@" -instr-profile "$profiles/all.profdata" "${objects[@]}" -ignore-filename-regex='(_test\.cpp|_fuzz\.cpp|_fake\.h|/tests/|/usr/)' src/dbt src/isa; }
if [ $list = 1 ]; then
  report report -show-functions | awk '$NF == "0.00%" || $7 == "0.00%" { print $1 }' | c++filt | sort -u
fi
report report | awk 'NR > 2 && $8 ~ /^[0-9]/ { printf "%-44s %6d lines %6d missed %8s\n", $1, $8, $9, $10 }' | sort -k4nr | head -n 40
percent=$(report report | awk '$1 == "TOTAL" { print $10 }' | tr -d %)
echo "lines of src/dbt and src/isa covered: $percent % (bar: $bar %)"
awk -v p="$percent" -v b="$bar" 'BEGIN { exit !(p >= b) }'
