"""JSON for other programs: ``--json FILE`` writes it as a whole or not at all, ``--json -`` prints it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.data.atomic import write_json


def emit_json(value: Any, target: Path) -> None:
    """Write ``value`` to the file ``target``, or print it when ``target`` is ``-``.

    Raises:
        InputError: if the file cannot be written; says why.
    """
    if str(target) == "-":
        print(json.dumps(value, indent=2, allow_nan=False))
        return
    if target.exists() and not target.is_file():
        raise InputError(f"--json {target}: not a file; use - for standard output")
    try:
        write_json(target, value)
    except OSError as error:
        raise InputError(f"--json {target}: cannot be written: {error.strerror or error}") from error
