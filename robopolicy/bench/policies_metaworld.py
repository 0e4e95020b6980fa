"""Policies on Meta-World: success of every policy against network calls on peg-insert-side, 10 demonstrations, 100 states.

The third panel of ``robopolicy bench policies``, in the same folder, plot and report. It takes longer, is resumable, and
uses the checkpoints that are there.
"""

from __future__ import annotations

from robopolicy.bench.few_steps_beds import metaworld
from robopolicy.bench.harness import Result
from robopolicy.bench.policies import FOLDER, contest


def run(quick: bool) -> Result:
    """Train and measure what has no result yet; ``quick`` only shows that everything runs."""
    return contest([metaworld(quick)], FOLDER.with_name("policies-quick") if quick else FOLDER)
