# SPDX-License-Identifier: Apache-2.0
# case: full limit=300
for flags in "-O2 -march=x86-64-v3 -ffp-contract=off" -O0 -O1 -O3 "-m32 -O1 -msse2 -static" "-m32 -O2 -msse2 -mfpmath=sse"; do
  echo "== gcc $flags"
  # shellcheck disable=SC2086  # flags are words
  gcc $flags -w -o signals "$PROGRAMS/signals.c" -lm && ./signals
done
