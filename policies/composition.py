"""Composition of trained policies (GPC; Cao et al. 2025, "General policy composition"): one walk, steered by all of them.

``average``: at every step the parts' scores at one noise level are averaged, s = sum_i w_i s_i; since a score is affine in
the estimate of the data, data = sum_i w_i data_i. Some weights make the score error at most that of the best part (their
proposition 4.1), and independent errors partly cancel. Where the parts do not agree on where the modes are, the average
lies between the modes, where nobody would go.

``or``: the union of what the parts would do, p = sum_i w_i p_i. Its score is the mean of the parts' weighted by
softmax_i(log w_i + log p_i) (the OR of Skreta et al. 2024, "The superposition of diffusion models"), and those densities
are not known for networks; but to draw from a mixture is to draw the part first. So each row draws one part with
probability w_i and follows it: the same law, with any solver and any number of steps. The draw is anew for each plan.

Parts may differ in noise path, prediction and normalisation. The sample lives on the path and in the units of the
heaviest part (the first of equals), whose solver walks. Another part is asked at equal signal-to-noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from policies.chunk import ChunkPolicy
from policies.generative.paths import Estimate, Level, NoisePath, Pair, spread
from policies.generative.policy import GenerativePolicy, Steer, WarmStart
from policies.generative.samplers import Model, Solver
from policies.generative.translate import translate
from policies.learnt import Batch
from policies.noise import Noise
from policies.spec import InputError, ObservationSpec, Spec, suggest

Rule = Literal["average", "or"]
#: Weights that are given must sum to 1 up to this, and are then made to.
_TOLERANCE = 1e-6
#: Scales of two normalisers that differ by less, relatively, count as equal: float32 statistics of equal data.
_EQUAL = 1e-5


class ComposedPolicy(GenerativePolicy):
    """Two or more generative policies as one. It is a generative policy itself, so methods of execution work on it.

    Args:
        parts: Policies that denoise; action, windows and action encoding must be equal, observations may add up.
        weights: One a part, at least 0, together 1. A part of weight 0 is checked and then left out.
        by: ``average`` or ``or``.
        names: What messages call the parts; None: by position and type.

    Attributes:
        parts: Those with a weight, in order.
        weights: Theirs.
        lead: The part on whose path and in whose units the sample lives.

    Raises:
        InputError: one line: too few parts, weights that are none, or the field in which two parts differ.
    """

    def __init__(self, parts: Sequence[GenerativePolicy], weights: Sequence[float], by: Rule = "average", names: Sequence[str] | None = None) -> None:
        torch.nn.Module.__init__(self)  # no network, spec or normaliser of its own: those of the parts
        names = list(names or (f"part {i + 1}, {type(part).__name__}" for i, part in enumerate(parts)))
        shares = checked_weights(weights, len(parts))
        if by not in get_args(Rule):
            raise InputError(f"composition: rule {by!r} is unknown{suggest(by, get_args(Rule))}")
        _require_alike(parts, names)
        self.by: Rule = by
        self.spec = union([part.spec for part in parts], names)
        kept = [i for i, share in enumerate(shares) if share > 0]
        self.parts = torch.nn.ModuleList(parts[i] for i in kept)
        self.weights = tuple(shares[i] for i in kept)
        self.lead = parts[max(kept, key=lambda i: shares[i])]
        self.config, self.transform, self.normalizer = self.lead.config, self.lead.transform, self.lead.normalizer
        self.n_obs_steps, self.horizon, self.n_action_steps = self.lead.n_obs_steps, self.lead.horizon, self.lead.n_action_steps
        self.path, self.prediction, self.clip, self.two_valued = self.lead.path, self.lead.prediction, self.lead.clip, self.lead.two_valued
        self._units = [UnitChange(part, self.lead) for part in self._kept()]
        self._widths = [_width(part) for part in self._kept()]
        self.train(parts[0].training)

    @property
    def solver(self) -> Solver:
        """See base class; that of the heaviest part."""
        return self.lead.solver

    @property
    def steps(self) -> int:
        """See base class; those of the heaviest part."""
        return self.lead.steps

    def condition(self, obs: Batch, noise: Noise) -> torch.Tensor:
        """Return the conditions of all parts side by side, (B, To, C)."""
        return torch.cat([part.condition(obs, noise) for part in self._kept()], -1)

    def model(self, condition: torch.Tensor) -> Model:
        """See base class; ``condition`` is (B, To, C). An ``or`` has a model only within a walk, which draws a part for each row."""
        return self._composed(condition, None)

    def walk(
        self, condition: torch.Tensor, noise: Noise, *, start: WarmStart | None = None, steer: Steer | None = None, steps: int | None = None
    ) -> tuple[torch.Tensor, int]:
        """See base class; every row asks every part, so that what a row gets does not depend on its batch. Chunk is (B, Tp, De)."""
        drawn = self._draw(noise) if self.by == "or" else None

        def composed(_: Model) -> Model:
            model = self._composed(condition, drawn)
            return model if steer is None else steer(model)

        chunk, calls = super().walk(condition, noise, start=start, steer=composed, steps=steps)
        return chunk, calls * len(self.parts)

    def decode(self, chunk: torch.Tensor, obs: Batch) -> torch.Tensor:
        """Return actions (B, Tp, Da) in robot units from a chunk (B, Tp, De) in the units of the lead."""
        return self.lead.decode(chunk, obs)

    def encode(self, actions: torch.Tensor, obs: Batch) -> torch.Tensor:
        """Return the chunk (B, Tp, De) of actions (B, Tp, Da) in the units of the lead: undoes :meth:`decode`."""
        return self.lead.encode(actions, obs)

    def errors(self, chunk: torch.Tensor, condition: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Refuse: a composition of chunks (B, Tp, De) has no weights of its own. Raises InputError."""
        raise InputError("a composition is not trained: train its parts")

    def _kept(self) -> list[GenerativePolicy]:
        return list(self.parts)  # type: ignore[arg-type] # a ModuleList only promises modules

    def _draw(self, noise: Noise) -> torch.Tensor:
        """Draw a part for each row, (B,) int64."""
        edges = torch.tensor(self.weights, dtype=torch.float64, device=noise.keys.device).cumsum(0)[:-1]
        return torch.searchsorted(edges, noise.uniform().double(), right=True)

    def _composed(self, condition: torch.Tensor, drawn: torch.Tensor | None) -> Model:
        """Return the model of all parts: their average, or in each row that of the part ``drawn`` (B,)."""
        conditions = condition.split(self._widths, -1)
        models = [self._translated(part, units, c) for part, units, c in zip(self._kept(), self._units, conditions, strict=True)]
        if len(models) == 1:
            return models[0]

        def model(x: torch.Tensor, t: Level) -> Estimate:
            if self.by == "or" and drawn is None:
                raise InputError("composition: an or has no model of its own: each walk draws a part for each row")
            said = torch.stack([each(x, t).data for each in models])
            if drawn is None:
                data = (said * torch.tensor(self.weights, dtype=said.dtype, device=said.device).reshape(-1, 1, 1, 1)).sum(0)
            else:
                data = said[drawn, torch.arange(len(x), device=x.device)]
            return Estimate(data, self.path.noise_in(x, data, t))

        return model

    def _translated(self, part: GenerativePolicy, units: UnitChange, condition: torch.Tensor) -> Model:
        """Return a part's model on the path and in the units of the lead."""
        own = part.model(condition)
        return units.apply(translate(own, part.path, units.louder(self.path)), self.path)


