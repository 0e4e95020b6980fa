"""On-policy learning by trial: roll out, estimate advantages, go over them a few times; the loop is :func:`_loop`.

Given the recipe, a run on one machine is the same bit for bit whether or not it was killed: all randomness is a function of
(seed, step, world), and at every mark (``checkpoint_every``) all worlds begin anew, so that the state is networks, optimiser and
statistics, and never that of a simulator. Nothing is lost to that: values of what comes after a cut are estimated.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch

from policies.networks.encoders import ImageConfig
from policies.normalize import limits_normalizer
from policies.spec import InputError
from robopolicy.algos import registry
from robopolicy.algos.rule import OnPolicyRule
from robopolicy.algos.symmetry import open_symmetry, require_mirror
from robopolicy.algos.value import Critic
from robopolicy.recipe import Note, print_note
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training.arithmetic import seed_generators
from robopolicy.training.on_policy_config import OnPolicyTraining
from robopolicy.training.on_policy_update import Updater
from robopolicy.training.rollout import Collector, Episode, Rollout
from robopolicy.training.scaling import minibatch_size, scaled
from robopolicy.training.schedule import step_seed
from robopolicy.training.sight import ReturnScale, Sight
from robopolicy.training.trial_processes import Processes, processes
from robopolicy.training.trial_session import TrainResult, TrialSession, default_device, opened
from robopolicy.training.trial_state import Part
from sim.env import BatchEnv
from sim.registry import make


@dataclass
class Run:
    """A run in the making.

    Attributes:
        session: Folder, log, recipe.
        env: The worlds of this process.
        collector: Acts in them.
        updater: Learns from that.
        iteration: Updates done; one is a rollout and what is learnt from it.
        mark: Environment steps at the last mark.
        seconds: Spent on updates since the last row of the log.
        last_return: Mean return in the last row that had one.
    """

    session: TrialSession
    env: BatchEnv
    collector: Collector
    updater: Updater
    iteration: int = 0
    mark: int = 0
    seconds: float = 0.0
    last_return: float = math.nan
    row: tuple[float, int] = (0.0, 0)  # time and step of the last row of the log

    @property
    def config(self) -> OnPolicyTraining:
        """The recipe's section ``training``."""
        return self.session.training

    @property
    def iterations(self) -> int:
        """How many there are in all."""
        return math.ceil(self.config.steps / (self.config.worlds * self.config.rollout))


def train(recipe: TrialRecipe, progress: bool = True, resume: Literal["auto", "never"] = "auto", note: Note = print_note) -> TrainResult:
    """Train the recipe's policy by its on-policy rule.

    Args:
        recipe: What to do; ``recipe.output`` is the run's folder.
        progress: Show a progress bar.
        resume: ``auto`` goes on where an interrupted run of the same recipe stopped; ``never`` deletes it and begins anew.
        note: Told, in one line, what a person should know and might not expect.

    Returns:
        Where the run and its final checkpoint are; steps are environment steps.

    Raises:
        InputError: recipe, task or checkpoint cannot be used.
        robopolicy.training.session.TrainingDiverged: a loss or the weights are no longer finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, at the end of an iteration.
    """
    config = _checked(recipe)
    recipe = recipe.model_copy(update={"training": config})
    with processes(default_device()) as others:
        count = len(others.worlds(config.worlds))
        with contextlib.closing(make(recipe.task, num_worlds=count, **recipe.env.options(), autoreset=True)) as env:
            kind: Any = registry.rule_class(recipe.algo_type)
            recipe = recipe.model_copy(update={"algo": kind.settled(recipe.algo, env.spec)})
            if config.symmetry is not None:
                require_mirror(env, recipe.policy)  # before anything is written
            rows = round(minibatch_size(config))
            with opened(recipe, env.spec, rows, progress, resume, note, others) as session:
                if not session.finished:
                    _loop(_begin(session, env))
            return session.result()


