"""What a closed graph took goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from quantize.freeing import give_back

def anonymous_mb():
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("RssAnon")) / 1e3

pieces = [bytes(60_000) + str(i).encode() for i in range(4000)]  # below malloc's threshold for mappings
last = bytearray(60_000)  # what stands at the heap's end keeps all before it
held = anonymous_mb()
del pieces
give_back()
print(held, anonymous_mb())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_memory_that_is_free_inside_the_heap_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    held, kept = map(float, done.stdout.split())
    assert held > 230
    assert kept < held - 200
