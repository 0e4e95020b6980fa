"""Schedules as pure functions of the step: learning rate, EMA decay and the seed of one step. Nothing to save or restore."""

from __future__ import annotations

import math

import numpy as np

from robopolicy.recipe import EmaConfig


def learning_rate_factor(step: int, warmup: int, total: int) -> float:
    """Return what the learning rate is multiplied with at update ``step`` (0 is the first) of ``total``.

    Linear warm-up from 0 over ``warmup`` updates, then half a cosine to zero at ``total``; the schedule of Diffusion Policy
    (Chi et al. 2023), which is ``cosine`` in diffusers: the very first update of a warm-up has rate 0.
    """
    if step < warmup:
        return step / max(1, warmup)
    done = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def ema_decay(step: int, config: EmaConfig) -> float:
    """Return the decay of the average at the ``step``-th update (1 is the first).

    decay_t = clip(1 - (1 + t / inv_gamma)^-power, 0, max_decay) with t = step - 1 (Diffusion Policy; schedule by
    K. Crowson): 0 at first, so the average forgets the initial weights, and 0.999 at 10,000 with power 3/4.
    """
    if not config.enabled:
        return 0.0
    return min(max(1.0 - (1.0 + max(0, step - 1) / config.inv_gamma) ** -config.power, 0.0), config.max_decay)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return the torch seed of one step: a hash of its three arguments, so that no generator has to be saved."""
    return int(np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
