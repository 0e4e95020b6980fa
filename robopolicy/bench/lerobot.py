"""LeRobot's diffusion policy on PushT beside ours: the same demonstrations, CPU time and report states, three training seeds.

LeRobot's policy, loss, optimiser and rate are its own at their published settings, but for the width of its U-Net, with which an update takes
14 s of a core, and for the features of the world, which are scaled here as its states are. Its windows come from our loader, which is
faster than its own. Both train for about twenty minutes of one core and are judged by our evaluator, each with its own number of executed
actions, the last checkpoints averaged. Some hours, and resumable; ``--only LeRobot`` may run beside ``--only "diffusion seed"`` after
``--only demonstrations``. All is below ``runs/benchmarks/lerobot``, evaluations with a ledger too.

LeRobot pins an older torch: ``python tests/parity/lerobot_policies.py pusht`` makes an environment that has both, and runs this there.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies.base import Execution, Plan, State
from policies.noise import Noise
from policies.spec import Spec
from robopolicy.bench import pusht
from robopolicy.bench.cells import Cell, run_cells
from robopolicy.bench.entered import settings_hash
from robopolicy.bench.harness import Result
from robopolicy.data.dataset import Dataset
from robopolicy.reporting.leaderboard import PEER

FOLDER = Path("runs/benchmarks/lerobot")
NAME = "LeRobot"  # and what its network predicts
MODELING = "lerobot.policies.diffusion.modeling_diffusion"
STATE, FEATURES = "observation.state", "observation.environment_state"
_HERE = "robopolicy.bench.lerobot"


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        ours: Of our side.
        updates: Of the peer, which take as long as ours.
        batch_size: Its own default.
        down_dims: Widths of its U-Net.
        predictions: What its network predicts; the first is its default.
        every: Updates between two of its checkpoints.
    """

    ours: pusht.Size = field(default_factory=pusht.Size)
    updates: int = 8000
    batch_size: int = 64
    down_dims: tuple[int, ...] = (64, 128, 256)
    predictions: tuple[str, ...] = ("epsilon", "sample")
    every: int = 400


QUICK = Size(pusht.QUICK, 4, 8, (16, 32), ("epsilon",), 2)


def run(quick: bool, seeds: int | None = None, only: str | None = None, folder: Path | None = None) -> Result:
    """Measure what has no result yet; ``quick`` takes under two minutes on policies that have hardly been trained."""
    size = QUICK if quick else Size()
    size = size if seeds is None else replace(size, ours=replace(size.ours, seeds=seeds))
    return measure(folder or FOLDER.with_name("lerobot-quick" if quick else FOLDER.name), size, only)


def measure(folder: Path, size: Size, only: str | None = None, progress: bool = True) -> Result:
    """Return success, coverage and score of both, over checkpoints, states and training seeds."""
    seeds = range(size.ours.seeds)
    trained = [pusht.training_cell(folder, size.ours, "diffusion", seed) for seed in seeds]
    evaluated = [pusht.evaluation_cell(folder, size.ours, "diffusion", seed, "none") for seed in seeds]
    peers: dict[str, list[Cell]] = {}
    for prediction in size.predictions if is_installed() else ():
        for seed in seeds:
            settings = {
                "folder": str(folder), "seed": seed, "prediction": prediction, "updates": size.updates, "batch_size": size.batch_size,
                "down_dims": list(size.down_dims), "every": size.every, "checkpoints": size.ours.checkpoints, "states": size.ours.states,
                "limit": size.ours.limit, "demonstrations": size.ours.demonstrations,
            }  # fmt: skip
            peers.setdefault(prediction, []).append(Cell(f"{NAME}, {prediction}, seed {seed}", f"{_HERE}:peer", settings, seconds=1800))
    by_seed = [group[seed] for seed in seeds for group in (trained, evaluated, *peers.values())]
    found = run_cells([pusht.demonstrations_cell(folder, size.ours), *by_seed], folder, progress, only)
    result = Result(missing=list(found.failed))
    if not is_installed():
        result.missing.append("LeRobot: not installed; python tests/parity/lerobot_policies.py pusht makes an environment that has it")
    pusht.add_rows(result, "ours, diffusion", [row for cell in evaluated if (row := found.get(cell))], size.ours)
    for prediction, cells in peers.items():
        pusht.add_rows(result, f"{NAME}'s diffusion ({prediction})", [row for cell in cells if (row := found.get(cell))], size.ours)
    seconds = {cell.name: round(row["seconds"]) for cell in (*trained, *(c for group in peers.values() for c in group)) if (row := found.get(cell))}
    result.notes.append(f"seconds of training, one thread: {seconds}")
    return result


def is_installed() -> bool:
    """Whether LeRobot is there."""
    return importlib.util.find_spec("lerobot") is not None


def imported(module: str) -> Any:
    """Import a module of LeRobot and return it.

    Its torchvision may be older than torch: compiled operators then do not load. They are of no use here, but torchvision's Python code
    describes them, so each is declared without a body.
    """
    for _ in range(50):
        try:
            return importlib.import_module(module)
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            torch.library.define(f"torchvision::{missing[1]}", "(Tensor x) -> Tensor")
            for name in [n for n in sys.modules if n.partition(".")[0] in ("torchvision", "lerobot")]:
                del sys.modules[name]
    raise RuntimeError("torchvision cannot be imported")


