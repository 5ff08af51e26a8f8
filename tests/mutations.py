"""Files with a few bytes changed, for as long as ``CKPTDIFF_FUZZ_SECONDS`` says, a second in CI."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Callable, Iterator, Sequence

__all__ = ["count_mutations", "mutated"]

_NUMBERS = (0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def mutated(chance: random.Random, original: bytes) -> bytes:
    """``original`` with some bytes changed, dropped, doubled or made a large number."""
    content = bytearray(original)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        position = chance.randrange(len(content) or 1)
        kind = chance.randrange(5)
        if kind == 0:
            content[position : position + 1] = bytes((chance.randrange(256),))
        elif kind == 1 and position < len(content):
            content[position] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del content[position : position + chance.randrange(1, 20)]
        elif kind == 3:
            content[position : position + 8] = struct.pack("<Q", chance.choice(_NUMBERS))
        else:
            source = chance.randrange(len(content) or 1)
            content[position:position] = content[source : source + chance.randrange(1, 40)]
    return bytes(content)


def count_mutations(originals: Sequence[bytes], attempt: Callable[[bytes], None]) -> int:
    """Call ``attempt`` with mutations until time is over; returns how often."""

    def mutations() -> Iterator[bytes]:
        chance = random.Random(os.environ.get("CKPTDIFF_FUZZ_SEED", "7"))
        end = time.monotonic() + float(os.environ.get("CKPTDIFF_FUZZ_SECONDS", "1"))
        while time.monotonic() < end:
            yield mutated(chance, chance.choice(originals))

    executions = 0
    for content in mutations():
        attempt(content)
        executions += 1
    print(f"{executions} executions")  # noqa: T201
    return executions
