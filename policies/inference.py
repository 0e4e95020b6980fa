"""Faster acting on a CPU: a loaded policy with its matrices laid out, and if wanted rounded, for one chunk at a time.

At batch 1 a large denoiser is bound by reading its weights, and a convolution over 4 to 16 steps reads them badly: torch
lays them out anew in every call. Here a convolution is one matrix product over the unfolded steps, its matrix stored once
in the layout of the kernel. What the U-Net's FiLM layers make of the condition is computed once a chunk, and of a noise
level once; both are exact, since a linear layer of (clock, condition) is a sum. Formats of the weights:

=============  ===================================================================================================
``float32``    The same function up to the order of summation.
``bfloat16``   Weights and inputs of products rounded to 8 bits of mantissa, sums in float32; half the bytes.
``int8``       Weights rounded to 255 values per output, inputs to 255 values per row of the batch; a quarter.
=============  ===================================================================================================

How far chunks move from those in float32: ``robopolicy bench latency``. At the published size bfloat16 stayed within 1 %
of the range of the actions, int8 did not; check int8 on the task before it is used.

>>> policy = accelerate(checkpoint.load(folder), "bfloat16")   # act() as before; it can no longer be trained or saved
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from policies.base import Policy
from policies.learnt import LearntPolicy
from policies.networks.unet1d import FilmBlock, UnetDenoiser
from policies.noise import Noise
from policies.spec import InputError, suggest

Weights = Literal["float32", "bfloat16", "int8"]

_SMALLEST = 1 << 16  # numbers in a matrix: smaller ones stay in a cache, and gain nothing
_MEMORY = 256  # noise levels whose share of FiLM is kept


def accelerate(policy: LearntPolicy, weights: Weights = "float32") -> LearntPolicy:
    """Lay out a policy's large matrices for acting on the CPU, in place, and return it.

    U-Nets become :class:`PackedUnet`, other large linear layers :class:`PackedLinear`. Rows of a batch stay independent
    of each other. The float32 weights are given up: the policy acts, without gradients, and cannot be saved.

    Args:
        policy: Any learnt policy.
        weights: Their format, see the module.

    Raises:
        InputError: unknown format, a policy that is not on a CPU or has no large matrix, or a processor that lacks the format.
    """
    if weights not in get_args(Weights):
        raise InputError(f"weights {weights!r}: no such format{suggest(weights, get_args(Weights))}")
    found = {str(p.device) for p in policy.parameters()}
    if found - {"cpu"}:
        raise InputError(f"weights={weights} lays out a policy for the CPU, found it on {', '.join(sorted(found))}")
    if weights == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise InputError("weights=bfloat16 needs a processor with AVX-512 (BW, VL and DQ) or bfloat16 instructions; use float32 or int8")
    _replace(policy, weights)
    if not any(isinstance(m, PackedLinear) for m in policy.modules()):
        raise InputError(f"weights={weights}: {type(policy).__name__} has no matrix of {_SMALLEST:,} numbers or more, so nothing would be gained; leave it out")
    return policy.eval().requires_grad_(False)


def require_acts(policy: Policy, weights: Weights) -> None:
    """Plan twice, the second time with the state of the first, so that what an accelerated policy cannot do is said now.

    Args:
        policy: Accelerated, and executed by its method.
        weights: Their format, for the message.

    Raises:
        InputError: if the policy, or the method that executes it, differentiates inside.
    """
    fields = policy.spec.observation.fields.items()
    obs = {name: torch.zeros(1, policy.n_obs_steps, *f.shape, dtype=getattr(torch, f.dtype)) for name, f in fields}
    state = policy.initial_state(1)
    try:
        for call in range(2):
            _, state = policy.act(obs, state, Noise(torch.zeros(1, dtype=torch.int64), draw=call << 16))
    except InputError as error:
        raise InputError(f"weights={weights}: {error}") from None


def _replace(module: nn.Module, weights: Weights) -> None:
    for name, child in module.named_children():
        if isinstance(child, UnetDenoiser):
            setattr(module, name, PackedUnet(child, weights))
        elif type(child) is nn.Linear and child.weight.numel() >= _SMALLEST:
            setattr(module, name, PackedLinear(child.weight, child.bias, weights))
        else:
            _replace(child, weights)


class PackedLinear(nn.Module):
    """A linear layer whose matrix is stored as oneDNN's kernel reads it.

    Args:
        weight: (N, K).
        bias: (N,), or None.
        weights: Format of the matrix.
        rows: Rows that a product will have at batch 1, which the layout is chosen for.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, weights: Weights, rows: int = 1) -> None:
        super().__init__()
        weight, self.weights = weight.detach(), weights
        self.bias = None if bias is None else bias.detach().clone()
        if weights == "int8":
            scale = weight.abs().amax(1).clamp_min(1e-12) / _largest_weight()
            rounded = (weight / scale[:, None]).round().to(torch.int8)
            self.scale, self.zero = scale, torch.zeros(len(scale), dtype=torch.int64)
            self.packed = torch.ops.onednn.qlinear_prepack(rounded, [rows, weight.shape[1]])
        else:
            self.dtype = getattr(torch, weights)
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(self.dtype).contiguous(), rows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, ..., N) float32 from ``x`` (B, ..., K). Raises InputError where a gradient is asked for."""
        _refuse_gradients(x)
        if self.weights != "int8":
            return self.product(x.to(self.dtype))
        rounded, scale = quantize(x)
        return self.product(rounded, scale)

    def product(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, ..., N) float32 from ``x`` (B, ..., K) as the format wants it: its dtype, or :func:`quantize`'s pair."""
        flat = x.reshape(-1, x.shape[-1])
        if scale is None:
            bias = None if self.bias is None else self.bias.to(self.dtype)
            return torch.ops.mkldnn._linear_pointwise(flat, self.packed, bias, "none", [], "").unflatten(0, x.shape[:-1]).float()
        arguments = (flat, 1.0, 128, self.packed, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], "")
        out = torch.ops.onednn.qlinear_pointwise(*arguments).unflatten(0, x.shape[:-1]) * scale
        return out if self.bias is None else out + self.bias

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise InputError("an accelerated policy has no weights to save; save the policy as it was before")


