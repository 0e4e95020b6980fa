"""Real-time iteration (RTI-DP): every control step goes on from the last plan in a few network calls.

The first plan of a stream is sampled from pure noise. From then on the guess is the last plan shifted by the steps since,
its last row repeated: it is noised to level k0 as the noise path says, and denoised again in n calls over levels that are
evenly spaced from k0 to the data. Of each plan one action is executed, so the loop is closed at every control step. (The
released code feeds the guess un-noised and skips levels with steps of t -> t - 1: more lag, and another spread.)

k0 decides what a plan can still change. The share of the guess in a plan falls with k0: for a target N(m, s^2) a guess
that is off by d leaves d a^2 s^2 / (a^2 s^2 + b^2), a and b the signal and noise of k0, whatever n is. That is for steps
which draw from the posterior (DDPM); steps along the ODE (DDIM, Euler) keep more of the guess, up to d a s / sqrt(a^2 s^2 + b^2).
"""

from __future__ import annotations

import math
from typing import Literal

import pydantic
import torch

from policies.base import Execution, Plan, State
from policies.chunk import ChunkPolicy
from policies.config import Config
from policies.generative.paths import DdpmPath, NoisePath
from policies.generative.policy import GenerativePolicy, WarmStart
from policies.generative.samplers import Ddpm
from policies.learnt import Batch
from policies.noise import Noise
from policies.realtime.method import ExecutionMethod
from policies.spec import InputError

#: Levels are those of this path, the published one; other paths begin where the signal-to-noise ratio is the same.
REFERENCE = DdpmPath(100)
#: k0 that ``robopolicy tune`` tries.
LEVELS = (2, 5, 10, 20, 40)
_UNTUNED = 10
_SHARE = 0.99  # p of the rule: how sure the observation makes the right one of two values


class RtiConfig(Config):
    """What real-time iteration can be told."""

    level: int | None = pydantic.Field(default=None, ge=0, lt=100)  # k0, of 100 cosine levels; None: the rule for two-valued actions, else 10
    steps: pydantic.PositiveInt = 3  # n, steps, and network calls, of every plan after the first
    solver: Literal["ddpm", "own"] | None = None  # rule for these steps; None: ddpm, which forgets the guess sooner, but meanflow's own jumps
    n_action_steps: pydantic.PositiveInt = 1  # Ta, actions executed of each plan
    first_steps: pydantic.PositiveInt | None = None  # steps of the first plan, from pure noise; None: the policy's own