class UnitChange:
    """From the normalised units of one policy's action (theirs) to another's (ours): y = ratio x + shift.

    What is noise of deviation sigma to us is noise of deviation ratio sigma to them, so they are asked at a level where it
    is ``loudness`` times as loud: exact when all elements have one ratio. Where the ratios differ there is no such level.
    Then y is first moved to one, by the map between the two noised normals of the variance that normalised actions have:
    an approximation, exact at both ends of the path (scales that differ by 2 between elements: W1 up by 0.01 on a mixture
    of modes 1.4 apart).

    Args:
        theirs: The policy that is asked.
        ours: The policy in whose units the sample lives.

    Attributes:
        ratio: (De,) float64, our scale in theirs.
        shift: (De,) float64, theirs, what our 0 is.
        loudness: One ratio for all elements: their median.
    """

    def __init__(self, theirs: ChunkPolicy, ours: ChunkPolicy) -> None:
        (offset, scale), (our_offset, our_scale) = _affine(theirs), _affine(ours)
        self.ratio, self.shift = our_scale / scale, (our_offset - offset) / scale
        self.loudness = float(self.ratio.median())
        self.even = bool(((self.ratio / self.loudness - 1.0).abs() < _EQUAL).all())
        if self.even and abs(self.loudness - 1.0) < _EQUAL:
            self.loudness = 1.0
        self.same = self.even and self.loudness == 1.0 and bool((self.shift.abs() < _EQUAL).all())
        unit = [mode == "mean_std" for mode in theirs.normalizer.modes("action")]
        self.variance = torch.where(torch.tensor(unit, device=scale.device), 1.0, 1.0 / 3.0).double()  # 1/3: uniform on [-1, 1]

    def louder(self, path: NoisePath) -> NoisePath:
        """Return our path as they see it."""
        return path if self.loudness == 1.0 else LouderPath(path, self.loudness)

    def apply(self, model: Model, path: NoisePath) -> Model:
        """Return a model in our units on our ``path`` from one in theirs on :meth:`louder`; x is (B, ..., De)."""
        if self.same:
            return model

        def converted(x: torch.Tensor, t: Level) -> Estimate:
            ratio, shift, variance = (v.to(x) for v in (self.ratio, self.shift, self.variance))
            signal, sigma = (spread(c, x) for c in path.scales(t))
            y = ratio * x + signal * shift
            if not self.even:
                known = signal**2 * variance
                y = y * ((known + (self.loudness * sigma) ** 2) / (known + (ratio * sigma) ** 2)) ** 0.5
            data = (model(y, t).data - shift) / ratio
            return Estimate(data, path.noise_in(x, data, t))

        return converted


