"""Meta-World: one policy for all fifty tasks, 25 demonstrations each, flow beside regression and diffusion of equal size; MT10 told by words.

All share network (a residual perceptron, 512 x 4), chunk, data, updates and the balance of tasks; each is evaluated on 50 report
states of every task. On MT10: told one-hot, told in words (the plain instruction, and one that training never said), and not told.
Resumable: data, runs, evaluations, a ledger and ``results.md`` stay in ``--folder``. Two cells at once are two commands with
``--only``, once the demonstrations are made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.bench.cells import Cell, Cells, run_cells
from robopolicy.bench.harness import Result, Row

FOLDER = Path("runs/benchmarks/metaworld50")
DEMONSTRATIONS, EPISODES = 25, 50  # of each task
_HERE = "robopolicy.bench.metaworld50"
_TWO = "metaworld/drawer-close,metaworld/reach"  # what stands for a set in a quick run
_QUICK = ("training.steps=20", "training.checkpoint_every=20", "training.optimizer.warmup_steps=1", "policy.mlp={width: 16, blocks: 1}")
PEER = "regression"


@dataclass(frozen=True)
class Way:
    """One policy, and how it is told what is wanted.

    Attributes:
        set: Tag of the tasks, and the recipe ``imitation/SET``.
        label: For tables and the ledger.
        policy: Its type; ``expert`` is not trained.
        overrides: Of the recipe, besides; those that are equal share a training.
        worlds: Options of the evaluated worlds' ``condition`` over the recipe's.
        update_ms: Time of an update on one core, roughly.
    """

    set: str
    label: str
    policy: str
    overrides: tuple[str, ...] = ()
    worlds: tuple[tuple[str, str], ...] = ()
    update_ms: float = 45.0


_TEXT = ("env.condition=text",)
WAYS = (
    Way("mt50", "expert", "expert"),
    Way("mt50", "flow", "flow"),
    Way("mt50", "regression", "regression", update_ms=40.0),
    Way("mt50", "diffusion", "diffusion"),
    Way("mt10", "flow", "flow"),
    Way("mt10", "flow (not told)", "flow", ("env.condition=null",)),
    Way("mt10", "flow (text)", "flow", _TEXT, update_ms=70.0),
    Way("mt10", "flow (text, unheard)", "flow", _TEXT, (("wording", "held_out"),), update_ms=0.0),
)


def run(quick: bool, steps: int | None = None, seeds: int | None = None, only: str | None = None, folder: Path | None = None) -> Result:
    """Make, train and measure what has no result yet; ``steps`` are updates (as in the recipes), ``seeds`` trainings (1)."""
    root = (folder or (FOLDER.with_name("metaworld50-quick") if quick else FOLDER)).resolve()
    plan = cells(root, quick, steps, seeds or 1)
    found = run_cells([cell for _, cell in plan], root, only=only)
    grouped = _grouped(plan, found)
    (root / "results.md").write_text(markdown(grouped), encoding="utf-8")
    result = Result(rows=_rows(grouped), missing=found.failed)
    result.notes.append("[low, high]: 95 % interval of the mean over these tasks, for their episodes alone; another training seed is not in it")
    result.notes.append(f"per task: {root / 'results.md'}; ledger: {root / 'evaluations' / 'ledger.jsonl'}")
    if quick:
        result.notes.append("quick: two tasks and a few updates, to see that everything runs; the figures say nothing")
    return result


def cells(root: Path, quick: bool, steps: int | None, seeds: int) -> list[tuple[Way | None, Cell]]:
    """Return what is measured, demonstrations first: each with what it is of."""
    out: list[tuple[Way | None, Cell]] = []
    for name in dict.fromkeys(way.set for way in WAYS):
        settings = {"tasks": _TWO if quick else name, "path": str(root / "data"), "episodes": 2 if quick else DEMONSTRATIONS}
        out.append((None, Cell(f"{name} demonstrations", f"{_HERE}:demonstrations", settings, seconds=2.0 if quick else 300.0)))
    for way in WAYS:
        for seed in range(1 if way.policy == "expert" else seeds):
            settings = {
                "set_name": way.set,
                "tasks": _TWO if quick else way.set,
                "label": way.label,
                "policy": way.policy,
                "overrides": [*way.overrides, *(_QUICK if quick else ()), *([] if steps is None else [f"training.steps={steps}"])],
                "wording": dict(way.worlds),
                "seed": seed,
                "root": str(root),
                "demonstrations": 2 if quick else DEMONSTRATIONS,
                "episodes": 2 if quick else EPISODES,
                "limit": 20 if quick else None,
            }
            updates = (steps or {"mt10": 20000}.get(way.set, 40000)) if way.policy != "expert" else 0
            seconds = 5.0 if quick else updates * way.update_ms / 1e3 + {"mt10": 60.0}.get(way.set, 300.0)
            out.append((way, Cell(f"{way.set} {way.label}, seed {seed}", f"{_HERE}:measure", settings, seconds=seconds)))
    return out


def demonstrations(tasks: str, path: str, episodes: int) -> dict[str, Any]:
    """Collect what is not there yet, with two processes; a cell."""
    from robopolicy.conditioning import require_task_set
    from robopolicy.data.collect import collect

    made = {}
    for task in require_task_set(tasks):
        found = collect(task, Path(path) / task.replace("/", "-"), episodes=episodes, workers=2, progress=False)
        made[task] = {"episodes": found.episodes, "frames": found.frames, "expert": found.success_rate}
    return {"tasks": made}


def measure(
    set_name: str,
    tasks: str,
    label: str,
    policy: str,
    overrides: Sequence[str],
    wording: Mapping[str, str],
    seed: int,
    root: str,
    demonstrations: int,
    episodes: int,
    limit: int | None,
) -> dict[str, Any]:
    """Train one policy and evaluate it on every task of its set; a cell. Goes on with a training or an evaluation that was stopped."""
    from robopolicy.conditioning import require_task_set
    from robopolicy.evaluation.suite import evaluate_suite

    folder, checkpoint, env, about = Path(root), "expert", {}, {"train_s": 0.0, "parameters": 0}
    if policy != "expert":
        trained, env, about = _train(set_name, tasks, policy, overrides, seed, folder, demonstrations)
        checkpoint = str(trained)
    if wording:
        env = {**env, "condition": {**env["condition"], **wording}}
    env = {**env, "max_episode_steps": limit}
    began = time.perf_counter()
    found = evaluate_suite(
        checkpoint,
        require_task_set(tasks),
        name=set_name,
        set_name="metaworld50" if set_name == "mt50" else set_name,
        episodes=episodes,
        block=episodes,
        workers=2,
        env=env,
        out=folder / "evaluations",
        label=label,
        progress=False,
    )
    counts = {e.task: [e.successes, len(e.episodes)] for e in found.evaluations}
    summary = found.to_dict()
    spent = {**about, "evaluate_s": time.perf_counter() - began, "calls": summary["network_calls_per_chunk"]}
    return {"tasks": counts, "mean": summary["mean"], "iqm": summary["iqm"], **spent}


def _train(
    set_name: str, tasks: str, policy: str, overrides: Sequence[str], seed: int, folder: Path, demonstrations: int
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Return the final checkpoint, the options of its worlds, and what the training took."""
    import json

    from policies.checkpoint import load
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    told = next((item.partition("=")[2] for item in overrides if item.startswith("env.condition=")), "one_hot")
    updates = [f"{item.partition('=')[2]}-" for item in overrides if item.startswith("training.steps=")][-1:]  # of other lengths: other runs
    output = folder / "runs" / f"{set_name}-{policy}-{told}-{''.join(updates)}seed{seed}"
    own = [f"task={tasks}", f"policy={policy}", f"seed={seed}", f"output={output}"]
    data = [f"data.path={folder / 'data' / '{task}'}", f"data.collect={demonstrations}", f"data.episodes={demonstrations}"]
    recipe = load_recipe(f"imitation/{set_name}", [*own, *data, *overrides], note=lambda text: None)
    result = train(recipe, progress=False, note=lambda text: None)
    size = sum(p.numel() for p in load(result.checkpoint).parameters())
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = sum(row["seconds"] for row in rows if row["event"] == "end")  # of the part that went through to the end
    return result.checkpoint, recipe.env.options(), {"train_s": seconds, "parameters": size}


