"""Actors and a learner in processes of their own, on one machine or on several: neither waits for the other to be well.

The learner does what :mod:`robopolicy.training.off_policy` does, with the transitions that actors send; their rows are in files
mapped from its run folder, which outlive it, and only then does the actor forget them. The update ratio is kept from both
sides: the learner does the updates that are due for the environment steps it has, and actors go at most ``lead`` steps ahead
of what it has learnt from, unless it is silent. What comes out hangs on who was when how fast: such runs are not repeated bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import queue
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from policies.spec import InputError, Spec
from robopolicy.algos.registry import rule_class
from robopolicy.data.atomic import read_json, write_json
from robopolicy.processes import announce
from robopolicy.recipe import Note, print_note
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training.actor_learner_hub import Chunk, Hub
from robopolicy.training.actor_learner_replays import ActorReplays
from robopolicy.training.actor_learner_wire import Arrays, Layout
from robopolicy.training.imitation import TrainResult
from robopolicy.training.off_policy import evaluate
from robopolicy.training.off_policy_actor import Experience
from robopolicy.training.off_policy_learner import Learner, require_learnable
from robopolicy.training.replay_demonstrations import open_demonstrated
from robopolicy.training.schedule import step_seed
from robopolicy.training.trial_session import TrialSession, opened
from robopolicy.training.trial_sources import sources_of
from robopolicy.training.trial_worlds import open_worlds

_RULE_STREAM = 1  # of the seed from which the rule's first weights are drawn, as in the loop in one process
_PUBLISH_S = 0.5  # between two versions of the weights
_SPEEDS = ("taken", "duplicates", "silences", "returns", "refused", "malformed")


@dataclass(frozen=True)
class Meeting:
    """How the two sides meet.

    Attributes:
        address: Where the learner is bound; loopback, or any with keys.
        actors: How many actors there are.
        lead: Environment steps that actors may be ahead of the learner.
        keys: Folder of ``real.keys``; None: none.
    """

    address: str = "tcp://127.0.0.1:0"
    actors: int = 1
    lead: int = 1000
    keys: Path | None = None


def say(text: str) -> None:
    """Print one line to standard error."""
    print(text, file=sys.stderr, flush=True)


def require_asynchronous(recipe: TrialRecipe) -> None:
    """Raise InputError, one line, for a recipe that actors and a learner cannot share."""
    training: Any = recipe.training
    if recipe.loop != "off_policy":
        raise InputError(f"actors and learner: algo {recipe.algo_type!r} learns from its own last actions; choose an off-policy one, e.g. algo=sac")
    if training.resets.type != "world" or training.takeover.source != "none":
        raise InputError("actors and learner: training.resets and training.takeover work in one process alone; leave out --actors and --role")
    if training.reward.record is not None:  # a data set has one writer, and the learner opens worlds too
        raise InputError("actors and learner: training.reward.record works in one process alone; leave it out, or --actors and --role")


def layout_of(recipe: TrialRecipe, spec: Spec, policy: torch.nn.Module, actors: int) -> Layout:
    """Return what crosses for that recipe: one control step of ``training.worlds`` worlds, and the policy's tensors."""
    training: Any = recipe.training
    worlds, row = training.worlds, {}
    for name, f in spec.observation.fields.items():
        for side in ("obs", "next"):
            row[f"{side}/{name}"] = np.zeros((worlds, *f.shape), np.uint8 if f.dtype == "uint8" else np.float32)
    row |= {"action": np.zeros((worlds, spec.action.dim), np.float32), "reward": np.zeros(worlds, np.float32)}
    row |= {"terminated": np.zeros(worlds, bool), "truncated": np.zeros(worlds, bool)}
    about = recipe.to_dict()
    shared = {key: about[key] for key in ("task", "seed", "env", "policy", "algo")} | {"reward": about["training"]["reward"], "actors": actors}
    sources = sources_of(recipe, demonstrations=False)  # a classifier is judged by what it says, not by its folder's name
    return Layout.of(row, tensors_of(policy), {**shared, "spec": spec.fingerprint(), "sources": sources})


