"""What decides how sums are rounded while a policy is trained: torch's threads, its choice of kernels, the precision of products."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def fixed_arithmetic(threads: int | None = None) -> Iterator[None]:
    """Run with deterministic kernels and, if given, this many torch threads; afterwards with the settings of before."""
    memory: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for to be deterministic
    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # a tenth of an update, and nothing here reads what it has not written
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=warned)
        memory.fill_uninitialized_memory = before[2]


def precision_here(asked: str, note: Callable[[str], None]) -> str:
    """Return the precision of products in training, ``no`` (float32), ``bf16`` or ``fp16``, for ``training.mixed_precision``.

    ``auto`` is bfloat16 on a GPU that has it. Asked for by name it is taken on processors, too, if they multiply in it; weights,
    losses and the optimiser stay in float32. ``note`` is told what is not to be had here.
    """
    gpu = torch.cuda.is_available()
    if asked == "auto":
        return "bf16" if gpu and torch.cuda.is_bf16_supported() else "no"
    if asked == "bf16" and not gpu and not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        note("training.mixed_precision=bf16 would be slower than float32 on this processor, which does not multiply in it: training in float32")
        return "no"
    if asked == "fp16" and not gpu:
        note("training.mixed_precision=fp16 is for GPUs, and there is none: training in float32")
        return "no"
    return asked


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the processor and of ``device``, once an update.

    ``torch.manual_seed`` would seed every kind of accelerator that torch knows: for those that are not there it writes down a
    stack trace each time (more than a millisecond, and the traces of one kind are kept for ever).
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


__all__ = ["fixed_arithmetic", "precision_here", "seed_generators"]
