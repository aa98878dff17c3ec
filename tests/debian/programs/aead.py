# SPDX-License-Identifier: Apache-2.0
"""Authenticated ciphers through libcrypto's EVP interface, which openssl's command line does not offer."""
import ctypes
import hashlib

crypto = ctypes.CDLL("libcrypto.so.3")
for name in ("EVP_CIPHER_CTX_new", "EVP_CIPHER_fetch"):
    getattr(crypto, name).restype = ctypes.c_void_p
SET_IV_LENGTH, GET_TAG, SET_TAG = 0x9, 0x10, 0x11


def pointer(value):
    return ctypes.c_void_p(value)


def seal(cipher, key, iv, data, associated):
    """Returns ciphertext and tag, after opening them again."""
    text, tag, length = [], None, ctypes.c_int()
    method = pointer(crypto.EVP_CIPHER_fetch(None, cipher.encode(), None))
    for encrypt in (1, 0):
        context = pointer(crypto.EVP_CIPHER_CTX_new())
        assert crypto.EVP_CipherInit_ex(context, method, None, None, None, encrypt) == 1
        assert crypto.EVP_CIPHER_CTX_ctrl(context, SET_IV_LENGTH, len(iv), None) == 1
        if not encrypt:
            assert crypto.EVP_CIPHER_CTX_ctrl(context, SET_TAG, 16, tag) == 1
        assert crypto.EVP_CipherInit_ex(context, None, None, key, iv, encrypt) == 1
        if associated:
            assert crypto.EVP_CipherUpdate(context, None, ctypes.byref(length), associated, len(associated)) == 1
        source = data if encrypt else text[0]
        out = ctypes.create_string_buffer(len(data) + 64)
        assert crypto.EVP_CipherUpdate(context, out, ctypes.byref(length), source, len(source)) == 1
        done = length.value
        assert crypto.EVP_CipherFinal_ex(context, ctypes.byref(out, done), ctypes.byref(length)) == 1, f"{cipher}: the tag does not match"
        text.append(out.raw[:done + length.value])
        if encrypt:
            tag = ctypes.create_string_buffer(16)
            assert crypto.EVP_CIPHER_CTX_ctrl(context, GET_TAG, 16, tag) == 1
        crypto.EVP_CIPHER_CTX_free(context)
    assert text[1] == data, f"{cipher}: opening gives other data"
    return text[0], tag.raw


def check(name, result, text, tag):
    good = result[0] == bytes.fromhex(text) and result[1] == bytes.fromhex(tag)
    print(f"known answer: {name}" if good else f"WRONG {name}: {result[0].hex()} {result[1].hex()}")


# The GCM specification (McGrew, Viega), test cases 2 and 4.
check("aes-128-gcm", seal("AES-128-GCM", bytes(16), bytes(12), bytes(16), b""),
      "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf")
plain = bytes.fromhex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39")
check("aes-128-gcm with data", seal("AES-128-GCM", bytes.fromhex("feffe9928665731c6d6a8f9467308308"), bytes.fromhex("cafebabefacedbaddecaf888"),
                                    plain, bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")),
      "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
      "5bc94fbc3221a5db94fae95ae7121a47")
# RFC 8439, section 2.8.2.
check("chacha20-poly1305", seal("ChaCha20-Poly1305", bytes(range(0x80, 0xa0)), bytes.fromhex("070000004041424344454647"),
                                b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
                                bytes.fromhex("50515253c0c1c2c3c4c5c6c7")),
      "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
      "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116",
      "1ae10b594f09e26a7e902ecbd0600691")
data = b"".join(hashlib.sha256(index.to_bytes(4, "big")).digest() for index in range(4096))
for cipher in ("AES-128-GCM", "AES-192-GCM", "AES-256-GCM", "AES-128-OCB", "ChaCha20-Poly1305", "ARIA-128-GCM"):
    size = {"128": 16, "192": 24}.get(cipher.split("-")[1], 32)
    sums = hashlib.sha256()
    for length in [*range(0, 70), *range(90, 700, 37), 4095, 8192, 65537, len(data)]:
        text, tag = seal(cipher, data[:size], data[64:76], data[:length], data[:length % 45])
        sums.update(text + tag)
    print(cipher, sums.hexdigest())
