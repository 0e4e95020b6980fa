"""Cells of the transfer benchmark: the robot is shaken and identified, policies are trained, and tried in every world.

Each is called with plain settings and returns what fits into JSON, so that it can be a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.bench.transfer_beds import BULLET, ROBOT, Bed, section, training_section, world_env
from robopolicy.evaluation.seeds import REPORT, Purpose, seeds

_SHAKEN_FROM = 900_000  # offset of the excitation's seeds among those of demonstrations, away from data sets
_TONES = 6  # of the multisine
_SLOWEST, _FASTEST = 0.4, 4.0  # Hz
EXPERT = "expert"


def identify_robot(bed: Mapping[str, Any], world: str, folder: str) -> dict[str, Any]:
    """Record the robot while it is shaken, fit the MuJoCo model to that, and write ``identified-WORLD-SETTINGS.yaml``.

    Args:
        bed: See ``robopolicy.bench.transfer_beds.Bed.settings``.
        world: ``robot``; or ``PyBullet``, whose true values are those of the model: what the engines' difference alone does to an estimate.
        folder: Of the bed.

    Returns:
        ``Fit.to_dict`` and ``true``, key -> the value that the worlds had, in the estimate's unit.
    """
    from robopolicy import identification
    from robopolicy.data.atomic import write_bytes
    from sim import registry
    from sim.identify import Settings, identify, require_task

    what, name = Bed.of(bed), world.lower()
    recorded = Path(folder) / f"excitation-{name}.npz"
    write_bytes(recorded, excitation(what, world))
    settings = Settings(window_s=what.window_s, most_windows=what.windows, starts=what.starts, iterations=what.iterations)
    with contextlib.closing(registry.make(what.task, num_worlds=512)) as env:
        task = require_task(env)
        found = identify(task, identification.read_trajectories(recorded, task.spec), what.fits, settings)
        true = true_values(what, task.model, {} if world == BULLET else section(what.robot))
    identification.write_section(found, _identified(bed, world, folder))
    return {**found.to_dict(), "true": true}


def excitation(bed: Bed, world: str) -> bytes:
    """Return an ``.npz`` of motion in one of the PyBullet worlds: the expert's actions and a multisine on each, cut where an episode ended."""
    from robopolicy.evaluation.rollout import make_world

    robot = {} if world == BULLET else section(bed.robot)
    with contextlib.closing(make_world(bed.task, world_env(world, robot), bed.episodes)) as env:
        steps = round(bed.seconds * env.spec.action.rate_hz)
        chosen = seeds(Purpose.DEMONSTRATION, bed.episodes, _SHAKEN_FROM)
        low, high = np.asarray(env.spec.action.low), np.asarray(env.spec.action.high)
        shaken = 0.5 * bed.shake * (high - low) * multisine(bed.episodes, steps, len(low), env.spec.action.rate_hz)
        fields = [name for name, field in env.spec.observation.fields.items() if not field.is_image]
        seen: dict[str, list[np.ndarray]] = {name: [] for name in fields}
        sent, running, alive = [], [], np.ones(bed.episodes, bool)
        obs = env.reset(chosen)
        for t in range(steps):
            action = np.clip(env.expert_action() + shaken[:, t], low, high).astype(np.float32)
            for name in fields:
                seen[name].append(obs[name].copy())
            sent.append(action)
            running.append(alive.copy())
            result = env.step(action)
            alive &= ~(result.terminated | result.truncated)
            obs = result.next_obs
    kept = np.stack(running, axis=1)  # (episodes, T)
    arrays = {name: np.stack(values, axis=1)[kept] for name, values in seen.items()}
    episode = np.broadcast_to(np.arange(bed.episodes)[:, None], kept.shape)[kept]
    out = io.BytesIO()
    columns: dict[str, Any] = {"actions": np.stack(sent, axis=1)[kept], "episode": episode, **arrays}
    np.savez(out, **columns)
    return out.getvalue()


def multisine(episodes: int, steps: int, width: int, rate_hz: float) -> np.ndarray:
    """Return (episodes, steps, width) sums of sines of log-spaced frequencies and phases of their own, at most 1 in size."""
    frequencies = np.geomspace(_SLOWEST, min(_FASTEST, rate_hz / 4), _TONES)
    phases = np.random.default_rng(_SHAKEN_FROM).uniform(0, 2 * np.pi, (episodes, 1, width, _TONES))
    time = np.arange(steps)[None, :, None, None] / rate_hz
    return np.sin(2 * np.pi * frequencies * time + phases).mean(axis=-1)


def true_values(bed: Bed, model: Any, section: Mapping[str, Any]) -> dict[str, float]:
    """Return what each of the bed's ``fits`` is in worlds of ``section``, as an estimate reports it: a value, or a factor of several."""
    from sim.identify_parameters import DELAY, LATENCY
    from sim.randomize_fields import select

    out: dict[str, float] = {}
    for text in bed.fits:
        key = text.partition("=")[0]
        if key in (DELAY, LATENCY):
            out[key] = float(section.get("actions", {}).get(key, 0.0))
            continue
        factor, base = float(section.get("model", {}).get(key, {}).get("scale", 1.0)), select(key, model).base
        out[key] = factor if base.size > 1 else factor * float(base.ravel()[0])
    return out


