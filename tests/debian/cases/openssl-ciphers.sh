# SPDX-License-Identifier: Apache-2.0
# case: quick limit=240
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
seq 1 "$CIPHER_LINES" >text
for mask in none ${FULL:+"~0x200000200000000" "~0x0:~0x20" "~0x1000000000000000:~0xffffffffffffffff" "0x0:0x0"}; do
  [ "$mask" = none ] || export OPENSSL_ia32cap=$mask
  echo "== $mask"
  for cipher in aes-{128,192,256}-{ecb,cbc,ctr,cfb,ofb} chacha20 camellia-128-cbc camellia-256-ctr aria-128-cbc sm4-cbc des-ede3-cbc; do
    bytes=64
    case "$cipher" in *-128-* | sm4-*) bytes=32 ;; *-192-* | des-*) bytes=48 ;; esac
    iv=${key:0:32}
    case "$cipher" in *-ecb) iv= ;; des-*) iv=${key:0:16} ;; esac
    openssl enc "-$cipher" -K "${key:0:$bytes}" ${iv:+-iv "$iv"} -in text -out sealed
    openssl enc -d "-$cipher" -K "${key:0:$bytes}" ${iv:+-iv "$iv"} -in sealed | cmp - text
    echo "$cipher $(sha256sum <sealed)"
  done
  python3 "$PROGRAMS/aead.py" "$mask"
done
# FIPS 197, appendix C.
for size in 32 48 64; do
  printf '\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff' |
    openssl enc "-aes-$((size * 4))-ecb" -nopad -K "${key:0:$size}" | od -An -tx1
done