class Rti(ExecutionMethod):
    """Real-time iteration of a generative policy (diffusion, flow).

    A row without a plan, or whose last plan has nothing more to say, is sampled from pure noise. Where a batch holds such
    rows and others, both walks are made for all rows: each gets, number by number, what it would get alone.
    ``plan.info["network_calls"]`` is what the row's own walk took, ``restarted`` is 1 for pure noise.

    Args:
        config: See :class:`RtiConfig`.
        policy: A generative policy.

    Attributes:
        level: k0.
        levels: The step list on the policy's noise path, k0 first.
        solver: Of these steps; None: the policy's own.

    Raises:
        InputError: for a policy that does not walk from noise to data, or numbers of steps that do not fit.
    """

    Config = RtiConfig
    config: RtiConfig
    policy: GenerativePolicy

    def __init__(self, config: RtiConfig, policy: ChunkPolicy) -> None:
        super().__init__(config, policy)
        generative = _generative(policy)
        self.n_action_steps = config.n_action_steps
        longest = policy.horizon - policy.n_obs_steps + 1
        if config.n_action_steps > longest:
            raise InputError(f"method rti: n_action_steps {config.n_action_steps}: expected at most {longest}, what is left of the horizon")
        self.level = rule_level(policy) if config.level is None else config.level
        if self.level is None:
            self.level = _UNTUNED
        self.solver = Ddpm() if (config.solver or ("own" if generative.jumps else "ddpm")) == "ddpm" else None
        start = start_level(generative.path, self.level)
        try:
            self.levels = generative.path.step_list(config.steps, start)
            generative.path.step_list(config.first_steps or generative.steps)
        except InputError as error:
            raise InputError(f"method rti: level {self.level}, steps {config.steps}, first_steps {config.first_steps}: {error}") from None

    @classmethod
    def candidates(cls, config: Config, policy: ChunkPolicy) -> list[Config]:
        """See base class: the given level alone; without one all of ``LEVELS``, with the rule's where there are two-valued actions.

        The rule is a bound where the data showed that there are two values (``two_valued_scale``): lower levels are left out.
        Of a gripper that was not trained so only its kind is known, and what lies below the rule's 39 may well succeed.
        """
        assert isinstance(config, RtiConfig)
        _generative(policy)
        if config.level is not None:
            return [config]
        least = rule_level(policy)
        bound = -1 if least is None or policy.config.two_valued_scale is None else least
        levels = sorted({level for level in (*LEVELS, *(() if least is None else (least,))) if level >= bound})
        return [config.model_copy(update={"level": level}) for level in levels if level + 1 >= config.steps]

    @classmethod
    def remark(cls, policy: ChunkPolicy) -> str:
        """See base class: which level the rule asks for, and whether it is a bound."""
        least = rule_level(policy)
        if least is None:
            return ""
        said = f"two-valued actions: from level {least} on a guess at the wrong value is left with probability {_SHARE:g}, below it may stay"
        if policy.config.two_valued_scale is not None:
            return f"{said}; lower levels are not tried"
        return f"{said}; lower levels are tried too, since the policy was trained without two_valued_scale and its gripper may take more values"

    @torch.no_grad()
    def act(self, obs: Batch, state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy.act``; ``execution.elapsed`` says by how much the last plan is shifted."""
        self.spec.observation.validate(obs, (len(noise.keys), self.n_obs_steps))
        policy, device = self.policy, noise.keys.device
        condition = policy.condition(obs, noise)
        left = self.horizon - self.n_obs_steps + 1 - self.elapsed(execution, len(noise.keys))
        running = state["planned"] & (left >= 0)  # at 0 the last row of the last plan is the step just executed
        begun, warm = bool(running.any()), None
        draw = noise.draw
        if begun:
            start = WarmStart(self.continued(obs, state, execution), self.levels, self.solver)
            warm = policy.walk(condition, Noise(noise.keys, device, draw), start=start)
        if warm is not None and bool(running.all()):
            chunk, calls = warm
            spent = chunk.new_full((len(chunk),), calls)
        else:
            chunk, calls = policy.walk(condition, Noise(noise.keys, device, draw), steps=self.config.first_steps)
            spent = chunk.new_full((len(chunk),), calls)
            if warm is not None:
                chunk = torch.where(running[:, None, None], warm[0], chunk)
                spent = torch.where(running, float(warm[1]), spent)
        return self.finish(chunk, obs, {"network_calls": spent, "restarted": (~running).to(chunk.dtype)})


def escapes(level: int, separation: float, share: float = _SHARE, path: DdpmPath = REFERENCE) -> bool:
    """Whether a guess at the wrong one of two values leaves it when denoised from ``level``.

    The values are +-s (``separation``, normalised) and the right one has probability p (``share``). A guess -s that
    stands at level k as it is has the log-odds log(p / (1 - p)) - 2 sqrt(abar_k) s^2 / (1 - abar_k) of the right one;
    noised, its mean lies at -sqrt(abar_k) s and it escapes a little sooner.
    """
    signal, sigma = path.scales(level)
    return float(2.0 * signal * separation**2 / sigma**2) < math.log(share / (1.0 - share))


def escape_level(separation: float, share: float = _SHARE, path: DdpmPath = REFERENCE) -> int:
    """Return the lowest level from which a guess escapes (see :func:`escapes`): 39 for s = 1, 20 for 0.5, 3 for 0.1."""
    return next((k for k in range(path.levels) if escapes(k, separation, share, path)), path.levels - 1)


def separations(policy: ChunkPolicy) -> list[float]:
    """Return, for each element of the normalised action, s where it has two values +-s, 0 where it has more.

    Two-valued are the elements that the data showed to be (``two_valued_scale`` of the policy's config); of a policy that
    was trained without it the grippers, whose values then lie at +-1.
    """
    if policy.config.two_valued_scale is not None:
        return policy.two_valued.tolist()
    return [float(kind == "gripper") for kind in policy.transform.kinds]


def rule_level(policy: ChunkPolicy) -> int | None:
    """Return the level that the rule asks for, the largest over the two-valued elements of the action; None without any."""
    return max((escape_level(s) for s in separations(policy) if s > 0), default=None)


def start_level(path: NoisePath, level: int) -> float:
    """Return the level of ``path`` with the signal-to-noise ratio of ``level`` of the published path (``REFERENCE``)."""
    if path == REFERENCE:
        return level
    signal, sigma = REFERENCE.scales(level)
    found = path.level_at(sigma / signal)
    assert isinstance(found, int | float)
    return round(found) if isinstance(path, DdpmPath) else found


def _generative(policy: ChunkPolicy) -> GenerativePolicy:
    if not isinstance(policy, GenerativePolicy):
        raise InputError(f"method rti: expected a generative policy, such as diffusion or flow, found {type(policy).__name__}")
    return policy