Grouped = dict[Way, list[dict[str, Any]]]


def _grouped(plan: Sequence[tuple[Way | None, Cell]], found: Cells) -> Grouped:
    out: Grouped = {}
    for way, cell in plan:
        row = found.get(cell)
        if way is not None and row is not None:
            out.setdefault(way, []).append(row)
    return out


def _mean(group: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Return the mean over tasks of all trainings together, and its interval, as if they did not share their states (the leaderboard's knows it)."""
    from robopolicy.evaluation.statistics import mean_rate

    return mean_rate([(sum(row["tasks"][task][0] for row in group), sum(row["tasks"][task][1] for row in group)) for task in group[0]["tasks"]])


def _rows(grouped: Grouped) -> list[Row]:
    out = []
    means = {(way.set, way.label): _mean(group) for way, group in grouped.items()}
    for way, group in grouped.items():
        value, low, high = means[way.set, way.label]
        peer = means.get((way.set, PEER)) if way.label in ("flow", "diffusion") else None
        seeds = f", {len(group)} seeds" if len(group) > 1 else ""
        name = f"{way.set.upper()}: {way.label}{seeds}, mean of {len(group[0]['tasks'])} tasks [{low:.3f}, {high:.3f}]"
        wall = sum(row["train_s"] + row["evaluate_s"] for row in group)
        out.append(Row(name, value, "success", PEER if peer else None, peer[0] if peer else None, wall_s=wall))
    return out


def markdown(grouped: Grouped) -> str:
    """Return a table for each set: tasks down, ways across, success in percent, and the mean with its interval."""
    out = []
    for name in dict.fromkeys(way.set for way in grouped):
        ways = {way: group for way, group in grouped.items() if way.set == name}
        tasks = next(iter(ways.values()))[0]["tasks"]
        out += [f"## {name.upper()}", "", f"| task | {' | '.join(way.label for way in ways)} |", f"|---|{'---:|' * len(ways)}"]
        for task in tasks:
            cells = []
            for group in ways.values():
                won, count = (sum(row["tasks"][task][k] for row in group) for k in range(2))
                cells.append(f"{100 * won / count:.0f}")
            out.append(f"| {task.rpartition('/')[2]} | {' | '.join(cells)} |")
        means = [_mean(group) for group in ways.values()]
        out.append(f"| **mean** | {' | '.join(map(_percent, means))} |")
        middle = [tuple(group[0]["iqm"][key] for key in ("value", "low", "high")) for group in ways.values()]
        out.append(f"| IQM, first seed | {' | '.join(map(_percent, middle))} |")
        sizes = [f"{group[0]['parameters']:,}" if group[0]["parameters"] else "-" for group in ways.values()]
        out += [f"| parameters | {' | '.join(sizes)} |", ""]
    return "\n".join(out) + "\n"


def _percent(estimate: tuple[float, ...]) -> str:
    value, low, high = (100 * x for x in estimate)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
