"""The safety filter: nothing leaves it from which a verified, jerk-limited brake does not remain inside every limit.

A limiter in software, not a safety function in the sense of ISO 13849. The parts: ``brake`` (how to stop), ``barriers``
(where not to be), ``filter`` (the nearest command from which one can still stop), ``check`` (the same question asked again
by other code, in the process that owns the drive) and ``voting`` (what redundant sensors agree on).
"""
