"""``robopolicy compare``: two policies on the same initial states, over one task or many, and what the difference is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation import outcomes, paired
from robopolicy.evaluation.outcomes import Outcomes, Quantity
from robopolicy.evaluation.paired import Difference
from robopolicy.evaluation.records import DECIDING
from robopolicy.evaluation.seeds import Purpose
from robopolicy.evaluation.statistics import compare, holm
from robopolicy.evaluation.subject import EXPERT

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        first: Label of A.
        second: Label of B.
        quantity: What was compared.
        whole: Over all tasks.
        tasks: (task, difference, p-value adjusted by Holm for the number of tasks), in order.
        episodes: Difference -> paired episodes (over all tasks) that would tell it with a power of 80 %.
        notes: What a reader should know.
    """

    first: str
    second: str
    quantity: Quantity
    whole: Difference
    tasks: Sequence[tuple[str, Difference, float]]
    episodes: Mapping[float, int]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def significant(self) -> bool:
        """Whether the test of the whole is below 5 %."""
        return self.whole.p_value < LEVEL

    def sentence(self) -> str:
        """Return the result as one sentence."""
        w = self.whole
        where = self.tasks[0][0] if w.tasks == 1 else f"{w.tasks} tasks"
        states = f"on the same {w.n} initial states of {where}"
        if self.quantity == "success":
            amounts = f"{self.first} solves {w.first_mean:.1%} and {self.second} {w.second_mean:.1%} {states}"
            difference = f"a difference of {100 * w.difference:+.1f} points, 95% interval {100 * w.low:+.1f} to {100 * w.high:+.1f} ({w.interval})"
        else:
            amounts = f"{self.first} has a mean {self.quantity} of {w.first_mean:.4g} and {self.second} of {w.second_mean:.4g} {states}"
            difference = f"a difference of {w.difference:+.4g}, 95% interval {w.low:+.4g} to {w.high:+.4g} ({w.interval})"
        better = self.first if w.difference > 0 else self.second
        said = f"{better} is better" if self.significant else "no difference could be told"
        return f"{amounts}: {difference}; {w.test}, p = {w.p_value:.2g}: {said}."

    def hint(self) -> str:
        """Return how many episodes would tell what, one sentence; empty where nothing can be said."""
        said = [f"{n:,} for {f'{100 * d:.1f} points' if self.quantity == 'success' else f'{d:.4g}'}" for d, n in self.episodes.items()]
        return f"Paired episodes needed to tell a difference with 80% power, at this rate of disagreement: about {', '.join(said)}." if said else ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        tasks = [{"task": task, **dataclasses.asdict(d), "p_adjusted": p} for task, d, p in self.tasks]
        head = {"first": self.first, "second": self.second, "quantity": self.quantity, "sentence": self.sentence(), "significant": self.significant}
        needed = [{"difference": d, "episodes": n, "power": 0.8} for d, n in self.episodes.items()]
        return {**head, **dataclasses.asdict(self.whole), "by_task": tasks, "power": needed, "notes": list(self.notes)}


def judge(first: Sequence[Outcomes], second: Sequence[Outcomes], quantity: Quantity | None = None, tell: float | None = None) -> Comparison:
    """Compare two policies in every world that both were run in.

    Args:
        first: Of A, one a world.
        second: Of B.
        quantity: None: success; where no outcome differs and there is one task, its score, else its return.
        tell: A difference for which the number of episodes is wanted; None: the one that was found, and 5 points of success.

    Raises:
        InputError: if no pair can be made, or returns of several tasks would be averaged.
    """
    both = [(a, b) for a in first for b in second if outcomes.paired(a, b, "success") is not None]
    if not both:
        sides = ["; ".join(f"{o.task}, {o.purpose} seeds {o.seeds[0]} to {o.seeds[-1]}, {o.world}" for o in side[:2]) for side in (first, second)]
        raise InputError(f"{first[0].label} and {second[0].label} cannot be paired, no initial state of one world is in both: {sides[0]} against {sides[1]}")
    quantity = quantity or _quantity(both)
    if quantity == "return" and len({a.task for a, _ in both}) > 1:
        raise InputError("returns of several tasks are of different sizes and cannot be averaged: compare by success or score, or one task")
    values = [outcomes.paired(a, b, quantity) for a, b in both]
    known = [v for v in values if v is not None]
    each = [_one(v, quantity) for v in known]
    whole = each[0] if len(each) == 1 else _whole(known, quantity)
    adjusted = holm([d.p_value for d in each])
    notes = _left_out(first, second, both)
    if any(a.purpose != "report" for a, _ in both):
        notes.append("on selection seeds, which are for choosing: nothing to report")
    names = [a.task if sum(x.task == a.task for x, _ in both) == 1 else f"{a.task} {a.world}" for a, _ in both]
    return Comparison(
        first[0].label, second[0].label, quantity, whole, list(zip(names, each, adjusted, strict=True)), _needed(known, quantity, whole, tell), notes
    )