class LeRobotDiffusion:
    """LeRobot's diffusion policy from states, behind the policy protocol; plans are those of its ``select_action``.

    Args:
        spec: Observation of :data:`STATE` and :data:`FEATURES`, and an action.
        stats: Field -> ``min`` and ``max``, by which it scales to [-1, 1], as its processors do.
        down_dims: Widths of its U-Net.
        prediction: ``epsilon`` or ``sample``.
    """

    def __init__(self, spec: Spec, stats: Mapping[str, Mapping[str, np.ndarray]], down_dims: tuple[int, ...], prediction: str) -> None:
        DiffusionPolicy = imported(MODELING).DiffusionPolicy
        from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature  # type: ignore[import-not-found]
        from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig  # type: ignore[import-not-found]

        fields, action = spec.observation.fields, PolicyFeature(FeatureType.ACTION, (spec.action.dim,))
        kinds = {STATE: FeatureType.STATE, FEATURES: FeatureType.ENV}
        inputs = {name: PolicyFeature(kind, fields[name].shape) for name, kind in kinds.items()}
        self.config = DiffusionConfig(
            input_features=inputs,
            output_features={"action": action},
            # its default leaves the features of a world as they are: pixels up to 512 here
            normalization_mapping=dict.fromkeys(("STATE", "ENV", "ACTION"), NormalizationMode.MIN_MAX),
            down_dims=down_dims,
            prediction_type=prediction,
            device="cpu",
        )
        self.spec, self.module = spec, DiffusionPolicy(self.config)
        self.n_obs_steps, self.horizon, self.n_action_steps = self.config.n_obs_steps, self.config.horizon, self.config.n_action_steps
        self._low = {name: torch.as_tensor(np.asarray(stats[name]["min"], np.float32)) for name in (*kinds, "action")}
        self._span = {name: torch.as_tensor(np.asarray(stats[name]["max"], np.float32)) - self._low[name] for name in self._low}

    def scaled(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return ``batch``, its known fields scaled to [-1, 1]."""
        return {name: 2 * (x - self._low[name]) / self._span[name] - 1 if name in self._low else x for name, x in batch.items()}

    def initial_state(self, batch: int) -> State:
        """See ``policies.base.Policy``."""
        return {}

    def reset(self, state: State, mask: Any) -> State:
        """See ``policies.base.Policy``."""
        return state

    @torch.no_grad()
    def act(self, obs: Mapping[str, Any], state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy``; the sampler's own noise is torch's, seeded by the first row."""
        seen = self.scaled({name: torch.as_tensor(obs[name], dtype=torch.float32) for name in (STATE, FEATURES)})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(noise.keys[0]))
            chunk = self.module.diffusion.generate_actions(seen)
        actions = (chunk + 1) / 2 * self._span["action"] + self._low["action"]
        return Plan(actions, {"network_calls": chunk.new_full((len(chunk),), self.module.diffusion.num_inference_steps)}), state


def train(policy: LeRobotDiffusion, dataset: Dataset, updates: int, batch_size: int, every: int, seed: int) -> tuple[list[tuple[int, dict]], float]:
    """Train as LeRobot's script does: its loss, Adam, cosine rate and limit of gradients; returns (update, weights) at marks, and seconds."""
    from robopolicy.data.windows import WindowSampler

    config, module = policy.config, policy.module
    windows = WindowSampler(dataset, (STATE, FEATURES), policy.n_obs_steps, policy.horizon, policy.n_action_steps, batch_size, seed)
    preset = config.get_optimizer_preset()
    optimizer = preset.build(module.get_optim_params())
    rate = config.get_scheduler_preset().build(optimizer, updates)
    module.train()
    marks: list[tuple[int, dict]] = []
    began = time.perf_counter()
    for update in range(1, updates + 1):
        loss, _ = module.forward(policy.scaled(windows.batch(update - 1)[0]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), preset.grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        if update % every == 0 or update == updates:
            marks.append((update, {name: value.clone() for name, value in module.state_dict().items()}))
    module.eval()
    return marks, time.perf_counter() - began


def peer(
    folder: str, seed: int, prediction: str, updates: int, batch_size: int, down_dims: list[int], every: int, checkpoints: int, states: int,
    limit: int | None, demonstrations: int,
) -> dict[str, Any]:  # fmt: skip
    """Train LeRobot's policy and evaluate its last checkpoints on the report states; a cell. Arguments as in :class:`Size`."""
    from robopolicy.evaluation.rollout import evaluate

    torch.manual_seed(seed)
    dataset = Dataset.open(Path(folder) / "data")
    policy = LeRobotDiffusion(dataset.spec, dataset.stats, tuple(down_dims), prediction)
    marks, seconds = train(policy, dataset, updates, batch_size, every, seed)
    alike = settings_hash([pusht.TASK, prediction, updates, batch_size, down_dims, demonstrations])
    judged = []
    for update, weights in marks[-checkpoints:]:
        policy.module.load_state_dict(weights)
        how = {"seed": seed, "step": update, "settings": "LeRobot's, a narrower network", "recipe_hash": alike, "episodes": demonstrations}
        judged.append(evaluate(
            policy, pusht.TASK, episodes=states, block=states, env={} if limit is None else {"max_episode_steps": limit}, latency_calls=0, progress=False,
            out=Path(folder) / "evaluations", label=f"{PEER}{NAME}'s diffusion ({prediction})", set_name=pusht.SET, training=how,
        ))  # fmt: skip
    return {"seconds": seconds, **pusht.sums(judged)}
