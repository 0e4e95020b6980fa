"""stable-baselines3's PPO and SAC on Gymnasium's robots, at the settings published for them in rl-zoo; cells of long benchmarks.

Every function is one cell (``robopolicy.bench.cells``): plain numbers in, plain numbers out. Seconds are those of training:
evaluations stop the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from robopolicy.bench.entered import Entry, PeerPolicy, settings_hash
from robopolicy.bench.returns import EVALUATION_SEEDS, deterministic_returns

PACKAGE = "stable_baselines3"
#: rl-zoo's tuned settings for PPO (hyperparams/ppo.yml, HalfCheetah-v4 and Hopper-v4): one world, rollouts of 512 steps, two
#: perceptrons of 256 x 256 (ReLU, not orthogonal, log deviation -2 at first); observations and rewards normalised.
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "HalfCheetah-v5": {
        "batch_size": 64,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
    },
    "Hopper-v5": {
        "batch_size": 32,
        "gamma": 0.999,
        "learning_rate": 9.80828e-05,
        "ent_coef": 0.00229519,
        "clip_range": 0.2,
        "n_epochs": 5,
        "gae_lambda": 0.99,
        "max_grad_norm": 0.7,
        "vf_coef": 0.835671,
    },
}
ROLLOUT = 512  # steps between updates, over all worlds
SAC_RANDOM_STEPS = 10_000  # rl-zoo's learning_starts for MuJoCo's robots; all else is the library's default


def _worlds(environment: str, count: int, gamma: float | None, seed: int) -> Any:
    """Return a vector of ``count`` environments in this process; with ``gamma``, observations and rewards are normalised."""
    import gymnasium
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vector = DummyVecEnv([lambda: Monitor(gymnasium.make(environment))] * count)
    vector.seed(seed)
    return vector if gamma is None else VecNormalize(vector, gamma=gamma)


def _ppo(environment: str, worlds: int, seed: int, ours: Mapping[str, Any] | None) -> Any:
    """Return PPO at the published settings, or with ``ours``: worlds' steps, batch size, passes and networks of another program."""
    import torch
    from stable_baselines3 import PPO

    settings: dict[str, Any] = {**PUBLISHED[environment], "n_steps": max(1, ROLLOUT // worlds)}
    network: dict[str, Any] = {"log_std_init": -2, "ortho_init": False, "activation_fn": torch.nn.ReLU, "net_arch": [256, 256]}
    if ours is not None:
        settings.update({key: ours[key] for key in ("n_steps", "batch_size", "n_epochs")})
        network = {"net_arch": {"pi": list(ours["hidden"]), "vf": list(ours["critic_hidden"])}}
    vector = _worlds(environment, worlds, settings["gamma"], seed)
    return PPO("MlpPolicy", vector, policy_kwargs=network, seed=seed, device="cpu", **settings)


def ppo_speed(environment: str, worlds: int, seconds: float, threads: int, turn: int, ours: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return environment steps, wall and CPU seconds of whole iterations (rollout and updates) after one that warms up.

    Args:
        environment: Gymnasium's name.
        worlds: Environments in the vector.
        seconds: Train at least this long, by the wall.
        threads: Of torch.
        turn: Which repetition this is.
        ours: See :func:`_ppo`.
    """
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(threads)

    class Clock(BaseCallback):
        """Notes steps and seconds where a rollout begins: all before that is whole iterations."""

        def __init__(self) -> None:
            super().__init__()
            self.marks: list[tuple[int, float, float]] = []

        def _on_rollout_start(self) -> None:
            self.marks.append((self.num_timesteps, time.perf_counter(), time.process_time()))

        def _on_step(self) -> bool:
            return len(self.marks) < 3 or self.marks[-1][1] - self.marks[1][1] < seconds

    clock = Clock()
    model = _ppo(environment, worlds, turn, ours)
    model.set_logger(_silent_logger())
    model.learn(10**9, callback=clock)
    first, last = clock.marks[1], clock.marks[-1]
    return {"steps": last[0] - first[0], "wall_s": last[1] - first[1], "cpu_s": last[2] - first[2]}


def _silent_logger() -> Any:
    """Return a logger that writes nothing; the usual one makes a folder for temporary files even then."""
    from stable_baselines3.common.logger import Logger

    return Logger(None, [])


class _Points:
    """Deterministic returns at marks of training, and the seconds of training until there."""

    def __init__(self, environment: str, every: int, episodes: int) -> None:
        self.environment, self.every, self.episodes = environment, every, episodes
        self.points: list[dict[str, float]] = []
        self._paused = (0.0, 0.0)
        self._began = (time.perf_counter(), time.process_time())

    def due(self, steps: int) -> bool:
        return steps // self.every > len(self.points)

    def add(self, steps: int, act: Callable[[np.ndarray], np.ndarray]) -> None:
        """Evaluate with the clock stopped."""
        stopped = time.perf_counter(), time.process_time()
        wall, cpu = (now - began - paused for now, began, paused in zip(stopped, self._began, self._paused, strict=True))
        returns = deterministic_returns(self.environment, act, EVALUATION_SEEDS[: self.episodes])
        self.points.append({"steps": steps, "wall_s": wall, "cpu_s": cpu, "return": float(np.mean(returns))})
        over = time.perf_counter() - stopped[0], time.process_time() - stopped[1]
        self._paused = (self._paused[0] + over[0], self._paused[1] + over[1])


def _learn(model: Any, points: _Points, steps: int, normal: bool, seed: int, entry: Mapping[str, Any] | None) -> dict[str, Any]:
    """Train with evaluations at marks and at the end; returns the points, and the return of the report states of ``entry``."""
    from stable_baselines3.common.callbacks import BaseCallback

    def act(obs: np.ndarray) -> np.ndarray:
        seen = model.get_vec_normalize_env().normalize_obs(obs) if normal else obs
        return model.predict(seen, deterministic=True)[0]

    class Marks(BaseCallback):
        """Evaluates before the rollout (of SAC: the step) that comes after a mark."""

        def _on_rollout_start(self) -> None:
            if points.due(self.num_timesteps):
                points.add(self.num_timesteps, act)

        def _on_step(self) -> bool:
            return True

    model.set_logger(_silent_logger())
    model.learn(steps, callback=Marks())
    if not points.points or points.points[-1]["steps"] < model.num_timesteps:
        points.add(model.num_timesteps, act)
    out: dict[str, Any] = {"points": points.points}
    if entry is not None:
        told = Entry(**entry)
        alike = settings_hash([type(model).__name__, points.environment, steps, PUBLISHED[points.environment] if normal else {}])
        how = {"seed": seed, "step": model.num_timesteps, "settings": "rl-zoo's", "recipe_hash": alike}
        out["report_return"] = told.enter(PeerPolicy(told.task, act), how)
    return out


def ppo_curve(environment: str, seed: int, steps: int, every: int, episodes: int, threads: int = 1, entry: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Train PPO at the published settings (one world) and return the curve of deterministic returns.

    Args:
        environment: Gymnasium's name.
        seed: Of training.
        steps: Environment steps.
        every: Environment steps between evaluations.
        episodes: Of an evaluation.
        threads: Of torch.
        entry: Of :class:`robopolicy.bench.entered.Entry`: the trained model enters a ledger, too.
    """
    import torch

    torch.set_num_threads(threads)
    model = _ppo(environment, 1, seed, None)
    return _learn(model, _Points(environment, every, episodes), steps, True, seed, entry)


def sac_curve(
    environment: str, seed: int, steps: int, every: int, episodes: int, random_steps: int = SAC_RANDOM_STEPS, threads: int = 1,
    entry: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train SAC at the published settings and return the curve of deterministic returns; arguments as :func:`ppo_curve`."""
    import torch
    from stable_baselines3 import SAC

    torch.set_num_threads(threads)
    vector = _worlds(environment, 1, None, seed)
    model = SAC("MlpPolicy", vector, learning_starts=random_steps, buffer_size=max(steps, 1000), seed=seed, device="cpu")
    return _learn(model, _Points(environment, every, episodes), steps, False, seed, entry)


def update_speed(
    algo: str, updates: int, turn: int, device: str = "cpu", threads: int = 1, sizes: Sequence[int] = (256, 256), batch: int = 256
) -> dict[str, Any]:
    """Return seconds of single updates (``sac``: critics, actor, temperature and targets; ``ppo``: one minibatch), eager.

    The replay or rollout holds standard normal numbers of HalfCheetah's sizes.

    Args:
        algo: ``sac`` or ``ppo``.
        updates: How many are timed, after as many that warm up as a tenth of them.
        turn: Which repetition this is.
        device: Of torch.
        threads: Of torch.
        sizes: Widths of every network's layers.
        batch: Samples of an update.
    """
    import torch

    torch.set_num_threads(threads)
    run, a_call = (_sac_updates if algo == "sac" else _ppo_updates)(turn, device, list(sizes), batch)
    run(max(1, updates // (10 * a_call)))
    _wait(device)
    wall, cpu, calls = time.perf_counter(), time.process_time(), -(-updates // a_call)
    run(calls)
    _wait(device)
    return {"updates": calls * a_call, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def _wait(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def _sac_updates(turn: int, device: str, sizes: list[int], batch: int) -> tuple[Callable[[int], None], int]:
    """Return what makes so many updates with a filled replay, and how many one call of it stands for: 1."""
    from stable_baselines3 import SAC

    rng, vector = np.random.default_rng(turn), _worlds("HalfCheetah-v5", 1, None, turn)
    model: Any = SAC("MlpPolicy", vector, buffer_size=10_000, batch_size=batch, policy_kwargs={"net_arch": sizes}, seed=turn, device=device)
    model.set_logger(_silent_logger())  # as learn does
    dim, size = model.action_space.shape[0], model.observation_space.shape[0]
    for _ in range(2000):
        obs, following = rng.standard_normal((2, 1, size))
        model.replay_buffer.add(obs, following, rng.uniform(-1, 1, (1, dim)), rng.standard_normal(1), np.zeros(1), [{}])
    return lambda calls: model.train(calls, batch), 1


def _ppo_updates(turn: int, device: str, sizes: list[int], batch: int) -> tuple[Callable[[int], None], int]:
    """Return what goes so many times over a rollout of 32 minibatches, and how many updates one pass is: 32."""
    import torch
    from stable_baselines3 import PPO

    parts = 32
    rng, vector = np.random.default_rng(turn), _worlds("HalfCheetah-v5", 1, None, turn)
    model: Any = PPO("MlpPolicy", vector, n_steps=parts * batch, batch_size=batch, n_epochs=1, policy_kwargs={"net_arch": sizes}, seed=turn, device=device)
    model.set_logger(_silent_logger())
    model._current_progress_remaining = 1.0  # as learn does
    for _ in range(model.n_steps):
        obs = rng.standard_normal((1, model.observation_space.shape[0])).astype(np.float32)
        with torch.no_grad():
            action, value, log_prob = model.policy(torch.as_tensor(obs, device=model.device))
        model.rollout_buffer.add(obs, action.cpu().numpy(), rng.standard_normal(1), np.zeros(1), value, log_prob)
    model.rollout_buffer.compute_returns_and_advantage(last_values=torch.zeros(1), dones=np.zeros(1))

    def passes(calls: int) -> None:
        for _ in range(calls):
            model.train()

    return passes, parts
