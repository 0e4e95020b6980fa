"""The off-policy loop: act, remember, learn from what is remembered.

The three pieces stand alone: :class:`robopolicy.training.off_policy_actor.Actor` has the worlds, ``Replay`` the past, ``Learner`` the
rule; here they take turns. At every mark (``checkpoint_every``) all worlds begin anew, so that a run which was killed goes on bit for
bit although the state of no simulator is kept; what a rule learns from those cut episodes is right, for a cut is no end.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from policies.learnt import LearntPolicy
from policies.registry import policy_class
from policies.spec import InputError, Spec
from robopolicy.algos.registry import rule_class
from robopolicy.recipe import Note, print_note
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training.imitation import TrainResult
from robopolicy.training.launch import launched
from robopolicy.training.off_policy_actor import Actor
from robopolicy.training.off_policy_config import OffPolicyTraining
from robopolicy.training.off_policy_learner import Learner, require_learnable
from robopolicy.training.replay import Replay
from robopolicy.training.replay_demonstrations import open_demonstrated
from robopolicy.training.replay_segments import Segments
from robopolicy.training.schedule import step_seed
from robopolicy.training.trial_session import TrialSession, opened
from robopolicy.training.trial_worlds import open_worlds
from sim.env import BatchEnv
from sim.registry import make

_RULE_STREAM = 1  # of the seed from which the rule's first weights are drawn; 0 is the policy's


def train(recipe: TrialRecipe, progress: bool = True, resume: Literal["auto", "never"] = "auto", note: Note = print_note) -> TrainResult:
    """Train the recipe's policy off-policy; arguments as in :func:`robopolicy.training.imitation.train`, steps are those of all worlds together.

    Raises:
        InputError: recipe, task, demonstrations, checkpoint or state cannot be used.
        robopolicy.training.session.TrainingDiverged: a loss or the weights are no longer finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; what was done since the last mark is done again.
    """
    training: Any = recipe.training
    if launched():
        raise InputError(f"algo {recipe.algo_type!r}: an off-policy rule learns in one process; leave out --processes, or collect with --actors")
    kind: Any = rule_class(recipe.algo_type)
    require_learnable(kind, training, training.normalize_observations and recipe.init is None)  # before anything is written
    if training.resets.type == "backward":
        return importlib.import_module("robopolicy.training.forward_backward").train(recipe, progress=progress, resume=resume, note=note)
    with contextlib.closing(open_worlds(recipe, training.worlds)) as env:
        _require_evaluable(recipe, env.spec)
        with opened(recipe, env.spec, training.batch_size, progress, resume, note) as session:
            if not session.finished:
                with contextlib.closing(begin(session, env, progress)) as parts:
                    _loop(session, parts)
            return session.result()


@dataclass
class Parts:
    """What one run consists of beside its session.

    Attributes:
        actor: The worlds.
        learner: Rule and replay.
        worlds: N.
        mark: Environment steps between marks.
        segments: What keeps replays in memory beside the training state: the learner's (None if it is on disk), the demonstrations'.
        take_over: Who may act instead of the policy.
    """

    actor: Actor
    learner: Learner
    worlds: int
    mark: int
    segments: list[Segments]
    take_over: Any = None

    def close(self) -> None:
        """Let go of who may take over."""
        if self.take_over is not None:
            self.take_over.close()

    def save(self, session: TrialSession) -> None:
        """Write replay, checkpoint and training state, the state last: it vouches for all the others. Raises InputError, TrainingDiverged."""
        learner, demonstrations = self.learner, self.learner.demonstrations
        learner.replay.flush()
        for segments in self.segments:
            segments.save()
        randomizer = getattr(self.actor.env, "randomizer", None)
        facts: dict[str, Any] = {"rows": learner.replay.count, "demonstrated_rows": 0 if demonstrations is None else demonstrations.count}
        facts["curriculum"] = {} if randomizer is None else randomizer.state()
        facts["counted"] = {name: source.counted() for name, source in self._counting().items()}
        session.save(learner.parts(), facts)
        oldest = session.folder.states_newest_first()[-1][0]
        for segments in self.segments:
            if segments.replay is learner.replay:
                segments.prune(oldest // self.worlds)

    def resume(self, session: TrialSession) -> None:
        """Bring everything to where the newest training state was written. Raises InputError."""
        learner, replay = self.learner, self.learner.replay
        parts = learner.parts()
        facts = session.resume(parts)
        if not facts:
            if replay.count:
                replay.rewind(0)
            for segments in self.segments:
                segments.load(segments.replay.count)  # files of a run that was killed before its first state was whole
            return
        if "rows" not in facts:
            raise InputError(f"{session.folder.path}: this run was begun with {len(facts['actor_rows'])} actors; go on so, or begin anew with --fresh")
        randomizer = getattr(self.actor.env, "randomizer", None)
        if randomizer is not None:
            randomizer.load(facts["curriculum"])
        for name, source in self._counting().items():
            if name in facts.get("counted", {}):  # not in states of earlier versions
                source.recount(facts["counted"][name])
        for segments in self.segments:
            segments.load(facts["rows"] if segments.replay is replay else facts["demonstrated_rows"])
        lost = replay.count - facts["rows"]
        if lost > 0 and replay.oldest > max(0, facts["rows"] - replay.rows):
            session.note(
                f"the replay on disk has written over {(replay.oldest - max(0, facts['rows'] - replay.rows)) * self.worlds} transitions since the last mark: "
                "the run goes on without them, not bit for bit"
            )
        replay.rewind(facts["rows"])
        learner.restore(parts)

    def _counting(self) -> dict[str, Any]:
        """Return what counts over the whole run for the log."""
        sources = {"takeover": self.take_over, "worlds": self.actor.env}
        return {name: source for name, source in sources.items() if hasattr(source, "counted")}


def begin(session: TrialSession, env: BatchEnv, progress: bool) -> Parts:
    """Make actor, learner and replay of a session, and bring them to where it goes on.

    Args:
        session: Open, not finished.
        env: Worlds with auto-reset.
        progress: Show progress bars while demonstrations are collected.

    Raises:
        InputError: if what the recipe asks for cannot be.
    """
    recipe, training = session.recipe, session.training
    normalize = training.normalize_observations and recipe.init is None
    torch.manual_seed(step_seed(recipe.seed, 0, _RULE_STREAM))
    kind: Any = rule_class(recipe.algo_type)
    rule = kind(recipe.algo, env.spec, session.policy)
    states = session.folder.states / "replay"
    most = max(training.steps, env.num_worlds * max(training.replay.n_step, training.replay.chunk)) + env.num_worlds  # there will never be more
    config = training.replay.model_copy(update={"capacity": min(training.replay.capacity, most)})
    replay = Replay(env.spec, env.num_worlds, config, training.gamma, states / "disk")
    demonstrations = open_demonstrated(recipe, env.spec, progress, session.note, session.policy.normalizer)
    segments = [Segments(states / "rows", replay)] if training.replay.place == "memory" else []
    if demonstrations is not None and training.takeover.source != "none":
        segments.append(Segments(states / "demonstrations", demonstrations))
    learner = Learner(rule, replay, training, recipe.seed, demonstrations, normalize)
    take_over = _take_over(recipe, env, session.policy)
    actor = Actor(env, rule.explore, session.policy.normalizer, recipe.seed, training.random_steps, session.device, take_over=take_over)
    parts = Parts(actor, learner, env.num_worlds, math.ceil(training.checkpoint_every / env.num_worlds) * env.num_worlds, segments, take_over)
    parts.resume(session)
    _warn(session, env, parts)
    actor.begin(session.step // env.num_worlds)
    return parts


def _loop(session: TrialSession, parts: Parts) -> None:
    """Train until the recipe's last step."""
    training, actor, learner, mark = session.training, parts.actor, parts.learner, session.step
    while session.step < training.steps:
        after = session.step + parts.worlds
        at_mark = after % parts.mark == 0 or after >= training.steps
        learner.take(actor.step(cut=at_mark))
        learner.learn(session.step, after)
        before, session.step = session.step, after
        if at_mark or before // training.log_every != after // training.log_every:
            _log(session, parts)
        if training.evaluate_every and before // training.evaluate_every != after // training.evaluate_every:
            evaluate(session)
        if at_mark:
            parts.save(session)
            mark = after
            if after < training.steps:
                actor.begin(actor.steps)
        if session.interrupts.asked and after < training.steps:
            session.stop(mark)


