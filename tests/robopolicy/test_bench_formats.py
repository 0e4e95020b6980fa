"""The benchmark of number formats in small: pairs of the same states, deviations that grow with the rounding, times in turn."""

from __future__ import annotations

from pathlib import Path

from robopolicy.bench import harness
from robopolicy.bench.formats import deviation, measure
from robopolicy.bench.rti import Size

_SMALL = ("training.steps=20", "training.checkpoint_every=20", "data.collect=2")


def test_every_format_is_paired_with_the_weights_as_trained(tmp_path: Path) -> None:
    result = measure(tmp_path, Size((0,), 2, limit=5, overrides=_SMALL), ("flow",), ("float32", "int8"))
    rows = {row.name: row for row in result.rows}
    for weights in ("float32", "int8"):
        assert rows[f"flow, {weights}: success"].peer_value is not None
        assert -100 <= rows[f"flow, {weights} less as trained: one-sided 95 % lower bound"].value <= 0  # no state is solved in 5 steps
        assert rows[f"flow, {weights}: one plan, p50"].value > 0
    exact, rounded = (rows[f"flow, {w}: deviation of actions over 256 inputs, largest"] for w in ("float32", "int8"))
    assert exact.value < 1e-4 and exact.reached and rounded.value > 1e-4 and rounded.target == 0.01
    [folder] = (tmp_path / "runs").iterdir()
    again = deviation(folder / "checkpoints" / "step_000020", "int8")
    assert again == (rounded.value, rows["flow, int8: deviation of actions over 256 inputs, mean"].value)  # fixed inputs
    assert "394,752 of 457,024 weights" in result.notes[0] and not result.missing


def test_it_is_listed() -> None:
    assert harness.names()["formats"].startswith("Number formats of the weights")
