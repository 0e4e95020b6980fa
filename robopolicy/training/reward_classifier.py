"""Training a reward classifier: frames at success against all others, half of each in a batch, judged on episodes kept aside.

The observation of frame t is what led to its action, so the frame after a successful step is the one that shows success. Batches
are functions of (seed, step): a run that was stopped goes on from its last state and gives the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from torch.nn import functional as F

from policies.config import Config
from policies.networks.augmentation import shifted
from policies.noise import Noise, row_keys
from policies.spec import InputError, Spec
from robopolicy.data.dataset import Dataset
from robopolicy.training import trial_state
from robopolicy.training.reward_metrics import Quality, quality
from robopolicy.training.reward_model import ClassifierConfig, RewardClassifier, save_classifier

STATE = "state.safetensors"
_SUCCESS = "next.success"
_BATCH, _ORDER = 256, 0x5E4D  # rows decided at once; keeps the keys of the split apart


class ClassifierTraining(Config):
    """How a reward classifier is trained."""

    steps: pydantic.PositiveInt = 600
    batch_size: pydantic.PositiveInt = pydantic.Field(default=64, ge=2)
    lr: pydantic.PositiveFloat = 1e-3  # of Adam
    held_out: float = pydantic.Field(default=0.2, gt=0, lt=1)  # share of the episodes that it is judged on
    threshold: float = pydantic.Field(default=0.5, gt=0, lt=1)  # for that judgement
    seed: int = 0
    save_every: pydantic.PositiveInt = 100
    model: ClassifierConfig = ClassifierConfig()


@dataclass(frozen=True)
class Labelled:
    """Frames of one data set, F in all, with what they show.

    Attributes:
        dataset: Where from.
        spec: Its cameras that are read.
        label: (F,) bool, whether the task is done in the picture.
        episode: (F,) int64.
    """

    dataset: Dataset
    spec: Spec
    label: np.ndarray
    episode: np.ndarray

    def images(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Return camera -> (B, H, W, 3) uint8 of ``frames`` (B,)."""
        return {name: np.asarray(self.dataset.field(name)[frames]) for name in self.spec.observation.image_names}


def labelled(dataset: Dataset, cameras: Sequence[str] | None = None) -> Labelled:
    """Return the frames of ``dataset`` with their labels.

    Raises:
        InputError: if it has no ``next.success`` or no such cameras.
    """
    if _SUCCESS not in dataset.arrays:
        raise InputError(f"data set {dataset.path} has no {_SUCCESS!r}: it does not say which frames show success")
    names = list(dataset.spec.observation.image_names) if cameras is None else list(cameras)
    after = np.asarray(dataset.field(_SUCCESS)).reshape(dataset.num_frames).astype(bool)
    label = np.concatenate([[False], after[:-1]])
    label[dataset.episode_starts[:-1]] = False  # what led to an episode's first frame was another episode
    episode = np.repeat(np.arange(dataset.num_episodes), np.diff(dataset.episode_starts))
    return Labelled(dataset, dataset.spec.subset(names), label, episode)


@dataclass(frozen=True)
class Trained:
    """What training left behind.

    Attributes:
        folder: Of the classifier.
        quality: On the episodes kept aside.
        resumed_from: Step at which this call began.
    """

    folder: Path
    quality: Quality
    resumed_from: int


