"""An actor: worlds (or a robot behind the same interface), the newest weights, and a spool for what the learner has not kept yet."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies import registry
from policies.normalize import limits_normalizer
from policies.spec import InputError, Spec
from robopolicy.algos.registry import rule_class
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training.actor_learner import Meeting, layout_of, require_asynchronous, say
from robopolicy.training.actor_learner_link import Link
from robopolicy.training.actor_learner_spool import Spool
from robopolicy.training.actor_learner_wire import CHUNK_S, CHUNK_STEPS, Arrays, stacked
from robopolicy.training.interrupt import Interrupts
from robopolicy.training.off_policy_actor import Actor, Experience
from robopolicy.training.trial_worlds import open_worlds

SPOOL_STEPS = 20_000  # control steps that may wait for a learner that is away
_IDLE_S = 0.01
_STATUS_S = 0.5


def act(
    recipe: TrialRecipe,
    meeting: Meeting,
    index: int,
    spool: Path | None = None,
    capacity: int = SPOOL_STEPS,
    told: Callable[[str], None] = say,
    fresh: bool = False,
) -> int:
    """Act until the learner says that the run is over; returns the control steps of this call.

    While the learner is silent acting goes on with the last weights, up to ``capacity`` control steps that wait in the spool.

    Args:
        recipe: The learner's.
        meeting: Address of the learner, number of actors, keys.
        index: Which actor this is, from 0.
        spool: Folder; None: beside the run's, ``OUTPUT-actors/NNN``.
        capacity: Control steps that may wait there.
        told: Told, in one line, when the learner has gone or come.
        fresh: Give up what waits in the spool for another run.

    Raises:
        InputError: recipe, address, keys or spool cannot be used, or the learner refuses this actor.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; what waits in the spool is sent the next time.
    """
    require_asynchronous(recipe)
    if not 0 <= index < meeting.actors:
        raise InputError(f"actor {index}: expected 0 to {meeting.actors - 1}; give actors and learner the same --actors")
    training: Any = recipe.training
    torch.set_num_threads(1)
    with contextlib.closing(open_worlds(recipe, training.worlds)) as env:
        policy, explore = _explorer(recipe, env.spec)
        layout = layout_of(recipe, env.spec, policy, meeting.actors)
        folder = spool or Path(f"{recipe.filled(recipe.output)}-actors") / f"{index:03d}"
        waiting = Spool(folder, capacity, layout.limits(), fresh)

        def named(text: str) -> None:
            told(f"actor {index}: {text}")

        link = Link(meeting.address, index, layout, waiting, meeting.keys, named)
        stopping = Interrupts(lambda: named("stopping; what waits in the spool is sent the next time"))
        with contextlib.closing(link), stopping as interrupts:
            link.wait_for_welcome(lambda: interrupts.asked)
            if interrupts.asked:
                raise KeyboardInterrupt
            actor = Actor(env, explore, policy.normalizer, recipe.seed, training.random_steps // meeting.actors, stream=index)
            actor.begin(waiting.next or 0)
            return _Acting(actor, policy, link, waiting, training.worlds, folder / "status.json", index).run(interrupts)


def _explorer(recipe: TrialRecipe, spec: Spec) -> tuple[Any, Any]:
    """Return a policy whose weights come from the learner, and the rule's way to explore with it."""
    kind = registry.policy_class(recipe.policy_type)
    policy = registry.create(recipe.policy_type, recipe.policy, kind.observed(recipe.policy, spec), _normalizer(recipe, spec))
    rule: Any = rule_class(recipe.algo_type)
    return policy.train(), rule(recipe.algo, spec, policy).explore


def _normalizer(recipe: TrialRecipe, spec: Spec) -> Any:
    """Return a normaliser of the form that the learner's has; its numbers come with the weights."""
    from robopolicy.training.fine_tune import load_initial

    initial = load_initial(recipe)
    return limits_normalizer(spec) if initial is None else initial.normalizer


class _Acting:
    """The loop of one actor."""

    def __init__(self, actor: Actor, policy: Any, link: Link, spool: Spool, worlds: int, status: Path, index: int) -> None:
        self.actor, self.policy, self.link, self.spool, self.worlds = actor, policy, link, spool, worlds
        self.status, self.index = status, index
        self.rows: list[Arrays] = []
        self.anew, self.began, self.first, self.version, self.told_at = True, actor.steps, 0.0, 0, 0.0
        self._tensors = {**dict(policy.named_parameters()), **dict(policy.named_buffers())}

    def run(self, interrupts: Interrupts) -> int:
        """Act until the run is over."""
        while not self.link.heard.done:
            self.link.check()
            self._refresh()
            self._report()
            if interrupts.asked:
                self._flush()
                raise KeyboardInterrupt
            if not self._may_go_on():
                self._flush()
                time.sleep(_IDLE_S)
                continue
            if not self.rows:
                self.first = time.monotonic()
            self.rows.append(row_of(self.actor.step()))
            if len(self.rows) == CHUNK_STEPS or time.monotonic() - self.first > CHUNK_S:
                self._flush()
        self.link.forget()
        self._report(now=True)
        return self.actor.steps - self.began

    def _may_go_on(self) -> bool:
        """Whether another control step is wanted: not further ahead than the learner allows, nor more than the spool holds."""
        waiting = self.link.waiting_steps + len(self.rows)
        if waiting >= self.spool.capacity:
            return False
        heard = self.link.heard
        return not self.link.connected or heard.total + waiting * self.worlds < heard.allowed

    def _flush(self) -> None:
        if self.rows:
            episodes = [number for e in self.actor.finished() for number in (e.return_, e.length, e.success)]
            self.link.put(stacked(list(self.rows)), self.anew, episodes)
            self.rows, self.anew = [], False

    def _refresh(self) -> None:
        """Take over the newest weights."""
        newest = self.link.weights()
        if newest is not None:
            self.version = newest[0]
            with torch.no_grad():
                for name, array in newest[1].items():
                    self._tensors[name].copy_(torch.from_numpy(array))

    def _report(self, now: bool = False) -> None:
        """Write the status, for people and programs."""
        if not now and time.monotonic() - self.told_at < _STATUS_S:
            return
        self.told_at, heard = time.monotonic(), self.link.heard
        learner = "done" if heard.done else "connected" if self.link.connected else "silent"
        numbers = {"control_steps": self.actor.steps, "waiting": self.link.waiting_steps, "weights": self.version, "silences": heard.silences}
        part = self.status.with_suffix(".tmp")
        part.write_text(json.dumps({"actor": self.index, "process": os.getpid(), "learner": learner, **numbers}) + "\n", encoding="utf-8")
        part.replace(self.status)


def row_of(e: Experience) -> Arrays:
    """Return one control step as it crosses, copies: name -> (N, *shape)."""
    sides = {f"{side}/{name}": array for side, values in (("obs", e.obs), ("next", e.next_obs)) for name, array in values.items()}
    out = {name: np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32) for name, array in sides.items()}
    out |= {"action": np.array(e.action, np.float32), "reward": np.array(e.reward, np.float32)}
    return out | {"terminated": np.array(e.terminated, bool), "truncated": np.array(e.truncated, bool)}
