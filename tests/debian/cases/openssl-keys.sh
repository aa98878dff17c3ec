# SPDX-License-Identifier: Apache-2.0
# case: quick limit=240
hex() { perl -e 'print pack "H*", shift' "$1"; }
seq 1 20000 >text
echo "== x25519 (expected: the formulas of RFC 7748, section 5, in integers)"
hex 302e020100300506032b656e0422042077076d0a7318a57d3c16c17251b26645df4c2f92ebc0992ac177fba51db92c2a >a.der
hex 302a300506032b656e032100de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f >b.der
openssl pkeyutl -derive -inkey a.der -keyform DER -peerkey b.der -peerform DER | od -An -v -tx1 | tr -d ' \n' >shared
grep -qx ec555394277877e3ef665c2af39d396d8572f112cc8ce2af0972cb6a3989406d shared && echo "known answer: x25519" || echo "WRONG x25519: $(cat shared)"
echo "== ed25519 (RFC 8032, section 7.1, test 2)"
hex 302e020100300506032b6570042204204ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb >ed.der
printf r >message
openssl pkeyutl -sign -inkey ed.der -keyform DER -rawin -in message -out signature
od -An -v -tx1 signature | tr -d ' \n' | grep -qx "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00" &&
  echo "known answer: ed25519"
openssl pkey -in ed.der -inform DER -pubout -out ed.pub && openssl pkeyutl -verify -pubin -inkey ed.pub -rawin -in message -sigfile signature
echo "== rsa"
for key in /test/rsa*.pem; do
  [ -f "$key" ] || continue
  openssl pkey -in "$key" -pubout -out public.pem
  for digest in sha1 sha256 sha512; do
    openssl dgst "-$digest" -sign "$key" -out signature text && sha256sum <signature
    openssl dgst "-$digest" -verify public.pem -signature signature text
  done
  openssl pkey -in "$key" -check -noout
  echo secret | openssl pkeyutl -encrypt -pubin -inkey public.pem -pkeyopt rsa_padding_mode:oaep -out sealed && openssl pkeyutl -decrypt -inkey "$key" -pkeyopt rsa_padding_mode:oaep -in sealed
done
echo "== fresh keys"
openssl genrsa -out fresh.pem 1024 2>/dev/null && openssl pkey -in fresh.pem -check -noout
for curve in P-256 P-384 secp521r1 secp256k1 brainpoolP256r1; do
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:$curve -out ec.pem && openssl pkey -in ec.pem -pubout -out ec.pub &&
    openssl dgst -sha256 -sign ec.pem -out signature text && echo "$curve $(openssl dgst -sha256 -verify ec.pub -signature signature text)"
done
openssl genpkey -algorithm X448 -out x.pem && openssl pkey -in x.pem -pubout -out x.pub && openssl pkeyutl -derive -inkey x.pem -peerkey x.pub | wc -c
openssl prime -generate -bits 256 | xargs openssl prime | awk '{print $NF}'
openssl prime 170141183460469231731687303715884105727 170141183460469231731687303715884105729
