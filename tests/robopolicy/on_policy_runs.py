"""Small on-policy runs for tests: recipes that train in a second, worlds whose values are known, processes to kill."""

from __future__ import annotations

import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies import registry
from policies.normalize import limits_normalizer
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.algos.ppo import Ppo, PpoConfig
from robopolicy.algos.value import Critic
from robopolicy.recipe import recipe_from_dict
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training.log import read_log
from robopolicy.training.on_policy_config import OnPolicyTraining
from robopolicy.training.on_policy_update import Updater
from robopolicy.training.rollout import Collector
from robopolicy.training.run_folder import find_checkpoint
from robopolicy.training.sight import ReturnScale, Sight
from robopolicy.training.trial_processes import Processes
from sim.env import BatchEnv, Observation
from sim.episodes import EpisodicBatch, Outcome
from tests.robopolicy.trainings import changed, finished, printed, started


def recipe(output: Path, /, **changes: Any) -> TrialRecipe:
    """Return a recipe for the cartpole that writes to ``output``; ``changes`` are keys of its training section, or whole sections."""
    training: dict[str, Any] = {"steps": 8 * 16 * 30, "worlds": 8, "rollout": 16, "epochs": 2, "minibatches": 2, "threads": 1}
    training |= {"log_every": 1, "checkpoint_every": 4, "normalize_rewards": True, "critic": {"hidden": [16]}}
    values: dict[str, Any] = {
        "task": "classic/cartpole",
        "seed": 3,
        "output": str(output),
        "algo": {"type": "ppo"},
        "policy": {"hidden": [16]},
        "env": {"max_episode_steps": 30},
        "training": training,
    }
    return changed(values, changes)


class Waiting(EpisodicBatch):
    """Worth nothing in the first step of an episode, and 1 in every later one; a time limit cuts it, it never ends by itself.

    Of a policy with discount g: V(later) = 1 / (1 - g), V(first) = g / (1 - g). The observation says which of the two it is.
    """

    def __init__(self, num_worlds: int, steps: int) -> None:
        spec = Spec(ObservationSpec({"observation.state": Field((2,))}), ActionSpec({"nothing": Field((1,), low=(-1.0,), high=(1.0,), kind="effort")}))
        super().__init__("test/waiting", "1", spec, num_worlds, steps, True)
        self.later = np.zeros(num_worlds, bool)

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self.later[rows] = False

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        reward = self.later[rows].astype(np.float64)
        self.later[rows] = True
        return Outcome(reward, np.zeros(len(rows), bool), {"success": np.zeros(len(rows), bool)})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows, 0], out["observation.state"][rows, 1] = ~self.later[rows], self.later[rows]


def parts(env: BatchEnv, config: OnPolicyTraining, policy: dict[str, Any] | None = None, seed: int = 0) -> tuple[Collector, Updater]:
    """Return what collects and what learns in ``env``, as the loop makes them, without a run's folder."""
    torch.manual_seed(seed)
    gaussian: Any = registry.policy_class("gaussian")
    actor = gaussian(gaussian.Config(**(policy or {"hidden": [8]})), env.spec, limits_normalizer(env.spec))
    critic, processes, device = Critic(config.critic, env.spec, actor.config.image), Processes(), torch.device("cpu")
    sights = {"policy": Sight(actor.encoder, actor.normalizer, env.spec, device)}
    sights["critic"] = sights["policy"]
    if critic.encoder.states != actor.encoder.states or actor.encoder.images or critic.encoder.images:
        sights["critic"] = Sight(critic.encoder, limits_normalizer(env.spec), env.spec, device)
    worlds, rule = processes.worlds(config.worlds), Ppo(PpoConfig())
    scale = ReturnScale(config.worlds, config.gamma, device)
    updater = Updater(config, seed, rule, actor, critic, sights, scale, processes, worlds)
    return Collector(env, actor, sights, rule, config.rollout, seed, worlds, config.random_start, processes), updater


def _train(values: dict[str, Any], log: str, sent: tuple[int, int] | None) -> None:
    with printed(log):
        if sent is not None:
            _signal_at(*sent)
        from robopolicy.training.trial import train

        train(recipe_from_dict(values, "test"), progress=False)


def _signal_at(iteration: int, number: int) -> None:
    """Let this process signal itself in the middle of that iteration, whatever else the machine has to do."""
    whole = Collector.collect

    def collect(self: Collector, this: int) -> Any:
        if this == iteration:
            os.kill(os.getpid(), number)
        return whole(self, this)

    Collector.collect = collect  # type: ignore[method-assign]


def start(wanted: TrialRecipe, sent: tuple[int, int] | None = None) -> BaseProcess:
    """Train in a process of its own; ``sent``: in which iteration it gets which signal."""
    return started(_train, wanted, sent)


def finish(wanted: TrialRecipe, timeout: float = 120) -> None:
    """Train in a process of its own until it is done."""
    finished(start(wanted), wanted, timeout)


#: Columns of a training row that say how fast it was.
_SPEEDS = ("time", "wall_s", "cpu_s", "env_steps_per_s", "worlds_share", "policy_share", "update_share")


def outcome(run: Path) -> tuple[bytes, bytes, bytes, list[dict[str, Any]]]:
    """Return everything that must be equal when two runs are: weights, normaliser, training state, and the logged numbers."""
    checkpoint = find_checkpoint(run)
    rows = [{name: value for name, value in row.items() if name not in _SPEEDS} for row in read_log(run, "train")]
    files = (checkpoint / "weights.safetensors", checkpoint / "normalizer.safetensors", max((run / "state").iterdir()))
    weights, normalizer, state = (file.read_bytes() for file in files)
    return weights, normalizer, state, rows


SAMPLES, SEEN, DONE = 48, 4, 1


def peer_ppo() -> Any:
    """Return stable-baselines3's PPO for observations of SEEN numbers, whose buffer holds SAMPLES."""
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.logger import Logger

    vectorized = make_vec_env(lambda: gymnasium.make("Pendulum-v1"), n_envs=1)
    vectorized.observation_space = gymnasium.spaces.Box(-9.0, 9.0, (SEEN,))
    vectorized.action_space = gymnasium.spaces.Box(-1.0, 1.0, (DONE,))
    model = PPO(
        "MlpPolicy", vectorized, n_steps=SAMPLES, batch_size=SAMPLES, n_epochs=1, clip_range=0.2, ent_coef=0.01, vf_coef=0.5, normalize_advantage=False,
        max_grad_norm=1e9, policy_kwargs={"net_arch": [16, 16]}, device="cpu", seed=0,
    )  # fmt: skip
    model.set_logger(Logger(None, []))  # the usual one leaves a folder behind
    return model
