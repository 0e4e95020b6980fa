"""Mirror symmetry in on-policy learning: what was done on the left is also learnt on the right.

A task that declares a mirror M (``sim.mirror``) has worlds that go mirrored ways from mirrored states by mirrored actions, so
every sample of a rollout is one of the mirrored world too (augmentation), and the best policy is equivariant, which a loss can ask for:

    |mean pi(M s) - M mean pi(s)|^2

Mittal, Rudin, Klemm, Allshire and Hutter 2024, "Symmetry Considerations for Learning Task Symmetric Robot Policies".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from policies.distributions import Gaussian
from policies.gaussian import GaussianPolicy
from policies.normalize import Normalizer
from policies.spec import InputError, Spec
from robopolicy.training.on_policy_config import SymmetryConfig
from sim.mirror import Mirror

#: Network -> the fields in its input vector, in order, and what normalises them.
Inputs = Mapping[str, tuple[Sequence[str], Normalizer]]


def open_symmetry(config: SymmetryConfig | None, env: Any, policy: GaussianPolicy, inputs: Inputs) -> Symmetry | None:
    """Return the symmetry that ``config`` asks for, None if it asks for none.

    Args:
        config: The section ``training.symmetry``.
        env: The worlds, which declare their mirror.
        policy: What learns.
        inputs: What the policy and its critic read: ``policy`` and ``critic``.

    Raises:
        InputError: one line, see :func:`require_mirror` and :class:`Symmetry`.
    """
    return None if config is None else Symmetry(config, require_mirror(env, policy.config), env.spec, policy, inputs)


def require_mirror(env: Any, policy: Any) -> Mirror:
    """Return the mirror of the worlds ``env``.

    Raises:
        InputError: one line, if they declare none or show images, or a policy of config ``policy`` remembers.
    """
    mirror, memory = getattr(env, "mirror", None), getattr(getattr(policy, "memory", None), "type", "none")
    if mirror is None:
        raise InputError(f"training.symmetry: task {env.task!r} declares no mirror symmetry; leave it out")
    if memory != "none":
        raise InputError(f"training.symmetry: what a memory {memory!r} holds cannot be mirrored; use policy.memory none")
    if env.spec.observation.image_names:
        raise InputError(f"training.symmetry: image field {env.spec.observation.image_names[0]!r} cannot be mirrored; use env.observations state")
    return mirror


class Symmetry:
    """Mirrors what a policy and its critic see and what the policy does.

    Args:
        config: What for.
        mirror: Of the task.
        spec: What the worlds offer, with names of all elements that are mirrored.
        policy: What learns; memoryless, from states alone.
        inputs: Fields and normaliser of the vector that each network reads.

    Raises:
        InputError: one line, if an element has no name or no partner, or limits of actions are not those of the mirror image.
    """

    def __init__(self, config: SymmetryConfig, mirror: Mirror, spec: Spec, policy: GaussianPolicy, inputs: Inputs) -> None:
        self.config, self.policy, self.inputs = config, policy, inputs
        device = next(policy.parameters()).device
        names = sorted({name for fields, _ in inputs.values() for name in fields})
        fields = spec.observation.fields
        self.shapes = {name: fields[name].shape for name in names}
        self._fields = {name: _on(device, mirror.of(fields[name].names, f"training.symmetry: observation field {name!r}")) for name in names}
        order, sign = mirror.of(spec.action.names, "training.symmetry: action")
        # of the policy's units, which are not those of the spec if it came with its own normaliser
        low, high = (policy.normalizer.unnormalize("action", torch.full((order.size,), end, device=device)).cpu().numpy() for end in (-1.0, 1.0))
        wrong = ~np.isclose(np.where(sign < 0, -high[order], low[order]), low) | ~np.isclose(np.where(sign < 0, -low[order], high[order]), high)
        if wrong.any():
            one = int(np.flatnonzero(wrong)[0])
            ends = f"{low[one]:g} to {high[one]:g}, {low[order[one]]:g} to {high[order[one]]:g}"
            pair = f"{spec.action.names[one]!r} and {spec.action.names[order[one]]!r}"
            raise InputError(f"training.symmetry: the limits of actions {pair} are not mirror images: {ends}")
        self._order, self._sign = _on(device, (order, sign))

    def field(self, name: str, raw: torch.Tensor) -> torch.Tensor:
        """Return a field (..., *shape), robot units, as the mirrored world would show it."""
        order, sign = self._fields[name]
        flat = raw.flatten(raw.ndim - len(self.shapes[name]))
        return (flat[..., order] * sign).reshape(raw.shape)

    def vector(self, network: str, vector: torch.Tensor) -> torch.Tensor:
        """Return the input (..., F) of a network, ``policy`` or ``critic``, as in the mirrored world, both normalised."""
        names, normalizer = self.inputs[network]
        sizes = [int(np.prod(self.shapes[name], dtype=np.int64)) for name in names]
        out = []
        for name, part in zip(names, vector.split(sizes, -1), strict=True):
            raw = normalizer.unnormalize(name, part.unflatten(-1, self.shapes[name]))
            out.append(normalizer.normalize(name, self.field(name, raw)).reshape(part.shape))
        return torch.cat(out, -1)

    def action(self, action: torch.Tensor) -> torch.Tensor:
        """Return mirrored actions (..., Da), normalised units."""
        return action[..., self._order] * self._sign

    def law(self, law: Gaussian) -> Gaussian:
        """Return the distribution (..., Da) of mirrored draws."""
        return Gaussian(self.action(law.mean), law.log_std[..., self._order])

    def augment(self, batch: Any) -> Any:
        """Return a minibatch with the mirror image of each of its B samples behind them, (2 B) rows; as it is without ``config.augment``.

        Images of samples have the probabilities, advantages and values of the originals: they are what the mirrored policy did.

        Args:
            batch: ``robopolicy.training.rollout.Minibatch`` with leading dim B.
        """
        if not self.config.augment:
            return batch
        vectors = {name: torch.cat([x, self.vector(name, x)]) for name, x in batch.vectors.items() if name in self.inputs}
        labels = {name: torch.cat([x, self._label(name, x)]) for name, x in batch.labels.items()}
        image, shape = self.law(batch.old), batch.old.mean.shape
        old = Gaussian(torch.cat([batch.old.mean, image.mean]), torch.cat([law.log_std.expand(shape) for law in (batch.old, image)]))
        changed: dict[str, Any] = {"vectors": vectors, "labels": labels, "old": old, "action": torch.cat([batch.action, self.action(batch.action)])}
        for one in dataclasses.fields(batch):
            value = getattr(batch, one.name)
            if one.name not in changed and isinstance(value, torch.Tensor):
                changed[one.name] = torch.cat([value, value])
        return dataclasses.replace(batch, **changed)

    def error(self, batch: Any, law: Gaussian) -> torch.Tensor:
        """Return |mean pi(M s) - M mean pi(s)|^2 of every row, mean over the elements of an action, normalised units.

        Args:
            batch: What :meth:`augment` returned, (rows,).
            law: The policy's distributions for it, (rows, Da).
        """
        if self.config.augment:
            mean, image = law.mean.chunk(2)
            error = (image - self.action(mean)).square().mean(-1)
            return torch.cat([error, error])  # of a sample and of its image it is the same
        image = self.policy.distribution(self.vector("policy", batch.vectors["policy"])).mean
        return (image - self.action(law.mean)).square().mean(-1)

    def loss(self, batch: Any, law: Gaussian) -> torch.Tensor:
        """Return ``config.weight`` times :meth:`error`, (rows,)."""
        return self.config.weight * self.error(batch, law)

    def _label(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Return a label (B, ...) of the mirror image: means and deviations of actions are mirrored, other numbers are the same."""
        return {"mean": self.action, "log_std": lambda x: x[..., self._order]}.get(name, lambda x: x)(value)


def _on(device: torch.device, mirror: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(mirror[0]).to(device), torch.from_numpy(mirror[1]).to(device)
