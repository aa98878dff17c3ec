# SPDX-License-Identifier: Apache-2.0
# case: full limit=1800
for flags in "-O2" "-O0" "-O3 -march=x86-64-v3" "-O2 -static"; do
  echo "== g++ $flags"
  # shellcheck disable=SC2086  # flags are words
  g++ -std=c++20 $flags -pthread -o program "$PROGRAMS/program.cpp" && sha256sum <program && ./program
done
