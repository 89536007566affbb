"""Runs in the guest: Python's own arithmetic, containers, text, threads and files, with known answers."""

import concurrent.futures
import decimal
import fractions
import hashlib
import json
import math
import re
import struct
import subprocess
import tempfile
import zlib

checks = 0


def check(what, got, want):
    global checks
    checks += 1
    if got != want:
        raise SystemExit(f"FAILED {what}: got {got!r}, expected {want!r}")


check("factorial", hashlib.sha256(str(math.factorial(1000)).encode()).hexdigest()[:16], "cc336cf135d690c1")
check("power", pow(3, 10**6, 10**9 + 7), pow(pow(3, 1000, 10**9 + 7), 1000, 10**9 + 7))
check("fraction", sum(fractions.Fraction(1, n) for n in range(1, 20)), fractions.Fraction(275295799, 77597520))
decimal.getcontext().prec = 50
check("decimal", str(decimal.Decimal(2).sqrt()), "1.4142135623730950488016887242096980785696718753769")

# Doubles: the bits, not their rounding to text.
bits = lambda value: struct.pack(">d", value).hex()
check("float sum", bits(sum(0.1 * n for n in range(1000))), "40e863c000000000")
check("fsum", bits(math.fsum([0.1] * 10)), "3ff0000000000000")
check("division", bits(1 / 3), "3fd5555555555555")
check("square root", bits(math.sqrt(2)), "3ff6a09e667f3bcd")
check("fma-free product", bits(1.1 * 1.1), "3ff35c28f5c28f5d")
check("repr round trip", [float(repr(n / 7)) == n / 7 for n in range(200)], [True] * 200)
check("subnormal", bits(5e-324), "0000000000000001")
check("overflow", 1e308 * 10, math.inf)

data = bytes((n * n + 7 * n) & 0xFF for n in range(200000))
check("crc32", zlib.crc32(data), 0x60573721)
check("deflate round trip", zlib.decompress(zlib.compress(data, 9)), data)
check("sha512", hashlib.sha512(data).hexdigest()[:16], "058f28f506359ed5")
check("json", json.loads(json.dumps({"a": [1, 2.5, None], "b": "é"})), {"a": [1, 2.5, None], "b": "é"})
check("regular expression", len(re.findall(r"(\d)\1", "".join(str(n) for n in range(5000)))), 1709)
check("sorting", sorted(range(20000), key=lambda n: n * 7919 % 20011)[:5], [0, 1031, 2062, 3093, 4124])

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    check("threads", sum(pool.map(lambda n: n * n, range(1000))), 332833500)
check("child", subprocess.run(["sh", "-c", "cat | wc -c"], input=data, capture_output=True).stdout.strip(), b"200000")
with tempfile.TemporaryFile() as scratch:
    scratch.write(data)
    scratch.seek(100000)
    check("file", scratch.read(), data[100000:])
print(f"python: {checks} checks ok")
