#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Exercises a Debian userland and prints what came out, section by section. run.py runs it twice, in a guest and on the
# host's processor in the same root file system, and compares. Nothing printed may depend on time, place or chance.
# $1: lines of the big text file (a line is some 8 bytes).
lines=${1:-2500000}
export LC_ALL=C.UTF-8 PYTHONHASHSEED=0 PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
work=$(mktemp -d) && cd "$work" || exit 1
section() { echo "== $1"; }

for name in math struct float hashlib zlib; do
  section "python test_$name"
  # Names and verdicts only: the order of sub-tests and the time taken are no results.
  python3 -W ignore -m test -v "test_$name" 2>&1 | grep -E ' \.\.\. |^(OK|FAILED|ERROR|FAIL|Ran )' | sed 's/ in [0-9.]*s$//' | sort
done

section "python programs"
python3 - <<'PY'
import cmath, decimal, fractions, hashlib, json, math, random, re, statistics
random.seed(12345)
values = [random.gauss(0, 1e3) for _ in range(20000)]
print(statistics.fmean(values).hex(), math.fsum(values).hex(), statistics.stdev(values).hex())
print(sum(map(math.sin, values)).hex(), cmath.exp(complex(1, values[0] / 1e4)))
decimal.getcontext().prec = 300
print(decimal.Decimal(2).sqrt())
print(fractions.Fraction(355, 113) ** 31)
print(pow(3, 2 ** 200 + 1, 2 ** 521 - 1))
print(hashlib.sha256(json.dumps(sorted(values)).encode()).hexdigest())
print(len(re.findall(r"(\d)\1", "".join(map(str, values)))))
print([float(text).hex() for text in ("1e-320", "2.2250738585072011e-308", "0.1", "1e308")])
PY

section "openssl digests"
seq 1 200000 >text
for digest in md5 sha1 sha224 sha256 sha384 sha512 sha3-256 blake2b512 ripemd160; do
  openssl dgst "-$digest" text 2>&1
done
printf abc | openssl dgst -sha256

section "openssl ciphers"
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
for cipher in aes-128-ecb aes-128-cbc aes-256-cbc aes-128-ctr aes-256-ctr chacha20 camellia-128-cbc; do
  bytes=64
  case "$cipher" in *-128-*) bytes=32 ;; esac
  echo "$cipher $(openssl enc "-$cipher" -K "${key:0:$bytes}" -iv "${key:0:32}" -in text | sha256sum)"
done 2>/dev/null
# FIPS 197, appendix C.1
printf '\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff' |
  openssl enc -aes-128-ecb -nopad -K "${key:0:32}" | od -An -tx1

section "openssl x25519 and rsa"
# The key agreement of RFC 7748, section 6.1: Alice's private key, Bob's public key.
perl -e 'print pack "H*", "302e020100300506032b656e0422042077076d0a7318a57d3c16c17251b26645df4c2f92ebc0992ac177fba51db92c2a"' >a.der
perl -e 'print pack "H*", "302a300506032b656e032100de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"' >b.der
openssl pkey -inform DER -in a.der -out a.pem && openssl pkey -pubin -inform DER -in b.der -pubout -out b.pem &&
  openssl pkeyutl -derive -inkey a.pem -peerkey b.pem | od -An -tx1
rsa=/test/rsa.pem
[ -f "$rsa" ] || { openssl genrsa -out rsa.pem 2048 2>/dev/null; rsa=rsa.pem; }
openssl dgst -sha256 -sign "$rsa" -out signature text && sha256sum <signature
openssl pkey -in "$rsa" -pubout -out public.pem && openssl dgst -sha256 -verify public.pem -signature signature text
openssl genrsa -out fresh.pem 1024 2>/dev/null && openssl pkey -in fresh.pem -check -noout

