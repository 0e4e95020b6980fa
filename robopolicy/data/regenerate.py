"""All demonstrations of a suite from one recipe: task by task, resumable, and in the end one fingerprint of the whole.

Every task's demonstrations are a data set of their own below one folder; ``collection.json`` beside them holds the recipe, what each
set holds and the hash of its contents, and, once all are there, the hash of those hashes. The same recipe on the same machine gives the
same one for any number of workers, after any number of interruptions.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.spec import InputError
from robopolicy.data import layout
from robopolicy.data.atomic import read_json, write_json
from robopolicy.data.collect import Disturbing, Told, collect
from robopolicy.data.collection import CollectSummary, provenance_of
from robopolicy.data.regenerate_recipe import Plan, SetSettings, Settings
from robopolicy.data.simulate import Lanes

if TYPE_CHECKING:
    from robopolicy.cluster import Cluster

FILE = "collection.json"
MERGED = "merged"  # name of the data set of all tasks
_FORMAT = 1


@dataclass(frozen=True)
class TaskSet:
    """The demonstrations of one task.

    Attributes:
        path: Folder of the data set, inside that of the collection.
        episodes: Episodes kept.
        frames: Their frames.
        attempts: Seeds tried.
        failures: Of them, not kept as successes.
        suite_version: Of the task.
        fingerprint: 16 hex digits of the contents.
    """

    path: str
    episodes: int
    frames: int
    attempts: int
    failures: int
    suite_version: str
    fingerprint: str


@dataclass(frozen=True)
class CollectionSummary:
    """A suite's demonstrations.

    Attributes:
        root: Their folder.
        tasks: Task -> what is there.
        fingerprint: 16 hex digits of all contents.
        merged: The data set of all tasks, if there is one.
    """

    root: Path
    tasks: Mapping[str, TaskSet] = field(default_factory=dict)
    fingerprint: str = ""
    merged: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        rows = {task: vars(found) for task, found in self.tasks.items()}
        return {"root": str(self.root), "fingerprint": self.fingerprint, "merged": None if self.merged is None else str(self.merged), "tasks": rows}


def task_folder(root: Path, task: str) -> Path:
    """Return the folder of a task's data set."""
    return root / task.replace("/", "-")