def train_classifier(
    paths: Sequence[str | Path], folder: str | Path, config: ClassifierTraining = ClassifierTraining(), told: Callable[[int, float], Any] | None = None
) -> Trained:
    """Train a classifier on data sets with success labels and write it to ``folder``.

    Args:
        paths: Data sets with the same cameras.
        folder: Where to; a run that was stopped there goes on.
        config: How.
        told: Called with (step, loss) after every step.

    Raises:
        InputError: if a data set cannot be used or is given twice, or there is nothing of one kind (success or not) to learn from or to judge on.
    """
    places = [Path(path).resolve() for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:  # an episode would be learnt from in one and judged on in the other
            raise InputError(f"reward classifier: data set {paths[number]} is given twice")
    folder, sources = Path(folder), [labelled(Dataset.open(path), config.model.cameras) for path in paths]
    if not sources:
        raise InputError("reward classifier: expected at least one data set")
    for other in sources[1:]:
        sources[0].spec.require(other.spec, f"data set {sources[0].dataset.path}", f"data set {other.dataset.path}")
    learn, judge = _split(sources, config)
    torch.manual_seed(config.seed)
    model = RewardClassifier(config.model, sources[0].spec)
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    about = {"data": {str(s.dataset.path): s.dataset.fingerprint for s in sources}, "training": config.model_dump(mode="json")}
    first = _resumed(folder / STATE, model, optimizer, about)
    model.train()
    for step in range(first + 1, config.steps + 1):
        loss = _update(model, optimizer, sources, learn, config, step)
        if told is not None:
            told(step, loss)
        if step % config.save_every == 0 or step == config.steps:
            trial_state.save(folder / STATE, {"model": model, "optimizer": optimizer}, {**about, "step": step})
    model.eval()
    found = _judge(model, sources, judge, config.threshold)
    counts = {"frames": [int(kind.size) for kind in learn], "held_out_frames": int(judge[0].size)}
    save_classifier(folder, model, {**about, **counts, "quality": found.describe()})
    return Trained(folder, found, first)


def _split(sources: Sequence[Labelled], config: ClassifierTraining) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return (success frames, other frames) to learn from and (frames, episodes) to judge on, counted over all sets; whole episodes go to one side."""
    label = np.concatenate([s.label for s in sources])
    first = np.cumsum([0, *(s.dataset.num_episodes for s in sources)])
    episode = np.concatenate([s.episode + start for s, start in zip(sources, first, strict=False)])
    aside = np.zeros(int(first[-1]), bool)
    won = np.zeros_like(aside)
    won[episode[label]] = True
    for kind in (won, ~won):  # some of each, so that both are judged
        members = np.flatnonzero(kind)
        order = members[np.argsort(row_keys(config.seed ^ _ORDER, members), kind="stable")]
        aside[order[: round(config.held_out * len(order)) or int(len(order) > 1)]] = True
    held = aside[episode]
    learn = np.flatnonzero(label & ~held), np.flatnonzero(~label & ~held)
    for frames, what in ((learn[0], "show success"), (learn[1], "show none"), (np.flatnonzero(held & label), "were kept aside and show success")):
        if not frames.size:
            raise InputError(f"reward classifier: no frames {what} in {', '.join(str(s.dataset.path) for s in sources)}; record more episodes of that kind")
    return learn, (np.flatnonzero(held), episode[held])


def _images(sources: Sequence[Labelled], frames: np.ndarray) -> dict[str, torch.Tensor]:
    """Return camera -> (B, H, W, 3) uint8 of ``frames`` (B,), counted over all sets."""
    ends = np.cumsum([s.label.size for s in sources])
    which = np.searchsorted(ends, frames, side="right")
    out: dict[str, np.ndarray] = {}
    for number in np.unique(which):
        mine = which == number
        for name, pictures in sources[number].images(frames[mine] - (ends[number] - sources[number].label.size)).items():
            out.setdefault(name, np.empty((len(frames), *pictures.shape[1:]), np.uint8))[mine] = pictures
    return {name: torch.from_numpy(pictures) for name, pictures in out.items()}


def _update(
    model: RewardClassifier, optimizer: torch.optim.Optimizer, sources: Sequence[Labelled], learn: tuple[np.ndarray, np.ndarray],
    config: ClassifierTraining, step: int,
) -> float:  # fmt: skip
    """Do one step on as many success frames as others; return the cross-entropy, nat."""
    half, keys = config.batch_size // 2, row_keys(config.seed, step, np.arange(2 * (config.batch_size // 2)))
    drawn = keys.view(np.uint64) >> np.uint64(16)  # the low bits go to the noise
    frames = np.concatenate([kind[part % np.uint64(kind.size)] for kind, part in zip(learn, (drawn[:half], drawn[half:]), strict=True)])
    noise = Noise(keys)
    logits = model(shifted(_images(sources, frames), model.spec, noise, config.model.image.shift), noise)
    loss = F.binary_cross_entropy_with_logits(logits, torch.cat([torch.ones(half), torch.zeros(half)]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _judge(model: RewardClassifier, sources: Sequence[Labelled], judge: tuple[np.ndarray, np.ndarray], threshold: float) -> Quality:
    frames, episode = judge
    label = np.concatenate([s.label for s in sources])[frames]
    parts = [model.probability({n: x.numpy() for n, x in _images(sources, frames[a : a + _BATCH]).items()}) for a in range(0, len(frames), _BATCH)]
    return quality(np.concatenate(parts), label, episode, threshold)


def _resumed(file: Path, model: RewardClassifier, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]) -> int:
    """Put a saved state of the same run into place and return its step; 0 if there is none. Raises InputError for another run's."""
    if not file.is_file():
        return 0
    facts = trial_state.read_facts(file)
    for key, value in about.items():
        if facts.get(key) != value:
            raise InputError(f"{file.parent} holds a classifier that was trained with other {key}; take another folder with --out, or --fresh")
    trial_state.load(file, {"model": model, "optimizer": optimizer})
    return int(facts["step"])
