"""A source of commands that is not the runtime: it asks the drive for the lease again and again, and swings the last joint.

``python tests/faults/source.py ADDRESS [--forge]`` prints one line for every refusal, and ``commands`` once it has the lease.
With ``--forge`` it does not greet, but sends commands at once, under sessions that it makes up.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import zmq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from policies.control import JointInterpolator
from policies.motion import Reference, joint_columns
from policies.spec import InputError
from real.drive_handle import DriveHandle
from real.wire import Message, encode


def swing(handle: DriveHandle) -> None:
    """Move the last joint 0.4 rad to and fro at the drive's rate, from where it stands, until the drive is gone."""
    limits = handle.info.motion
    assert limits is not None
    interpolator, state, k = JointInterpolator(limits, handle.info.rate_hz, handle.info.substeps), None, 0
    field, columns = joint_columns(handle.spec.observation, limits.names)
    goals = None
    while True:
        reading = handle.read(5.0)
        reference = reading.reference
        if state is None or goals is None or reference is None:
            start = np.asarray(reading.fields[field], np.float64)[columns] if reference is None else reference.position
            goals = start + 0.4 * np.eye(limits.n)[-1] * (-1 if start[-1] > 0 else 1), start
            state = interpolator.start(start[None])
        if reference is not None and not np.allclose(reference.position, state.position[0]):  # the drive did something else
            state = interpolator.start(reference.position[None], reference.velocity[None], reference.acceleration[None])
        command, state = interpolator.step(state, goals[k // 50 % 2][None], k % handle.info.substeps)
        handle.write(command[0], Reference(state.position[0], state.velocity[0], state.acceleration[0]))
        k += 1


def forge(address: str) -> None:
    """Send commands, holds and goodbyes under made-up sessions until somebody ends this process."""
    link, random, sequence = zmq.Context.instance().socket(zmq.DEALER), np.random.default_rng(0), 0
    link.connect(address)
    while True:
        for kind in ("command", "bye", "resume", "alive", "reset", "report"):
            sequence += 1
            arrays = {"command": np.full(7, 0.5), "reference": np.zeros((3, 7))} if kind == "command" else {}
            session = int(random.integers(1 << 62)) if sequence % 2 else 0
            link.send_multipart([bytes(f) for f in encode(Message(kind, session, sequence, meta={"tick": sequence}, arrays=arrays))])
        while link.poll(1):
            link.recv_multipart()
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--forge", action="store_true")
    options = parser.parse_args()
    if options.forge:
        print("forging", flush=True)
        forge(options.address)
    while True:
        try:
            with DriveHandle(options.address, 2.0) as handle:
                print("commands", flush=True)
                swing(handle)
        except (InputError, ConnectionError) as error:
            print(error, flush=True)
            time.sleep(0.05)


if __name__ == "__main__":
    main()
