"""Number formats of the weights on the size trained here: success by pairs of episodes, and how far actions move.

Flow and diffusion of peg-insert-side (25 demonstrations, training seed 1; those that ``robopolicy bench imitation`` has left,
else trained here), 200 report states: each format of ``policies.inference`` against the weights as they were trained, on the
same states and with the same noise. Deviations are of the executed actions for 256 recorded observations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from policies import checkpoint as checkpoints
from policies.inference import Weights, accelerate
from policies.noise import Noise, row_keys
from policies.spec import InputError
from robopolicy.bench.harness import Result, Row, measured
from robopolicy.bench.latency import in_turn
from robopolicy.bench.latency_unet import DEVIATION
from robopolicy.bench.rti import MARGIN, TASK, Size, checkpoint_of
from robopolicy.data.dataset import Dataset
from robopolicy.data.windows import WindowSampler
from robopolicy.evaluation.records import Evaluation, compare_evaluations
from robopolicy.evaluation.rollout import evaluate
from robopolicy.evaluation.seeds import REPORT
from robopolicy.evaluation.statistics import paired_difference
from robopolicy.evaluation.subject import read_defaults
from robopolicy.recipe import recipe_from_dict

FOLDER = Path("runs/benchmarks/formats")
POLICIES = ("flow", "diffusion")
_SEED, _INPUTS, _CALLS = 1, 256, 200
_QUICK = ("training.steps=300", "training.checkpoint_every=300")


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes under two minutes on policies that have hardly been trained."""
    if quick:
        return measure(FOLDER.with_name("formats-quick"), Size((0,), 10, limit=80, overrides=_QUICK))
    return measure(FOLDER, Size((_SEED,), 200))


def measure(folder: Path, size: Size, policies: tuple[str, ...] = POLICIES, formats: tuple[Weights, ...] = get_args(Weights)) -> Result:
    """Evaluate every policy as trained and in each of ``formats``, on the same states."""
    result = Result()
    for name in policies:
        source = checkpoint_of(folder, size.seeds[0], size, name)
        trained, _ = _evaluate(source, None, size)
        low, high = trained.interval
        share = f"as trained {trained.successes} of {size.states} [{100 * low:.1f}, {100 * high:.1f}]"
        result.notes.append(f"{name}, {source}: {share}; {_large(source)}")
        for weights in formats:
            try:
                found, took = _evaluate(source, weights, size)
            except InputError as error:  # a processor without bfloat16
                result.missing.append(f"{name}, {weights}: {error}")
                continue
            _rows(result, f"{name}, {weights}", found, trained, took)
            worst, mean = deviation(source, weights)
            label = f"{name}, {weights}: deviation of actions over {_INPUTS} inputs"
            result.rows.append(Row(f"{label}, largest", worst, "of the range", target=DEVIATION, better="lower"))
            result.rows.append(Row(f"{label}, mean", mean, "of the range", better="lower"))
        result.rows += latencies(source, name, formats)
    return result


def latencies(source: Path, name: str, formats: Sequence[Weights], calls: int = _CALLS) -> list[Row]:
    """Return the median time of one plan at batch 1 and one thread in each format, calls taken in turn with those as trained."""
    policies: dict[str, Any] = {"as trained": checkpoints.load(source)}
    for weights in formats:
        with contextlib.suppress(InputError):  # said where it was evaluated
            policies[weights] = accelerate(checkpoints.load(source), weights)
    fields = policies["as trained"].spec.observation.fields.items()
    obs = {field: torch.zeros(1, policies["as trained"].n_obs_steps, *f.shape) for field, f in fields}
    plans = {way: lambda one=one: one.act(obs, {}, Noise(row_keys(0, np.arange(1)))) for way, one in policies.items()}
    before = torch.get_num_threads()
    times = {way: 1e3 * float(np.median(seconds)) for way, seconds in in_turn(plans, calls, 1).items()}
    torch.set_num_threads(before)
    peer = times.pop("as trained")
    return [Row(f"{name}, {way}: one plan, p50", value, "ms", "as trained", peer, better="lower") for way, value in times.items()]


def _rows(result: Result, name: str, found: Evaluation, trained: Evaluation, took: dict[str, float]) -> None:
    pair = compare_evaluations(found, trained)
    difference, low, high = paired_difference(pair.n, pair.first_only, pair.second_only, confidence=0.90)  # each end is a one-sided 95 % bound
    result.rows += [
        Row(f"{name}: success", found.success_rate, "1", "as trained", trained.success_rate, **took),  # type: ignore[arg-type]
        Row(f"{name} less as trained: one-sided 95 % lower bound", 100 * low, "points", target=MARGIN),
    ]
    result.notes.append(
        f"{name}: {found.successes} of {pair.n} against {trained.successes}, only this {pair.first_only}, only as trained {pair.second_only}: "
        f"{100 * difference:+.1f} points, one-sided 95 % bounds {100 * low:+.1f} and {100 * high:+.1f} (Tango)"
    )


def _evaluate(folder: Path, weights: str | None, size: Size) -> tuple[Evaluation, dict[str, float]]:
    env = read_defaults(folder).env
    env = env if size.limit is None else {**env, "max_episode_steps": size.limit}
    with measured() as took:
        found = evaluate(
            str(folder), TASK, episodes=size.states, seed0=int(REPORT), block=min(50, size.states), env=env, latency_calls=0, method="none", weights=weights
        )
    return found, {"wall_s": took.wall_s, "cpu_s": took.cpu_s}


def _large(folder: Path) -> str:
    """Return how many of the weights lie in matrices that a format changes."""
    policy = checkpoints.load(folder)
    total = sum(p.numel() for p in policy.parameters())
    left = sum(p.numel() for p in accelerate(policy).parameters())
    return f"{total - left:,} of {total:,} weights are in matrices of a format"


@torch.no_grad()
def deviation(folder: Path, weights: Weights, inputs: int = _INPUTS) -> tuple[float, float]:
    """Return the largest and the mean deviation of executed actions from those as trained, as shares of the action's range.

    Args:
        folder: Checkpoint, whose recipe says where its demonstrations are.
        weights: The format.
        inputs: Recorded observations, drawn from all windows in a fixed order.
    """
    trained: Any = checkpoints.load(folder)
    fast = accelerate(checkpoints.load(folder), weights)
    recipe = recipe_from_dict(checkpoints.read_manifest(folder)["recipe"], str(folder))
    dataset, fields = Dataset.open(recipe.filled(recipe.data.path)), list(trained.spec.observation.fields)
    sizes = (trained.n_obs_steps, trained.horizon, trained.n_action_steps)
    batch, _ = WindowSampler(dataset, fields, *sizes, inputs, seed=0, episodes=recipe.data.episodes).batch(0)
    keys = row_keys(0, np.arange(inputs))
    actions = [policy.act({n: batch[n] for n in fields}, {}, Noise(keys))[0].actions for policy in (trained, fast)]
    width = torch.as_tensor(dataset.stats["action"]["max"] - dataset.stats["action"]["min"])  # as demonstrated: at most that of the spec
    moved = ((actions[1] - actions[0]) / width).abs()
    return float(moved.max()), float(moved.mean())
