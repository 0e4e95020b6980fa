"""Loaded by Python at the start of a process under ``faketime`` (tests/faults/clock.py puts this folder on its path).

libfaketime 0.9.10 makes ``clock_nanosleep`` fail with EINVAL, which is what ``time.sleep`` calls; ``select`` sleeps instead.
Only how the process sleeps is replaced, never what a clock says.
"""

import select
import time


def _sleep(seconds):
    """Sleep as ``time.sleep`` does."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        select.select([], [], [], left)


time.sleep = _sleep
