"""A person with a finger on the deadman: ``python tests/faults/deadman.py OPERATOR_JSON`` says so 20 times a second until it is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from policies.spec import InputError
from real.operator import OperatorClient


def main() -> None:
    while True:
        try:
            client = OperatorClient.from_file(Path(sys.argv[1]))
            break
        except InputError:  # the runtime is not there yet
            time.sleep(0.05)
    print("held", flush=True)
    while True:
        client.heartbeat()
        time.sleep(0.05)


if __name__ == "__main__":
    main()
