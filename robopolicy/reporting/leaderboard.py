"""The leaderboard: the generated part of ``docs/benchmarks.md``, made from ledgers and the published figures, and nothing else.

Only report rows of plain, undisturbed evaluations count. Training seeds of one recipe are joined, and so are checkpoints of
one training run: the mean of the last ones, never the best one. An evaluation that was repeated counts once, the newest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation import chain
from robopolicy.evaluation.bootstrap import Estimate
from robopolicy.evaluation.ledger import unpacked
from robopolicy.evaluation.statistics import joined, mean_interval, over_states, wilson
from robopolicy.reporting import published, tables

BEGIN, END = "<!-- leaderboard: begin (made by robopolicy leaderboard) -->", "<!-- leaderboard: end -->"
#: Suites in which what counts is the return; success is judged at the time limit there, since an evaluation ends with the first success.
BY_RETURN = ("gymnasium", "dmcontrol")
#: What the score of a task is called where it has one.
SCORES = {"pusht": "coverage"}
PEER = "peer: "
#: Sets that are measured under other conditions than the tasks' own, and have pages of their own.
ELSEWHERE = ("robustness", "transfer", "failures")


@dataclass(frozen=True)
class Entry:
    """One policy on one task: all training seeds and last checkpoints of one recipe.

    Attributes:
        section: Set or suite.
        task: Registered name.
        demonstrations: That it was trained on; None for learning by trial and the expert.
        label: Who.
        seeds: Training seed -> the rows of its checkpoints; the expert has the one seed None.
    """

    section: str
    task: str
    demonstrations: int | None
    label: str
    seeds: Mapping[int | None, Sequence[Mapping[str, Any]]]

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """Every row."""
        return [row for rows in self.seeds.values() for row in rows]

    def mean(self, key: str) -> list[float]:
        """Return a figure of each training seed, the mean over its checkpoints."""
        return [float(np.mean([row[key] for row in rows])) for rows in self.seeds.values()]

    @property
    def rates(self) -> list[float]:
        """Success rate of each training seed, the mean over its checkpoints."""
        return [float(np.mean([row["successes"] / row["episodes"] for row in rows])) for rows in self.seeds.values()]

    @property
    def episodes(self) -> int:
        """Initial states over all training seeds; those of several checkpoints of one run count once."""
        return sum(max(int(row["episodes"]) for row in rows) for rows in self.seeds.values())

    @property
    def checkpoints(self) -> int:
        """Checkpoints of one training run that were averaged."""
        return max(len(rows) for rows in self.seeds.values())

    @property
    def success(self) -> Estimate:
        """Mean success of the training seeds, with Wilson's interval for what their shared initial states tell (:func:`over_states`)."""
        n, rate = int(self.rows[0]["episodes"]), float(np.mean(self.rates))
        if any(row.get("outcomes") is None for row in self.rows):  # of an old ledger: as if all seeds agreed
            return Estimate(rate, *wilson(round(rate * n), n))
        by_seed = [np.mean([unpacked(str(row["outcomes"]), n) for row in rows], axis=0) for rows in self.seeds.values()]
        return Estimate(*over_states(np.array(by_seed)))


#: What rows of one entry share, besides recipe and world: how they were measured.
_ALIKE = ("suite_version", "success", "max_episode_steps", "n_action_steps", "seed0", "episodes", "noise_seed", "execution", "weights")


