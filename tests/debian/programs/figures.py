# SPDX-License-Identifier: Apache-2.0
"""Floating point, big integers, text and objects; every bit of the results is printed or hashed."""
import cmath
import decimal
import fractions
import hashlib
import json
import math
import random
import re
import statistics
import struct

random.seed(12345)
values = [random.gauss(0, 1e3) for _ in range(20000)]
print(math.fsum(values).hex(), statistics.fmean(values).hex(), statistics.stdev(values).hex())


def digest(numbers):
    return hashlib.sha256(b"".join(struct.pack("<d", number) for number in numbers)).hexdigest()[:32]


for function in (math.sin, math.cos, math.tan, math.atan, math.sinh, math.tanh, math.expm1, math.erf, math.gamma, math.lgamma, math.cbrt):
    print(function.__name__, digest(function(value / 50) for value in values if function is not math.gamma or value > 1))
for function in (math.log, math.log2, math.log10, math.sqrt, math.acosh):
    print(function.__name__, digest(function(1 + abs(value)) for value in values))
print("pow", digest(math.pow(abs(value), 1.7) for value in values), "fmod", digest(math.fmod(value, 0.37) for value in values))
print("hypot", digest(math.hypot(a, b) for a, b in zip(values, values[1:])), "atan2", digest(map(math.atan2, values, values[1:])))
print(cmath.exp(complex(1, 2)), cmath.sqrt(complex(-3, 1e-300)))
decimal.getcontext().prec = 300
print(decimal.Decimal(2).sqrt(), decimal.Decimal(10).ln())
print(fractions.Fraction(355, 113) ** 31)
print(pow(3, 2 ** 200 + 1, 2 ** 521 - 1), math.factorial(2000) % (10 ** 9 + 7) ** 5, math.isqrt(7 ** 999))
print(hashlib.sha256(str(3 ** 20000).encode()).hexdigest())
print(hashlib.sha256(json.dumps(sorted(values)).encode()).hexdigest(), len(re.findall(r"(\d)\1", "".join(map(str, values)))))
print([float(text).hex() for text in ("1e-320", "2.2250738585072011e-308", "4.9e-324", "0.1", "1e308", "1e309", "-0.0")])
print([repr(float.fromhex(text)) for text in ("0x1.fffffffffffffp1023", "0x0.0000000000001p-1022", "0x1.8p-1")])
print(sum(hash(str(value)) for value in values), len({frozenset((int(a), int(b))) for a, b in zip(values, values[1:])}))
print(struct.pack("<eef", 1.5, 65504.0, 3.14).hex(), struct.unpack("<4e", bytes(range(8))))