def _checked(recipe: TrialRecipe) -> OnPolicyTraining:
    """Return the section ``training``, scaled to its number of worlds. Raises InputError where a minibatch would be empty."""
    training, policy = recipe.training, recipe.policy
    assert isinstance(training, OnPolicyTraining)
    config = scaled(training)
    remembers = getattr(getattr(policy, "memory", None), "type", "none") != "none"
    parts, most = ("worlds", config.worlds) if remembers else ("samples (worlds times rollout)", config.worlds * config.rollout)
    if config.minibatches > most:
        whole = ", which stay whole for a policy that remembers" if remembers else ""
        raise InputError(f"training.minibatches={config.minibatches}: there are only {most} {parts} to share among them{whole}")
    if getattr(getattr(policy, "image", None), "shift", 0):
        raise InputError("policy.image.shift: on-policy rules do not move images, which would change the ratios: expected 0; policy.image.crop is for them")
    if training.lr_range[0] > training.lr_range[1]:  # as it was written
        raise InputError(f"training.lr_range={list(training.lr_range)}: expected the lower limit first")
    return config


def _loop(run: Run) -> None:
    """Train until the recipe's last step. Iterations count rollouts: 1 is the first."""
    session, config, updater = run.session, run.config, run.updater
    while run.iteration < run.iterations:
        if run.iteration % config.checkpoint_every == 0:
            run.collector.begin(run.iteration // config.checkpoint_every)
            updater.scale.begin()
        progress = run.iteration / run.iterations
        seed_generators(step_seed(session.recipe.seed, run.iteration + 1, session.processes.rank), session.device)  # dropout, if a network has it
        if config.schedule == "linear":
            updater.rate = config.lr * (1.0 - progress)
        session.policy.begin_update(progress)
        rollout = run.collector.collect(run.iteration)
        began = time.perf_counter()
        updater.estimate(rollout)
        updater.improve(rollout, run.iteration, progress)
        for name, sight in _learning(run).items():
            sight.learn(rollout.tensors[name].flatten(0, 1), session.processes)
        run.seconds += time.perf_counter() - began
        run.iteration += 1
        session.step = run.iteration * config.worlds * config.rollout
        _look(run, rollout)
        ending = run.iteration == run.iterations
        if config.evaluate_every and run.iteration % config.evaluate_every == 0:
            session.evaluate()
        if run.iteration % config.checkpoint_every == 0 or ending:
            _save(run)
        if session.processes.any(session.interrupts.asked) and not ending:
            session.stop(run.mark)


def _begin(session: TrialSession, env: BatchEnv) -> Run:
    """Prepare a run: from the newest training state, from ``init``, or from nothing."""
    config: OnPolicyTraining = session.training
    others, policy, recipe = session.processes, session.policy, session.recipe
    kind: Any = registry.rule_class(recipe.algo_type)
    rule: OnPolicyRule = kind(recipe.algo)
    rule.begin(env.spec, policy)
    anything: Any = policy
    sights = {"policy": Sight(anything.encoder, policy.normalizer, env.spec, others.device)}
    critic = None
    if rule.learns_values:
        critic = Critic(config.critic, env.spec, getattr(recipe.policy, "image", ImageConfig())).to(others.device)
        alike = critic.encoder.states == anything.encoder.states and not critic.encoder.images and not anything.encoder.images
        own_normalizer = limits_normalizer(env.spec).to(others.device)
        sights["critic"] = sights["policy"] if alike else Sight(critic.encoder, own_normalizer, env.spec, others.device)
    own = others.worlds(config.worlds)
    scale = ReturnScale(len(own), config.gamma, others.device)
    updater = Updater(config, recipe.seed, rule, policy, critic, sights, scale, others, own)
    mirror = open_symmetry(config.symmetry, env, anything, {name: (sight.encoder.states, sight.normalizer) for name, sight in sights.items()})
    if mirror is not None:
        updater.augment, updater.extra = mirror.augment, [mirror.loss]
    collector = Collector(env, policy, sights, rule, config.rollout, recipe.seed, own, config.random_start, others)
    run = Run(session, env, collector, updater)
    facts = session.resume(_parts(run))
    run.iteration, run.mark = int(facts.get("iteration", 0)), session.step
    run.row = time.perf_counter(), session.step
    randomizer = getattr(env, "randomizer", None)
    if facts and randomizer is not None:
        randomizer.load(facts["curriculum"])
    policy.begin_training()
    length = config.checkpoint_every * config.rollout
    if length < env.max_episode_steps and config.checkpoint_every < run.iterations:
        session.note(
            f"training.checkpoint_every={config.checkpoint_every} is {length} steps of each world, which then begin anew: "
            f"no episode becomes longer, the task's last {env.max_episode_steps}"
        )
    return run


def _own_sights(run: Run) -> dict[str, Sight]:
    """Return what is seen by either network, once where both see the same."""
    sights = run.updater.sights
    return {name: sight for name, sight in sights.items() if name == "policy" or sight is not sights["policy"]}


def _learning(run: Run) -> dict[str, Sight]:
    """Return the sights whose statistics go on: not those of a policy that came with its own."""
    if not run.config.normalize_observations:
        return {}
    given = run.session.recipe.init is not None
    return {name: sight for name, sight in _own_sights(run).items() if not (given and name == "policy")}


def _parts(run: Run) -> dict[str, Part]:
    """Return all that a training state keeps."""
    updater = run.updater
    parts: dict[str, Part] = {"policy": run.session.policy, "adam": updater.optimizer, "returns": updater.scale.moments.tensors}
    for name, sight in _own_sights(run).items():
        parts |= {f"{name}_moments": sight.moments.tensors, f"{name}_normalizer": sight.normalizer}
    return parts if updater.critic is None else {**parts, "critic": updater.critic}


def _save(run: Run) -> None:
    """Write checkpoint and training state; the next iteration begins with all worlds anew."""
    randomizer = getattr(run.env, "randomizer", None)
    run.session.save(_parts(run), {"iteration": run.iteration, "curriculum": {} if randomizer is None else randomizer.state()})
    run.mark = run.session.step


def _look(run: Run, rollout: Rollout) -> None:
    """Log every so many iterations, and at marks: nothing is left over there. Raises TrainingDiverged if a number is no longer finite."""
    seen = run.updater.metrics()
    for name, value in seen.items():
        if not math.isfinite(value):
            run.session.diverged(f"{name} is {value}")
    run.session.show(run.last_return)
    marked = run.iteration % run.config.checkpoint_every == 0 or run.iteration == run.iterations
    if run.iteration % run.config.log_every and not marked:
        return
    updater, spent, others = run.updater, run.collector.seconds, run.session.processes
    episodes = _episodes(run.collector.take_episodes(marked), others)
    run.last_return = run.last_return if episodes["return"] is None else episodes["return"]
    now, total = time.perf_counter(), max(sum(spent.values()) + run.seconds, 1e-9)
    shares = {f"{name}_share": round(seconds / total, 4) for name, seconds in {**spent, "update": run.seconds}.items()}
    held = rollout.tensors
    deviation = float((held["log_std"] if rollout.log_std is None else rollout.log_std).exp().mean())
    left = others.moments(torch.stack([held["returns"] - held["value"], held["returns"]], -1).flatten(0, 1)).variance.tolist()
    speed = (run.session.step - run.row[1]) / max(now - run.row[0], 1e-9)
    own = {"iteration": run.iteration, "std": deviation, "lr": updater.rate, "explained_variance": 1.0 - left[0] / left[1] if left[1] else math.nan}
    own["reward"] = float(others.moments(rollout.reward.flatten()).mean)
    run.session.record("train", **episodes, **seen, **own, env_steps_per_s=round(speed, 1), **shares)
    run.row, run.seconds, run.collector.seconds = (now, run.session.step), 0.0, dict.fromkeys(spent, 0.0)


def _episodes(ended: list[Episode], others: Processes) -> dict[str, float | int | None]:
    """Return means over the episodes that have ``ended``, in all processes; None where there are none."""
    sums = torch.tensor([[1.0, *map(float, one)] for one in ended] or [[0.0] * 4], dtype=torch.float64, device=others.device).sum(0)
    others.sum_(sums)
    count, *rest = sums.tolist()
    return {"episodes": int(count), **{name: x / count if count else None for name, x in zip(("return", "length", "success"), rest, strict=True)}}


__all__ = ["TrainResult", "train"]