def _quantity(both: Sequence[tuple[Outcomes, Outcomes]]) -> Quantity:
    if any(o.success.any() != o.success.all() for pair in both for o in pair) or len({bool(o.success[0]) for pair in both for o in pair}) > 1:
        return "success"
    if all(o.score is not None for pair in both for o in pair):
        return "score"
    return "return" if len(both) == 1 and all(o.returns is not None for o in both[0]) else "success"


def _one(values: tuple[np.ndarray, np.ndarray], quantity: Quantity) -> Difference:
    return _whole([values], quantity)


def _whole(values: Sequence[tuple[np.ndarray, np.ndarray]], quantity: Quantity) -> Difference:
    if quantity == "success":
        return paired.successes([compare(a.astype(bool).tolist(), b.astype(bool).tolist()) for a, b in values])
    return paired.means(values)


def _needed(values: Sequence[tuple[np.ndarray, np.ndarray]], quantity: Quantity, whole: Difference, tell: float | None) -> dict[float, int]:
    """Return how many episodes tell which difference, from the rate (or deviation) at which the two were seen to disagree."""
    differences = np.concatenate([a - b for a, b in values])
    if quantity != "success":
        wanted = [abs(tell)] if tell else [abs(whole.difference)]
        return {d: paired.episodes_for_mean(d, float(differences.std())) for d in wanted if d > 0}
    discordant = max(float(np.abs(differences).mean()), 1 / len(differences))
    wanted = [abs(tell)] if tell else sorted({round(abs(whole.difference), 6), 0.05})
    return {d: paired.episodes_for(d, discordant) for d in wanted if d > 0}


def _left_out(first: Sequence[Outcomes], second: Sequence[Outcomes], both: Sequence[tuple[Outcomes, Outcomes]]) -> list[str]:
    out = []
    for side, at in ((first, 0), (second, 1)):
        alone = sorted({o.task for o in side} - {pair[at].task for pair in both})
        if alone:
            out.append(f"only {side[0].label} was run on {', '.join(alone)}: left out")
    return out


@dataclass(frozen=True)
class Settings:
    """How what is missing is evaluated.

    Attributes:
        tasks: Registered names; empty: the task of the checkpoint, or those of the other side.
        given: ``episodes``, ``block``, ``workers``, ``threads`` and ``seed``, over those of the checkpoint's recipe.
        purpose: Which seeds.
        out: Folder for records and the ledger; None: that of the run.
        device: Where policies run.
        progress: Whether to draw bars.
    """

    tasks: Sequence[str] = ()
    given: Mapping[str, int] = field(default_factory=dict)
    purpose: Purpose = Purpose.REPORT
    out: Path | None = None
    device: str = "cpu"
    progress: bool = True


