# SPDX-License-Identifier: Apache-2.0
# case: full limit=120
for flags in -O2 "-m32 -O2 -static"; do
  # shellcheck disable=SC2086  # flags are words
  gcc $flags -w -o writing "$PROGRAMS/writing.c" && ./writing
done