def _refuse_gradients(*inputs: torch.Tensor) -> None:
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        raise InputError("an accelerated policy has no gradients, which training, energies and guided methods (RTC) need; leave its weights as they are")


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round ``x`` (B, ...) to 255 values per row of the batch: (uint8 with zero at 128, scale (B, 1, ...)); x = scale (u - 128)."""
    scale = x.abs().amax(tuple(range(1, x.ndim)), keepdim=True).clamp_min(1e-12) / 127.0
    return (x / scale).round_().add_(128.0).to(torch.uint8), scale


def _largest_weight() -> int:
    """127; 63 on processors whose products of bytes are summed in pairs in 16 bits, where 2 x 255 x 127 would saturate."""
    return 127 if torch.cpu._is_vnni_supported() else 63


class PackedUnet(nn.Module):
    """A U-Net as :class:`UnetDenoiser`, over (B, Tp, channels): see the module for what makes it fast.

    Args:
        network: What it is made of, and computes.
        weights: Format of the matrices; those from actions to channels and back are small and stay float32.
    """

    def __init__(self, network: UnetDenoiser, weights: Weights) -> None:
        super().__init__()
        self.clock = network.clock
        down, up, final = (list[Any](part) for part in (network.down, network.up, network.final))  # modules in lists have no types
        levels = [[_Block(level[0], weights, 16 >> i), _Block(level[1], weights, 16 >> i), _halve(level[2], weights)] for i, level in enumerate(down)]
        self.down = nn.ModuleList(nn.ModuleList(level) for level in levels)
        self.middle = nn.ModuleList(_Block(block, weights, 4) for block in list[Any](network.middle))
        self.up = nn.ModuleList(
            nn.ModuleList([_Block(level[0], weights, 4 << i), _Block(level[1], weights, 4 << i), _Double(level[2], weights)]) for i, level in enumerate(up)
        )
        self.final = nn.Sequential(_ConvBlock(final[0], weights, 16), _Conv(final[1], "float32", 16))
        order = (network.down, network.middle, network.up)  # as they are met on the way through
        films = [module.film for part in order for module in part.modules() if isinstance(module, FilmBlock)]
        features = network.clock[-1].out_features
        weight = torch.cat([film.weight.detach() for film in films])
        self.of_clock = PackedLinear(weight[:, :features], torch.cat([film.bias.detach() for film in films]), "float32")
        self.of_condition = PackedLinear(weight[:, features:], None, "float32")
        self.sizes = [len(film.bias) for film in films]
        self._condition: tuple[torch.Tensor, int, torch.Tensor] | None = None
        self._clocks: dict[float, torch.Tensor] = {}

    def forward(self, x: torch.Tensor, clock: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return a prediction (B, Tp, De), see :meth:`UnetDenoiser.forward`. Raises InputError where a gradient is asked for."""
        _refuse_gradients(x, condition)
        films = iter((self._clock_share(clock) + self._condition_share(condition)).unsqueeze(1).split(self.sizes, -1))
        h, skips = x, []
        for first, second, halve in self.down:  # type: ignore[misc]
            h = second(first(h, next(films)), next(films))
            skips.append(h)
            h = halve(h)
        for one in self.middle:
            h = one(h, next(films))
        for first, second, double in self.up:  # type: ignore[misc]
            h = double(second(first(torch.cat([h, skips.pop()], -1), next(films)), next(films)))
        return self.final(h)

    def _condition_share(self, condition: torch.Tensor) -> torch.Tensor:
        """Return (B, all scales and biases); remembered for one tensor, which a walk gives in every step."""
        last = self._condition
        if last is None or last[0] is not condition or last[1] != condition._version:
            last = self._condition = (condition, condition._version, self.of_condition(functional.mish(condition.flatten(1))))
        return last[2]

    def _clock_share(self, clock: torch.Tensor) -> torch.Tensor:
        """Return (B or 1, all scales and biases); remembered for every level that all rows are at."""
        level = float(clock[0])
        if len(clock) > 1 and not bool((clock == level).all()):
            return self.of_clock(functional.mish(self.clock(clock)))
        if level not in self._clocks:
            if len(self._clocks) >= _MEMORY:
                self._clocks.clear()
            self._clocks[level] = self.of_clock(functional.mish(self.clock(clock[:1])))
        return self._clocks[level]


