"""Imitation: demonstrations in, a policy out. The loop is :func:`_loop`; ``session`` prepares it and brings it through a kill.

Given the recipe, a run is the same bit for bit on one machine, whether or not it was interrupted: batches, noise, dropout
and schedules are functions of (seed, step), and what remains (weights, average, optimiser) is the training state.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from policies.spec import InputError
from robopolicy.conditioning import task_set
from robopolicy.recipe import Note, Recipe, print_note
from robopolicy.training.arithmetic import fixed_arithmetic, precision_here, seed_generators
from robopolicy.training.interrupt import Interrupts
from robopolicy.training.run_folder import RunFolder
from robopolicy.training.schedule import learning_rate_factor, step_seed
from robopolicy.training.session import Session, TrainingDiverged, begin, newest_state
from robopolicy.training.teacher import with_teacher

if TYPE_CHECKING:
    from accelerate import Accelerator

_LOOK_EVERY = 10  # steps between looks at the loss where a look waits for a GPU; on a CPU it is every step


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind.

    Attributes:
        run: Its folder.
        checkpoint: The final checkpoint in it.
        steps: Updates in all.
        resumed_from: Step at which this call began; 0 for a fresh run, ``steps`` if there was nothing left to do.
        seconds: Wall time of this call.
    """

    run: Path
    checkpoint: Path
    steps: int
    resumed_from: int
    seconds: float


def train(recipe: Recipe, progress: bool = True, resume: Literal["auto", "never"] = "auto", note: Note = print_note) -> TrainResult:
    """Train the recipe's policy on its demonstrations.

    Args:
        recipe: What to do; ``recipe.output`` is the run's folder.
        progress: Show a progress bar.
        resume: ``auto`` goes on where an interrupted run of the same recipe stopped; ``never`` deletes it and begins anew.
        note: Told, in one line, what a person should know and might not expect.

    Returns:
        Where the run and its final checkpoint are.

    Raises:
        InputError: recipe, data set, task or checkpoint cannot be used; SpecMismatch if two of them do not fit.
        robopolicy.training.session.TrainingDiverged: the loss or the weights are no longer finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once everything that is needed to go on was saved.
    """
    began, recipe = time.monotonic(), with_teacher(recipe)
    config, folder = recipe.training, RunFolder(recipe.filled(recipe.output))
    with fixed_arithmetic(recipe.training.threads or os.cpu_count() or 1), contextlib.closing(folder):
        accelerator = _accelerator(recipe, note)
        note = note if accelerator.is_main_process else _silent
        folder.require_place()
        if resume == "auto":
            folder.check(recipe)
            found = newest_state(folder, _silent)
            if found and found[1]["step"] >= config.steps and (folder.checkpoint(config.steps) / "manifest.json").is_file():
                note(f"{folder.path} is finished: {config.steps} steps are done; --fresh trains it anew")
                return TrainResult(folder.path, folder.checkpoint(config.steps), config.steps, config.steps, time.monotonic() - began)
        if config.optimizer.warmup_steps >= config.steps:
            note(
                f"training.optimizer.warmup_steps={config.optimizer.warmup_steps} is not over after training.steps={config.steps}: "
                "the learning rate stays below training.optimizer.lr"
            )
        try:
            session = begin(recipe, accelerator, folder, resume == "never", progress, note)
        except InputError:  # a mistake in the recipe
            folder.forget()
            raise
        first = session.step
        with contextlib.ExitStack() as closing:
            for part in (session.log, session.bar):
                if part is not None:
                    closing.enter_context(contextlib.closing(part))
            with Interrupts(lambda: note("stopping after this step; once more stops at once, without saving")) as interrupts:
                _loop(session, interrupts)
            if session.log is not None:
                session.log.write("end", session.step, seconds=round(time.monotonic() - began, 3))
    return TrainResult(folder.path, folder.checkpoint(config.steps), config.steps, first, time.monotonic() - began)


