"""The Meta-World benchmark's plan: what shares a training, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robopolicy.bench import metaworld50
from robopolicy.training import imitation


class Begun(Exception):
    """Instead of a training: the folder that it would write to."""


def begin(recipe: Any, **_: Any) -> None:
    raise Begun(Path(recipe.output).name)


def test_trainings_of_other_lengths_and_ways_to_be_told_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imitation, "train", begin)

    def folders(steps: int | None) -> list[str]:
        out = []
        for way, cell in metaworld50.cells(tmp_path, False, steps, 1):
            if way is not None and way.policy != "expert":
                with pytest.raises(Begun) as caught:
                    metaworld50.measure(**cell.settings)
                out.append(str(caught.value))
        return out

    usual, short = folders(None), folders(100)
    assert usual[:3] == [f"mt50-{policy}-one_hot-seed0" for policy in ("flow", "regression", "diffusion")]
    assert usual[3:] == [f"mt10-flow-{told}-seed0" for told in ("one_hot", "null", "text", "text")], "heard or not, it is one training"
    assert not set(usual) & set(short) and len(set(short)) == len(set(usual)) == 6
