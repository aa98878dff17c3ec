# SPDX-License-Identifier: Apache-2.0
# case: quick limit=240
# The same answers must come from every code path of libcrypto: the mask takes features away from it.
check() { [ "$2" = "$3" ] && echo "known answer: $1" || echo "WRONG $1: $2, not $3"; }
of() { printf %s "$2" | openssl dgst "-$1" -r | cut -d' ' -f1; }
# FIPS 180-4 and FIPS 202 examples.
check sha1 "$(of sha1 abc)" a9993e364706816aba3e25717850c26c9cd0d89d
check sha256 "$(of sha256 abc)" ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
check sha512 "$(of sha512 abc)" ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f
check sha3-256 "$(of sha3-256 abc)" 3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532
check md5 "$(of md5 abc)" 900150983cd24fb0d6963f7d28e17f72
check million "$(head -c 1000000 /dev/zero | tr '\0' a | openssl dgst -sha256 -r | cut -d' ' -f1)" \
  cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0
seq 1 "$DIGEST_LINES" >text
for mask in none ${FULL:+"~0x200000200000000" "~0x200000200000000:~0x20000000" "~0x1000000000000000:~0xffffffffffffffff" "0x0:0x0"}; do
  [ "$mask" = none ] || export OPENSSL_ia32cap=$mask
  for digest in md5 sha1 sha224 sha256 sha384 sha512 sha512-256 sha3-224 sha3-256 sha3-384 sha3-512 shake128 blake2b512 blake2s256 ripemd160 sm3; do
    openssl dgst "-$digest" -r text
  done | cut -d' ' -f1 | tee "digests.$mask"
  cmp digests.none "digests.$mask"
  openssl mac -digest SHA256 -macopt hexkey:000102030405 -in text HMAC
  openssl mac -cipher AES-128-CBC -macopt hexkey:000102030405060708090a0b0c0d0e0f -in text CMAC
  openssl mac -macopt hexkey:000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f -in text Poly1305
done
openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt pass:secret -kdfopt salt:NaCl -kdfopt iter:1000 PBKDF2
openssl kdf -keylen 64 -kdfopt pass:password -kdfopt salt:NaCl -kdfopt n:1024 -kdfopt r:8 -kdfopt p:1 SCRYPT