@dataclass(frozen=True)
class LouderPath(NoisePath):
    """The same path with its noise multiplied: x_t = signal(t) data + factor sigma(t) noise.

    Attributes:
        path: The path.
        factor: By how much.
    """

    path: NoisePath
    factor: float

    @property
    def start(self) -> float:  # type: ignore[override]
        """See base class."""
        return self.path.start

    @property
    def end(self) -> float:  # type: ignore[override]
        """See base class."""
        return self.path.end

    def scales(self, t: Level) -> Pair:
        """See base class."""
        signal, sigma = self.path.scales(t)
        return signal, self.factor * sigma

    def rates(self, t: Level) -> Pair:
        """See base class."""
        signal, sigma = self.path.rates(t)
        return signal, self.factor * sigma

    def clock(self, t: Level) -> Level:
        """See base class."""
        return self.path.clock(t)

    def step_list(self, n: int, start: float | None = None) -> tuple[float, ...]:
        """See base class."""
        return self.path.step_list(n, start)

    def level_at(self, noise_to_signal: Level) -> Level:
        """See base class."""
        return self.path.level_at(noise_to_signal / self.factor)


def checked_weights(weights: Sequence[float], parts: int) -> tuple[float, ...]:
    """Return weights that sum to exactly 1.

    Raises:
        InputError: fewer than two parts, another number of weights, a negative one, or a sum that is not 1.
    """
    if parts < 2:
        raise InputError(f"composition: expected two or more policies, found {parts}")
    if len(weights) != parts:
        raise InputError(f"composition: expected {parts} weights, one a policy, found {len(weights)}")
    for weight in weights:
        if not 0.0 <= weight <= 1.0:  # false for nan too
            raise InputError(f"composition: weight {weight:g}: expected 0 to 1")
    total = sum(weights)
    if abs(total - 1.0) > _TOLERANCE:
        raise InputError(f"composition: weights {', '.join(f'{w:g}' for w in weights)} sum to {total:g}, expected 1")
    return tuple(w / total for w in weights)


def union(specs: Sequence[Spec], names: Sequence[str]) -> Spec:
    """Return a spec with the observation fields of all and their one action.

    Raises:
        SpecMismatch: one line naming the field, or the rate, in which two of them differ.
    """
    fields = dict(specs[0].observation.fields)
    for spec, name in zip(specs[1:], names[1:], strict=True):
        merged = Spec(ObservationSpec(fields, specs[0].observation.rate_hz), specs[0].action)
        spec.subset([n for n in spec.observation.fields if n in fields]).require(merged, name, names[0])
        fields |= spec.observation.fields
    return Spec(ObservationSpec(fields, specs[0].observation.rate_hz), specs[0].action, specs[0].meta)


def _require_alike(parts: Sequence[ChunkPolicy], names: Sequence[str]) -> None:
    """Refuse parts that do not walk from noise to data, or whose chunks mean different things."""
    for part, name in zip(parts, names, strict=True):
        own = isinstance(part, GenerativePolicy) and [getattr(type(part), name) is getattr(GenerativePolicy, name) for name in ("walk", "model")]
        if not own or not all(own):  # a jump from noise to a sample is no expected data
            kind = type(part).__module__.rpartition(".")[2]
            raise InputError(f"composition: {name}: a {kind} policy has no scores to compose; expected policies that denoise, such as flow or diffusion")
    for key in ("n_obs_steps", "horizon", "n_action_steps", "actions", "action_rotation", "action_reference"):
        ours = getattr(parts[0].config, key)
        for part, name in zip(parts[1:], names[1:], strict=True):
            theirs = getattr(part.config, key)
            if ours != theirs:
                raise InputError(f"composition: {key}: {names[0]} has {ours!r}, {name} {theirs!r}; chunks must mean the same")


def _affine(policy: ChunkPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    """Return offset and scale (De,) float64 with which a policy's chunk c means the encoded action scale c + offset."""
    device, tensors = next(policy.parameters()).device, policy.normalizer.tensors()
    offset, scale = (tensors[f"action.{name}"].double().flatten().to(device) for name in ("offset", "scale"))
    two_valued = policy.two_valued.double()
    return offset, torch.where(two_valued > 0, scale / two_valued, scale)


def _width(part: ChunkPolicy) -> int:
    """Return C, features per observed step of a part's condition, by asking for one."""
    device = next(part.parameters()).device
    fields = part.spec.observation.fields.items()
    blank = {name: torch.zeros(1, part.n_obs_steps, *f.shape, dtype=getattr(torch, f.dtype), device=device) for name, f in fields}
    with torch.no_grad():
        return part.condition(blank, Noise(torch.zeros(1, dtype=torch.int64), device)).shape[-1]
