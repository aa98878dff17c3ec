# SPDX-License-Identifier: Apache-2.0
# case: quick limit=1800
# Megabytes of deterministic text through the usual filters.
gawk -v bytes="$BIG_BYTES" 'BEGIN {
  state = 1
  while (written < bytes) {
    state = (state * 16807) % 2147483647
    line = sprintf("%d %x %s", state, state * 7, substr("the quick brown fox jumps over the lazy dog", state % 30 + 1, 12))
    written += length(line) + 1
    print line
  }
}' >big
wc <big
for sum in sha256sum md5sum sha1sum sha512sum b2sum cksum; do $sum <big; done
sort big >sorted && sha256sum <sorted
sort -n -r big | sha256sum
sort -k3,3 -k1,1n big | sha256sum
sort -u sorted | uniq -c | md5sum
gzip -n -c big >big.gz && sha256sum <big.gz && gunzip -c big.gz | cmp - big && echo "gzip: there and back"
xz -"$XZ_LEVEL" -T1 -c big >big.xz && sha256sum <big.xz && xz -dc big.xz | cmp - big && echo "xz: there and back"
zstd -q -3 --single-thread -c big | tee big.zst | sha256sum && zstd -qdc big.zst | cmp - big && echo "zstd: there and back"
rm -f big.gz big.xz big.zst sorted
head -c "$((BIG_BYTES / 4))" big | bzip2 -c >big.bz2 && sha256sum <big.bz2 && bunzip2 -c big.bz2 | sha256sum
tac big | sha256sum
tr a-z A-Z <big | grep -c FOX
sed 's/[0-9]\{3\}/<&>/g' big | md5sum
cut -d' ' -f2,4 big | od -An -tx4 | tail -n 1
gawk '{ sum += $1; seen[$3]++ } END { printf "%.0f %d\n", sum, length(seen) }' big
dd if=big of=copy bs=64k status=none && cmp big copy && echo "dd: the same"
tar -c big --mtime=@0 --owner=0 --group=0 --numeric-owner | sha256sum