def entries(rows: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Return what goes on the leaderboard, from rows of :func:`robopolicy.evaluation.chain.merged`, oldest first."""
    newest: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if _counts(row):
            same = ("label", "checkpoint_hash", "task", "suite_version", "seed0", "episodes", "noise_seed", "execution", "env", "set", "weights")
            trained = [(row.get("training") or {}).get(key) for key in ("seed", "step")]  # of peers that have no checkpoint
            newest[json.dumps([*(row.get(key) for key in same), trained], sort_keys=True)] = row
    groups: dict[tuple[Any, ...], dict[str, list[Mapping[str, Any]]]] = {}
    for row in newest.values():
        training = row.get("training") or {}
        demonstrations = training.get("episodes", training.get("demonstrations"))  # the second: of a peer's first rows
        key = (_section(row), row["task"], demonstrations, row["label"])
        recipe = json.dumps([training.get("recipe_hash"), *(row.get(key) for key in _ALIKE), row.get("env") or {}], sort_keys=True)
        groups.setdefault(key, {}).setdefault(recipe, []).append(row)
    out = []
    for key, recipes in groups.items():
        last = max(recipes.values(), key=lambda found: max(str(row["time"]) for row in found))  # another recipe, suite or states: not to be mixed
        seeds: dict[int | None, list[Mapping[str, Any]]] = {}
        for row in last:
            seeds.setdefault((row.get("training") or {}).get("seed"), []).append(row)
        section, task, demonstrations, label = key
        out.append(Entry(section, task, demonstrations, label, {seed: seeds[seed] for seed in sorted(seeds, key=lambda s: (s is not None, s))}))
    return sorted(out, key=lambda e: (e.section, e.task, e.demonstrations or 0, e.label == "expert", e.label.startswith(PEER), e.label))


def _counts(row: Mapping[str, Any]) -> bool:
    """Whether a row is a report of a plain evaluation in the task's own world."""
    env = row.get("env") or {}
    plain = not env.get("perturb") and not env.get("randomize") and env.get("engine", "mujoco") in ("mujoco", None)
    return row.get("purpose") == "report" and row.get("mode", "synchronous") == "synchronous" and plain and row.get("set") not in ELSEWHERE


def _section(row: Mapping[str, Any]) -> str:
    return str(row.get("set") or str(row["task"]).partition("/")[0])


def generate(rows: Sequence[Mapping[str, Any]], source: str = "", head: str = "") -> str:
    """Return the generated part in Markdown.

    Args:
        rows: Of :func:`robopolicy.evaluation.chain.merged`.
        source: Name of the ledger, for the text.
        head: Its chain.
    """
    found = entries(rows)
    shown = sum(len(e.rows) for e in found)
    out = [
        "## Leaderboard",
        "",
        f"Made by `robopolicy leaderboard` from {shown} evaluations{f' of `{source}`' if source else ''}{f' (chain {head})' if head else ''}; report seeds "
        "only, and of one name measured in several ways (recipe, execution, states) the newest. A cell: the mean over training "
        "seeds [95% Wilson interval for the effective number of initial states, which training seeds share] "
        "(the training seeds one by one, where there are several). A return: [Student's 95% interval over training seeds]. "
        "A mean over tasks is equally weighted; its interval is about the initial states, not about other tasks or "
        "training seeds. Figures marked *published* are those of their authors, in their protocol, which the line below the table gives.",
    ]
    for section in dict.fromkeys(e.section for e in found):
        out += ["", *_section_text(section, [e for e in found if e.section == section])]
    return "\n".join(out) + "\n"


def _section_text(section: str, group: Sequence[Entry]) -> list[str]:
    labels = list(dict.fromkeys(e.label for e in sorted(group, key=lambda e: (e.label == "expert", e.label.startswith(PEER), e.label))))
    places = list(dict.fromkeys((e.task, e.demonstrations) for e in group if e.label != "expert")) or [(e.task, None) for e in group]
    known = {(e.task, e.demonstrations, e.label): e for e in group}
    counted = any(demonstrations is not None for _, demonstrations in places)
    others = {task: published.of_task(task) for task, _ in places}
    heads = ["task", *(["demonstrations"] if counted else []), *labels, *(["published"] if any(others.values()) else [])]
    body = []
    for task, demonstrations in places:
        cells = [known.get((task, demonstrations, label)) or (known.get((task, None, label)) if label == "expert" else None) for label in labels]
        row = [task, *([str(demonstrations or "")] if counted else []), *("" if e is None else cell(e) for e in cells)]
        body.append([*row, *([_published(others[task])] if any(others.values()) else [])])
    if len(places) > 1:
        body += _means(labels, places, known, counted, any(others.values()))
    out = [f"### {section}", "", *tables.to_markdown(tables.Table(section, section, heads, body, texts=len(heads))).rstrip().split("\n")]
    return [*out, "", *_about(group), *_sources([one for found in others.values() for one in found])]


def cell(entry: Entry) -> str:
    """Return what a cell says: success, score or return, with interval and training seeds."""
    suite = entry.task.partition("/")[0]
    several = len(entry.seeds) > 1
    if suite in BY_RETURN:
        values = entry.mean("return") if all("return" in row for row in entry.rows) else []
        if values:
            mean, half = mean_interval(values)
            return f"{mean:.0f}" + (f" [{mean - half:.0f}, {mean + half:.0f}] ({', '.join(f'{v:.0f}' for v in values)})" if several else "")
    e = entry.success
    said = f"{100 * e.value:.0f}% [{100 * e.low:.0f}, {100 * e.high:.0f}]" + (f" ({', '.join(f'{100 * rate:.0f}' for rate in entry.rates)})" if several else "")
    name = SCORES.get(suite)
    if name and all(row.get("score") is not None for row in entry.rows):
        said += f"; {name} {np.mean(entry.mean('score')):.2f}"
    return said


def _means(
    labels: Sequence[str], places: Sequence[tuple[str, int | None]], known: Mapping[tuple[str, int | None, str], Entry], counted: bool, beside: bool
) -> list[list[str]]:
    """Return a row of means over tasks for every number of demonstrations; only where a policy was run on all of these tasks."""
    if any(task.partition("/")[0] in BY_RETURN for task, _ in places):
        return []
    out = []
    for demonstrations in dict.fromkeys(d for _, d in places):
        tasks = [task for task, d in places if d == demonstrations]
        if len(tasks) < 2:
            continue
        cells = []
        for label in labels:
            found = [known.get((task, demonstrations, label)) or (known.get((task, None, label)) if label == "expert" else None) for task in tasks]
            whole = [e for e in found if e is not None]
            known_all = [(e.success.value, e.success.low, e.success.high) for e in whole]
            mean, low, high = joined(known_all) if len(whole) == len(tasks) else (0.0, 0.0, 0.0)
            cells.append(f"{100 * mean:.1f}% [{100 * low:.1f}, {100 * high:.1f}]" if len(whole) == len(tasks) else "")
        out.append([f"mean of {len(tasks)} tasks", *([str(demonstrations or "")] if counted else []), *cells, *([""] if beside else [])])
    return out


def _published(found: Sequence[published.Published]) -> str:
    """Return the published figures of a task, the best first, those of one data set together."""
    said = []
    for data in dict.fromkeys(one.data for one in found):
        group = sorted((one for one in found if one.data == data), key=lambda one: -one.value)
        said.append(", ".join(f"{one.method} {one.text}" for one in group) + (f" ({data})" if data else ""))
    return "published: " + "; ".join(said) if said else ""


def _sources(found: Sequence[published.Published]) -> list[str]:
    keys = dict.fromkeys(one.source for one in found)
    return [f"Published: {'; '.join(f'{published.SOURCES[key].text} ({published.SOURCES[key].protocol})' for key in keys)}."] if keys else []


def _about(group: Sequence[Entry]) -> list[str]:
    """Return how the figures of a section were taken, one line."""
    learnt = [e for e in group if e.label != "expert"]
    episodes = sorted({int(row["episodes"]) for e in group for row in e.rows})
    seeds = sorted({len(e.seeds) for e in learnt})
    checkpoints = sorted({e.checkpoints for e in learnt})
    versions = list(dict.fromkeys(re.sub(r", definition \w+", "", str(row["suite_version"])) for e in group for row in e.rows))
    recipes = list(dict.fromkeys(str(row["training"]["recipe"]) for e in learnt for row in e.rows if (row.get("training") or {}).get("recipe")))
    served = {(row["checkpoint_hash"], row["task"]) for e in learnt for row in e.rows if row.get("checkpoint_hash")}
    shared = len(served) > len({checkpoint for checkpoint, _ in served})  # a checkpoint that was evaluated on several tasks
    limits = sorted({int(row["max_episode_steps"]) for e in group for row in e.rows if row.get("max_episode_steps")})
    said = [f"{_span(episodes)} initial states for each checkpoint{f' and at most {_span(limits)} control steps' if limits else ''}"]
    said += [f"{_span(seeds)} training {'seed' if seeds == [1] else 'seeds'}"] if learnt else []
    said += ["one policy for all tasks, and the demonstrations of all of them together"] if shared else []
    said += [f"mean of {_span(checkpoints)} checkpoints of a run"] if checkpoints and checkpoints != [1] else []
    said += [f"recipes {', '.join(f'`{name}`' for name in recipes)}"] if recipes else []
    return [f"{'; '.join(said)}; {'; '.join(versions[:3])}.", ""]


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def updated(page: str, generated: str, where: str) -> str:
    """Return ``page`` with what is between the two marker comments replaced. Raises InputError where they are not there once each, in order."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise InputError(f"{where}: expected the lines {BEGIN} and {END}, once each and in this order: the leaderboard goes between them")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{generated}\n{END}{rest.split(END)[1]}"


def write(ledgers: Sequence[Path], out: Path, check: bool = False) -> bool:
    """Write the leaderboard of ``ledgers`` into ``out`` and return whether that changed it; a file that is not there is made.

    Args:
        ledgers: Files.
        out: Markdown file with the two markers.
        check: Change nothing.

    Raises:
        InputError: if a ledger is faulty or holds nothing to report, or the file cannot be read or written.
    """
    from robopolicy.data.atomic import write_bytes

    if out.is_dir():
        raise InputError(f"{out}: a folder, expected a Markdown file")
    for file in ledgers:
        problems = chain.check(file).problems
        if problems:
            raise InputError(f"{file}: {problems[0]}; see robopolicy ledger check {file}")
    rows = chain.merged(ledgers)
    if not entries(rows):
        raise InputError(f"{', '.join(map(str, ledgers))}: no report row of a plain evaluation: nothing for a leaderboard")
    one = len(ledgers) == 1
    try:
        page = out.read_text(encoding="utf-8") if out.is_file() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
        fresh = updated(page, generate(rows, ledgers[0].name if one else "", chain.check(ledgers[0]).head if one else ""), str(out))
        changed = not out.is_file() or fresh != page
        if changed and not check:
            write_bytes(out, fresh.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{out}: cannot be read or written: {error}") from error
    return changed
