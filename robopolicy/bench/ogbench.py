"""OGBench: behaviour cloning with and without goals on data made here, beside the published figures, five goals each.

Data sets as published in kind and number are made by the suite's oracles and by a shortest-path planner. Each way is trained with
several seeds and measured on report seeds, every goal equally often. Networks and batches of the goal-conditioned Gaussian are the
published ones but for the batch (256, published 1024) and the number of updates (``--steps``, published 1M). Resumable: data,
trainings and results stay in ``--folder``, and every evaluation is there as ``evaluations/*/evaluation.json`` and a ledger line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.harness import Result, Row
from robopolicy.evaluation.study import success
from robopolicy.reporting.published import of_task

FOLDER = Path("runs/benchmarks/ogbench")
STEPS, SEEDS, EPISODES = 50_000, 3, 250  # updates; training seeds; report episodes of each, 50 a goal
PEER = "published GCBC, 8 seeds"
_HERE = "robopolicy.bench.ogbench_cells"


@dataclass(frozen=True)
class Bed:
    """One environment and its data.

    Attributes:
        name: The suite's.
        recipe: Installed recipe.
        kind: Of its data set.
        episodes: In its data set.
        episode_s: Seconds that an episode of data takes on one core, roughly.
        report_s: Seconds that a report episode takes, roughly.
    """

    name: str
    recipe: str
    kind: str
    episodes: int
    episode_s: float
    report_s: float

    @property
    def task(self) -> str:
        """Registered name."""
        return f"ogbench/{self.name}"

    @property
    def published(self) -> float | None:
        """Published share of goal-conditioned behaviour cloning on the published data of this kind, None where we have none."""
        found = [one.value for one in of_task(self.task) if one.method == "GCBC" and one.data == self.kind]
        return found[0] / 100 if found else None


@dataclass(frozen=True)
class Way:
    """One way to learn.

    Attributes:
        label: For tables and the ledger.
        policy: Policy type.
        overrides: Of the recipe, besides.
        goals: Whether it sees the goal.
        update_ms: Time of an update on one core, roughly.
    """

    label: str
    policy: str
    overrides: tuple[str, ...] = field(default=())
    goals: bool = True
    update_ms: float = 15.0


_PUBLISHED_NETWORK = ("policy.hidden=[512,512,512]", "policy.activation=gelu")
BEDS = (
    Bed("pointmaze-medium", "ogbench_pointmaze", "navigate", 1000, 0.15, 0.2),
    Bed("pointmaze-large", "ogbench_pointmaze", "navigate", 1000, 0.15, 0.2),
    Bed("cube-single", "ogbench_cube", "play", 1000, 1.3, 0.3),
)
WAYS = (
    Way("BC without goal", "gaussian", (*_PUBLISHED_NETWORK, "policy.observations=[observation.state]"), goals=False),
    Way("GCBC", "gaussian", _PUBLISHED_NETWORK),
    Way("GCBC flow", "flow", update_ms=20.0),
)


def run(quick: bool, steps: int | None = None, seeds: int | None = None, only: str | None = None, folder: Path | None = None) -> Result:
    """Make, train and measure what has no result yet; ``quick`` only shows that everything runs."""
    root = (folder or (FOLDER.with_name("ogbench-quick") if quick else FOLDER)).resolve()
    plan = list(cells(BEDS, root, quick, steps or (30 if quick else STEPS), seeds or (1 if quick else SEEDS)))
    found = run_cells([cell for _, _, cell in plan], root, only=only)
    result = Result(rows=list(rows(plan, found)), missing=found.failed)
    result.notes.append("[low, high]: 95 % Wilson interval over all report episodes, as if training seeds did not share states; the leaderboard's knows")
    result.notes.append(f"ledger: {root / 'evaluations' / 'ledger.jsonl'}")
    result.notes += [line for line in map(str, _by_goal(plan, found)) if line]
    if quick:
        result.notes.append("quick: few short episodes and updates, to see that everything runs; the figures say nothing")
    return result


def cells(beds: Sequence[Bed], root: Path, quick: bool, steps: int, seeds: int) -> Iterator[tuple[Bed, Way | None, Cell]]:
    """Yield every measurement with what it is of; without a way it makes data (first) or measures the expert."""
    for bed in beds:
        episodes, limit = (4, 40) if quick else (bed.episodes, None)
        data = {"name": f"{bed.task}-{bed.kind}", "path": str(root / "data" / f"{bed.name}-{bed.kind}"), "episodes": episodes, "frames": 80 if quick else None}
        yield bed, None, Cell(f"{bed.name}: data", f"{_HERE}:make_data", data, seconds=episodes * bed.episode_s)
        env = {} if limit is None else {"max_episode_steps": limit}
        count = 5 if quick else EPISODES
        told = {"task": bed.task, "out": str(root / "evaluations"), "episodes": 5 if quick else 50, "env": env}
        yield bed, None, Cell(f"{bed.name}: expert", f"{_HERE}:measure_expert", told, seconds=told["episodes"] * bed.report_s)
        for way in WAYS:
            for seed in range(seeds):
                name = f"{bed.name}: {way.label}, seed {seed}"
                run = str(root / "runs" / f"{bed.name}-{way.label.replace(' ', '-')}-{steps}-seed{seed}")
                settings = {
                    "recipe": bed.recipe,
                    "overrides": [*_overrides(bed, way, data, steps, seed, run)],
                    "label": way.label,
                    "out": str(root / "evaluations"),
                    "episodes": count,
                    "env": env,
                }
                yield bed, way, Cell(name, f"{_HERE}:measure", settings, seconds=steps * way.update_ms / 1e3 + count * bed.report_s)


def _overrides(bed: Bed, way: Way, data: Mapping[str, Any], steps: int, seed: int, run: str) -> Iterator[str]:
    yield from (f"task={bed.task}", f"policy={way.policy}", f"seed={seed}", f"output={run}")
    yield from (f"data.path={data['path']}", f"data.collect={data['episodes']}", f"data.kind={bed.kind}")
    yield f"training.steps={steps}"
    if steps <= 100:
        yield "training.optimizer.warmup_steps=1"
    yield from way.overrides


def rows(plan: Sequence[tuple[Bed, Way | None, Cell]], found: Cells) -> Iterator[Row]:
    """Yield success for every environment and way, all training seeds together, beside the published figure."""
    for (bed, way), group in _groups(plan, found).items():
        rate, low, high = success(group)
        label = "expert" if way is None else way.label
        seeds = "" if way is None else f", {len(group)} {'seed' if len(group) == 1 else 'seeds'}"
        peer = (PEER, bed.published) if way is not None and way.goals and bed.published is not None else (None, None)
        yield Row(f"{bed.name}: {label}{seeds} [{low:.3f}, {high:.3f}]", rate, "success", *peer, wall_s=sum(r["seconds"] for r in group))


def _groups(plan: Sequence[tuple[Bed, Way | None, Cell]], found: Cells) -> dict[tuple[Bed, Way | None], list[dict[str, Any]]]:
    out: dict[tuple[Bed, Way | None], list[dict[str, Any]]] = {}
    for bed, way, cell in plan:
        row = found.get(cell)
        if row is not None and "successes" in row:
            out.setdefault((bed, way), []).append(row)
    return out


def _by_goal(plan: Sequence[tuple[Bed, Way | None, Cell]], found: Cells) -> Iterator[str]:
    for (bed, way), group in _groups(plan, found).items():
        shares = []
        for goal in sorted(group[0]["goals"]):
            won, count = (sum(r["goals"][goal][k] for r in group) for k in (0, 1))
            shares.append(f"{100 * won / count:.0f}%")
        each = "" if way is None else "; seeds " + ", ".join(f"{100 * r['successes'] / r['episodes']:.0f}%" for r in group)
        yield f"{bed.name}, {'expert' if way is None else way.label}: goals 1 to 5 {', '.join(shares)}{each}"
