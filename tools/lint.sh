#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every check of the source that needs no running: lint.sh [REVISION]. clang-tidy reads every file of the build, or those
# changed since REVISION. Each failure says how to mend it.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0
step() { printf -- '-- %s\n' "$1"; }

step "formatting (clang-format)"
mapfile -t sources < <(git ls-files --cached --others --exclude-standard '*.h' '*.cpp' | while read -r f; do [ -f "$f" ] && echo "$f"; done)
if [ ${#sources[@]} -gt 0 ]; then
  mapfile -t unformatted < <(printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -n 20 sh -c 'for f; do
    clang-format-19 "$f" | cmp -s - "$f" || echo "$f"; done' sh)
  if [ ${#unformatted[@]} -gt 0 ]; then
    printf '%s: not formatted\n' "${unformatted[@]}"
    echo "Mend with: make format"
    failed=1
  fi
fi

for check in layers sizes docs; do
  step "$check"
  python3 "tools/check_$check.py" || failed=1
done

step "shell scripts parse"
while read -r script; do
  bash -n "$script" || failed=1
done < <(git ls-files 'tools/*.sh' '.ci/run' 'tests/*.sh' | while read -r f; do [ -f "$f" ] && echo "$f"; done)

step "warnings are errors (release build) and clang-tidy"
if cmake --preset release >/dev/null && cmake --build build -j "$(nproc)" >build/lint-build.log 2>&1; then
  mapfile -t tidy < <(python3 tools/tidy_files.py "${1:-}")
  if [ ${#tidy[@]} -gt 0 ]; then
    printf '%s\n' "${tidy[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy-19 -p build/tidy --quiet \
      --extra-arg=-Wno-unknown-warning-option 2>/dev/null || { echo "Mend what clang-tidy names above, or say at the line why it is right: // NOLINT(check): reason"; failed=1; }
  fi
else
  tail -n 60 build/lint-build.log
  echo "The build has warnings or errors: see above."
  failed=1
fi

[ "$failed" = 0 ] && echo "lint: all well" || echo "lint: something needs mending, see above"
exit "$failed"
