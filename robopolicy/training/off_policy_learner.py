"""The learning half of off-policy learning: a rule, the past that it learns from, and how much of it when."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import torch

from policies.noise import Noise, row_keys
from policies.normalize import Normalizer
from policies.spec import InputError
from robopolicy.algos.rule import OffPolicyRule, Transitions
from robopolicy.training.off_policy_actor import Experience
from robopolicy.training.off_policy_config import DemonstrationsConfig, OffPolicyTraining
from robopolicy.training.replay import Replay, joined
from robopolicy.training.replay_pieces import Pieces
from robopolicy.training.trial_state import Part

#: What tells apart the numbers drawn for different purposes at the same update of the same run.
_SAMPLE, _DEMONSTRATED, _UPDATE = 201, 202, 203


class Learner:
    """A rule and its replay. What it does is a function of (seed, environment step) and of what it was given.

    Args:
        rule: What learns; on its device.
        replay: Its past.
        training: The recipe's section.
        seed: Of the recipe.
        demonstrations: Where ``training.demonstrations.share`` of every batch is drawn from, once it holds something; None: nowhere.
        normalize: Fit the rule's normalisers to the random steps once they are over.

    Attributes:
        updates: Updates of the critics that were asked for, in this call of training.

    Raises:
        InputError: if the settings contradict each other or the rule.
    """

    def __init__(
        self, rule: OffPolicyRule, replay: Replay, training: OffPolicyTraining, seed: int, demonstrations: Replay | None = None, normalize: bool = False
    ) -> None:
        self.rule, self.replay, self.training, self.seed, self.demonstrations = rule, replay, training, seed, demonstrations
        self.normalize, self.updates = normalize, 0
        self.device = next(rule.parameters()).device
        self._ratio = Fraction(str(training.update_ratio))  # what was written: 0.1 is a tenth
        self._demonstrated = round(training.demonstrations.share * training.batch_size)
        self._pieces = None if demonstrations is None else Pieces(demonstrations)
        self._sums: dict[str, tuple[torch.Tensor, int]] = {}
        require_learnable(type(rule), training, normalize)

    def take(self, experience: Experience) -> None:
        """Remember one control step; where somebody took over, among the demonstrations too."""
        e = experience
        self.replay.add(e.obs, e.action, e.reward, e.next_obs, e.terminated, e.truncated)
        if self._pieces is not None:
            self._pieces.take(e)

    def learn(self, before: int, after: int) -> None:
        """Do the updates that are due in environment steps ``before`` + 1 to ``after`` (of all worlds together).

        With a ratio r there are floor(r n) after n steps beyond the random ones, exactly, whatever r. All that one environment step
        makes due are handed to the rule together: with a high ratio it may then improve its policy once.

        Raises:
            InputError: if the critic has diverged (with priorities).
        """
        begin = self.training.random_steps
        if self.normalize and before < begin <= after:
            self.fit_normalizers()
        for step in range(max(before, begin), after):
            first, stop = self.due(step), self.due(step + 1)
            if stop > first and self._ready:
                self._update(first, stop - first, step / self.training.steps)

    def due(self, step: int) -> int:
        """Return how many updates there have to be after ``step`` environment steps."""
        return int(self._ratio * max(0, step - self.training.random_steps))

    def metrics(self) -> dict[str, float]:
        """Return what the rule reported, averaged over the updates since the last call."""
        sums, self._sums = self._sums, {}
        return {name: float(total) / count for name, (total, count) in sums.items()}

    def parts(self) -> dict[str, Part]:
        """Return what a training state holds beside the replay's rows."""
        optimizers: Mapping[str, Part] = {f"optimizer.{name}": optimizer for name, optimizer in self.rule.optimizers().items()}
        priorities = self.replay.priorities()
        return {"rule": self.rule, **optimizers, **({"priorities": priorities} if priorities else {})}

    def restore(self, parts: Mapping[str, Part]) -> None:
        """Take over the priorities in ``parts``, which are :meth:`parts` as a training state filled them, once the rows are there."""
        priorities = parts.get("priorities")
        if isinstance(priorities, Mapping):
            self.replay.restore_priorities(priorities)

    def fit_normalizers(self) -> None:
        """Give every normaliser of the rule, the policy's included, the statistics of all states in the replay."""
        for module in self.rule.modules():
            if isinstance(module, Normalizer):
                for name in self.replay.spec.observation.state_names:
                    if name in module.names:
                        mean, deviation = (torch.from_numpy(a).to(self.device, torch.float32) for a in self.replay.mean_and_deviation(name))
                        module.refit(name, mean, deviation)

    @property
    def _ready(self) -> bool:
        return self.replay.ready or self._from_demonstrations == self.training.batch_size

    @property
    def _from_demonstrations(self) -> int:
        """How many rows of a batch are demonstrated."""
        return self._demonstrated if self.demonstrations is not None and self.demonstrations.ready else 0

    def _update(self, number: int, count: int, progress: float) -> None:
        """Do ``count`` updates of the critics in one call of the rule, the first of which has that ``number`` in the whole run."""
        batches = self._batches(number, count, progress)
        keys = row_keys(self.seed, _UPDATE, number, np.arange(self.training.batch_size))
        done = self.rule.update(batches, Noise(keys, self.device))
        self.updates += count
        for name, value in done.metrics.items():
            total, there = self._sums.get(name, (torch.zeros((), device=value.device), 0))
            self._sums[name] = total + value.detach(), there + 1
        if self.training.replay.sampling == "prioritized":
            drawn = torch.cat([batch.index for batch in batches])  # of one that was drawn twice the last error counts
            self.replay.set_priorities(drawn.cpu().numpy(), done.priority.detach().cpu().numpy())

    def _batches(self, number: int, count: int, progress: float) -> list[Transitions]:
        shown = self._from_demonstrations
        own = self.training.batch_size - shown
        numbers = np.arange(number, number + count)[:, None]
        sides: list[list[Transitions]] = []
        if own:
            keys = row_keys(self.seed, _SAMPLE, numbers, np.arange(own))
            sides.append(self.replay.sample_several(keys, progress))
        if shown and self.demonstrations is not None:
            keys = row_keys(self.seed, _DEMONSTRATED, numbers, np.arange(shown))
            sides.append([_foreign(batch) for batch in self.demonstrations.sample_several(keys)])
        return [_moved(joined(parts), self.device) for parts in zip(*sides, strict=True)]


