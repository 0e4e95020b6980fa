"""What an ONNX file says of itself, where that is not what an export wrote: one line."""

import json
from pathlib import Path

import pytest

from policies.spec import InputError
from real.onnx import _KEYS, _description

WHOLE = {"format": 2, **dict.fromkeys(_KEYS)}


@pytest.mark.parametrize("text", ["{", "[]", "null", *(json.dumps({k: v for k, v in WHOLE.items() if k != key}) for key in _KEYS)])
def test_damaged_metadata_is_one_line(text):
    assert _description(Path("x.onnx"), {"robopolicy": json.dumps(WHOLE)}) == WHOLE
    with pytest.raises(InputError, match=r"x\.onnx: its metadata 'robopolicy' is damaged") as caught:
        _description(Path("x.onnx"), {"robopolicy": text})
    assert "\n" not in str(caught.value)
