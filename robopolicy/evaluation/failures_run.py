"""Rare failures of a policy on a task: the pool of seeds, resumable rollouts, the worst of them on film, and the ledger's row.

::

    FOLDER/settings.json    what the numbers depend on; a folder with other settings is refused
    FOLDER/features.npy     what the resets of the pool showed, (M, d)
    FOLDER/rollouts.jsonl   one line for every block of episodes, written when the block is done
    FOLDER/actions/         of the episodes that failed, for their videos
    FOLDER/failures.json    the estimate, every rollout with its weight, the worst seeds

Rounds are functions of the settings and of the rollouts before, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.data.atomic import read_json, write_bytes, write_json
from robopolicy.evaluation import ledger, seeds, videos
from robopolicy.evaluation.blocks import BlockResult, split
from robopolicy.evaluation.failures import Design, Experience, FailureRate, Outcomes, estimate_failure_rate
from robopolicy.evaluation.records import Episode, Evaluation
from robopolicy.evaluation.rollout import describe, episode_bar, make_world, require_fit
from robopolicy.evaluation.subject import Subject, take
from robopolicy.evaluation.workers import Job, run
from sim.env import BatchEnv

FILE = "failures.json"
MODE = "failures"  # of its rows in the ledger: counts of seeds that were chosen are no success rate
_WORST = 20


@dataclass(frozen=True)
class Search:
    """What is looked for, and where; everything that the result depends on, and ``workers``.

    Attributes:
        policy: Checkpoint or ``expert``.
        task: Registered name.
        design: How rollouts are spent.
        pool: M, consecutive seeds from ``seed0`` on.
        seed0: First seed; all must lie in one range of ``robopolicy.evaluation.seeds``.
        block: B, worlds and rows at once.
        threads: Torch threads of a worker.
        noise_seed: Key of the policy's noise.
        env: Options of ``sim.registry.make``.
        method: How the policy is executed; None: as its checkpoint says.
        weights: Number format of its weights; None: as trained.
        device: Where it runs.
        workers: Processes; changes nothing in the result.
        learn_from: Evaluations of other policies on the task, an earlier checkpoint's say, from which the predictor learns, too.
    """

    policy: str
    task: str
    design: Design
    pool: int
    seed0: int = seeds.REPORT
    block: int = 50
    threads: int = 1
    noise_seed: int = 0
    env: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    weights: str | None = None
    device: str = "cpu"
    workers: int = 1
    learn_from: Sequence[Evaluation] = ()


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        estimate: The failure rate.
        episodes: Rollouts in the order of ``estimate.places``.
        worst: Failures, worst first: ``{seed, score, length, weight, video}``.
        notes: Lines for people.
        folder: Where it is written.
    """

    estimate: FailureRate
    episodes: Sequence[Episode]
    worst: Sequence[dict[str, Any]]
    notes: Sequence[str]
    folder: Path

    def to_dict(self, search: Search, about: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``failures.json`` and ``--json`` hold."""
        e = self.estimate
        rounds = [{"rollouts": len(r.places), "failures": int(r.failed.sum()), "estimate": r.estimate, "variance": r.variance} for r in e.rounds]
        rolled = [{**dataclasses.asdict(x), "weight": float(w)} for x, w in zip(self.episodes, e.weights, strict=True)]
        return {
            "format": 1,
            **about,
            "failure_rate": e.rate,
            "interval95": [e.low, e.high],
            "variance": e.variance,
            "pool_variance": e.pool_variance,
            "plain_rollouts": e.plain_rollouts,
            "rollouts": e.rollouts,
            "failures": e.failures,
            "pool": search.pool,
            "rounds": rounds,
            "worst": list(self.worst),
            "notes": list(self.notes),
            "episodes": rolled,
        }


def search_failures(search: Search, folder: Path, *, film: int = 0, label: str | None = None, progress: bool = True) -> Found:
    """Estimate how often a policy fails, from rollouts on the seeds where a failure is likelier.

    Args:
        search: What is looked for.
        folder: Where everything is written; the same command goes on in it.
        film: Videos of the worst failures.
        label: Name for tables; the policy's type if None.
        progress: Whether to draw bars.

    Raises:
        InputError: if policy and world do not fit, the folder holds another search, the pool is too small or leaves its range of seeds, or
            an evaluation to learn from is of another task or world.
        robopolicy.evaluation.workers.WorkerCrash: if a worker process failed or died.
    """
    search.design.require_pool(search.pool)  # before the folder is this search's
    purpose = seeds.purpose_of(search.seed0)
    pool = seeds.seeds(purpose, search.pool, search.seed0 - int(purpose))
    make_env = functools.partial(make_world, search.task, dict(search.env))
    require_fit(search.policy, search.task, search.env)
    with take(search.policy, search.device, search.workers, search.method, search.weights) as subject:
        record = _record(search, subject, make_env, purpose, label)
        ledger.require_separate(record.purpose, search.seed0, search.pool, record.chosen)
        _require_same_world(search, record)
        settings = _settings(search, record)
        _claim(folder, settings)
        rolling = _Rolling(search, subject, make_env, record, folder, progress, pool)
        features = _features(search, folder, pool, progress)
        estimate = estimate_failure_rate(search.design, features, rolling.roll, None, _experience(search, progress))
    record.episodes = rolling.in_order(estimate.places)
    worst, notes = _worst(folder, make_env, record, estimate, film)
    found = Found(estimate, record.episodes, worst, notes, folder)
    _write(found, search, record, settings)
    return found


def _record(search: Search, subject: Subject, make_env: functools.partial[BatchEnv], purpose: seeds.Purpose, label: str | None) -> Evaluation:
    """Return an evaluation without episodes: who, in which world, and how it is run."""
    with contextlib.closing(make_env(1)) as world:
        record = describe(subject, world, label)
    record.purpose, record.seed0, record.noise_seed = purpose.name.lower(), search.seed0, search.noise_seed
    record.block, record.workers, record.threads = min(search.block, min(search.design.sizes)), search.workers, search.threads
    record.device, record.env, record.weights = search.device, dict(search.env), search.weights
    record.chosen = [dict(one) for one in subject.chosen]
    return record


def _settings(search: Search, record: Evaluation) -> dict[str, Any]:
    """Return all that rollouts and estimate depend on, as it is compared and written."""
    own = {"checkpoint": record.checkpoint_hash or record.policy, "task": record.task, "suite_version": record.suite_version, "env": record.env}
    more = {"execution": record.execution, "weights": record.weights, "device": record.device, "threads": record.threads, "block": record.block}
    design = {"pool": search.pool, "seed0": search.seed0, "noise_seed": search.noise_seed, **dataclasses.asdict(search.design)}
    lessons = {"learn_from": [_identity(one) for one in search.learn_from]} if search.learn_from else {}  # folders from before have none
    packages = {f"packages.{name}": version for name, version in ledger.packages().items()}  # other physics are another pool
    return json.loads(json.dumps({**own, **more, **design, **lessons, **packages}))


def _identity(evaluation: Evaluation) -> str:
    """Return a hash of who was evaluated on which seeds, and what it came to."""
    who = evaluation.checkpoint_hash or evaluation.policy
    return hashlib.sha256(json.dumps([who, evaluation.world, [[e.seed, *_margins(e), e.success] for e in evaluation.episodes]]).encode()).hexdigest()[:16]


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder of another search; write the settings into a new one."""
    file = folder / "settings.json"
    if not file.is_file():
        try:
            write_json(file, dict(settings))
        except OSError as error:
            raise InputError(f"{folder}: a search cannot be begun here: {error.strerror or error}") from error
        return
    there = read_json(file)
    for key in dict.fromkeys((*settings, *there)):
        if there.get(key) != settings.get(key):
            raise InputError(f"{folder} holds a search with {key} {there.get(key)!r}, not {settings.get(key)!r}: give another folder by --out")


def _features(search: Search, folder: Path, pool: np.ndarray, progress: bool) -> np.ndarray:
    """Return what resets show (M, d) float64, from the file where they were made already.

    The state is looked at even where the policy sees images: nothing is drawn, and a state says more.
    """
    file = folder / "features.npy"
    if file.is_file():
        known = np.load(file, allow_pickle=False)
        if len(known) != len(pool):
            raise InputError(f"{file}: holds {len(known)} states, expected {len(pool)}, one for every seed of the pool; delete it")
        return known
    features = _first_states(search, pool, "resetting the pool", progress)
    part = folder / "features.part.npy"
    np.save(part, features)
    part.replace(file)
    return features


def _first_states(search: Search, chosen: np.ndarray, what: str, progress: bool) -> np.ndarray:
    """Return what resets to the seeds ``chosen`` (n,) show (n, d) float64."""
    from rich.progress import track

    env = {k: v for k, v in search.env.items() if k not in ("perturb", "condition", "image_size")} | {"observations": "state"}
    rows = []
    with contextlib.closing(make_world(search.task, env, search.block)) as world:
        for first in track(range(0, len(chosen), search.block), what, disable=not progress):
            some = chosen[first : first + search.block]
            seen = world.reset(np.concatenate([some, np.full(search.block - len(some), some[-1])]))
            rows.append(np.concatenate([seen[name].reshape(search.block, -1).astype(np.float64) for name in sorted(seen)], 1)[: len(some)])
    return np.concatenate(rows)


def _margins(episode: Episode) -> list[float]:
    return [episode.length, episode.return_, 0.0 if episode.score is None else episode.score]


def _require_same_world(search: Search, record: Evaluation) -> None:
    """Refuse evaluations to learn from that are of another world, before anything is written. Raises InputError."""
    for one in search.learn_from:
        if one.world != record.world:
            raise InputError(f"failures: evaluation {one.label!r} is of another world: expected {record.world}, found {one.world}")


def _experience(search: Search, progress: bool) -> Experience | None:
    """Return what other policies' evaluations teach, None without any."""
    if not search.learn_from:
        return None
    episodes = [e for one in search.learn_from for e in one.episodes]
    outcomes = Outcomes(np.array([not e.success for e in episodes]), np.array([_margins(e) for e in episodes], np.float64))
    return Experience(_first_states(search, np.array([e.seed for e in episodes], np.int64), "what is learnt from", progress), outcomes)


class _Rolling:
    """Rolls out seeds of the pool in blocks, each kept as soon as it is done."""

    def __init__(
        self, search: Search, subject: Subject, make_env: functools.partial[BatchEnv], record: Evaluation, folder: Path, progress: bool, pool: np.ndarray
    ) -> None:
        self.search, self.subject, self.make_env, self.record = search, subject, make_env, record
        self.folder, self.progress, self.pool, self.round = folder, progress, pool, 0
        file = folder / "rollouts.jsonl"
        self.kept = {tuple(line["seeds"]): [Episode(**e) for e in line["episodes"]] for line in (ledger.read(file) if file.is_file() else ())}
        self.by_seed: dict[int, Episode] = {}

    def roll(self, places: np.ndarray) -> Outcomes:
        """Return the outcomes of the seeds at ``places`` (n,)."""
        self.round += 1
        wanted = split(self.pool[places], self.record.block)
        missing = [(first, chosen) for first, chosen in wanted if tuple(chosen.tolist()) not in self.kept]
        job = Job(self.make_env, self.subject.make, self.record.block, self.record.threads, self.record.noise_seed, missing)
        episodes, name = sum(len(chosen) for _, chosen in missing), f"{self.record.label}, round {self.round} of {len(self.search.design.sizes)}"
        if missing:
            with episode_bar(name, episodes, self.record.max_episode_steps, self.progress) as told:
                run(job, self.search.workers, told, lambda number, result: self._keep(missing[number][1], result))
        rolled = [e for _, chosen in wanted for e in self.kept[tuple(chosen.tolist())]]
        self.by_seed.update({e.seed: e for e in rolled})
        return Outcomes(np.array([not e.success for e in rolled]), np.array([_margins(e) for e in rolled], np.float64))

    def in_order(self, places: np.ndarray) -> list[Episode]:
        """Return the rollouts at ``places`` (n,), numbered in this order."""
        return [dataclasses.replace(self.by_seed[int(seed)], index=i) for i, seed in enumerate(self.pool[places])]

    def _keep(self, chosen: np.ndarray, result: BlockResult) -> None:
        for episode, actions in zip(result.episodes, result.actions, strict=True):
            if not episode.success:
                _save_actions(_actions_file(self.folder, episode), actions)
        line = {"seeds": chosen.tolist(), "episodes": [dataclasses.asdict(e) for e in result.episodes]}
        ledger.append(self.folder / "rollouts.jsonl", line)
        self.kept[tuple(chosen.tolist())] = list(result.episodes)


def _actions_file(folder: Path, episode: Episode) -> Path:
    return folder / "actions" / f"{episode.seed}.f32"


def _save_actions(file: Path, actions: np.ndarray) -> None:
    write_bytes(file, np.ascontiguousarray(actions, np.float32).tobytes())


def _worst(folder: Path, make_env: functools.partial[BatchEnv], record: Evaluation, estimate: FailureRate, film: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the worst failures, with videos of the first ``film`` of them, and lines on what went otherwise than asked."""
    failed = sorted((e for e in record.episodes if not e.success), key=lambda e: e.rank)
    chosen = [("worst", dataclasses.replace(e, index=i)) for i, e in enumerate(failed[:film])]
    actions = [np.frombuffer(_actions_file(folder, e).read_bytes(), np.float32).reshape(e.length, -1) for _, e in chosen]
    entries, notes = videos.record(folder, make_env, chosen, actions, record.rate_hz) if chosen else ([], [])
    files = {entry["seed"]: entry["file"] for entry in entries}
    told = [
        {"seed": e.seed, "score": e.score, "length": e.length, "weight": float(estimate.weights[e.index]), "video": files.get(e.seed)} for e in failed[:_WORST]
    ]
    return told, notes


def _write(found: Found, search: Search, record: Evaluation, settings: Mapping[str, Any]) -> None:
    """Write ``failures.json``, and a row of the ledger unless this very estimate has one."""
    done, entered = found.folder / FILE, found.folder.parent / ledger.FILE
    record.time, record.machine, record.packages = ledger.now(), ledger.machine(), ledger.packages()
    about = {"label": record.label, "policy": record.policy, "checkpoint": record.checkpoint, "purpose": record.purpose, "settings": dict(settings)}
    written = found.to_dict(search, {**about, "time": record.time, "machine": record.machine, "packages": record.packages})
    write_json(done, written)
    own = ("failure_rate", "interval95", "plain_rollouts", "rollouts", "failures", "pool")
    this = {"mode": MODE, "results": f"{found.folder.name}/{FILE}", **{key: written[key] for key in own}}
    if entered.is_file() and any(all(row.get(key) == value for key, value in this.items()) for row in ledger.read(entered)):
        return
    plain = ("successes", "outcomes", "wilson95", "score", "return", "network_calls_per_chunk", "network_calls_per_step", "ms_per_chunk")
    row = {k: v for k, v in ledger.row(record, f"{found.folder.name}/{FILE}").items() if k not in plain}
    ledger.enter(entered, {**row, "episodes": search.pool, **this})