def evaluate(session: TrialSession) -> None:
    """Measure the policy as robots get it: see ``TrialSession.evaluate``."""
    session.policy.eval()
    try:
        session.evaluate()
    finally:
        session.policy.train()


def _log(session: TrialSession, parts: Parts) -> None:
    """Write one row: episodes that ended since the last one (null if none did), what the rule reported, speeds."""
    episodes, count, losses = parts.actor.finished(), parts.learner.updates, parts.learner.metrics()
    for name, value in losses.items():
        if not math.isfinite(value):
            session.diverged(f"{name} is {value}")
    number = max(len(episodes), 1)
    values: dict[str, Any] = {
        "return": sum(e.return_ for e in episodes) / number if episodes else None,
        "length": sum(e.length for e in episodes) / number if episodes else None,
        "success": sum(e.success for e in episodes) / number if episodes else None,
        "episodes": len(episodes),
        **losses,
        "updates": parts.learner.due(session.step),
        "replay": parts.learner.replay.size,
    }
    for source in (parts.take_over, parts.actor.env):
        values |= getattr(source, "metrics", dict)()
    seconds = max(session.result().seconds, 1e-9)
    session.record("train", **values, env_steps_per_s=round((session.step - session.first) / seconds, 1), updates_per_s=round(count / seconds, 1))
    if episodes:
        session.show(values["return"])


def _require_evaluable(recipe: TrialRecipe, spec: Spec) -> None:
    """Refuse evaluations, which are simulated, of a policy that learns on a robot with another ``spec`` than the task. Raises InputError."""
    training: Any = recipe.training
    if training.robot is None or not training.evaluate_every:
        return
    seen = policy_class(recipe.policy_type).observed(recipe.policy, spec)
    with contextlib.closing(make(recipe.task, **recipe.env.options())) as simulated:
        seen.require(simulated.spec, "training.robot", f"task {recipe.task!r}, where training.evaluate_every evaluates (0: nowhere),")


def _take_over(recipe: TrialRecipe, env: BatchEnv, policy: LearntPolicy) -> Any:
    training: Any = recipe.training
    if training.takeover.source == "none":
        return None
    from robopolicy.training.takeover import open_takeover

    return open_takeover(recipe, env, policy.normalizer)


def _warn(session: TrialSession, env: BatchEnv, parts: Parts) -> None:
    """Say what a person might not expect."""
    training: OffPolicyTraining = session.training
    length = parts.mark // env.num_worlds
    if length < env.max_episode_steps and parts.mark < training.steps:
        session.note(
            f"training.checkpoint_every={training.checkpoint_every} is {length} steps of each of {env.num_worlds} worlds, which then begin anew: "
            f"no episode becomes longer, the task's last {env.max_episode_steps}"
        )
    if training.random_steps >= training.steps:
        session.note(f"training.random_steps={training.random_steps} are not over after training.steps={training.steps}: nothing is learnt")