def whole_fingerprint(tasks: Mapping[str, str]) -> str:
    """Return the hash of a collection from those of its data sets (task -> fingerprint), whatever their order."""
    lines = "\n".join(f"{task} {fingerprint}" for task, fingerprint in sorted(tasks.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def regenerate(plan: Plan, workers: int = 2, progress: bool = True, expected: str | None = None, cluster: Cluster | None = None) -> CollectionSummary:
    """Collect whatever of ``plan`` is not there yet, and return what is; see the module.

    Args:
        plan: See ``robopolicy.data.regenerate_recipe.load_plan``.
        workers: Processes that simulate; the result does not depend on it.
        progress: Whether to show progress bars.
        expected: Fingerprint that the whole must have; None: that of an earlier run, if there was one.
        cluster: Where episodes are simulated; None: in processes here.

    Raises:
        InputError: if the folder was begun with another recipe, a task cannot be collected (the others are, first), or the
            contents are not what was expected.
    """
    lock = _open(plan)
    failed: list[InputError] = []
    with Lanes(workers) as lanes, _bars(plan, progress) as bars:
        for task, settings in plan.tasks.items():
            try:
                with bars(task, settings.episodes) as told:
                    done = _collect(task_folder(plan.root, task), task, settings, workers, told, lanes, cluster)
            except InputError as error:
                failed.append(error)
                continue
            _note(plan, lock, task, done, str((provenance_of(done.path) or {}).get("suite_version", "")))
    for name, asked in plan.sets.items():
        _generate(plan, lock, name, asked, workers, progress)
    if failed:
        more = f" (and {len(failed) - 1} more tasks)" if len(failed) > 1 else ""
        raise InputError(f"{plan.name}: {failed[0]}{more}; the other tasks are collected: mend it and run the same command to continue")
    tasks = {task: TaskSet(**lock["tasks"][task]) for task in (*plan.tasks, *plan.sets)}
    found = whole_fingerprint({task: one.fingerprint for task, one in tasks.items()})
    _require_expected(plan, found, expected or lock.get("fingerprint"))
    lock["fingerprint"] = found
    write_json(plan.root / FILE, lock)
    merged = _merge(plan, lock, progress) if plan.merge else None
    return CollectionSummary(plan.root, tasks, found, merged)


def read_collection(root: str | Path) -> CollectionSummary:
    """Return what the folder of a collection says of itself. Raises InputError if it is none, or was not finished."""
    path = Path(root) / FILE
    if not path.is_file():
        raise InputError(f"{root} is not a collection of data sets: it has no {FILE}; make one with `robopolicy collect NAME --all`")
    lock = read_json(path)
    if not lock.get("fingerprint"):
        raise InputError(f"{root}: its collection was interrupted after {len(lock.get('tasks', {}))} tasks; run the same command to continue")
    merged = Path(root) / MERGED
    return CollectionSummary(
        Path(root), {t: TaskSet(**one) for t, one in lock["tasks"].items()}, lock["fingerprint"], merged if layout.is_dataset(merged) else None
    )


def _open(plan: Plan) -> dict[str, Any]:
    """Return what an earlier run noted, or begin. Raises InputError if the recipe was another one."""
    path, wanted = plan.root / FILE, plan.identity()
    if not path.is_file():
        lock: dict[str, Any] = {"format": _FORMAT, "name": plan.name, "recipe": wanted, "tasks": {}, "fingerprint": None}
        try:
            plan.root.mkdir(parents=True, exist_ok=True)
            write_json(path, lock)
        except OSError as error:
            raise InputError(f"{plan.root}: a collection cannot be begun here: {error.strerror or error}") from error
        return lock
    lock = read_json(path)
    if not isinstance(lock, dict) or lock.get("format") != _FORMAT or not isinstance(lock.get("recipe"), dict):
        raise InputError(f"{path}: not a collection of this version of robopolicy; give another folder with --out")
    _require_same(plan, lock["recipe"], wanted)
    return lock


def _require_same(plan: Plan, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse another recipe than the one that the folder was begun with. Raises InputError naming the first difference."""
    told = "; give another folder with --out, or the recipe as it was"
    if list(old) != list(new):
        differing = sorted(set(old) ^ set(new))
        what = f"task {differing[0]} is {'no longer' if differing[0] in old else 'newly'} in the recipe" if differing else "its tasks are in another order"
        raise InputError(f"{plan.root} was collected with another recipe: {what}{told}")
    for task, settings in new.items():
        for key, value in settings.items():
            if old[task].get(key) != value:
                raise InputError(f"{plan.root} was collected with another recipe: {key} of {task} is {old[task].get(key)!r} there, {value!r} here{told}")


def _collect(path: Path, task: str, settings: Settings, workers: int, told: Told, lanes: Lanes, cluster: Cluster | None) -> CollectSummary:
    values = settings.model_dump(exclude={"seed", "recovery"})
    recovery = None if settings.recovery is None else Disturbing(**settings.recovery.model_dump())
    return collect(task, path, seed0=settings.seed, workers=workers, progress=told, recovery=recovery, lanes=lanes, cluster=cluster, **values)


def _generate(plan: Plan, lock: dict[str, Any], name: str, asked: SetSettings, workers: int, progress: bool) -> None:
    """Have a data set made by the suite's own generator, and write down what it holds."""
    from robopolicy.data import ogbench

    path = task_folder(plan.root, name)
    episodes = ogbench.regenerate(name, path, asked.episodes, workers, progress, asked.frames)
    about = ((layout.read_own(path) or {}).get("provenance") or {}).get("ogbench") or {}
    done = CollectSummary(path, episodes, int(layout.read_info(path)["total_frames"]), episodes, 0)
    _note(plan, lock, name, done, str(about.get("suite_version", "")))


def _note(plan: Plan, lock: dict[str, Any], task: str, done: CollectSummary, suite: str) -> None:
    """Write down what a finished data set holds; its contents must be those of an earlier run. Raises InputError."""
    from robopolicy.data.dataset import Dataset

    dataset = Dataset.open(done.path)
    numbers = done.episodes, done.frames, done.attempts, done.failures
    found = TaskSet(done.path.name, *numbers, suite, dataset.fingerprint)
    before = lock["tasks"].get(task)
    if before is not None and before["fingerprint"] != found.fingerprint:
        raise InputError(f"{done.path}: its contents have changed since they were collected ({before['fingerprint']} then, {found.fingerprint} now)")
    lock["tasks"][task] = vars(found)
    write_json(plan.root / FILE, lock)


def _require_expected(plan: Plan, found: str, expected: str | None) -> None:
    if expected and expected != found:
        raise InputError(f"{plan.root}: the fingerprint of the whole is {found}, expected {expected}: another recipe, machine or version of a suite made that")


def _merge(plan: Plan, lock: dict[str, Any], progress: bool) -> Path:
    """Write all tasks as one data set, unless it is there. Raises SpecMismatch if the tasks differ in form."""
    from robopolicy.data.dataset import Dataset
    from robopolicy.data.edit import merge

    path = plan.root / MERGED
    if not layout.is_dataset(path):
        merge([task_folder(plan.root, task) for task in (*plan.tasks, *plan.sets)], path, progress)
    found = Dataset.open(path).fingerprint
    if lock.get(MERGED) not in (None, found):
        raise InputError(f"{path}: its contents have changed since it was written ({lock[MERGED]} then, {found} now); remove it to write it again")
    lock[MERGED] = found
    write_json(plan.root / FILE, lock)
    return path


#: (task, episodes wanted) -> context that yields who is told of every episode.
Bars = Callable[[str, int], "contextlib.AbstractContextManager[Told]"]


@contextlib.contextmanager
def _bars(plan: Plan, shown: bool) -> Iterator[Bars]:
    """Yield what draws a bar over the tasks, and one over the episodes of the present task."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, disable=not shown) as bar:
        whole = bar.add_task(f"collecting {plan.name}", total=len(plan.tasks), visible=bool(plan.tasks), state="tasks")
        present = bar.add_task("", total=1, visible=bool(plan.tasks), state="")

        @contextlib.contextmanager
        def of_task(task: str, wanted: int) -> Iterator[Told]:
            bar.reset(present, description=task, total=wanted, state="")
            yield lambda kept, tried, won: bar.update(present, completed=kept, state=f"success {won}/{tried}")
            bar.advance(whole)

        yield of_task
