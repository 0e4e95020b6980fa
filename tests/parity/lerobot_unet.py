"""Our U-Net beside LeRobot's, in a throw-away environment that has both: the same numbers, and who is faster.

Usage::

    python tests/parity/lerobot_unet.py parity                      outputs of both for the same weights and inputs
    python tests/parity/lerobot_unet.py bench [--quick] [--json F]  the U-Net's part of ``robopolicy bench latency``

The environment is that of ``lerobot_reader.py`` with what LeRobot's policies import besides. Exit code 3: the packages
could not be installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
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


def import_lerobot() -> None:
    """Import LeRobot's diffusion policy; operators of torchvision that do not load here are declared without a body."""
    import torch

    for _ in range(50):
        try:
            import lerobot.policies.diffusion.modeling_diffusion  # noqa: F401

            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            torch.library.define(f"torchvision::{missing[1]}", "(Tensor x) -> Tensor")
            for name in [n for n in sys.modules if n.partition(".")[0] in ("torchvision", "lerobot")]:
                del sys.modules[name]
    raise RuntimeError("torchvision cannot be imported")


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
    commands.add_parser("setup")
    timing = commands.add_parser("bench")
    timing.add_argument("--quick", action="store_true")
    timing.add_argument("--json", type=Path)
    arguments = parser.parse_args()
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
    import_lerobot()
    if arguments.command == "parity":
        parity()
    else:
        bench(arguments.quick, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
