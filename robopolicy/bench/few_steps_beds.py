"""Where ways to act are compared: the oracle bed, the two-route toy and one Meta-World task. Each trains and measures.

All policies of a bed share its data, chunk, number of updates, learning rate and, where they have the perceptron, its
size; a policy keeps its own defaults in everything that is its own.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robopolicy.bench.few_steps import Way

if TYPE_CHECKING:
    from policies.base import Policy
    from robopolicy.bench.oracle_bed import Truth
    from robopolicy.recipe import Recipe


@dataclass(frozen=True)
class Measured:
    """What came out of one way at one number of calls.

    Attributes:
        calls: Network calls a plan, as counted.
        values: One figure for each observation or episode, in an order that all ways share: they can be paired.
        also: Other numbers, by name.
    """

    calls: float
    values: list[float]
    also: dict[str, float]


@dataclass(frozen=True)
class Bed(abc.ABC):
    """A task with its training.

    Attributes:
        name: Of its folder.
        updates: Of every policy.
        quick: Whether everything is cut down to see that it runs.
    """

    name: str
    updates: int
    quick: bool = False
    title: str = ""
    quantity: str = "success"
    better: Literal["higher", "lower"] = "higher"
    balanced: bool = False  # whether both ways round must be taken

    @abc.abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make the data in ``folder``, unless it is there."""

    @abc.abstractmethod
    def base(self, policy: str, folder: Path) -> dict[str, Any]:
        """Return the recipe of ``policy`` as a mapping, without an output."""

    @abc.abstractmethod
    def measure(self, policy: Policy) -> Measured:
        """Let ``policy`` act."""

    @property
    @abc.abstractmethod
    def about(self) -> str:
        """How the figures come about, in one line."""

    def recipe(self, policy: str, train: Mapping[str, Any], folder: Path) -> Recipe:
        """Return the recipe of a policy with more keys ``train`` for it; its folder is named after all that shapes it."""
        from robopolicy.recipe import recipe_from_dict

        values = self.base(policy, folder)
        values["policy"] = {**values["policy"], **train}
        training = values.setdefault("training", {})
        training |= {"steps": self.updates, "checkpoint_every": min(1000, self.updates), "keep_checkpoints": 1}
        if self.quick:
            training["optimizer"] = {**training.get("optimizer", {}), "warmup_steps": 5}
        recipe = recipe_from_dict(values, f"benchmark: {self.name}")
        digest = hashlib.sha256(json.dumps(recipe.to_dict(), sort_keys=True).encode()).hexdigest()[:8]
        return recipe.model_copy(update={"output": str(folder / "runs" / f"{policy}-{digest}")})

    def training(self, way: Way, folder: Path) -> Recipe:
        """Return the recipe that ``way`` is trained with; a student names its teacher's checkpoint."""
        train = dict(way.train)
        if way.teacher is not None:
            from robopolicy.training.run_folder import RunFolder

            teacher = self.recipe(way.teacher, {}, folder)
            train["teacher"] = str(RunFolder(teacher.output).checkpoint(self.updates))
        return self.recipe(way.policy, train, folder)


@dataclass(frozen=True)
class OracleBed(Bed):
    """Samples against those of a mixture that is known (``robopolicy.bench.oracle_bed``).

    Attributes:
        observations: That distances are averaged over.
        samples: For each.
        frames: Of training data.
        control_steps: Plans of a method that begins with the last one, before it is measured.
    """

    observations: int = 16
    samples: int = 512
    frames: int = 20_000
    control_steps: int = 10

    def prepare(self, folder: Path) -> None:
        """See base class."""
        from robopolicy.bench.oracle_bed import write_samples

        write_samples(folder / "data", self.frames)

    def base(self, policy: str, folder: Path) -> dict[str, Any]:
        """See base class."""
        one = {"n_obs_steps": 1, "horizon": 1, "n_action_steps": 1}
        training = {"batch_size": 256, "optimizer": {"lr": 2e-3, "warmup_steps": 100}}
        own = _known(policy, {**one, "backbone": "mlp", "mlp": {"width": 128, "blocks": 2}})
        return {"task": "oracle-mixture", "data": {"path": str(folder / "data")}, "policy": {"type": policy, **own}, "training": training}

    def measure(self, policy: Policy) -> Measured:
        """See base class: the distance for every observation, and the mass in wrong modes."""
        from robopolicy.bench.oracle_bed import ask

        truth = self.truth()
        samples, calls = ask(policy, truth, self.control_steps if policy.initial_state(1) else 1)
        return Measured(calls, truth.distances(samples).tolist(), {"mass error": float(truth.mass_errors(samples).mean())})

    def truth(self, seed: int = 1) -> Truth:
        """Return observations and exact samples; another seed gives other samples."""
        from robopolicy.bench.oracle_bed import Truth

        return Truth.make(self.observations, self.samples, seed)

    @functools.cached_property
    def floor(self) -> Measured:
        """The distance between two sets of exact samples, and the mass error of one."""
        other = self.truth(seed=2).samples
        return Measured(0.0, self.truth().distances(other).tolist(), {"mass error": float(self.truth().mass_errors(other).mean())})

    @property
    def about(self) -> str:
        """See base class."""
        return (
            f"1-Wasserstein distance (exact assignment) of {self.samples} samples to as many exact ones, mean over {self.observations} observations with its "
            f"t-interval; the grey line is the distance between two exact sets. {self.updates} updates, one training seed."
        )


