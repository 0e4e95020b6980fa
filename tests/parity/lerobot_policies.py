"""LeRobot's policies beside ours, in a throw-away environment that has both: the same numbers, who is faster, and who solves more.

Usage::

    python tests/parity/lerobot_policies.py parity                      outputs of both for the same weights and inputs
    python tests/parity/lerobot_policies.py peer                        the policy as a peer of ours: plans as by its own ``select_action``
    python tests/parity/lerobot_policies.py bench [--quick] [--json F]  the U-Net's part of ``robopolicy bench latency``
    python tests/parity/lerobot_policies.py pusht [...]                 ``robopolicy bench lerobot [...]``

The environment is that of ``lerobot_reader.py`` with what LeRobot's policies import besides. Exit code 3: the packages
could not be installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Installed as it is: a version that works with the hub client that LeRobot pins.
ALONE = ("diffusers==0.35.2",)
WITH_DEPENDENCIES = ("draccus==0.10.0", "einops==0.8.2", "pyserial", "deepdiff", "termcolor")
_STAMP = "unet.txt"


def reader() -> Any:
    """Return the module ``lerobot_reader.py``, which makes the environment."""
    spec = importlib.util.spec_from_file_location("lerobot_reader", Path(__file__).with_name("lerobot_reader.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_made() -> bool:
    """Whether the environment is there with all that this script needs."""
    module = reader()
    stamp = module.environment() / _STAMP
    return module.is_made(module.environment()) and stamp.is_file() and stamp.read_text() == _wanted()


def _wanted() -> str:
    return "\n".join([*ALONE, *WITH_DEPENDENCIES])


def make_environment() -> Path:
    """Make the environment unless it is there, and return its Python. Raises OSError if pip fails."""
    module = reader()
    folder = module.environment()
    python = module.make_environment(folder)
    if not is_made():
        for arguments in (["--no-deps", *ALONE], list(WITH_DEPENDENCIES)):
            command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise OSError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        (folder / _STAMP).write_text(_wanted())
    return python


def parity() -> None:
    """Print the largest difference of the two networks' outputs, for ours as trained and accelerated."""
    import torch

    from policies.inference import accelerate
    from robopolicy.bench.latency_unet import conditions, lerobot_planner, unet_policy

    policy: Any = unet_policy((32, 64, 128))
    peer: Any = lerobot_planner(policy)
    theirs = peer.unet
    worst = {"as trained": 0.0, "accelerated": 0.0}
    with torch.no_grad():
        cases = []
        for seed in range(4):
            obs = conditions(3, seed)
            condition = torch.cat([obs["observation.state"], obs["observation.environment_state"]], -1)
            x, level = torch.randn(3, 16, 2), torch.randint(0, 100, (3,))
            cases.append((x, level, condition, theirs(x, level, global_cond=condition.flatten(1))))
        for name in worst:
            network: Any = policy.network if name == "as trained" else accelerate(policy).network
            for x, level, condition, expected in cases:
                worst[name] = max(worst[name], float((network(x, level.float(), condition) - expected).abs().max()))
    size = max(float(expected.abs().max()) for *_, expected in cases)
    print(f"largest output {size:.6g}; difference as trained {worst['as trained']:.3g}, accelerated {worst['accelerated']:.3g}")
    if size < 1e-2 or max(worst.values()) > 1e-4 * size:
        sys.exit("the networks differ")