def _loop(s: Session, interrupts: Interrupts) -> None:
    """Train until the recipe's last step. Steps count updates: 1 is the first."""
    config = s.recipe.training
    rates = [group["lr"] for group in s.optimizer.param_groups]
    rank, world = s.accelerator.process_index, s.accelerator.num_processes
    weights = list(s.policy.parameters())
    # accelerate's wrapper looks for a package on the disk at every step; it is needed for the scaled gradients of fp16
    optimizer = s.optimizer if s.accelerator.scaler is not None else s.optimizer.optimizer
    while s.step < config.steps:
        s.step += 1
        began = time.perf_counter()
        batch, keys = s.sampler.batch(s.step - 1, rank, world)
        batch = {name: tensor.to(s.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        keys = torch.from_numpy(np.ascontiguousarray(keys)).to(s.accelerator.device)
        loaded = time.perf_counter()
        factor = learning_rate_factor(s.step - 1, config.optimizer.warmup_steps, config.steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        seed_generators(step_seed(s.recipe.seed, s.step, rank), s.accelerator.device)  # dropout; all other randomness hangs on the row keys
        s.policy.begin_update((s.step - 1) / config.steps)
        loss, metrics = s.loss(batch, keys)
        if s.task_losses is not None and (errors := metrics.pop("row_errors", None)) is not None:
            s.task_losses.add(batch["task_index"], errors)
        s.accelerator.backward(loss)
        norm = s.accelerator.clip_grad_norm_(weights, config.optimizer.gradient_clip or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        s.ema.update(s.step)
        s.seconds["data"] += loaded - began
        s.seconds["all"] += time.perf_counter() - began
        if not _time_to_look(s):
            continue
        seen, stop = _look(s, {"loss": loss, "grad_norm": norm, **metrics}, interrupts.asked)
        if s.log is not None and s.step % config.log_every == 0:
            _log(s, seen, config.optimizer.lr * factor)
        if config.evaluate_every and s.step % config.evaluate_every == 0:
            _evaluate(s)
        if stop or s.step % config.checkpoint_every == 0 or s.step == config.steps:
            s.save()
        if stop and s.step < config.steps:
            s.note(f"stopped at step {s.step} of {config.steps}; all is saved, the same command goes on from here")
            raise KeyboardInterrupt


def _time_to_look(s: Session) -> bool:
    config = s.recipe.training
    marks = (_LOOK_EVERY, config.log_every, config.checkpoint_every, config.evaluate_every or config.steps, config.steps)
    return s.accelerator.device.type == "cpu" or any(s.step % mark == 0 for mark in marks)


def _look(s: Session, values: Mapping[str, Any], asked: bool) -> tuple[dict[str, float], bool]:
    """Return ``values`` (scalars) averaged over processes, and whether any process was asked to stop. Raises TrainingDiverged."""
    numbers = [torch.as_tensor(v).detach().float().reshape(()).to(s.accelerator.device) for v in values.values()]
    row = torch.stack([*numbers, torch.tensor(float(asked), device=s.accelerator.device)])
    if s.accelerator.num_processes > 1:
        torch.distributed.all_reduce(row)
        row[:-1] /= s.accelerator.num_processes
    *numbers, anyone_asked = row.tolist()
    seen = dict(zip(values, numbers, strict=True))
    # with fp16 an infinite gradient is part of the method: that update is skipped and the scale of the loss halved
    for name in ("loss", "grad_norm") if s.accelerator.scaler is None else ("loss",):
        if not math.isfinite(seen[name]):
            raise TrainingDiverged(f"step {s.step}: {name} is {seen[name]}; {s.folder.last_good()}; a lower training.optimizer.lr may help")
    if s.bar is not None:
        s.bar.update(s.step, seen["loss"])
    return seen, anyone_asked > 0


def _log(s: Session, seen: Mapping[str, float], rate: float) -> None:
    assert s.log is not None and s.bar is not None
    share = s.seconds["data"] / max(s.seconds["all"], 1e-9)
    tasks = {} if s.task_losses is None else s.task_losses.take()
    s.log.write("train", s.step, **seen, **tasks, lr=rate, steps_per_s=round(s.bar.steps_per_second, 3), data_share=round(share, 5))
    s.seconds.update(data=0.0, all=0.0)


def _evaluate(s: Session) -> None:
    """Measure the success of the averaged weights on selection seeds; the first process does it, the others wait."""
    if s.log is not None and s.bar is not None:
        from robopolicy.evaluation.rollout import evaluate
        from robopolicy.evaluation.seeds import SELECTION
        from robopolicy.evaluation.statistics import wilson
        from robopolicy.evaluation.suite import evaluate_suite

        e = s.recipe.evaluation
        how: dict[str, Any] = {
            "episodes": e.episodes,
            "seed0": SELECTION + e.seed,
            "block": e.block,
            "workers": e.workers,
            "threads": e.threads,
            "env": s.recipe.env.options(),
            "noise_seed": e.seed,
            "device": str(s.accelerator.device),
            "latency_calls": 0,
            "progress": False,
        }
        if tasks := task_set(s.recipe.task):
            suite = evaluate_suite(s.ema.policy, tasks, name=s.recipe.task, **how)
            rate, low, high = suite.mean
            each = {f"success/{one.task}": one.success_rate for one in suite.evaluations}
            s.log.write("evaluation", s.step, success=rate, low=low, high=high, tasks=len(tasks), episodes=e.episodes, **each)
            s.bar.say(f"step {s.step}: success {rate:.2f} [{low:.2f}, {high:.2f}], mean of {len(tasks)} tasks on {e.episodes} selection states each")
            s.accelerator.wait_for_everyone()
            return
        result = evaluate(s.ema.policy, s.recipe.task, **how)
        successes = sum(episode.success for episode in result.episodes)
        rate, (low, high) = successes / e.episodes, wilson(successes, e.episodes)
        s.log.write("evaluation", s.step, success=rate, low=low, high=high, successes=successes, episodes=e.episodes)
        s.bar.say(f"step {s.step}: success {rate:.2f} [{low:.2f}, {high:.2f}] on {e.episodes} selection states")
    s.accelerator.wait_for_everyone()


def _accelerator(recipe: Recipe, note: Note) -> Accelerator:
    """Return accelerate's view of this process: which of how many it is, on which device and with which precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    config, gpus = recipe.training, torch.cuda.device_count()
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if config.batch_size % world:
        raise InputError(f"training.batch_size={config.batch_size} cannot be shared by {world} processes: choose a multiple of {world}")
    if gpus and local >= gpus:
        raise InputError(f"process {local + 1} on this machine has no GPU: there are {gpus}; use fewer processes, or no GPU (CUDA_VISIBLE_DEVICES=)")
    precision = precision_here(config.mixed_precision, note)
    AcceleratorState._reset_state()  # a run before this one in the same process may have had another precision
    # not on Apple's GPUs: they have no float64, in which noise and noise levels are computed
    return Accelerator(mixed_precision=precision, cpu=not gpus, step_scheduler_with_optimizer=False)


def _silent(text: str) -> None:
    """Say nothing: other processes than the first, and looks that are not reports."""


__all__ = ["TrainResult", "TrainingDiverged", "train"]
