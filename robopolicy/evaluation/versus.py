"""One policy, and others against it, on the same task and the same initial states: what ``robopolicy eval`` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.realtime.registry import parse
from policies.spec import InputError
from robopolicy.conditioning import require_task_set
from robopolicy.config import validate
from robopolicy.evaluation import composition
from robopolicy.evaluation.composition import Composition, Trial
from robopolicy.evaluation.records import DECIDING, FILE, Evaluation, compare_evaluations, world_of
from robopolicy.evaluation.rollout import evaluate, require_fit
from robopolicy.evaluation.seeds import Purpose
from robopolicy.evaluation.subject import EXPERT, Defaults, read_defaults
from robopolicy.execution import joined_name, load_policy, policy_name
from robopolicy.recipe import EvaluationConfig

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster


@dataclass(frozen=True)
class Entrant:
    """One side: a checkpoint (or the expert) with the world that it sees, or an evaluation that exists already.

    Attributes:
        name: Checkpoint, several composed, or ``expert``.
        env: Options of ``sim.registry.make``.
        made: The evaluation that exists.
        method: How it is executed, see ``robopolicy.execution``; None: as the checkpoint says.
        weights: Their number format, see ``policies.inference``; None: as trained.
    """

    name: str | Composition
    env: Mapping[str, Any]
    made: Evaluation | None = None
    method: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Contest:
    """Everything that is settled before the first episode runs.

    Attributes:
        task: Registered name.
        entrants: The first is the one that the others are compared with.
        config: Episodes, block, workers, threads, seed, videos.
        purpose: Which seeds.
        out: Folder for records and the ledger.
        cluster: Where episodes run; None: in processes here.
    """

    task: str
    entrants: Sequence[Entrant]
    config: EvaluationConfig
    purpose: Purpose
    out: Path
    cluster: Cluster | None = None


def prepare(
    names: Sequence[str | Composition],
    task: str | None,
    given: Mapping[str, int],
    purpose: Purpose,
    out: Path | None,
    method: str | None = None,
    weights: str | None = None,
    randomize: Mapping[str, Any] | None = None,
    engine: str | None = None,
    perturb: Sequence[str] = (),
) -> Contest:
    """Find checkpoints, task and settings, and refuse now what would be refused after an hour.

    All are run in the world of the first checkpoint (time limit, engine, reward, what is randomised), each seeing what it was trained to
    see: in worlds of their own they could not be paired.

    Args:
        names: Checkpoints, runs, compositions or ``expert``; all but the first may be an earlier evaluation.
        task: As a person gives it; None: that of the first checkpoint.
        given: Settings that override those of the first checkpoint's recipe.
        purpose: Which seeds.
        out: None: ``evaluations`` inside the run of the first checkpoint, or here.
        method: How the first is executed, see ``robopolicy.execution``; None: as its checkpoint says.
        weights: Number format of the first, see ``policies.inference``; None: as trained.
        randomize: What differs from episode to episode in the worlds of all, see ``sim.randomize``; None: as the first checkpoint's recipe says.
        engine: What steps the worlds of all; None: as the first checkpoint's recipe says.
        perturb: What is wrong in the worlds of all, see ``robopolicy.evaluation.perturb``.

    Raises:
        InputError: if a checkpoint or an evaluation cannot be read, the task is unknown, or a spec does not fit.
    """
    from sim.registry import resolve

    earlier = {name: Evaluation.load(Path(name)) for name in names[1:] if isinstance(name, str) and _is_evaluation(name)}
    found = {name: EXPERT if name == EXPERT else _find(name) for name in names if name not in earlier}
    defaults = {name: Defaults(None, {}, EvaluationConfig()) if folder == EXPERT else read_defaults(folder) for name, folder in found.items()}
    first = next((defaults[name] for name, folder in found.items() if folder != EXPERT), defaults[names[0]])  # the expert has no recipe
    wanted = task or next((d.task for d in defaults.values() if d.task), None)
    if wanted is None:
        raise InputError(f"{names[0]}: does not say which task it is for; give --task")
    name = resolve(wanted)
    config = validate(EvaluationConfig, {**first.evaluation.model_dump(), **given}, "robopolicy eval")
    limit = first.env.get("max_episode_steps") if first.task is None or name in require_task_set(first.task) else None
    if method is not None or weights is not None:
        _require(found[names[0]], method, weights)
    wrong = _perturbed(perturb, [folder for folder in found.values() if isinstance(folder, str) and folder != EXPERT])
    given_worlds = {**({} if randomize is None else {"randomize": dict(randomize) or None}), **({"engine": engine} if engine else {}), **wrong}
    world = {**{k: v for k, v in first.env.items() if k in DECIDING}, "max_episode_steps": limit, **given_worlds}
    entrants = []
    for number, each in enumerate(names):
        if isinstance(each, str) and each in earlier:
            entrants.append(Entrant(each, {}, earlier[each]))
            continue
        env = {**{k: v for k, v in defaults[each].env.items() if k not in DECIDING}, **world}
        require_fit(found[each], name, env)
        own = (method, weights) if number == 0 else (None, None)
        entrants.append(Entrant(found[each], env, None, *own))
    for each in entrants[1:]:
        if each.made is not None and world_of(each.made.task, "", None, each.made.env) != world_of(name, "", None, entrants[0].env):
            raise InputError(f"--compare {each.name}: is of {each.made.task}{f', {each.made.conditions}' if each.made.conditions else ''}: another world")
    return Contest(name, entrants, config, purpose, out or _default_out(found[names[0]]))


def perturbations(texts: Sequence[str], checkpoint: str) -> dict[str, Any]:
    """Return the option of ``env`` that ``--perturb`` asks for, for one checkpoint, run or ``expert``; empty without one. Raises InputError."""
    return _perturbed(texts, [] if checkpoint == EXPERT or not texts else [str(_find(checkpoint))])


def _perturbed(texts: Sequence[str], checkpoints: Sequence[str]) -> dict[str, Any]:
    """Return the option of ``env`` that perturbations are, with what a checkpoint knows of its data; empty without one."""
    from robopolicy.evaluation.perturb import read, with_scale

    return {"perturb": [p.to_dict() for p in with_scale(read(list(texts), "--perturb"), checkpoints)]} if texts else {}


def _require(checkpoint: str | Composition, method: str | None, weights: str | None) -> None:
    if checkpoint == EXPERT:
        asked = f"--method {method}" if method is not None else f"--weights {weights}"
        raise InputError(f"{asked}: the expert plans one action at a time, there is nothing to execute in another way")
    if isinstance(checkpoint, str):
        load_policy(checkpoint, method=method, weights=weights)
    elif weights is not None:
        raise InputError(f"--weights {weights}: goes with one CHECKPOINT, not with --compose")
    else:
        composition.load(checkpoint, method=method)


def _is_evaluation(name: str) -> bool:
    return (Path(name) / FILE).is_file() or (Path(name).name.endswith(".json") and Path(name).is_file())


def _find(name: str | Composition) -> str | Composition:
    if isinstance(name, Composition):
        composition.load(name)  # refused now if its parts do not go together
        return name
    from robopolicy.training.run_folder import find_checkpoint

    if _is_evaluation(name):
        raise InputError(f"{name}: this is an evaluation that was made already; give a checkpoint, and this behind --compare")
    return str(find_checkpoint(name))


def _default_out(checkpoint: str | Composition) -> Path:
    if isinstance(checkpoint, Composition):
        return Path("evaluations")
    run = Path(checkpoint).resolve().parent.parent
    return run / "evaluations" if checkpoint != EXPERT and (run / "recipe.yaml").is_file() else Path("evaluations")


def hold(contest: Contest, device: str, progress: bool) -> list[Evaluation]:
    """Evaluate every entrant in turn; all are in the ledger when this returns.

    Raises:
        InputError: as :func:`robopolicy.evaluation.rollout.evaluate`.
        robopolicy.evaluation.workers.WorkerCrash: likewise.
    """
    out: list[Evaluation] = []
    for entrant, label in zip(contest.entrants, labels(contest.entrants), strict=True):
        if entrant.made is not None:
            if out:
                compare_evaluations(out[0], entrant.made)  # refuse one that cannot be paired before the next hour
            out.append(entrant.made)
        else:
            out.append(_evaluate(contest, entrant, label, contest.purpose, device, progress))
    return out


def choose_weights(contest: Contest, device: str, progress: bool) -> tuple[Contest, list[Trial]]:
    """Choose the weights of the first entrant on selection seeds; return the contest with them, and every trial.

    Raises:
        InputError: if the first entrant is no composition; as :func:`robopolicy.evaluation.rollout.evaluate`.
        robopolicy.evaluation.workers.WorkerCrash: likewise.
    """
    first = contest.entrants[0]
    if isinstance(first.name, str):
        raise InputError(f"{first.name}: has no weights to choose; give the parts with --compose")

    def run(candidate: Composition) -> Evaluation:
        entrant = dataclasses.replace(first, name=candidate)
        return _evaluate(contest, entrant, _type_of(candidate, first.method), Purpose.SELECTION, device, progress, brief=True)

    chosen, trials = composition.choose(first.name, run)
    return dataclasses.replace(contest, entrants=[dataclasses.replace(first, name=chosen), *contest.entrants[1:]]), trials


def _evaluate(contest: Contest, entrant: Entrant, label: str, purpose: Purpose, device: str, progress: bool, brief: bool = False) -> Evaluation:
    config = contest.config
    return evaluate(
        entrant.name,
        contest.task,
        episodes=config.episodes,
        seed0=int(purpose) + config.seed,
        block=config.block,
        workers=config.workers,
        threads=config.threads,
        env=entrant.env,
        noise_seed=config.seed,
        device=device,
        latency_calls=0 if brief else 50,
        videos=0 if brief else config.videos,
        out=contest.out,
        label=label,
        progress=progress,
        method=entrant.method,
        weights=entrant.weights,
        cluster=contest.cluster,
    )


def labels(entrants: Sequence[Entrant]) -> list[str]:
    """Name entrants by policy type, and by run, step or folder where others of this type stand beside them; the expert is one wherever it is called."""
    types = [e.made.label if e.made is not None else _type_of(e.name, e.method) + (f" {e.weights}" if e.weights else "") for e in entrants]
    folders = [Path(e.name if isinstance(e.name, str) else e.name.checkpoints[0]) for e in entrants]
    runs = [folder.resolve().parent.parent.name for folder in folders]
    steps = [folder.name for folder in folders]
    out = []
    for i, kind in enumerate(types):
        twins = [j for j, other in enumerate(types) if other == kind and folders[j].resolve() != folders[i].resolve()]
        if not twins or entrants[i].made is not None or entrants[i].name == EXPERT:
            out.append(kind)
        elif all(runs[j] != runs[i] for j in twins):
            out.append(f"{kind} ({runs[i]})")
        elif any((runs[j], steps[j]) == (runs[i], steps[i]) and folders[j] != folders[i] for j in twins):
            out.append(f"{kind} ({folders[i]})")
        else:
            out.append(f"{kind} ({runs[i]} {steps[i]})")
    return out


def _type_of(name: str | Composition, method: str | None) -> str:
    if isinstance(name, Composition):
        return joined_name(name.label, None if method is None else parse(method))
    return EXPERT if name == EXPERT else policy_name(name, method)


def as_json(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return evaluations and the paired comparisons of the first with each other one, JSON-ready."""
    first = evaluations[0]
    pairs = [{"first": first.label, "second": other.label, **dataclasses.asdict(compare_evaluations(first, other))} for other in evaluations[1:]]
    return {"evaluations": [{**e.to_dict(), "folder": None if e.folder is None else str(e.folder)} for e in evaluations], "comparisons": pairs}
