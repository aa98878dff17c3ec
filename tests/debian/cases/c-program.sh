# SPDX-License-Identifier: Apache-2.0
# case: quick limit=600
# Compilers give the same bytes as on the host, and what they compiled the same results, in 64 and 32 bit.
for flags in -O0 -O2 "-O2 -static" "-O3 -march=x86-64-v3 -ffp-contract=off" "-m32 -O2" "-m32 -static -msse2 -mfpmath=sse"; do
  echo "== gcc $flags"
  # shellcheck disable=SC2086  # flags are words
  gcc $flags -o basics "$PROGRAMS/basics.c" -lm && sha256sum <basics && ./basics
done
