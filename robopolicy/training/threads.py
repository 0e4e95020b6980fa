"""How many torch threads train fastest: measured once on the recipe's own network, then kept with the run.

Small networks lose by a second thread, by a factor of ten where cores are shared: threads that wait for each other spin. The
number decides how sums are rounded, so a run that goes on takes the number it began with.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from policies.noise import Noise, row_keys
from robopolicy.config import read_yaml

if TYPE_CHECKING:
    from policies.learnt import LearntPolicy
    from robopolicy.recipe_trial import TrialRecipe
    from robopolicy.training.run_folder import RunFolder

_ROUNDS, _SECONDS, _BURST = 7, 2.0, 0.02  # interleaved rounds at most; s they may take together; s of one round, about
_GAIN = 1.25  # how much faster all cores must be: on a shared machine they are not always there


def available_cores() -> int:
    """Return the cores that this process may use; ``OMP_NUM_THREADS`` is an upper limit."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return min(own, int(wish)) if wish.isdigit() and int(wish) > 0 else own


def fastest(update: Callable[[], None], cores: int) -> int:
    """Return 1 or ``cores``, whichever runs ``update`` faster: the best of interleaved rounds, all cores only if clearly so.

    Torch's number of threads is as before afterwards.
    """
    if cores <= 1:
        return 1
    before, best = torch.get_num_threads(), {1: float("inf"), cores: float("inf")}
    try:
        update()  # allocates
        begun = time.perf_counter()
        update()
        repeats = max(1, round(_BURST / max(time.perf_counter() - begun, 1e-6)))
        for _ in range(_ROUNDS):
            for threads in best:
                torch.set_num_threads(threads)
                update()  # starts and wakes the threads
                at = time.perf_counter()
                for _ in range(repeats):
                    update()
                best[threads] = min(best[threads], time.perf_counter() - at)
            if time.perf_counter() - begun > _SECONDS:
                break
    finally:
        torch.set_num_threads(before)
    return cores if best[cores] * _GAIN < best[1] else 1


def loss_and_gradient(policy: LearntPolicy, rows: int) -> Callable[[], None]:
    """Return one loss and its gradient on ``rows`` made-up samples, on a copy of ``policy``: what an update mostly is."""
    own: Any = copy.deepcopy(policy)
    fields, device = policy.spec.observation.fields, next(own.parameters()).device
    if getattr(own, "recurrent", False):
        return _loss_over_time(own, rows)
    types = {name: torch.uint8 if field.kind == "image" else torch.float32 for name, field in fields.items()}
    batch = {name: torch.zeros(rows, own.n_obs_steps, *field.shape, dtype=types[name], device=device) for name, field in fields.items()}
    batch["action"] = torch.zeros(rows, own.horizon, policy.spec.action.low.size, device=device)
    batch["action_is_pad"] = torch.zeros(rows, own.horizon, dtype=torch.bool, device=device)
    keys = row_keys(0, np.arange(rows))

    def update() -> None:
        own.zero_grad(set_to_none=False)
        own.loss(batch, Noise(keys, device))[0].backward()

    return update


def _loss_over_time(policy: Any, rows: int) -> Callable[[], None]:
    """Return the same for a policy that remembers: on sequences of 16 steps."""
    steps, worlds, device = 16, max(1, rows // 16), next(policy.parameters()).device
    features = torch.zeros(steps, worlds, policy.encoder.features, device=device)
    state, begun = policy.initial_state(worlds), torch.zeros(steps, worlds, dtype=torch.bool, device=device)

    def update() -> None:
        policy.zero_grad(set_to_none=False)
        policy.over(features, state, begun).mean.square().mean().backward()

    return update


def threads_of(recipe: TrialRecipe) -> int | None:
    """Return ``training.threads``; None where it is to be measured."""
    training: Any = recipe.training
    return training.threads


def with_saved_threads(recipe: TrialRecipe, folder: RunFolder) -> TrialRecipe:
    """Return ``recipe`` with the thread count that the run in ``folder`` was begun with, where the recipe leaves it to be measured."""
    if threads_of(recipe) is not None or not folder.recipe_file.is_file():
        return recipe
    saved = read_yaml(folder.recipe_file).get("training")
    threads = saved.get("threads") if isinstance(saved, dict) else None
    return recipe if threads is None else with_threads(recipe, threads)


def with_threads(recipe: TrialRecipe, threads: int) -> TrialRecipe:
    """Return ``recipe`` with ``training.threads`` set."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"threads": threads})})