def peer() -> None:
    """Print how far plans of the policy as a peer are from what LeRobot's own loop executes, in robot units; train and judge it in small."""
    import numpy as np
    import torch
    from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

    from policies.noise import Noise
    from policies.spec import ActionSpec, Field, ObservationSpec, Spec
    from robopolicy.bench import lerobot, pusht
    from robopolicy.bench.lerobot import FEATURES, STATE, LeRobotDiffusion
    from robopolicy.evaluation import ledger

    random = np.random.default_rng(0)
    spec = Spec(ObservationSpec({STATE: Field((2,)), FEATURES: Field((16,))}), ActionSpec({"action": Field((2,))}))
    stats = {name: {"min": random.uniform(-3, -1, size), "max": random.uniform(1, 5, size)} for name, size in ((STATE, 2), (FEATURES, 16), ("action", 2))}
    torch.manual_seed(0)
    policy = LeRobotDiffusion(spec, stats, (16, 32), "epsilon")
    policy.module.eval()
    tensors = {name: {what: torch.as_tensor(v, dtype=torch.float32) for what, v in values.items()} for name, values in stats.items()}
    before, after = make_diffusion_pre_post_processors(policy.config, tensors)
    seen = [{STATE: random.normal(size=2).astype(np.float32), FEATURES: random.normal(size=16).astype(np.float32)} for _ in range(2 * policy.n_action_steps)]
    worst, plan = 0.0, None
    for step, now in enumerate(seen):
        if step % policy.n_action_steps == 0:
            window = {name: np.stack([seen[max(step - 1, 0)][name], now[name]])[None] for name in now}
            plan = policy.act(window, {}, Noise(np.array([step])))[0].actions[0]
            torch.manual_seed(step)
        executed = after(policy.module.select_action(before({name: torch.from_numpy(value) for name, value in now.items()})))
        worst = max(worst, float((plan[step % policy.n_action_steps] - executed[0]).abs().max()))
    print(f"largest difference {worst:.3g}")
    if not worst < 1e-5:
        sys.exit("the plans differ")
    with tempfile.TemporaryDirectory() as folder:
        pusht.collected(folder, 2, workers=1)
        found = lerobot.peer(folder, 0, "sample", updates=3, batch_size=4, down_dims=[16, 32], every=1, checkpoints=2, states=2, limit=9, demonstrations=2)
        rows = list(ledger.read(Path(folder, "evaluations", ledger.FILE)))
    if np.shape(found["coverage"]) != (2, 2) or found["calls"] != 2 * 2 * 2 * 100:  # two plans of a hundred calls, of two checkpoints on two states
        sys.exit(f"not what was asked for: {found}")
    if {row["label"] for row in rows} != {"peer: LeRobot's diffusion (sample)"} or [row["training"]["step"] for row in rows] != [2, 3]:
        sys.exit(f"not the ledger's rows that were expected: {rows}")


def bench(quick: bool, json_file: Path | None) -> None:
    """Run what the benchmark of latency says of the U-Net, beside LeRobot's, and print its table."""
    from rich.console import Console

    from robopolicy.bench import harness
    from robopolicy.bench.latency_unet import measure_unet

    about, result = harness.machine(), harness.Result()
    measure_unet(result, 3 if quick else 10, 16)  # deviations, which need no peer: ``robopolicy bench latency`` takes 256 inputs
    console = Console(width=170)
    console.print(harness.table("latency", result, 170))
    for line in (*(f"not compared: {m}" for m in result.missing), *(f"note: {n}" for n in result.notes)):
        console.print(line, markup=False)
    if json_file is not None:
        harness.write_json(json_file, harness.to_json("latency", result, about))


def main() -> int:
    """Run one sub-command, in the throw-away environment; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("parity")
    commands.add_parser("peer")
    commands.add_parser("setup")
    timing = commands.add_parser("bench")
    timing.add_argument("--quick", action="store_true")
    timing.add_argument("--json", type=Path)
    commands.add_parser("pusht", add_help=False)
    arguments, more = parser.parse_known_args()
    if more and arguments.command != "pusht":
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if "ROBOPOLICY_IN_LEROBOT" not in os.environ:
        try:
            python = make_environment()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"LeRobot could not be installed: {error}", file=sys.stderr)
            return reader().NOT_INSTALLED
        inside = os.environ | {"ROBOPOLICY_IN_LEROBOT": "1", "HF_HUB_OFFLINE": "1"}
        inside.pop("PYTHONPATH", None)
        return subprocess.run([python, *sys.argv], env=inside).returncode
    if arguments.command == "setup":
        return 0
    sys.path.insert(0, str(ROOT))
    if arguments.command == "pusht":
        return subprocess.run([sys.executable, "-m", "robopolicy", "bench", "lerobot", *more], env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode
    from robopolicy.bench.lerobot import MODELING, imported

    imported(MODELING)
    if arguments.command in ("parity", "peer"):
        {"parity": parity, "peer": peer}[arguments.command]()
    else:
        bench(arguments.quick, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
