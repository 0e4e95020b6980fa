"""Learning without anybody who resets the world: one policy does the task, another undoes it, in turns (Eysenbach et al. 2018).

Both learn off-policy by the recipe's rule, each from its own past; the forward one is the run's policy, the backward one is left in the
folder ``backward`` of the run. The world is reset once, when the run begins. So at a mark nothing begins anew, and a run that was
killed goes on from its newest mark in a world that stands where it was left (a robot) or begins again (a simulation): not bit for bit.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from policies import checkpoint, registry
from policies.normalize import limits_normalizer
from policies.spec import InputError
from robopolicy.algos.registry import rule_class
from robopolicy.recipe import Note, print_note
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training import off_policy
from robopolicy.training.imitation import TrainResult
from robopolicy.training.off_policy_actor import Actor
from robopolicy.training.off_policy_learner import Learner
from robopolicy.training.replay import Replay
from robopolicy.training.replay_segments import Segments
from robopolicy.training.schedule import step_seed
from robopolicy.training.trial_session import TrialSession, opened
from robopolicy.training.trial_worlds import reward_of, unjudged
from robopolicy.training.unreset_world import Half, UnresetWorld, back_at_start

_BACKWARD_STREAM = 2  # of the seed from which the backward policy's first weights and its noise are drawn
_PREFIX = "backward."


@dataclass
class Learning:
    """One direction: who acts in its half of the world, and who learns from that."""

    half: Half
    actor: Actor
    learner: Learner
    segments: list[Segments]


def train(recipe: TrialRecipe, progress: bool = True, resume: Literal["auto", "never"] = "auto", note: Note = print_note) -> TrainResult:
    """Train the recipe's policy in one world that is never reset; arguments and errors as ``robopolicy.training.off_policy.train``."""
    training: Any = recipe.training
    if training.worlds != 1:
        raise InputError(f"training.resets.type=backward: a world that nobody resets is one world, expected training.worlds=1, found {training.worlds}")
    if training.robot is not None:
        raise InputError("training.resets.type=backward: not on training.robot yet, whose episodes begin at home; expected one of the two")
    if training.replay.place == "disk":
        raise InputError("training.resets.type=backward: expected training.replay.place=memory, found 'disk'")
    world, judge, shown = unjudged(recipe, 1, max_episode_steps=2**31 - 1)
    shared = UnresetWorld(world, shown)
    with contextlib.closing(world):
        return train_in(recipe, shared, halves(recipe, shared, judge), progress, resume, note)


def halves(recipe: TrialRecipe, shared: UnresetWorld, judge: Any = None) -> tuple[Half, Half]:
    """Return the forward and the backward task of ``recipe`` in ``shared``; ``judge`` says when the first is done, None: the world.

    Rewards are sparse in both directions or in none. Raises InputError.
    """
    training: Any = recipe.training
    sparse, back = reward_of(recipe).judged, back_at_start(shared, training.resets.fields)
    steps = training.resets.episode_steps or recipe.env.max_episode_steps or _own_limit(recipe)
    near = training.resets.near
    return Half(shared, steps, judge, sparse=sparse), Half(shared, steps, lambda obs: back(obs) < near, back, sparse)


def _own_limit(recipe: TrialRecipe) -> int:
    from sim.registry import entry

    return entry(recipe.task).max_episode_steps


def train_in(
    recipe: TrialRecipe, shared: UnresetWorld, tasks: tuple[Half, Half], progress: bool = True,
    resume: Literal["auto", "never"] = "auto", note: Note = print_note,
) -> TrainResult:  # fmt: skip
    """Train in a world that is there already; see :func:`train`.

    Args:
        recipe: What to do.
        shared: The world.
        tasks: Forward and backward.
        progress: Show a progress bar.
        resume: As in :func:`train`.
        note: As in :func:`train`.
    """
    training: Any = recipe.training
    with opened(recipe, shared.spec, training.batch_size, progress, resume, note) as session:
        if not session.finished:
            both = _begin(session, tasks, progress)
            try:
                _loop(session, both, shared)
            finally:
                for one in both:
                    getattr(one.actor.take_over, "close", int)()
        return session.result()


