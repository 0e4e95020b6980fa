"""What an evaluation leaves behind: one record per episode, how they were made, and what follows from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation.statistics import Paired, compare, wilson

FORMAT = 1
FILE = "evaluation.json"
#: Options of a world that decide what happens in it; the others say what a policy is shown of it.
DECIDING = ("randomize", "engine", "reward", "perturb")


@dataclass(frozen=True)
class Episode:
    """One episode; nothing in it depends on time, so equal settings give equal records.

    Attributes:
        index: Position i in the evaluation: row i mod B of block i div B.
        seed: What the world was reset with.
        success: Whether success was reached at any step.
        return_: Sum of rewards until the end.
        length: Control steps until success, termination or the time limit.
        score: Largest ``info["score"]`` of the episode, None where the task has none.
        network_calls: Evaluations of the network in the whole episode, for this row.
        chunks: Plans that were asked for.
        info: Every other number of the environment's ``info`` at the last step, e.g. ``collision``, ``route``.
    """

    index: int
    seed: int
    success: bool
    return_: float
    length: int
    score: float | None
    network_calls: float
    chunks: int
    info: dict[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Sort key, worst first: failures by score, then successes by speed; return where these are equal."""
        return self.success, -float(self.length) if self.success else self.score or 0.0, self.return_


@dataclass
class Evaluation:
    """Episodes of one policy on one task, with everything that is needed to make them again.

    Attributes:
        label: Name for tables, e.g. the policy's type.
        policy: Policy type, with the method of execution behind a plus sign (``diffusion+rti``), or ``expert``.
        checkpoint: Folder it was read from, None for the expert and for a policy in memory.
        checkpoint_hash: 16 hex digits, see ``policies.checkpoint.fingerprint``; None without a checkpoint.
        task: Registered name.
        suite_version: What defines the task beyond its name.
        purpose: ``selection`` or ``report``, see ``robopolicy.evaluation.seeds``.
        seed0: Seed of episode 0; episode i has ``seed0 + i``.
        noise_seed: Key of the policy's own noise.
        block: B.
        workers: Processes that ran; changes nothing in the records.
        threads: Torch threads a process.
        device: Where the policy ran.
        env: Options of ``sim.registry.make``.
        max_episode_steps: Time limit, control steps.
        rate_hz: Control rate of the world.
        horizon: Tp, 0 for the expert.
        n_action_steps: Ta, 1 for the expert.
        episodes: One record each, by index.
        latency_ms: Durations of single calls at batch 1, ms; empty for the expert or when not measured.
        seconds: Wall time of the episodes.
        time: When it ended, ISO 8601, UTC.
        machine: See :func:`robopolicy.evaluation.ledger.machine`.
        packages: name -> version.
        training: Seed, steps and the like of the checkpoint's recipe, for tables.
        videos: ``{file, kind (best or worst), index, seed, success}``, files relative to the evaluation's folder.
        execution: Method of execution as text, e.g. ``rti:level=15,steps=3``; None without one.
        weights: Number format of the weights (``policies.inference``); None: as trained.
        composition: Rule, parts with their hashes and weights, and how these were chosen; None for a single policy.
        notes: Lines for people, e.g. why there are no videos.
        success: When an episode counts as solved, as the task's entry says; empty where it does not.
        set_name: The set of evaluations that it is part of, e.g. ``metaworld50``; None: of none.
        chosen: ``{what, seed0, episodes, trials}`` of everything of the policy that was chosen by evaluating, e.g. weights.
        folder: Where it was written to or read from; not part of the record.
        own_label: What ``label`` was before a report told it apart from others; not part of the record.
    """

    label: str
    policy: str
    checkpoint: str | None
    checkpoint_hash: str | None
    task: str
    suite_version: str
    purpose: str
    seed0: int
    noise_seed: int
    block: int
    workers: int
    threads: int
    device: str
    env: dict[str, Any]
    max_episode_steps: int
    rate_hz: float
    horizon: int
    n_action_steps: int
    episodes: list[Episode]
    latency_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    time: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    videos: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    execution: str | None = None
    weights: str | None = None
    composition: dict[str, Any] | None = None
    success: str = ""
    set_name: str | None = None
    chosen: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = field(default=None, compare=False, repr=False)
    own_label: str = field(default="", compare=False, repr=False)

    @property
    def successes(self) -> int:
        """Number of episodes that reached success."""
        return sum(e.success for e in self.episodes)

    @property
    def success_rate(self) -> float:
        """Share of episodes that reached success."""
        return self.successes / len(self.episodes)

    @property
    def world(self) -> str:
        """What must be equal in two evaluations that are paired, besides the seeds: JSON."""
        return world_of(self.task, self.suite_version, self.max_episode_steps, self.env)

    @property
    def conditions(self) -> str:
        """What is not as usual in its worlds, for people, e.g. ``noise 0.02, engine bullet``; empty where all is."""
        said = [f"{p.get('kind')} {p.get('size', 0):g}" for p in self.env.get("perturb") or ()]
        said += [f"engine {self.env['engine']}"] if self.env.get("engine") not in (None, "mujoco") else []
        said += [f"reward {self.env['reward']}"] if self.env.get("reward") else []
        drawn = self.env.get("randomize")
        return ", ".join([*said, *([f"randomized {hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:4]}"] if drawn else [])])

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of the success rate, 95 %."""
        return wilson(self.successes, len(self.episodes))

    @property
    def score(self) -> float | None:
        """Mean score, None where the task has none."""
        scores = [e.score for e in self.episodes if e.score is not None]
        return float(np.mean(scores)) if scores else None

    @property
    def network_calls_per_chunk(self) -> float:
        """Network evaluations per plan, over all episodes."""
        return sum(e.network_calls for e in self.episodes) / max(1, sum(e.chunks for e in self.episodes))

    @property
    def network_calls_per_step(self) -> float:
        """Network evaluations per control step, over all episodes."""
        return sum(e.network_calls for e in self.episodes) / max(1, sum(e.length for e in self.episodes))

    @property
    def ms_per_chunk(self) -> float | None:
        """Median duration of one call at batch 1, ms; None when not measured."""
        return float(np.median(self.latency_ms)) if self.latency_ms else None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping with the records and what follows from them; :meth:`from_dict` inverts it."""
        low, high = self.interval
        summary = {
            "successes": self.successes,
            "success_rate": self.success_rate,
            "wilson95": [low, high],
            "score": self.score,
            "network_calls_per_chunk": self.network_calls_per_chunk,
            "network_calls_per_step": self.network_calls_per_step,
            "ms_per_chunk": self.ms_per_chunk,
        }
        body = dataclasses.asdict(self)
        del body["folder"], body["own_label"]
        return {"format": FORMAT, "summary": summary, **body}

    @classmethod
    def from_dict(cls, value: dict[str, Any], source: str = "evaluation") -> Evaluation:
        """Build an evaluation from :meth:`to_dict`'s mapping. Raises InputError naming ``source`` if it is not one."""
        try:
            if value["format"] != FORMAT:
                raise InputError(f"{source}: format {value['format']!r} of an evaluation is unknown, expected {FORMAT}")
            body = {k: v for k, v in value.items() if k not in ("format", "summary")}
            out = cls(**{**body, "episodes": [Episode(**e) for e in body["episodes"]]})
        except (KeyError, TypeError) as error:
            raise InputError(f"{source}: not an evaluation: {type(error).__name__}: {error}") from error
        if not out.episodes:
            raise InputError(f"{source}: an evaluation without episodes")
        return out

    def save(self, folder: Path) -> Path:
        """Write ``evaluation.json`` into ``folder`` atomically and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / FILE
        fresh = file.with_suffix(".json.new")
        with fresh.open("w", encoding="utf-8") as stream:
            json.dump(self.to_dict(), stream, indent=1, allow_nan=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
        return file

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read an ``evaluation.json``, or the one in a folder. Raises InputError naming the file if it cannot be used."""
        file = path / FILE if path.is_dir() else path
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read as an evaluation: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"{file}: not an evaluation: expected a mapping, found {type(value).__name__}")
        out = cls.from_dict(value, str(file))
        out.folder = file.parent
        return out