class _Conv(nn.Module):
    """A convolution over (B, T, channels): a product with the windows of its kernel side by side."""

    def __init__(self, conv: nn.Conv1d, weights: Weights, rows: int) -> None:
        super().__init__()
        padding: Any = conv.padding  # never the word "same" here
        (self.kernel,), (self.stride,), (self.padding,) = conv.kernel_size, conv.stride, padding
        matrix = conv.weight.permute(0, 2, 1).flatten(1)
        self.linear = PackedLinear(matrix, conv.bias, "float32" if matrix.numel() < _SMALLEST else weights, rows)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (B, T / stride, channels out) from ``h`` (B, T, channels)."""
        if self.linear.weights == "int8":
            rounded, scale = quantize(h)
            return self.linear.product(windows(rounded, self.kernel, self.stride, self.padding, zero=128), scale)
        return self.linear.product(windows(h.to(self.linear.dtype), self.kernel, self.stride, self.padding))


def windows(h: torch.Tensor, kernel: int, stride: int, padding: int, zero: int = 0) -> torch.Tensor:
    """Return (B, T', kernel * C), the ``kernel`` steps that each output step sees, from ``h`` (B, T, C); ``zero`` pads."""
    if kernel == 1 and stride == 1:
        return h
    padded = functional.pad(h, (0, 0, padding, padding), value=zero).contiguous()
    rows, steps, channels = padded.shape
    shape = (rows, (steps - kernel) // stride + 1, kernel * channels)
    return padded.as_strided(shape, (steps * channels, stride * channels, 1))


def _halve(module: nn.Module, weights: Weights) -> nn.Module:
    return _Conv(module, weights, 8) if isinstance(module, nn.Conv1d) else nn.Identity()


class _Double(nn.Module):
    """A transposed convolution of kernel 4 and stride 2: even steps see the step before and their own, odd ones theirs and the next."""

    def __init__(self, conv: nn.ConvTranspose1d, weights: Weights) -> None:
        super().__init__()
        taps = conv.weight.permute(2, 1, 0)  # (4, out, in)
        self.even = PackedLinear(torch.cat([taps[3], taps[1]], 1), conv.bias, weights, 8)
        self.odd = PackedLinear(torch.cat([taps[2], taps[0]], 1), conv.bias, weights, 8)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (B, 2 T, channels) from ``h`` (B, T, channels)."""
        pairs = windows(h, 2, 1, 1)  # (B, T + 1, 2 channels)
        return torch.stack([self.even(pairs[:, :-1]), self.odd(pairs[:, 1:])], 2).flatten(1, 2)


class _ConvBlock(nn.Module):
    """Convolution, GroupNorm over (B, T, channels), Mish."""

    def __init__(self, block: nn.Sequential, weights: Weights, rows: int) -> None:
        super().__init__()
        conv, norm, _ = list[Any](block)
        self.conv = _Conv(conv, weights, rows)
        self.groups: int = norm.num_groups
        self.eps: float = norm.eps
        self.weight, self.bias = norm.weight.detach().clone(), norm.bias.detach().clone()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return (B, T, channels out) from ``h`` (B, T, channels)."""
        grouped = self.conv(h).unflatten(-1, (self.groups, -1))
        variance, mean = torch.var_mean(grouped, (1, 3), correction=0, keepdim=True)
        normal = ((grouped - mean) * torch.rsqrt(variance + self.eps)).flatten(2)
        return functional.mish(torch.addcmul(self.bias, normal, self.weight))


class _Block(nn.Module):
    """Two convolution blocks around a residual, with FiLM's scale and bias given."""

    def __init__(self, block: FilmBlock, weights: Weights, rows: int) -> None:
        super().__init__()
        self.first, self.second = _ConvBlock(block.first, weights, rows), _ConvBlock(block.second, weights, rows)
        self.residual = _Conv(block.residual, weights, rows) if isinstance(block.residual, nn.Conv1d) else nn.Identity()

    def forward(self, h: torch.Tensor, film: torch.Tensor) -> torch.Tensor:
        """Return (B, T, channels out) from ``h`` (B, T, channels) and ``film`` (B, 1, 2 channels out)."""
        scale, bias = film.chunk(2, -1)
        return self.second(torch.addcmul(bias, self.first(h), scale)) + self.residual(h)