def _begin(session: TrialSession, tasks: tuple[Half, Half], progress: bool) -> tuple[Learning, Learning]:
    """Make both directions and bring them to where the run goes on."""
    recipe, training = session.recipe, session.training
    parts = off_policy.begin(session, tasks[0], progress)
    forward = Learning(tasks[0], parts.actor, parts.learner, parts.segments)
    tasks[0].episodes -= 1  # the loop begins its own
    torch.manual_seed(step_seed(recipe.seed, 0, _BACKWARD_STREAM))
    spec = tasks[1].spec
    policy = registry.create(recipe.policy_type, recipe.policy, spec, limits_normalizer(spec)).to(session.device).train()
    kind: Any = rule_class(recipe.algo_type)
    replay = Replay(spec, 1, forward.learner.replay.config, training.gamma)
    learner = Learner(kind(recipe.algo, spec, policy), replay, training, recipe.seed + _BACKWARD_STREAM, None, training.normalize_observations)
    actor = Actor(tasks[1], learner.rule.explore, policy.normalizer, recipe.seed, training.random_steps, session.device, stream=_BACKWARD_STREAM)
    backward = Learning(tasks[1], actor, learner, [Segments(session.folder.states / "replay" / "backward", replay)])
    own = {_PREFIX + name: part for name, part in learner.parts().items()}
    facts = session.resume(own)
    if not facts:
        backward.segments[0].load(replay.count)  # files of a run that was killed before its first state was whole
    else:
        backward.segments[0].load(facts["backward_rows"])
        learner.restore({name.removeprefix(_PREFIX): part for name, part in own.items()})
        forward.actor.steps, backward.actor.steps = facts["rows"], facts["backward_rows"]
        if "world_resets" in facts:  # not in states of earlier versions
            tasks[0].shared.resets += facts["world_resets"]
            tasks[1].recount(facts["counted"]["backward"])
    return forward, backward


def _loop(session: TrialSession, both: tuple[Learning, Learning], shared: UnresetWorld) -> None:
    """Take turns, an episode each, until the recipe's last step."""
    training, turn, mark = session.training, 0, session.step
    while session.step < training.steps:
        one = both[turn]
        one.actor.begin(one.actor.steps)
        ended = False
        while not ended and session.step < training.steps:
            after = session.step + 1
            at_mark = after % training.checkpoint_every == 0 or after == training.steps
            before = one.actor.steps
            experience = one.actor.step(cut=at_mark)
            one.learner.take(experience)
            one.learner.learn(before, before + 1)
            ended, session.step = bool(experience.terminated[0] or experience.truncated[0]), after
            if at_mark or after % training.log_every == 0:
                _log(session, both)
            if training.evaluate_every and after % training.evaluate_every == 0:
                off_policy.evaluate(session)
            if at_mark:
                _save(session, both)
                mark = after
            if session.interrupts.asked and after < training.steps:
                session.stop(mark)
        turn = 1 - turn


def _save(session: TrialSession, both: tuple[Learning, Learning]) -> None:
    forward, backward = both
    for segments in (*forward.segments, *backward.segments):
        segments.save()
    shown = forward.learner.demonstrations
    facts: dict[str, Any] = {"rows": forward.learner.replay.count, "backward_rows": backward.learner.replay.count}
    facts["demonstrated_rows"] = 0 if shown is None else shown.count
    # the first two are brought back by ``off_policy``
    counting: dict[str, Any] = {"takeover": forward.actor.take_over, "worlds": forward.half, "backward": backward.half}
    facts["counted"] = {name: source.counted() for name, source in counting.items() if source is not None}
    facts["world_resets"] = forward.half.shared.resets
    about = {"step": session.step, "env_steps": session.step, "algo": session.recipe.algo_type, "direction": "backward"}
    checkpoint.save(session.folder.path / "backward", backward.learner.rule.policy, recipe=session.recipe.to_dict(), extra=about)
    session.save({**forward.learner.parts(), **{_PREFIX + name: part for name, part in backward.learner.parts().items()}}, facts)


def _log(session: TrialSession, both: tuple[Learning, Learning]) -> None:
    """Write one row: the forward direction as ``off_policy`` has it, the backward one's numbers after ``backward_``."""
    values: dict[str, Any] = {}
    for prefix, one in zip(("", "backward_"), both, strict=True):
        episodes = one.actor.finished()
        number = len(episodes)
        losses = one.learner.metrics()
        for name, value in losses.items():
            if not math.isfinite(value):
                session.diverged(f"{prefix}{name} is {value}")
        own: dict[str, Any] = {"episodes": number, **losses, "updates": one.learner.due(one.actor.steps), "done": one.half.metrics()["done"]}
        for name, of in (("return", "return_"), ("length", "length"), ("success", "success")):
            own[name] = sum(getattr(episode, of) for episode in episodes) / number if number else None
        own |= getattr(one.actor.take_over, "metrics", dict)()
        values |= {prefix + name: value for name, value in own.items()}
    session.record("train", **values, world_resets=both[0].half.shared.resets)
    session.show(values["done"])
