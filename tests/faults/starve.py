"""Other programs that want the processor: busy loops in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def busy_loops(number: int = 4, seconds: float = 5.0) -> Iterator[None]:
    """Run ``number`` busy loops beside the block, each for ``seconds``; the block ends no earlier than they do."""
    code = f"import time\nuntil = time.monotonic() + {seconds}\nwhile time.monotonic() < until: pass"
    loops = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(number)]
    try:
        yield
        for loop in loops:
            loop.wait(60)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