def require_learnable(kind: type[OffPolicyRule], training: OffPolicyTraining, normalize: bool) -> None:
    """Raise InputError, one line, if the settings contradict each other or the rule ``kind``."""
    shown = training.demonstrations
    if training.replay.chunk > 1 and not getattr(kind, "chunks", False):
        name = kind.__module__.rpartition(".")[2]
        raise InputError(f"training.replay.chunk={training.replay.chunk}: algo {name!r} learns single actions: expected 1")
    if normalize and not training.random_steps:
        raise InputError("training.normalize_observations=true needs random steps to measure: expected training.random_steps above 0, found 0")
    if shown.path is None and (shown.episodes or shown.collect):
        raise InputError("training.demonstrations: episodes or collect are given, but no path")
    demonstrated = shown.path is not None or training.takeover.source != "none"
    if not demonstrated and shown.share != DemonstrationsConfig().share:
        raise InputError(f"training.demonstrations.share={shown.share:g}: there is no path, and nobody takes over whose steps it could be of")
    if demonstrated and shown.share and not round(shown.share * training.batch_size):
        raise InputError(
            f"training.demonstrations.share={shown.share:g} of training.batch_size={training.batch_size} makes no row: expected more, or 0 for none"
        )
    if training.reward.record is not None:
        if not training.reward.judged:
            raise InputError("training.reward.record keeps episodes that success alone rewards: expected training.reward.sparse=true or a classifier")
        if training.robot is not None or training.resets.type != "world":
            raise InputError("training.reward.record keeps episodes of simulated worlds that are reset: leave out training.robot and training.resets")


def _foreign(batch: Transitions) -> Transitions:
    """Return ``batch`` with numbers that stand for no transition of the replay."""
    batch.index.fill_(-1)
    return batch


def _moved(batch: Transitions, device: torch.device) -> Transitions:
    if device.type == "cpu":
        return batch
    obs, next_obs = ({name: tensor.to(device, non_blocking=True) for name, tensor in side.items()} for side in (batch.obs, batch.next_obs))
    own = {name: getattr(batch, name).to(device, non_blocking=True) for name in ("action", "reward", "discount", "weight", "index")}
    return Transitions(obs=obs, next_obs=next_obs, **own)
