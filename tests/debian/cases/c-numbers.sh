# SPDX-License-Identifier: Apache-2.0
# case: full limit=600
# Arithmetic of every C type under every kind of code that gcc makes of it.
for flags in "-O2 -march=x86-64-v3 -ffp-contract=off" "-m32 -O2 -static" "-O2" "-O0" "-O3 -march=x86-64-v3 -ffast-math" "-m32 -O2" "-m32 -O2 -msse2 -mfpmath=sse -static" "-O2 -static"; do
  echo "== gcc $flags"
  # shellcheck disable=SC2086  # flags are words
  gcc $flags -o numbers "$PROGRAMS/numbers.c" -lm && sha256sum <numbers && ./numbers "$ROUNDS"
done
