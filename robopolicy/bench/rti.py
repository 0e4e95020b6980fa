"""RTI: 3 network calls per control step against the 100-step sampler on Meta-World, paired on the same initial states.

Three diffusion policies of peg-insert-side (25 demonstrations, training seeds 0 to 2), 200 report states each: those that
``robopolicy bench imitation`` has left, else trained here. The level k0 is chosen for each on 100 selection states. About
half an hour of two cores and resumable: blocks that have a result in ``runs/benchmarks/rti/results.jsonl`` are not run
again. What is compared: real-time iteration, one action of every plan; DDPM with 100 steps, as many actions of a plan as
in training (8), and one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.bench.harness import Elapsed, Result, Row, measured
from robopolicy.evaluation import ledger
from robopolicy.evaluation.seeds import REPORT, SELECTION
from robopolicy.evaluation.statistics import paired_difference, wilson
from robopolicy.evaluation.study import Cell

FOLDER = Path("runs/benchmarks/rti")
IMITATION = Path("runs/benchmarks/imitation/runs")
TASK, DEMONSTRATIONS = "metaworld/peg-insert-side", 25
STEPS, FULL = 3, 100  # network calls of a plan: of real-time iteration after the first, and of the sampler it is compared with
MARGIN = -5.0  # points that real-time iteration may lose
_QUICK = ("training.steps=300", "training.checkpoint_every=300")


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        seeds: Training seeds.
        states: Report states of each; no two share one.
        selection: Selection states on which each level is tried.
        levels: k0 that are tried, with that of the rule for two-valued actions; None: those of the method.
        block: Episodes of one result.
        limit: Time limit of an episode in control steps; None: that of the checkpoint's recipe.
        overrides: Of the recipe, where a policy is trained here.
    """

    seeds: Sequence[int] = (0, 1, 2)
    states: int = 200
    selection: int = 100
    levels: Sequence[int] | None = None
    block: int = 100
    limit: int | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """One way to execute a checkpoint: a method's text, or the sampler with ``FULL`` steps and ``taken`` actions of a plan (None: as trained)."""

    method: str | None = None
    taken: int | None = None

    @property
    def name(self) -> str:
        """What results and tables call it."""
        if self.method is not None:
            return self.method
        return f"DDPM {FULL} steps, {'actions as trained' if self.taken is None else f'{self.taken} action'} of a plan"


BASELINES = (Contender(), Contender(taken=1))


class Store:
    """Results by what they are of, appended one by one; a run that was stopped goes on behind the last."""

    def __init__(self, file: Path, limit: int | None) -> None:
        self.file, self.limit = file, limit
        self.rows = {row["key"]: row for row in (ledger.read(file) if file.is_file() else ())}

    def result(self, checkpoint: Path, who: Contender, first: int, episodes: int) -> dict[str, Any]:
        """Return the row of ``episodes`` episodes from seed ``first`` on, run now if there is none."""
        from policies.checkpoint import fingerprint
        from robopolicy.evaluation.rollout import evaluate

        key = json.dumps([fingerprint(checkpoint), who.name, first, episodes, self.limit])
        if key not in self.rows:
            policy = str(checkpoint) if who.method is not None else resampled(checkpoint, who.taken)
            with measured() as took:
                found = evaluate(
                    policy, TASK, episodes=episodes, seed0=first, block=min(50, episodes), workers=2 if episodes > 50 else 1, env=_env(checkpoint, self.limit),
                    latency_calls=0, label=who.name, method=who.method,
                )  # fmt: skip
            row = {
                "key": key,
                "who": who.name,
                "outcomes": [int(e.success) for e in found.episodes],
                "calls": sum(e.network_calls for e in found.episodes),
                "steps": sum(e.length for e in found.episodes),
                "wall_s": took.wall_s,
                "cpu_s": took.cpu_s,
            }
            ledger.append(self.file, row)
            self.rows[key] = row
        return self.rows[key]


