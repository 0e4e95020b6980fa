"""A task for plans that overlap in time: a double integrator catches a falling ball, swinging out to one side or the other.

The catcher has position p and velocity v on a line and is moved by its acceleration; gusts kick it. The ball lands after
``STEPS`` steps; caught is what is near the ball and almost at rest then. Demonstrators swing to either side on the way
with equal chance, again and again, so the distribution of their plans has two modes at every state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.base import Execution, State
from policies.noise import Noise, row_keys
from policies.spec import ActionSpec, Field, ObservationSpec, Spec

STEPS, DT = 40, 0.1  # of an episode; s
HORIZON = 16  # Tp, rows of a plan
SWING, SWINGS = 0.3, 2  # m; number of times on the way
LIMIT, SPREAD = 5.0, 0.1  # m/s^2: of the acceleration; deviation of demonstrated accelerations
STYLE = 0.5  # deviation of kappa around -1 and +1
GUST = 0.01  # m/s, deviation of the kick in every step
NEAR, REST = 0.2, 0.7  # m, m/s
_SHORTEST = 4  # steps: demonstrators that have less left plan as if they had these

_STATE = Field((2,), names=("position", "velocity"))  # m, m/s
_AROUND = Field((2,), names=("ball", "left"))  # m, share of the episode that is left
SPEC = Spec(
    ObservationSpec({"observation.state": _STATE, "observation.environment_state": _AROUND}, 1 / DT),
    ActionSpec({"action": Field((1,), unit="m/s^2", low=(-LIMIT,), high=(LIMIT,))}, 1 / DT),
)


def swing(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return position (m) and velocity (m/s) of the swing to the positive side at steps (B, ...); at the landing both are 0."""
    rate = 2 * np.pi * SWINGS / STEPS / DT
    phase = rate * DT * np.clip(step, 0, STEPS)
    return SWING / 2 * (1 - np.cos(phase)), SWING / 2 * rate * np.sin(phase)


