"""Cells of the benchmark of updates: seconds of single updates of our rules, sampling included, on data that nothing depends on."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: Minibatches of one rollout that PPO goes over.
PARTS = 32
TASK = "gymnasium/half-cheetah"


def sac(updates: int, turn: int, device: str = "cpu", way: str = "eager", sizes: tuple[int, ...] = (256, 256), batch: int = 256) -> dict[str, Any]:
    """Return seconds of SAC's updates: batch drawn from a replay, critics, policy, temperature, targets.

    Args:
        updates: How many are timed, after a tenth of them.
        turn: Which repetition this is.
        device: Of torch.
        way: ``eager``, ``compile`` or ``graph``.
        sizes: Widths of every network's layers.
        batch: Samples of an update.
    """
    from policies import registry
    from policies.normalize import limits_normalizer
    from robopolicy.algos.registry import rule_class
    from robopolicy.training.off_policy_config import OffPolicyTraining, ReplayConfig
    from robopolicy.training.off_policy_learner import Learner
    from robopolicy.training.replay import Replay
    from sim.registry import make

    torch.manual_seed(turn)
    with contextlib.closing(make(TASK)) as env:
        spec = env.spec
    options: dict[str, Any] = {"hidden": list(sizes), "activation": "relu"}
    kind: Any = rule_class("sac")
    actor = registry.config_class("gaussian").model_validate({**options, **kind.policy_settings})
    policy = registry.create("gaussian", actor, spec, limits_normalizer(spec))
    rule = kind(kind.Config(**options, compile=way == "compile", graph=way == "graph"), spec, policy.to(device))
    training = OffPolicyTraining(steps=10**9, random_steps=0, batch_size=batch, replay=ReplayConfig(capacity=10_000))
    replay = Replay(spec, 1, training.replay, training.gamma)
    (field,) = spec.observation.fields
    rng = np.random.default_rng(turn)
    for _ in range(2000):
        obs, following = ({field: rng.standard_normal((1, *spec.observation.fields[field].shape)).astype(np.float32)} for _ in range(2))
        action, reward, no = rng.uniform(-1, 1, (1, spec.action.dim)).astype(np.float32), rng.standard_normal(1).astype(np.float32), np.zeros(1, bool)
        replay.add(obs, action, reward, following, no, no)
    learner = Learner(rule, replay, training, turn)
    return _timed(lambda first, count: learner.learn(first, first + count), updates, device)


def ppo(updates: int, turn: int, device: str = "cpu", sizes: tuple[int, ...] = (256, 256), batch: int = 256) -> dict[str, Any]:
    """Return seconds of PPO's updates, one minibatch each: gathered, policy and critic, gradients clipped; arguments as :func:`sac`."""
    from robopolicy.recipe import load_recipe
    from robopolicy.training import on_policy
    from robopolicy.training.trial_processes import processes
    from robopolicy.training.trial_session import opened
    from sim.registry import make

    worlds, rollout = 64, PARTS * batch // 64
    widths = f"[{','.join(map(str, sizes))}]"
    told = [f"policy.hidden={widths}", f"training.critic.hidden={widths}", f"training.worlds={worlds}", f"training.rollout={rollout}"]
    told += [f"training.minibatches={PARTS}", "training.epochs=1", "training.threads=1", "training.schedule=constant", f"seed={turn}"]
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe("rl/half-cheetah", [*told, f"output={Path(folder) / 'run'}"], lambda text: None)
        with contextlib.ExitStack() as stack:
            others = stack.enter_context(processes(torch.device(device)))
            env = stack.enter_context(contextlib.closing(make(recipe.task, num_worlds=worlds, autoreset=True)))
            session = stack.enter_context(opened(recipe, env.spec, batch, False, "never", lambda text: None, others))
            run = on_policy._begin(session, env)
            run.collector.begin(0)
            seen = run.collector.collect(0)
            run.updater.estimate(seen)

            def passes(first: int, count: int) -> None:
                for k in range(-(-count // PARTS)):
                    run.updater.improve(seen, first + k, 0.5)

            return _timed(passes, -(-updates // PARTS) * PARTS, device)


def _timed(run: Callable[[int, int], None], updates: int, device: str) -> dict[str, Any]:
    """Call ``run(first, count)`` for a tenth of ``updates``, then for all of them with the clock on."""
    warm = max(8, updates // 10)  # graphs are recorded in the first of them
    run(0, warm)
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run(warm, updates)
    _wait(device)
    return {"updates": updates, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
