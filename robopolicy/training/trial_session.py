"""A session of learning by trial, what both loops share: the run's folder, where it goes on, its log, threads and arithmetic.

A loop is ``with opened(recipe, spec, ...) as session``, in it its parts (policy, critics, optimisers, statistics), ``session.resume(parts)``,
and at every mark ``session.save(parts)``. Steps are environment steps of all worlds together.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch

from policies import checkpoint, registry
from policies.learnt import LearntPolicy
from policies.normalize import limits_normalizer
from policies.spec import InputError, Spec
from robopolicy.recipe import Note, print_note
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training import trial_state
from robopolicy.training.arithmetic import fixed_arithmetic
from robopolicy.training.fine_tune import load_initial
from robopolicy.training.imitation import TrainResult
from robopolicy.training.interrupt import Interrupts
from robopolicy.training.log import ProgressBar, TrainingLog
from robopolicy.training.run_folder import RunFolder
from robopolicy.training.schedule import step_seed
from robopolicy.training.session import TrainingDiverged
from robopolicy.training.state import fill
from robopolicy.training.threads import available_cores, fastest, loss_and_gradient, threads_of, with_saved_threads, with_threads
from robopolicy.training.trial_processes import Processes
from robopolicy.training.trial_sources import require_same_sources, sources_of


@dataclass
class TrialSession:
    """One process's share of a run.

    Attributes:
        recipe: What is trained, resolved: ``training.threads`` is a number.
        spec: What the worlds offer.
        policy: The weights that are trained, on their device, in training mode.
        folder: Where the run is written.
        note: Told, in one line, what a person should know.
        step: Environment steps done; the loop raises it.
        first: Those at which this call began.
        finished: Whether there is nothing left to do.
        interrupts: ``asked`` is set when a person wants the run to stop.
        processes: The place of this process among those that share the run.
        log: JSON lines and TensorBoard; only in the first process.
        bar: Progress; only in the first process.
        sources: Fingerprints of what is learnt from beside the worlds.
    """

    recipe: TrialRecipe
    spec: Spec
    policy: LearntPolicy
    folder: RunFolder
    note: Note
    step: int
    first: int
    finished: bool
    interrupts: Interrupts
    processes: Processes
    log: TrainingLog | None = None
    bar: ProgressBar | None = None
    sources: dict[str, str] = field(default_factory=dict)
    _found: tuple[Path, dict[str, Any]] | None = None
    _began: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()))

    @property
    def training(self) -> Any:
        """The recipe's section ``training``, of the model of its loop."""
        return self.recipe.training

    @property
    def device(self) -> torch.device:
        """Where networks are."""
        return self.processes.device

    def resume(self, parts: Mapping[str, trial_state.Part]) -> dict[str, Any]:
        """Put the newest training state into ``parts``, in place, and return the facts that were saved with it; {} for a fresh run.

        Raises:
            InputError: if the state does not fit the recipe's parts.
        """
        return trial_state.load(self._found[0], parts) if self._found else {}

    def save(self, parts: Mapping[str, trial_state.Part], facts: Mapping[str, Any] | None = None) -> None:
        """Write checkpoint, pointer, log and training state, in this order: the state vouches for all the others.

        Args:
            parts: All that :meth:`resume` must bring back, the policy included.
            facts: JSON-ready.

        Raises:
            TrainingDiverged: if the policy's weights are not finite.
            InputError: if the disk is full or not writable.
        """
        if self.processes.first:
            if not all(bool(torch.isfinite(p).all()) for p in self.policy.parameters()):
                self.diverged("weights are not finite")
            target, recipe = self.folder.checkpoint(self.step), self.recipe.to_dict()
            named = {"recipe": self.recipe.name} if self.recipe.name else {}
            about = {"step": self.step, "env_steps": self.step, "algo": self.recipe.algo_type, **named}
            checkpoint.save(target, self.policy, recipe=recipe, extra=about)
            self.folder.point_to(self.step)
            self.record("checkpoint", path=f"checkpoints/{target.name}")
            if self.log is not None:
                self.log.sync()
            own = {"step": self.step, "processes": self.processes.count, "torch": torch.__version__, "device": self.device.type}
            self.sources = sources_of(self.recipe, self.sources)  # demonstrations are there by now
            own |= {"spec": self.spec.to_dict(), "sources": self.sources}
            trial_state.save(self.folder.state(self.step), parts, {**own, **(facts or {})})
            self.folder.prune(self.training.keep_checkpoints)
        self.processes.wait()

    def record(self, event: str, **values: Any) -> None:
        """Append one row at :attr:`step` to the log, with the seconds of this call so far: ``wall_s`` and ``cpu_s`` (of all its threads)."""
        if self.log is not None:
            wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
            self.log.write(event, self.step, env_steps=self.step, **values, wall_s=round(wall, 3), cpu_s=round(cpu, 3))

    def show(self, value: float) -> None:
        """Bring the bar to :attr:`step`; ``value`` is the mean return of late."""
        if self.bar is not None:
            self.bar.update(self.step, value)

    def evaluate(self) -> None:
        """Measure success and return of the policy as robots get it on selection seeds; the first process does it, the others wait."""
        if self.processes.first:
            from robopolicy.evaluation.rollout import evaluate
            from robopolicy.evaluation.seeds import SELECTION
            from robopolicy.evaluation.statistics import wilson

            e = self.recipe.evaluation
            result = evaluate(
                self.policy,
                self.recipe.task,
                episodes=e.episodes,
                seed0=SELECTION + e.seed,
                block=e.block,
                workers=e.workers,
                threads=e.threads,
                env=self.recipe.env.options(),
                noise_seed=e.seed,
                device=str(self.device),
                latency_calls=0,
                progress=False,
            )
            successes = sum(episode.success for episode in result.episodes)
            rate, (low, high) = successes / e.episodes, wilson(successes, e.episodes)
            mean = sum(episode.return_ for episode in result.episodes) / e.episodes
            numbers = {"success": rate, "low": low, "high": high, "successes": successes, "episodes": e.episodes, "return": mean}
            self.record("evaluation", **numbers)
            if self.bar is not None:
                self.bar.say(f"step {self.step}: return {mean:.2f}, success {rate:.2f} [{low:.2f}, {high:.2f}] on {e.episodes} selection states")
        self.processes.wait()

    def diverged(self, what: str) -> NoReturn:
        """Raise TrainingDiverged, saying ``what`` and where the last good checkpoint is."""
        raise TrainingDiverged(f"environment step {self.step}: {what}; {self.folder.last_good()}; a lower learning rate may help")

    def stop(self, mark: int) -> NoReturn:
        """End because a person asked for it: the next call goes on from environment step ``mark``, the last that was saved."""
        lost = f", the {self.step - mark} steps since then are done again" if self.step > mark else ""
        where = f"goes on from step {mark}{lost}" if mark else "begins anew: nothing was saved yet"
        self.note(f"stopped at step {self.step} of {self.training.steps}; the same command {where}")
        raise KeyboardInterrupt

    def leave_no_mistake(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Delete a run that a mistake in its recipe ended before the first step: see ``contextlib.ExitStack.push`` for the arguments."""
        if isinstance(error, InputError) and not isinstance(error, TrainingDiverged) and self.step == 0:
            self.folder.forget()

    def result(self) -> TrainResult:
        """Return where the run and its last checkpoint are; ``steps`` are environment steps."""
        return TrainResult(self.folder.path, self.folder.checkpoint(self.step), self.step, self.first, time.perf_counter() - self._began[0])


@contextlib.contextmanager
def opened(
    recipe: TrialRecipe,
    spec: Spec,
    rows: int,
    progress: bool = True,
    resume: Literal["auto", "never"] = "auto",
    note: Note = print_note,
    processes: Processes | None = None,
) -> Iterator[TrialSession]:
    """Open the run's folder for this process alone, and everything that ends with it; the torch settings are as before afterwards.

    Args:
        recipe: What to do; ``recipe.output`` is the run's folder.
        spec: What the worlds offer.
        rows: Samples of one update: with so many the torch threads are measured, where the recipe does not give them.
        progress: Show a progress bar.
        resume: ``auto`` goes on where an interrupted run of the same recipe stopped; ``never`` deletes it and begins anew.
        note: Told, in one line, what a person should know and might not expect.
        processes: The place of this process among those that share the run; None: it is alone, on :func:`default_device`.

    Raises:
        InputError: recipe, folder, checkpoint or state cannot be used.
    """
    wanted: Any = recipe.training
    others = processes or Processes(device=default_device())
    folder, note = RunFolder(recipe.filled(recipe.output)), note if others.first else _silent
    with contextlib.ExitStack() as closing:
        closing.callback(folder.close)
        closing.enter_context(fixed_arithmetic())
        found = None
        folder.require_place()
        if resume == "auto":
            recipe = with_saved_threads(recipe, folder)
            folder.check(recipe)
            found = _newest_state(folder, note)
        policy = _policy(recipe, spec, found, others.device, note)
        if threads_of(recipe) is None:  # several processes share the cores already
            recipe = with_threads(recipe, fastest(loss_and_gradient(policy, rows), available_cores()) if others.count == 1 else 1)
        torch.set_num_threads(threads_of(recipe) or 1)
        step = int(found[1]["step"]) if found else 0
        finished = step >= wanted.steps and (folder.checkpoint(step) / "manifest.json").is_file()
        interrupts = Interrupts(lambda: note("stopping soon; once more stops at once"))
        session = TrialSession(recipe, spec, policy, folder, note, step, step, finished, interrupts, others, _found=found)
        closing.push(session.leave_no_mistake)
        if finished:
            note(f"{folder.path} is finished: {step} steps are done; --fresh trains it anew")
        else:
            _begin(session, resume == "never", progress, closing)
        yield session
        if session.log is not None:
            session.record("end", seconds=round(session.result().seconds, 3))


def _begin(session: TrialSession, fresh: bool, progress: bool, closing: contextlib.ExitStack) -> None:
    """Take the folder, open log and bar, and listen for a wish to stop."""
    recipe, training, folder, processes = session.recipe, session.training, session.folder, session.processes
    if processes.first:
        folder.open(recipe, fresh)
    processes.wait()
    session.sources = sources_of(recipe, demonstrations=session._found is not None)
    if session._found:
        _check_facts(session, session._found[1])
    if processes.first:
        session.log = closing.enter_context(contextlib.closing(TrainingLog(folder.log_file, folder.tensorboard, session.step)))
        size = sum(p.numel() for p in session.policy.parameters() if p.requires_grad)
        facts = {"steps": training.steps, "parameters": size, "worlds": training.worlds, "threads": training.threads}
        session.record("resume" if session.step else "begin", **facts, processes=processes.count)
        bar = ProgressBar(f"train {recipe.algo_type}", session.step, training.steps, progress, "return")
        session.bar = closing.enter_context(contextlib.closing(bar))
        how = f"going on at step {session.step}" if session.step else f"{training.steps} steps"
        bar.say(f"{recipe.algo_type} on {recipe.task}: {training.worlds} worlds, {size:,} parameters, {how}, {folder.path}")
    closing.enter_context(session.interrupts)


def default_device() -> torch.device:
    """Return where networks are trained: a GPU if there is one (``CUDA_VISIBLE_DEVICES=`` hides it), else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _newest_state(folder: RunFolder, note: Note) -> tuple[Path, dict[str, Any]] | None:
    """Return file and facts of the newest whole training state, None if there is none; ``note`` is told of damaged ones."""
    for _, file in folder.states_newest_first():
        try:
            return file, trial_state.read_facts(file)
        except InputError as error:
            note(f"{error}; going on from the one before")
    return None


def _policy(recipe: TrialRecipe, spec: Spec, found: object, device: torch.device, note: Note) -> LearntPolicy:
    """Return the policy with its first weights: of ``init``, or drawn; a training state's come later."""
    kind, initial = registry.policy_class(recipe.policy_type), load_initial(recipe)
    seen = kind.observed(recipe.policy, spec)
    torch.manual_seed(step_seed(recipe.seed, 0))  # of the first weights; steps count from 1
    if initial is None:
        policy = registry.create(recipe.policy_type, recipe.policy, seen, limits_normalizer(spec))  # critics may read more of it
    else:
        initial.spec.require(spec, f"init {recipe.init}", f"task {recipe.task!r}")
        policy = registry.create(recipe.policy_type, recipe.policy, seen, initial.normalizer)
        fill(policy, initial.state_dict(), f"init {recipe.init}")
        if found is None:
            note(f"begins with the weights of {recipe.init}, and keeps its normaliser")
    return policy.to(device).train()


def _check_facts(session: TrialSession, facts: Mapping[str, Any]) -> None:
    """Refuse a state of other worlds or sources, and say what makes the run go on with other rounding. Raises InputError."""
    Spec.from_dict(facts["spec"]).require(session.spec, f"training state in {session.folder.path}", f"task {session.recipe.task!r}")
    require_same_sources(facts, session.sources, session.folder.path)
    for name, now in (("processes", session.processes.count), ("torch", torch.__version__), ("device", session.device.type)):
        if facts[name] != now:
            session.note(f"the run was begun with {name} {facts[name]}, now {now}: it goes on, equal up to rounding instead of bit for bit")


def _silent(text: str) -> None:
    """Say nothing: other processes than the first."""


__all__ = ["TrainResult", "TrainingDiverged", "TrialSession", "default_device", "opened"]
