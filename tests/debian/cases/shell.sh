# SPDX-License-Identifier: Apache-2.0
# case: quick limit=300
for i in {1..200}; do (exit $((i % 7))); echo -n "$? "; done
echo
find /usr/include -name '*.h' -type f | LC_ALL=C sort | xargs cat | sha256sum
printf '%s\n' {1..300} | xargs -n 7 echo | sha256sum
seq 1 100 >one && seq 2 101 | diff one -
declare -A table
for i in {1..5000}; do table[k$((i * i % 977))]=$i; done
echo "${#table[@]} ${table[k4]} $(printf '%s\n' "${!table[@]}" | sort | md5sum)"
text=abcdefghij
echo "${text//[aeiou]/_} ${text:3:4} ${text^^} $((0x7fffffffffffffff + 1)) $((-7 % 3)) $((5 ** 20))"
trap 'echo trapped' USR1
kill -USR1 $$
(sleep 30 & wait) & sleeper=$!
kill $sleeper
wait $sleeper
echo "wait said $?"
mkfifo pipe && (seq 1 50000 >pipe &) && sha256sum <pipe
yes | head -n 100000 | wc -l
dd if=/dev/zero bs=1M count=20 status=none | tr '\0' x | md5sum
file /bin/bash | cut -d, -f1-2
busybox sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done; echo $i'
