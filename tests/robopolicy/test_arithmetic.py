"""The arithmetic of training leaves torch as it found it."""

from __future__ import annotations

import pytest
import torch

from robopolicy.training.arithmetic import fixed_arithmetic


def settings() -> tuple[object, ...]:
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return (*deterministic, torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory)


@pytest.mark.parametrize(("deterministic", "warn_only"), [(False, False), (True, False), (True, True)])
def test_settings_are_those_of_before(deterministic: bool, warn_only: bool) -> None:
    try:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        before = settings()
        with fixed_arithmetic(torch.get_num_threads() + 1):
            within = settings()
            with fixed_arithmetic():
                pass
            assert settings() == within and within[:2] == (True, True)
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)
