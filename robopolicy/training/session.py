"""A training session: everything one process holds while it trains, how it is begun, and how it is saved to go on later."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from policies import checkpoint, registry
from policies.learnt import LearntPolicy
from policies.noise import Noise
from policies.normalize import Normalizer
from policies.spec import InputError, Spec
from real.calibration import fingerprint_of
from robopolicy.data.batches import Batches
from robopolicy.recipe import Note, Recipe
from robopolicy.training.demonstrations import Demonstrations, DemonstrationSets, open_demonstrations
from robopolicy.training.ema import Ema
from robopolicy.training.fine_tune import load_initial
from robopolicy.training.log import ProgressBar, TrainingLog
from robopolicy.training.run_folder import RunFolder
from robopolicy.training.schedule import step_seed
from robopolicy.training.state import fill, load_state, read_facts, read_normalizer, save_state
from robopolicy.training.task_sets import TaskDemonstrations, TaskLosses
from robopolicy.training.teacher import teacher_fingerprint

if TYPE_CHECKING:
    from accelerate import Accelerator

Data = Demonstrations | DemonstrationSets | TaskDemonstrations


class TrainingDiverged(InputError):
    """The loss or the weights are no longer finite; the message names the step and the last good checkpoint."""


class PolicyLoss(torch.nn.Module):
    """``policy.loss`` as a forward pass, which is what data-parallel training and autocast wrap."""

    def __init__(self, policy: LearntPolicy) -> None:
        """Wrap ``policy``."""
        super().__init__()
        self.policy = policy

    def forward(self, batch: dict[str, torch.Tensor], keys: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the scalar loss and metrics of ``batch`` (see ``LearntPolicy.loss``) with noise of row ``keys`` (B,) int64."""
        return self.policy.loss(batch, Noise(keys, device=keys.device))


@dataclass
class Session:
    """One process's share of a run.

    Attributes:
        recipe: What is trained.
        accelerator: This process's place among the others, and its device.
        demonstrations: The data.
        sampler: Draws the batches.
        policy: The weights that are trained.
        loss: Its loss, prepared by ``accelerate``.
        optimizer: The same.
        ema: The averaged weights.
        folder: Where the run is written.
        step: Updates done.
        note: Told what a person should know.
        log: JSON lines and TensorBoard; only in the first process.
        bar: Progress; only in the first process.
        task_losses: Loss of every task, where there are several.
        seconds: Spent since the last row of the log: on loading data, and in all.
    """

    recipe: Recipe
    accelerator: Accelerator
    demonstrations: Data
    sampler: Batches
    policy: LearntPolicy
    loss: Any
    optimizer: Any
    ema: Ema
    folder: RunFolder
    step: int
    note: Note
    log: TrainingLog | None = None
    bar: ProgressBar | None = None
    task_losses: TaskLosses | None = None
    seconds: dict[str, float] = field(default_factory=lambda: {"data": 0.0, "all": 0.0})

    def save(self) -> None:
        """Write checkpoint, pointer, log and training state, in this order: the state vouches for all the others.

        Raises:
            TrainingDiverged: if the weights are not finite.
            InputError: if the disk is full or not writable.
        """
        if self.accelerator.is_main_process:
            self._save()
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        assert self.log is not None
        if not all(bool(torch.isfinite(p).all()) for p in self.policy.parameters()):
            raise TrainingDiverged(f"step {self.step}: weights are not finite; {self.folder.last_good()}; a lower training.optimizer.lr may help")
        d = self.demonstrations
        data = d.facts()
        target = self.folder.checkpoint(self.step)
        named = {"recipe": self.recipe.name} if self.recipe.name else {}
        about = {"step": self.step, **data, **named, "calibration": fingerprint_of(self.policy.spec)}
        checkpoint.save(target, self.ema.policy, recipe=self.recipe.to_dict(), extra=about)
        self.folder.point_to(self.step)
        self.log.write("checkpoint", self.step, path=f"checkpoints/{target.name}")
        self.log.sync()
        scaler = self.accelerator.scaler
        facts = {
            "step": self.step,
            "processes": self.accelerator.num_processes,
            "torch": torch.__version__,
            "precision": self.accelerator.mixed_precision,
            "spec": self.policy.spec.to_dict(),
            "teacher": teacher_fingerprint(self.recipe),
            "scaler": None if scaler is None else scaler.state_dict(),
            **data,
        }
        save_state(self.folder.state(self.step), self.policy, self.ema, self.optimizer.optimizer, self.policy.normalizer, facts)
        self.folder.prune(self.recipe.training.keep_checkpoints)


def newest_state(folder: RunFolder, note: Note) -> tuple[Path, dict[str, Any]] | None:
    """Return file and facts of the newest whole training state, None if there is none; ``note`` is told of damaged ones."""
    for _, file in folder.states_newest_first():
        try:
            return file, read_facts(file)
        except InputError as error:
            note(f"{error}; going on from the one before")
    return None