def tensors_of(module: torch.nn.Module) -> Arrays:
    """Return copies of all parameters and buffers of ``module``, its normalisers' included: name -> (*shape)."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    plain = {name: tensor.detach().cpu() for name, tensor in named.items()}
    # the kinds of a normaliser's fields are small numbers in int8, which does not cross
    return {name: (tensor.to(torch.uint8) if tensor.dtype == torch.int8 else tensor).numpy().copy() for name, tensor in plain.items()}


def experience_of(arrays: Mapping[str, np.ndarray], step: int) -> Experience:
    """Return control step ``step`` of a chunk of arrays (T, *shape)."""
    sides: dict[str, Arrays] = {"obs": {}, "next": {}}
    for name, array in arrays.items():
        side, _, key = name.partition("/")
        if key:
            sides[side][key] = array[step]
    own = {name: arrays[name][step] for name in ("action", "reward", "terminated", "truncated")}
    return Experience(obs=sides["obs"], next_obs=sides["next"], taken=np.zeros(len(own["reward"]), bool), **own)


def learn(
    recipe: TrialRecipe,
    meeting: Meeting,
    progress: bool = True,
    resume: Literal["auto", "never"] = "auto",
    note: Note = print_note,
    announced: str | None = None,
    told: Callable[[str], None] = say,
) -> TrainResult:
    """Learn from what actors send until the recipe's last step; the arguments of ``off_policy.train`` and how to meet.

    Args:
        recipe: What to do; ``recipe.output`` is the run's folder.
        meeting: Address, number of actors.
        progress: Show a progress bar.
        resume: ``auto`` goes on from the last mark, with all transitions that were kept; ``never`` begins anew.
        note: Told what a person should know.
        announced: File that gets the address.
        told: Told which actor has gone or come.

    Raises:
        InputError: recipe, address, keys, replay or state cannot be used.
        robopolicy.training.session.TrainingDiverged: a loss or the weights are no longer finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; transitions stay, updates since the last mark are done again.
    """
    require_asynchronous(recipe)
    training: Any = recipe.training
    kind: Any = rule_class(recipe.algo_type)
    require_learnable(kind, training, training.normalize_observations and recipe.init is None)
    with contextlib.closing(open_worlds(recipe, 1)) as world:
        spec = world.spec
    with opened(recipe, spec, training.batch_size, progress, resume, note) as session:
        if not session.finished:
            _Learning(session, meeting, progress, announced, told).run()
        return session.result()


@dataclass
class _Ended:
    """Episodes that ended since the last row of the log: their returns, lengths and successes."""

    rows: list[tuple[float, float, float]] = field(default_factory=list)

    def mean(self, column: int) -> float | None:
        return sum(row[column] for row in self.rows) / len(self.rows) if self.rows else None


class _Learning:
    """One call of :func:`learn`."""

    def __init__(self, session: TrialSession, meeting: Meeting, progress: bool, announced: str | None, told: Callable[[str], None]) -> None:
        recipe, training = session.recipe, session.training
        self.session, self.training, self.told = session, training, told
        torch.manual_seed(step_seed(recipe.seed, 0, _RULE_STREAM))
        kind: Any = rule_class(recipe.algo_type)
        rule = kind(recipe.algo, session.spec, session.policy)
        folder = session.folder.states / "replay"
        self.replays = ActorReplays(session.spec, meeting.actors, training.worlds, training.replay, training.gamma, folder)
        demonstrations = open_demonstrated(recipe, session.spec, progress, session.note, session.policy.normalizer)
        normalize = training.normalize_observations and recipe.init is None
        replay: Any = self.replays  # all that a learner asks of a replay
        self.learner = Learner(rule, replay, training, recipe.seed, demonstrations, normalize)
        self._resume(meeting.actors)
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.lead, self.ended, self.version, self.published = meeting.lead, _Ended(), 0, -math.inf
        layout = layout_of(recipe, session.spec, session.policy, meeting.actors)
        self.hub = Hub(meeting.address, layout, _run_name(folder), self.replays.counts, meeting.keys, self._say)
        announce(announced, self.hub.address)
        session.note(f"the learner is at {self.hub.address}, for {meeting.actors} actor{'s' * (meeting.actors > 1)} of {training.worlds} worlds each")

    def run(self) -> None:
        """Learn to the end."""
        session, training = self.session, self.training
        mark, stride = session.step, training.worlds
        with contextlib.closing(self.hub):
            while session.step < training.steps:
                self._publish()
                self._take(0.0 if self.replays.total > session.step else 0.05)
                if session.interrupts.asked:
                    session.stop(mark)
                before = session.step
                after = min(before + stride, training.steps)
                if after > self.replays.total:
                    continue  # never more updates than the steps that are there ask for
                self.learner.learn(before, after)
                session.step = after
                if self._log_and_mark(before, after):
                    mark = after
            self.hub.allow(self.replays.total, training.steps, done=True)
            self.hub.close(told_s=3.0)

    def _take(self, wait_s: float) -> None:
        """Put what has come into the replays, and only then let the actors know."""
        chunk = self.hub.take(wait_s)
        while chunk is not None:
            self._keep(chunk)
            chunk = self.hub.take()
        self.hub.allow(self.replays.total, min(self.session.step + self.lead, self.training.steps))
        with contextlib.suppress(queue.Empty):
            while True:
                self.session.record("actors", text=self.lines.get_nowait(), present=len(self.hub.present))

    def _keep(self, chunk: Chunk) -> None:
        replay = self.replays.parts[chunk.actor]
        if chunk.first != replay.count:
            return  # of a session before; it comes again
        if chunk.anew:
            replay.cut()
        for step in range(len(chunk.arrays["reward"])):
            e = experience_of(chunk.arrays, step)
            replay.add(e.obs, e.action, e.reward, e.next_obs, e.terminated, e.truncated)
        self.hub.keep(chunk.actor, replay.count)
        self.ended.rows += chunk.episodes

    def _publish(self) -> None:
        """Give out the weights as they are now, now and then."""
        now = time.monotonic()
        if now - self.published >= _PUBLISH_S:
            self.version, self.published = self.version + 1, now
            self.hub.publish(self.version, tensors_of(self.session.policy))

    def _log_and_mark(self, before: int, after: int) -> bool:
        """Write what is due after ``after`` environment steps; returns whether that was a mark."""
        training, last = self.training, after >= self.training.steps
        at_mark = last or before // training.checkpoint_every != after // training.checkpoint_every
        if at_mark or before // training.log_every != after // training.log_every:
            self._log()
        if training.evaluate_every and before // training.evaluate_every != after // training.evaluate_every:
            evaluate(self.session)
        if at_mark:
            self.replays.flush()
            self.session.save(self.learner.parts(), {"actor_rows": self.replays.counts})
        return at_mark

    def _log(self) -> None:
        session, losses = self.session, self.learner.metrics()
        for name, value in losses.items():
            if not math.isfinite(value):
                session.diverged(f"{name} is {value}")
        ended, self.ended = self.ended, _Ended()
        values = {name: ended.mean(column) for column, name in enumerate(("return", "length", "success"))}
        seconds, counts = max(session.result().seconds, 1e-9), {f"actors_{name}": getattr(self.hub.counts, name) for name in _SPEEDS}
        speeds = {"env_steps_per_s": round((session.step - session.first) / seconds, 1), "updates_per_s": round(self.learner.updates / seconds, 1)}
        numbers = {"updates": self.learner.due(session.step), "replay": self.replays.size, "received": self.replays.total, "present": len(self.hub.present)}
        session.record("train", **values, episodes=len(ended.rows), **losses, **numbers, **counts, **speeds)
        if values["return"] is not None:
            session.show(values["return"])

    def _resume(self, actors: int) -> None:
        """Bring rule and optimisers to the last mark; transitions that came after it stay."""
        facts = self.session.resume(self.learner.parts())
        if not facts:
            return
        rows = facts.get("actor_rows")
        if rows is None or len(rows) != actors:
            had = "in one process" if rows is None else f"with {len(rows)} actors"
            raise InputError(f"{self.session.folder.path}: this run was begun {had}; go on so, or begin anew with --fresh")
        self.replays.require_kept(rows)

    def _say(self, text: str) -> None:
        """Say a line of the hub's thread at once; the log gets it from the loop."""
        self.told(text)
        self.lines.put(text)


def _run_name(folder: Path) -> str:
    """Return the name of the run whose replays are in ``folder``: drawn once, so that actors never mix up two runs."""
    file = folder / "run.json"
    if not file.is_file():
        write_json(file, {"run": secrets.token_hex(8)})
    return str(read_json(file)["run"])


__all__ = ["Meeting", "experience_of", "layout_of", "learn", "require_asynchronous", "say", "tensors_of"]
