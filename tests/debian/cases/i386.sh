# SPDX-License-Identifier: Apache-2.0
# case: full limit=200
# 32-bit static programs: freestanding, glibc's, and i386 Debian's own busybox.
for flags in "-O1 -msse2" "-O2 -msse2 -mfpmath=sse"; do
  # shellcheck disable=SC2086  # flags are words
  gcc -m32 $flags -nostdlib -static -ffreestanding -fno-pic -no-pie -fno-stack-protector -w -o bare "$PROGRAMS/bare32.c" && ./bare
  echo "status $?"
done
busybox=/test/busybox-i386
if [ -x "$busybox" ]; then
  seq 1 20000 >text
  for applet in "sha256sum" "sha3sum" "md5sum" "sort -rn" "gzip -c" "bzip2 -c" "wc" "tac" "rev" "od -x" "sed s/1/one/g" "cut -c2-" "cksum" "base64" "crc32"; do
    # shellcheck disable=SC2086
    echo "$applet: $($busybox $applet <text 2>&1 | sha256sum)"
  done
  $busybox awk 'BEGIN { for (i = 1; i < 20000; i++) s += sin(i) * sqrt(i) / log(i + 1); printf "%.15g %d\n", s, 2^40 }'
  { $busybox sh -c 'for i in 1 2 3 4 5; do echo $i & done | '"$busybox"' sort; echo $((123456789 * 987654321)); kill -9 $$'; } 2>/dev/null
  echo "status $?"
  echo '2 200 ^ p 3 v p 1 3 / p' | $busybox dc
  echo 'scale=50; 4*a(1)' | $busybox bc -l
  $busybox gzip -c text | $busybox zcat | cmp - text && echo "there and back"
  $busybox find /usr/lib/gcc -type f | $busybox sort | $busybox md5sum
  $busybox unxz -c <<<"$(:)" 2>/dev/null
  xz -c text | $busybox unxz -c | cmp - text && echo "xz"
else
  echo "no i386 busybox"
fi
