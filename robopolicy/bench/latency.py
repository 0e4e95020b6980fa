"""Latency of one plan: every policy at the size of the Meta-World recipe, and the published U-Net beside LeRobot's.

Batch 1, one and two threads, eager, compiled (``torch.compile`` of the network; the walk stays Python), and exported (ONNX
Runtime, by the robot's own client). Calls are taken in turn, one of each policy and way after the other, so that what else
the machine does falls on all alike. Weights are random: no time depends on them but an energy's, whose descent stops early.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from policies import registry
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.bench.harness import Result, Row, measured
from robopolicy.config import find_recipe, read_yaml

RECIPE = "imitation/metaworld"
THREADS = (1, 2)
_RATE_HZ = 80.0  # of Meta-World
Key = TypeVar("Key")


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes fewer calls, two minutes or so where the compiled code is still in torch's cache."""
    return measure(20, 3, 16) if quick else measure(200, 10, 256)


def measure(calls: int, unet_calls: int, inputs: int, channels: tuple[int, ...] | None = None, names: tuple[str, ...] | None = None) -> Result:
    """Measure.

    Args:
        calls: Of each policy, way and number of threads.
        unet_calls: Of the U-Net in each format.
        inputs: For which the formats' deviations are taken.
        channels: Of the U-Net; None: as published.
        names: Of the policies; None: all.
    """
    from robopolicy.bench.latency_unet import CHANNELS, measure_unet

    result, folder = Result(), Path(tempfile.mkdtemp(prefix="robopolicy-bench-"))
    try:
        _policies(result, calls, names or registry.chunk_policy_names(), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    measure_unet(result, unet_calls, inputs, THREADS, channels or CHANNELS)
    return result


def state_spec() -> Spec:
    """Return the spec of a Meta-World task from states: 4 numbers of the hand, 17 of objects and goal, 4 of the action."""
    fields = {"observation.state": Field((4,)), "observation.environment_state": Field((17,))}
    return Spec(ObservationSpec(fields, _RATE_HZ), ActionSpec({"action": Field((4,), low=(-1,) * 4, high=(1,) * 4)}, _RATE_HZ))


def make_policy(name: str) -> Any:
    """Return a policy with random weights, as the recipe would begin to train it, in eval mode."""
    import torch

    section = {k: v for k, v in read_yaml(find_recipe(RECIPE))["policy"].items() if k != "type"}
    kind, spec = registry.policy_class(name), state_spec()
    config = kind.Config(**{k: v for k, v in section.items() if k in kind.Config.model_fields})
    shapes = {**{n: f.shape for n, f in spec.observation.fields.items()}, "action": (4,)}
    stats = {n: {k: np.full(shape, v) for k, v in (("min", -1.0), ("max", 1.0), ("mean", 0.0), ("std", 1.0))} for n, shape in shapes.items()}
    normalizer = kind.fit_normalizer(config, spec, stats, iter(()))
    torch.manual_seed(0)
    return registry.create(name, config, spec, normalizer).eval().requires_grad_(False)


def ways(name: str, policy: Any, threads: int, folder: Path) -> tuple[dict[str, Callable[[], Any]], list[str]]:
    """Return way -> what makes one plan, and one line for each way that a policy does not go."""
    import torch

    from policies.noise import Noise, row_keys

    obs = {field: torch.zeros(1, policy.n_obs_steps, *f.shape) for field, f in policy.spec.observation.fields.items()}
    keys = row_keys(0, np.arange(1))

    def eager(one: Any) -> Callable[[], Any]:
        return lambda: one.act(obs, {}, Noise(keys))

    plans, missing = {"eager": eager(policy)}, []
    for way, make in (("compiled", lambda: eager(_compiled(policy))), ("ONNX Runtime", lambda: _exported(policy, threads, folder / f"{name}.onnx", keys))):
        try:
            plan = make()
            plan()  # compiles, or says why not
            plans[way] = plan
        except ModuleNotFoundError as error:
            missing.append(f"{name}, {way}: not installed ({error.name})")
        except Exception as error:  # compilers have errors of every kind, some with pages of text
            lines = str(error).strip().splitlines()
            missing.append(f"{name}, {way}: {'not exportable' if way == 'ONNX Runtime' else type(error).__name__}: {lines[0][:160] if lines else ''}")
    return plans, missing


def _compiled(policy: Any) -> Any:
    import torch

    fast = copy.deepcopy(policy)
    fast.network = torch.compile(fast.network, dynamic=False)
    return fast


def _exported(policy: Any, threads: int, file: Path, keys: np.ndarray) -> Callable[[], Any]:
    from policies.export import to_onnx
    from real.onnx import OnnxPolicy

    if not file.exists():
        file.write_bytes(to_onnx(policy, {}))
    robot = OnnxPolicy(file, threads)
    obs = {n: np.zeros((1, policy.n_obs_steps, *f.shape), np.float32) for n, f in policy.spec.observation.fields.items()}
    state = robot.initial_state(1)
    return lambda: robot.act(obs, state, keys)


def _policies(result: Result, calls: int, names: tuple[str, ...], folder: Path) -> None:
    import torch

    policies: dict[str, Any] = {}
    for name in names:
        try:
            policies[name] = make_policy(name)
        except InputError as error:
            result.missing.append(f"{name}: {error}")
    for threads in THREADS:
        torch.set_num_threads(threads)
        plans: dict[tuple[str, str], Callable[[], Any]] = {}
        for name, policy in policies.items():
            found, missing = ways(name, policy, threads, folder)
            plans |= {(name, way): plan for way, plan in found.items()}
            result.missing += missing if threads == THREADS[0] else []
        with measured() as took:
            times = in_turn(plans, calls, threads)
        for (name, way), values in times.items():
            for quantile in (50, 99):
                label = f"{name}, {way}, {threads} thread{'s' * (threads > 1)}, p{quantile}"
                value = 1e3 * float(np.percentile(values, quantile))
                result.rows.append(Row(label, value, "ms", better="lower", wall_s=took.wall_s, cpu_s=took.cpu_s))
    sizes = ", ".join(f"{name} {sum(p.numel() for p in policy.parameters()):,} weights, {_calls(policy)} network calls" for name, policy in policies.items())
    result.notes.append(f"policies of {RECIPE}: {sizes}")


def _calls(policy: Any) -> str:
    import torch

    from policies.noise import Noise

    obs = {field: torch.zeros(1, policy.n_obs_steps, *f.shape) for field, f in policy.spec.observation.fields.items()}
    return f"{float(policy.act(obs, {}, Noise(np.zeros(1, np.int64)))[0].info['network_calls'][0]):g}"


def in_turn(plans: dict[Key, Callable[[], Any]], repetitions: int, threads: int) -> dict[Key, list[float]]:
    """Return plan -> seconds of each of its ``repetitions`` calls; one call of each after the other, after one that does not count."""
    import torch

    torch.set_num_threads(threads)
    times: dict[Key, list[float]] = {key: [] for key in plans}
    for repetition in range(repetitions + 1):
        for key, plan in plans.items():
            began = time.perf_counter()
            plan()
            if repetition:
                times[key].append(time.perf_counter() - began)
    return times