def plans(state: np.ndarray, around: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what demonstrated plans are made of at states (B, 2) and surroundings (B, 2): centre and swing, each (B, Tp, 1), m/s^2.

    A plan is centre + kappa swing + noise, see :func:`demonstrate`. It is what moves the catcher as kappa times the swing
    does, and what takes the rest to the ball with the least effort: accelerations that fall linearly in time,
    6 r / T^2 - 4 u / T at first with r to go, u the speed off the swing and T the time that is left.
    """
    left = np.maximum(around[:, 1:] * STEPS, 0.0)
    step = STEPS - left + np.arange(HORIZON)
    time, t = np.maximum(left, _SHORTEST) * DT, (np.arange(HORIZON) + 0.5) * DT

    def transfer(togo: np.ndarray, speed: np.ndarray) -> np.ndarray:
        rest = (6 * togo / time**2 - 4 * speed / time) + t * (6 * speed / time**2 - 12 * togo / time**3)
        return np.where(step < STEPS, rest, 0.0)

    away, speed = swing(step[:, :1])
    _, speeds = swing(np.concatenate([step, step[:, -1:] + 1], 1))
    out = np.diff(speeds, axis=1) / DT + transfer(away, -speed)
    return transfer(around[:, :1] - state[:, :1], state[:, 1:])[..., None], out[..., None]


def demonstrate(centre: np.ndarray, swing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return plans (B, Tp, 1), m/s^2, drawn as demonstrators make them: kappa around -1 or +1 with equal chance, a little noise, within the limit."""
    kappa = rng.choice((-1.0, 1.0), (len(centre), 1, 1)) + STYLE * rng.standard_normal((len(centre), 1, 1))
    return np.clip(centre + kappa * swing + SPREAD * rng.standard_normal(centre.shape), -LIMIT, LIMIT)


class Catch:
    """B episodes at once.

    Args:
        seeds: (B,) one an episode.

    Attributes:
        step: Steps so far.
        state: (B, 2) position and velocity.
        ball: (B,) where it lands.
    """

    def __init__(self, seeds: np.ndarray) -> None:
        drawn = np.stack([np.random.default_rng(int(seed)).standard_normal(2 + STEPS) for seed in seeds])
        self.state = np.stack([0.5 * drawn[:, 0], np.zeros(len(seeds))], 1)
        self.ball, self._gusts, self.step = 0.5 * drawn[:, 1], GUST * drawn[:, 2:], 0

    def observation(self) -> dict[str, np.ndarray]:
        """Return field -> (B, 1, 2) float32."""
        left = np.full(len(self.ball), (STEPS - self.step) / STEPS)
        around = np.stack([self.ball, left], 1)
        return {"observation.state": self.state[:, None].astype(np.float32), "observation.environment_state": around[:, None].astype(np.float32)}

    def advance(self, action: np.ndarray) -> None:
        """Take one step with accelerations (B, 1)."""
        push = np.clip(action[:, 0], -LIMIT, LIMIT) * DT
        position, velocity = self.state.T
        kicked = velocity + self._gusts[:, self.step]
        self.state = np.stack([position + (kicked + 0.5 * push) * DT, kicked + push], 1)
        self.step += 1

    @property
    def over(self) -> bool:
        """Whether the ball has landed."""
        return self.step >= STEPS

    def caught(self) -> np.ndarray:
        """Return (B,) bool: near the ball and almost at rest."""
        return (np.abs(self.state[:, 0] - self.ball) < NEAR) & (np.abs(self.state[:, 1]) < REST)


@dataclass
class Outcome:
    """What came of B episodes.

    Attributes:
        caught: (B,) bool.
        jumps: (B, P - 1) m/s^2, change of the command from the last step of one plan to the first of the next.
        sides: (B, P) bool, whether a plan swings out to the positive side.
        info: name -> (B, P), what the plans say of themselves.
    """

    caught: np.ndarray
    jumps: np.ndarray
    sides: np.ndarray
    info: dict[str, np.ndarray]


def play(policy: Any, delay: int, every: int, seeds: np.ndarray, watch: Callable[[Any, State], None] | None = None) -> Outcome:
    """Play episodes in which plans come late.

    Args:
        policy: A torch policy for :data:`SPEC` with Ta of at least ``delay`` + ``every``.
        delay: Steps from the observation that a plan is made from to the first step at which it is played; the first plan
            of an episode is waited for.
        every: Steps from one plan's observation to the next one's; at least ``delay``.
        seeds: (B,) one an episode.
        watch: Told of every plan and of the state after it.
    """
    import torch

    world, state, current, last = Catch(seeds), policy.initial_state(len(seeds)), None, None
    jumps, sides, infos, switches = [], [], [], set()
    while not world.over:
        obs = world.observation()
        late = 0 if current is None else delay
        tensors = {name: torch.from_numpy(value) for name, value in obs.items()}
        plan, state = policy.act(tensors, state, Noise(row_keys(0, seeds, world.step)), Execution(late, late, every))
        if watch is not None:
            watch(plan, state)
        new = plan.actions.numpy()
        if current is None:
            current = new
        else:
            switches.add(world.step + delay)
            current = np.concatenate([current[:, :delay], new[:, delay:]], 1)
        centre, out = plans(obs["observation.state"][:, 0].astype(np.float64), obs["observation.environment_state"][:, 0].astype(np.float64))
        rows = new.shape[1]
        sides.append(((new - centre[:, :rows]) * out[:, :rows]).sum((1, 2)) > 0)
        infos.append({name: value.numpy() for name, value in plan.info.items()})
        for i in range(min(every, STEPS - world.step)):
            if last is not None and world.step in switches:
                jumps.append(np.abs(current[:, i] - last)[:, 0])
            last = current[:, i]
            world.advance(last)
        current = current[:, every:]
    info = {name: np.stack([i[name] for i in infos], 1) for name in infos[0]}
    return Outcome(world.caught(), np.stack(jumps, 1), np.stack(sides, 1), info)