def gather(first: str, second: str, settings: Settings) -> tuple[list[Outcomes], list[Outcomes]]:
    """Return the outcomes of both sides, one a world, after evaluating those that do not exist yet.

    Args:
        first: Checkpoint, run, ``expert``, record, folder of records, or ``LEDGER.jsonl:LABEL``.
        second: Likewise.
        settings: For what is evaluated.

    Raises:
        InputError: if a side cannot be read, the two cannot be paired, or other states are asked for than a side was evaluated on.
    """
    purpose = settings.purpose.name.lower()
    tasks = _resolved(settings.tasks)
    made = [outcomes.read(name, purpose) if outcomes.is_made(name) else None for name in (first, second)]
    if tasks:
        made = [side if side is None else [o for o in side if o.task in tasks] for side in made]
        for name, side in zip((first, second), made, strict=True):
            if side is not None and not side:
                raise InputError(f"{name}: no {purpose} evaluation on {', '.join(sorted(tasks))}")
    for name, side in zip((first, second), made, strict=True):
        _require_as_asked(name, side or (), settings.given)
    if made[0] is None and made[1] is None:
        tasks = tasks or _trained_for(first, second)
        pairs = [_evaluated([first, second], task, settings) for task in tasks or (None,)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for at, name in enumerate((first, second)):
        other = made[1 - at]
        if made[at] is None and other is not None:
            made[at] = [_beside(name, o, settings) for o in other]
    assert made[0] is not None and made[1] is not None
    return _told_apart(made[0], first, second, made[1]), _told_apart(made[1], second, first, made[0])


def _told_apart(side: list[Outcomes], name: str, other_name: str, other: Sequence[Outcomes]) -> list[Outcomes]:
    """Return ``side`` with the name that a person gave in its label, where another policy across has the same label: of two flows, which is better?"""
    label, hashes = side[0].label, [{o.checkpoint_hash for o in one} for one in (side, other)]
    same = name == other_name or label == EXPERT if hashes[0] | hashes[1] == {None} else bool(hashes[0] & hashes[1])
    if same or label != other[0].label:
        return side
    return [dataclasses.replace(o, label=f"{label} ({name})") for o in side]


def _require_as_asked(name: str, side: Sequence[Outcomes], given: Mapping[str, int]) -> None:
    """Refuse a number of states, or a first one, that is not that of what was evaluated already. Raises InputError."""
    for o in side:
        for key, found in (("episodes", len(o.seeds)), ("seed", int(o.seeds[0]) - int(Purpose[o.purpose.upper()]))):
            if given.get(key, found) != found:
                raise InputError(
                    f"--{key} {given[key]}: {name} was evaluated on {o.task} with {key} {found}, and the other side is held against that: leave it out"
                )


def _resolved(tasks: Sequence[str]) -> list[str]:
    """Return registered names, each once: a task that was named twice would count as two."""
    if not tasks:
        return []
    from sim.registry import resolve

    return list(dict.fromkeys(resolve(task) for task in tasks))


def _trained_for(*names: str) -> list[str]:
    """Return the tasks of the set that the first checkpoint of ``names`` was trained for; none for one of a single task."""
    from robopolicy.conditioning import require_task_set
    from robopolicy.evaluation.suite import set_of

    wanted = next((set_of(name) for name in names if name != EXPERT), None)
    return [] if wanted is None else list(require_task_set(wanted))


def _beside(name: str, other: Outcomes, settings: Settings) -> Outcomes:
    """Evaluate a checkpoint in the world and on the initial states of ``other``."""
    import json

    task, _, limit, deciding = json.loads(other.world)
    purpose = Purpose[other.purpose.upper()]  # one record alone may be of the other kind of seeds than was asked for
    given = {**settings.given, "episodes": len(other.seeds), "seed": int(other.seeds[0]) - int(purpose)}
    env = {**deciding, **({"max_episode_steps": limit} if limit else {})}
    return _evaluated([name], task, dataclasses.replace(settings, given=given, purpose=purpose), env)[0]


def _evaluated(names: Sequence[str], task: str | None, settings: Settings, env: Mapping[str, Any] | None = None) -> list[Outcomes]:
    """Evaluate checkpoints on a task, taking what the ledger they would write to has already."""
    from robopolicy.evaluation import versus
    from robopolicy.evaluation.earlier import of_entrant

    contest = versus.prepare(names, task, settings.given, settings.purpose, settings.out)
    entrants = contest.entrants
    if env is not None:  # the other side's world: nothing of what the checkpoint's recipe says of it
        entrants = [dataclasses.replace(e, env={**{k: v for k, v in e.env.items() if k not in DECIDING}, **env}) for e in entrants]
    contest = dataclasses.replace(contest, entrants=entrants)
    known = [of_entrant(contest, entrant, entrant.env, settings.device) for entrant in entrants]
    contest = dataclasses.replace(contest, entrants=[dataclasses.replace(e, made=m) for e, m in zip(entrants, known, strict=True)])
    return [outcomes.of_evaluation(e) for e in versus.hold(contest, settings.device, settings.progress)]