@dataclass(frozen=True)
class TaskBed(Bed):
    """Success on a simulated task, trained with one of the installed recipes.

    Attributes:
        source: Recipe.
        task: Registered task.
        demonstrations: Of the scripted expert.
        episodes: On report seeds.
        limit: Control steps of an episode, None: the recipe's.
    """

    source: str = ""
    task: str = ""
    demonstrations: int = 0
    episodes: int = 0
    limit: int | None = None

    def prepare(self, folder: Path) -> None:
        """See base class."""
        from robopolicy.data.collect import collect

        collect(self.task, folder / "data", self.demonstrations, workers=1 if self.quick else 2, progress=False)

    def base(self, policy: str, folder: Path) -> dict[str, Any]:
        """See base class."""
        from robopolicy.recipe import load_recipe

        own = [f"task={self.task}", f"policy={policy}", f"data.path={folder}/data", "data.collect=null", f"data.episodes={self.demonstrations}"]
        return load_recipe(self.source, own, note=lambda text: None).to_dict()

    def measure(self, policy: Policy) -> Measured:
        """See base class: the outcome of every episode, and where there are routes, the left one's share of those taken."""
        from robopolicy.evaluation.rollout import evaluate
        from robopolicy.recipe import load_recipe

        env = load_recipe(self.source, [f"task={self.task}"], note=lambda text: None).env.model_dump(exclude_none=True)
        env |= {} if self.limit is None else {"max_episode_steps": self.limit}
        out = evaluate(policy, self.task, episodes=self.episodes, block=min(100, self.episodes), env=env, latency_calls=0, progress=False)
        also = {}
        if self.balanced:
            sides = [e.info["route"] for e in out.episodes if e.info["route"]]
            also = {"left share": sides.count(-1.0) / len(sides)} if sides else {}
        return Measured(out.network_calls_per_chunk, [float(e.success) for e in out.episodes], also)

    @property
    def about(self) -> str:
        """See base class."""
        how = f"{self.demonstrations} demonstrations, {self.updates} updates, one training seed"
        return f"Share of {self.episodes} episodes on report seeds with its Wilson interval; {how}."


def _known(policy: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``values`` that the config of ``policy`` has: not all policies have the perceptron."""
    from policies.registry import config_class

    return {k: v for k, v in values.items() if k in config_class(policy).model_fields}


def toys(quick: bool) -> tuple[OracleBed, TaskBed]:
    """Return the oracle bed and the two-route toy."""
    oracle = OracleBed("oracle", 3000, title="Oracle mixture", quantity="W1", better="lower")
    routes = TaskBed("two-route", 2000, title="Two routes", balanced=True, source="two_route", task="two-route", demonstrations=200, episodes=200)
    if not quick:
        return oracle, routes
    return (
        replace(oracle, updates=60, quick=True, observations=4, samples=64, frames=2000),
        replace(routes, updates=60, quick=True, demonstrations=20, episodes=20, limit=40),
    )


def metaworld(quick: bool) -> TaskBed:
    """Return the Meta-World task."""
    task = "metaworld/peg-insert-side"
    bed = TaskBed("peg-insert-side", 3000, title="Meta-World peg-insert-side", source="metaworld", task=task, demonstrations=10, episodes=100)
    return replace(bed, updates=30, quick=True, demonstrations=2, episodes=4, limit=30) if quick else bed