def world_of(task: str, suite_version: str, max_episode_steps: int | None, env: Mapping[str, Any]) -> str:
    """Return what makes two evaluations ones of the same world, as JSON; how its options are spelt does not matter."""
    defaults = (None, {}, [], "", "mujoco")
    deciding = {key: env[key] for key in DECIDING if env.get(key) not in defaults}
    return json.dumps([task, suite_version, max_episode_steps, deciding], sort_keys=True)


def _said(e: Evaluation) -> str:
    """Return the world and the states of an evaluation, for people."""
    own = f", {e.conditions}" if e.conditions else ""
    return f"{e.task} ({e.suite_version}, {e.max_episode_steps} steps{own}, seeds from {e.seed0})"


def comparable(first: Evaluation, second: Evaluation) -> bool:
    """Return whether two evaluations share task, world and initial states, so that a paired test means something."""
    return first.world == second.world and bool({e.seed for e in first.episodes} & {e.seed for e in second.episodes})


def compare_evaluations(first: Evaluation, second: Evaluation) -> Paired:
    """Compare two evaluations on the initial states that both hold, by seed.

    Raises:
        InputError: if they share no state or differ in task, suite version, time limit or what happens in their worlds.
    """
    if not comparable(first, second):
        sides = [_said(e) for e in (first, second)]
        raise InputError(f"{first.label} and {second.label} cannot be paired: {sides[0]} against {sides[1]}")
    outcomes = {e.seed: e.success for e in second.episodes}
    pairs: Sequence[tuple[bool, bool]] = [(e.success, outcomes[e.seed]) for e in first.episodes if e.seed in outcomes]
    return compare([a for a, _ in pairs], [b for _, b in pairs])