def train_policy(bed: Mapping[str, Any], variant: str, seed: int, folder: str, training: Sequence[str]) -> dict[str, Any]:
    """Train one policy in the worlds of a variant; goes on where it was stopped.

    Args:
        bed: See ``robopolicy.bench.transfer_beds.Bed.settings``.
        variant: One of its ``VARIANTS``.
        seed: Of training.
        folder: Of the bed; identification has been there before.
        training: Overrides of the recipe beyond the bed's.

    Returns:
        ``checkpoint``, its ``fingerprint``, ``section`` of its worlds, ``seconds``, and ``demonstrations`` or environment ``steps``.
    """
    from policies.checkpoint import fingerprint
    from robopolicy.recipe import load_recipe, recipe_from_dict
    from robopolicy.training import imitation, trial

    what, here, name = Bed.of(bed), Path(folder), variant.replace(" ", "-")
    found = _identified(bed, ROBOT, here)
    differs = training_section(variant, section(what.ranges), section(str(found)) if found.is_file() else None)
    run = [f"task={what.task}", f"seed={seed}", f"output={run_folder(bed, variant, seed, folder, training)}"]
    if what.learns == "imitation":
        run += [f"data.path={_demonstrated(what, here / f'data-{name}-{_digest(bed)}', differs)}", "data.collect=null"]
    values = load_recipe(what.recipe, [*what.overrides, *run, *training], _silent).to_dict()
    values["env"]["randomize"] = differs
    recipe = recipe_from_dict(values, f"benchmark: {what.name}, {variant}")
    trained = (imitation if what.learns == "imitation" else trial).train(recipe, progress=False, note=_silent)
    about = {"demonstrations": what.demonstrations} if what.learns == "imitation" else {"steps": recipe.training.steps}
    return {"checkpoint": str(trained.checkpoint), "fingerprint": fingerprint(trained.checkpoint), "section": differs, "seconds": trained.seconds, **about}


def run_folder(bed: Mapping[str, Any], variant: str, seed: int, folder: str, training: Sequence[str]) -> Path:
    """Return where a policy is trained; another bed or other overrides have another place."""
    return Path(folder) / "runs" / f"{variant.replace(' ', '-')}-{_digest(bed, training)}-seed{seed}"


def _digest(bed: Mapping[str, Any], training: Sequence[str] = ()) -> str:
    return hashlib.sha256(json.dumps([dict(bed), list(training)], sort_keys=True).encode()).hexdigest()[:8]


def _identified(bed: Mapping[str, Any], world: str, folder: str | Path) -> Path:
    """Return the file of the model that was identified in ``world``; a bed with other settings has another."""
    return Path(folder) / f"identified-{world.lower()}-{_digest(bed)}.yaml"


def _demonstrated(bed: Bed, path: Path, differs: Mapping[str, Any] | None) -> Path:
    """Let the expert demonstrate in the training worlds, unless it has; returns ``path``."""
    from robopolicy.data.collect import collect

    collect(bed.task, path, bed.demonstrations, workers=1, progress=False, randomize=differs)
    return path


def try_policy(
    bed: Mapping[str, Any],
    who: str,
    seed: int,
    worlds: Sequence[str],
    episodes: int,
    limit: int | None,
    folder: str,
    ledger: str,
    training: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate one policy, or the expert, on report states in some worlds; every evaluation is a line of the ledger in ``ledger``.

    Args:
        bed: See ``robopolicy.bench.transfer_beds.Bed.settings``.
        who: One of its ``VARIANTS``, or ``expert``.
        seed: Of its training.
        worlds: Some of its ``WORLDS``.
        episodes: The same initial states for everybody.
        limit: Control steps of an episode; None: the task's.
        folder: Of the bed.
        ledger: Folder of all evaluations.
        training: Overrides that it was trained with.

    Returns:
        World -> ``success`` (n,), ``score`` (n,) or an empty list, ``return`` (n,), where the ``record`` is, and ``seconds``.
    """
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.training.run_folder import find_checkpoint

    what, robot = Bed.of(bed), section(bed["robot"])
    policy = EXPERT if who == EXPERT else find_checkpoint(run_folder(bed, who, seed, folder, training))
    out: dict[str, Any] = {}
    for world in worlds:
        env = {**world_env(world, robot), **({} if limit is None else {"max_episode_steps": limit})}
        label = who if who == EXPERT else f"{who} seed {seed}"
        block = min(50, episodes)
        asked: dict[str, Any] = {"episodes": episodes, "seed0": REPORT, "block": block, "env": env, "latency_calls": 0, "set_name": "transfer"}
        done = evaluate(policy, what.task, **asked, out=Path(ledger), label=label, progress=False)
        scores = [e.info.get(what.score, float("nan")) for e in done.episodes] if what.score else []
        if what.score and not np.isfinite(scores).all():
            raise InputError(f"task {what.task!r} reports no {what.score!r} to compare")
        record = "" if done.folder is None else done.folder.name
        returns, success = [e.return_ for e in done.episodes], [int(e.success) for e in done.episodes]
        out[world] = {"success": success, "score": scores, "return": returns, "record": record, "seconds": done.seconds}
    return out


def _silent(text: str) -> None:
    """Say nothing."""