def begin(recipe: Recipe, accelerator: Accelerator, folder: RunFolder, fresh: bool, progress: bool, note: Note) -> Session:
    """Prepare a session: from the run's newest training state, from ``init``, or from nothing.

    Raises:
        InputError: see :func:`robopolicy.training.imitation.train`.
    """
    first, demonstrations = accelerator.is_main_process, None
    begun = not fresh and newest_state(folder, lambda text: None) is not None
    initial = None if begun else load_initial(recipe)  # first: a wrong init costs no collection
    if first:  # the others find what it has collected, decoded and created
        demonstrations = open_demonstrations(recipe, progress, note)
        folder.open(recipe, fresh)
    accelerator.wait_for_everyone()
    demonstrations = demonstrations or open_demonstrations(recipe, False, note)
    found = newest_state(folder, note)
    _check_state(found, recipe, demonstrations, accelerator, folder, note)
    policy, sampler = _policy(recipe, demonstrations, initial, found, note)
    policy.to(accelerator.device).train()
    o = recipe.training.optimizer
    optimizer = torch.optim.AdamW(policy.parameter_groups(o.weight_decay), lr=o.lr, betas=o.betas, fused=True)
    ema = Ema(policy, recipe.training.ema)
    step = int(load_state(found[0], policy, ema, optimizer)["step"]) if found else 0
    policy.begin_training()
    loss: Any = PolicyLoss(policy)
    loss, optimizer = accelerator.prepare(torch.compile(loss) if recipe.training.compile else loss, optimizer)
    if found and found[1].get("scaler") and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(found[1]["scaler"])
    session = Session(recipe, accelerator, demonstrations, sampler, policy, loss, optimizer, ema, folder, step, note)
    if isinstance(demonstrations, TaskDemonstrations):
        session.task_losses = TaskLosses(demonstrations.tasks, accelerator.device)
    if first:
        _open_log(session, progress)
    return session


def _check_state(
    found: tuple[Path, dict[str, Any]] | None,
    recipe: Recipe,
    demonstrations: Data,
    accelerator: Accelerator,
    folder: RunFolder,
    note: Note,
) -> None:
    if found is None:
        return
    facts = found[1]
    if facts.get("teacher") != teacher_fingerprint(recipe):
        teacher = getattr(recipe.policy, "teacher", None)
        raise InputError(
            f"{folder.path}: policy.teacher {teacher} has changed since this run began; take another folder with output=..., or begin anew with --fresh"
        )
    if facts["dataset_fingerprint"] != demonstrations.fingerprint:
        raise InputError(
            f"{folder.path}: data set {demonstrations.name} has changed since this run began (fingerprint {demonstrations.fingerprint}, "
            f"was {facts['dataset_fingerprint']}); take another folder with output=..., or begin anew with --fresh"
        )
    for name, now in (("processes", accelerator.num_processes), ("torch", torch.__version__), ("precision", accelerator.mixed_precision)):
        if facts.get(name, now) != now:  # runs from before have no precision
            note(f"the run was begun with {name} {facts[name]}, now {now}: it goes on, equal up to rounding instead of bit for bit")


def _policy(
    recipe: Recipe, demonstrations: Data, initial: LearntPolicy | None, found: tuple[Path, dict[str, Any]] | None, note: Note
) -> tuple[LearntPolicy, Batches]:
    """Return the policy with its first weights (the training state's come later) and the sampler that feeds it."""
    normalizer: Normalizer | None = None
    if found:
        spec, normalizer = Spec.from_dict(found[1]["spec"]), read_normalizer(found[0])
        demonstrations.require(spec, f"training state {found[0]}")
    elif initial is not None:
        spec, normalizer = initial.spec, initial.normalizer
        demonstrations.require(spec, f"init {recipe.init}")
        note(f"begins with the weights of {recipe.init}, and keeps its normaliser: it is not fitted to the new data")
    else:
        spec = registry.policy_class(recipe.policy_type).observed(recipe.policy, demonstrations.spec)
    sampler = demonstrations.sampler(recipe, spec)
    for line in sampler.remarks():
        note(line)
    if normalizer is None:
        normalizer = demonstrations.fit_normalizer(recipe, spec)
    torch.manual_seed(step_seed(recipe.seed, 0))  # of the first weights; steps count from 1
    policy = registry.create(recipe.policy_type, recipe.policy, spec, normalizer)
    if initial is not None and found is None:
        fill(policy, initial.state_dict(), f"init {recipe.init}")
    return policy, sampler


def _open_log(session: Session, progress: bool) -> None:
    recipe, folder = session.recipe, session.folder
    session.log = TrainingLog(folder.log_file, folder.tensorboard, session.step)
    size = sum(p.numel() for p in session.policy.parameters() if p.requires_grad)
    facts = {"steps": recipe.training.steps, "parameters": size, "windows": session.sampler.num_windows, "episodes": session.demonstrations.episodes}
    session.log.write("resume" if session.step else "begin", session.step, **facts, processes=session.accelerator.num_processes)
    session.bar = ProgressBar(f"train {recipe.policy_type}", session.step, recipe.training.steps, progress)
    how = f"going on at step {session.step}" if session.step else f"{recipe.training.steps} steps"
    session.bar.say(f"{recipe.policy_type} on {recipe.task}: {session.demonstrations.episodes} episodes, {size:,} parameters, {how}, {folder.path}")