section "C programs"
cat >c.c <<'C'
#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int compare(const void *a, const void *b) { return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b); }
static sigjmp_buf back;
static void on_signal(int number) { siglongjmp(back, number); }
int main(void) {
  static int values[50000];
  unsigned seed = 1;
  for (int i = 0; i < 50000; ++i) values[i] = (int)(seed = seed * 1103515245u + 12345u);
  qsort(values, 50000, sizeof *values, compare);
  printf("%zu %d %d %d\n", sizeof(long), values[0], values[25000], values[49999]);
  double sum = 0;
  long double extended = 0;
  float single = 0;
  for (int i = 1; i < 20000; ++i) {
    sum += sin(i) * exp(-i / 5000.0) + pow(i, 1.0 / 3);
    extended += sqrtl(i) / (i + 0.1L);
    single = single * 0.999f + sqrtf((float)i);
  }
  printf("%a %.25Lg %a %g\n", sum, extended, single, cabs(cexp(1 + 2 * I)));
  printf("%lld %llu\n", -9223372036854775807LL / 1234567891LL, 18446744073709551615ULL % 987654321ULL);
  volatile int zero = 0;
  signal(SIGFPE, on_signal);
  signal(SIGSEGV, on_signal);
  if (sigsetjmp(back, 1) == 0) printf("%d\n", 7 / zero); else puts("SIGFPE");
  if (sigsetjmp(back, 1) == 0) printf("%d\n", *(volatile int *)8); else puts("SIGSEGV");
  return 0;
}
C
v3=
/lib64/ld-linux-x86-64.so.2 --help | grep -q 'x86-64-v3 (supported' && v3=yes
for flags in -O0 -O2 "-O2 -static" "-m32 -O2" "-m32 -static -msse2 -mfpmath=sse" ${v3:+"-O3 -march=x86-64-v3"}; do
  echo "gcc $flags"
  gcc $flags -o c c.c -lm && ./c
done

section "C++ program"
cat >p.cpp <<'CPP'
#include <algorithm>
#include <iomanip>
#include <iostream>
#include <map>
#include <numeric>
#include <random>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
int deep(int n) { if (n == 0) throw std::runtime_error("from the depth"); return deep(n - 1) + 1; }
int main() {
  std::mt19937_64 random(7);
  std::vector<double> values(100000);
  std::uniform_real_distribution<double> range(-1, 1);
  for (auto& value : values) value = range(random);
  std::sort(values.begin(), values.end());
  std::cout << std::setprecision(17) << std::accumulate(values.begin(), values.end(), 0.0) << ' ' << values[777] << '\n';
  std::map<std::string, int> words;
  for (int i = 0; i < 5000; ++i) ++words["w" + std::to_string(random() % 97)];
  for (auto& [word, count] : words) std::cout << word << '=' << count << ' ';
  std::cout << '\n';
  try { deep(100); } catch (const std::exception& error) { std::cout << error.what() << '\n'; }
  long total = 0;
  std::vector<std::thread> threads;
  std::vector<long> parts(4);
  for (int t = 0; t < 4; ++t) threads.emplace_back([&, t] { for (int i = 0; i < 100000; ++i) parts[t] += i % (t + 3); });
  for (auto& thread : threads) thread.join();
  for (long part : parts) total += part;
  std::cout << total << ' ' << std::regex_replace(std::string("a1b22c333"), std::regex("[0-9]+"), "#") << '\n';
}
CPP
g++ -O2 -std=c++20 -pthread -o p p.cpp && ./p

section "perl and bc"
perl -e 'my %h; $h{$_ % 101} += sqrt $_ for 1 .. 100000; printf "%s=%.10f ", $_, $h{$_} for sort { $a <=> $b } keys %h; print "\n"'
perl -MDigest::SHA=sha512_hex -MList::Util=sum -e 'print sha512_hex("x" x 1e6), " ", sum(map { $_ ** 2 } 1 .. 1000), "\n"'
echo 'scale=300; 4*a(1); e(1); sqrt(2); 2^1000' | BC_LINE_LENGTH=0 bc -l

section "sort, gzip, xz, sha256sum"
seq "$lines" -1 1 >big
ls -l big | awk '{print $5}'
sha256sum <big
sort -n big | sha256sum
sort big | sha256sum
gzip -n -c big >big.gz && sha256sum <big.gz && gunzip -c big.gz | cmp - big && echo "gzip there and back"
xz -0 -T1 -c big >big.xz && sha256sum <big.xz && xz -dc big.xz | cmp - big && echo "xz there and back"
zstd -q -3 --single-thread -c big >big.zst && zstd -qdc big.zst | cmp - big && echo "zstd there and back"
bzip2 -c <text | sha256sum
tac big | head -n 3
wc big | awk '{print $1, $2, $3}'

section "shell"
for i in {1..200}; do (exit $((i % 7))); echo -n "$? "; done
echo
find /usr/include -name '*.h' -type f | LC_ALL=C sort | xargs cat | sha256sum
printf '%s\n' {1..500} | xargs -n 7 echo | sha256sum
seq 1 100 >one && seq 2 101 | diff one -
cd / && rm -rf "$work"
echo "== end"