@dataclass
class Total:
    """One contender over all checkpoints: outcomes in a fixed order, network calls and control steps."""

    outcomes: list[int]
    calls: float = 0.0
    steps: int = 0
    took: Elapsed | None = None

    @property
    def rate(self) -> float:
        """Share of successes."""
        return sum(self.outcomes) / len(self.outcomes)

    def add(self, row: dict[str, Any]) -> None:
        """Add the row of one block."""
        self.outcomes += row["outcomes"]
        self.calls, self.steps = self.calls + row["calls"], self.steps + row["steps"]
        self.took = self.took or Elapsed()
        self.took.wall_s, self.took.cpu_s = self.took.wall_s + row["wall_s"], self.took.cpu_s + row["cpu_s"]


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes under two minutes on a policy that has hardly been trained."""
    if quick:
        return measure(FOLDER.with_name("rti-quick"), Size((0,), 10, 5, (10, 39), 10, 80, _QUICK))
    return measure(FOLDER, Size())


def measure(folder: Path, size: Size) -> Result:
    """Choose the levels, run what has no result yet, and compare."""
    store, result = Store(folder / "results.jsonl", size.limit), Result()
    totals = {name: Total([]) for name in ("RTI", *(b.name for b in BASELINES))}
    for number, seed in enumerate(size.seeds):
        checkpoint = checkpoint_of(folder, seed, size)
        chosen, said = choose_level(store, checkpoint, size)
        result.notes.append(f"training seed {seed}, {checkpoint.parent.parent}: {said}")
        for first in range(0, size.states, size.block):
            count = min(size.block, size.states - first)
            for name, who in (("RTI", chosen), *((b.name, b) for b in BASELINES)):
                totals[name].add(store.result(checkpoint, who, int(REPORT) + number * size.states + first, count))
    ours = totals.pop("RTI")
    for name, theirs in totals.items():
        _compare(result, ours, name, theirs)
    return result


def _compare(result: Result, ours: Total, name: str, theirs: Total) -> None:
    """Add the rows of real-time iteration against one baseline."""
    b = sum(x > y for x, y in zip(ours.outcomes, theirs.outcomes, strict=True))
    c = sum(x < y for x, y in zip(ours.outcomes, theirs.outcomes, strict=True))
    difference, low, high = paired_difference(len(ours.outcomes), b, c, confidence=0.90)  # each end is a one-sided 95 % bound
    took: dict[str, Any] = {"wall_s": ours.took.wall_s, "cpu_s": ours.took.cpu_s} if ours.took else {}
    result.rows += [
        Row("success, RTI", ours.rate, "1", name, theirs.rate, **took),
        Row(f"RTI less {name}: one-sided 95 % lower bound", 100 * low, "points", target=MARGIN),
        Row("network calls a control step, RTI", ours.calls / ours.steps, "1", name, theirs.calls / theirs.steps, better="lower"),
    ]
    ends = [f"{who} {100 * t.rate:.1f} % [{100 * lo:.1f}, {100 * hi:.1f}]" for who, t in (("RTI", ours), (name, theirs)) for lo, hi in [_interval(t)]]
    result.notes.append(
        f"{' against '.join(ends)} on {len(ours.outcomes)} states (95 % Wilson): difference {100 * difference:+.1f} points, one-sided 95 % bounds "
        f"{100 * low:+.1f} and {100 * high:+.1f} (Tango); only RTI {b}, only the other {c}"
    )


def _interval(total: Total) -> tuple[float, float]:
    return wilson(sum(total.outcomes), len(total.outcomes))


def choose_level(store: Store, checkpoint: Path, size: Size) -> tuple[Contender, str]:
    """Return real-time iteration at the level with most successes on selection states (the lower of equal ones), and a line on all."""
    from policies.checkpoint import load
    from policies.realtime.rti import LEVELS, rule_level

    rule = rule_level(load(checkpoint))  # type: ignore[arg-type]
    levels = sorted({*(size.levels or LEVELS), *([rule] if rule is not None else [])})
    tried = {level: Contender(f"rti:level={level},steps={STEPS}") for level in levels}
    wins = {level: sum(store.result(checkpoint, who, int(SELECTION), size.selection)["outcomes"]) for level, who in tried.items()}
    best = max(levels, key=lambda level: wins[level])
    shown = ", ".join(f"{level}: {won}" + " (the rule's)" * (level == rule) for level, won in wins.items())
    return tried[best], f"level {best} chosen; successes of {size.selection} selection states by level {shown}"


def checkpoint_of(folder: Path, seed: int, size: Size, policy: str = "diffusion") -> Path:
    """Return the checkpoint of a policy and training seed: the one of the imitation benchmark, else trained here."""
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train
    from robopolicy.training.run_folder import find_checkpoint

    cell = Cell("imitation/metaworld", TASK, DEMONSTRATIONS, policy, seed, size.overrides)
    if not size.overrides:
        try:
            return find_checkpoint(IMITATION / cell.name)
        except InputError:
            pass  # it was not run here
    own = [f"task={TASK}", f"policy={policy}", f"seed={seed}", f"data.path={folder}/data/{{task}}", f"output={folder}/runs/{cell.name}"]
    return train(load_recipe(cell.recipe, [*own, *size.overrides], note=lambda text: None)).checkpoint


def resampled(checkpoint: Path, taken: int | None) -> Any:
    """Return the diffusion policy of a checkpoint with ``FULL`` DDPM steps and ``taken`` actions of a plan (None: as trained)."""
    from policies import registry
    from policies.checkpoint import load

    policy = load(checkpoint)
    changes = {"sampler": "ddpm", "steps": FULL, "n_action_steps": taken or policy.n_action_steps}
    config = type(policy.config).model_validate({**policy.config.model_dump(), **changes})
    out = registry.create("diffusion", config, policy.spec, policy.normalizer)
    out.load_state_dict(policy.state_dict())
    return out.eval()


def _env(checkpoint: Path, limit: int | None) -> dict[str, Any]:
    from robopolicy.evaluation.subject import read_defaults

    env = read_defaults(checkpoint).env
    return env if limit is None else {**env, "max_episode_steps": limit}
