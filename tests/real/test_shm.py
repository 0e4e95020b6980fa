"""Images in shared memory: the same plans as in messages, slots never written while lent, and nothing that a client says is believed."""

import os
import secrets
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Plan
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from real import shm
from real.shm import FOLDER, Mapped, Segment, SharedMemoryRefused, file_bytes, segment_for, slot_bytes, sweep
from real.wire import Message, Placed
from tests.real.sockets import Raw, act_message, observation
from tests.real.toy import ROOT, torch_policy

IMAGE = np.arange(2 * 24 * 32 * 3, dtype=np.uint8).reshape(1, 2, 24, 32, 3)
SLOT = slot_bytes([IMAGE.nbytes])


def ours():
    return {path.name for path in FOLDER.glob("robopolicy-*") if path.stat().st_uid == os.geteuid()}


@pytest.fixture
def segment():
    one = Segment(SLOT)
    yield one
    one.unlink()


def answered(segment, mapped):
    segment.offered = 1
    assert segment.heard(Message("shared", 1, 1, meta={"proof": mapped.proof})) and segment.usable


def test_what_is_lent_is_read_without_a_copy(segment):
    path = FOLDER / segment.name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_size == file_bytes(SLOT) == 4096 + 2 * 8192
    mapped = Mapped(segment.name, segment.claim, file_bytes(SLOT))
    assert segment.lend({"a": IMAGE}, 2) == {}  # the server has not said yet that it sees it
    answered(segment, mapped)
    assert not path.exists()  # and nothing is left behind, however the two end
    placed = segment.lend({"a": IMAGE}, 2)
    found = mapped.array("a", placed["a"])
    np.testing.assert_array_equal(found, IMAGE)
    assert np.shares_memory(found, mapped.array("a", placed["a"])) and not np.shares_memory(found, IMAGE)


def test_a_slot_is_free_once_its_request_or_a_later_one_is_answered(segment):
    answered(segment, Mapped(segment.name, segment.claim, file_bytes(SLOT)))
    first, second = segment.lend({"a": IMAGE}, 5), segment.lend({"a": IMAGE}, 6)
    assert first["a"].offset != second["a"].offset and segment.free == 0
    assert segment.lend({"a": IMAGE}, 7) == {}
    segment.heard(Message("plan", 1, 4))
    assert segment.free == 0
    segment.heard(Message("plan", 1, 5))
    assert segment.lend({"a": IMAGE}, 8)["a"].offset == first["a"].offset
    segment.heard(Message("error", 1, 8))
    assert segment.free == 2


@pytest.mark.parametrize("reply", [Message("error", 1, 1), Message("shared", 1, 1, meta={"proof": "0" * 32}), Message("shared", 1, 1)])
def test_without_the_proof_it_is_never_used(segment, reply):
    segment.offered = 1
    assert segment.heard(reply) and not segment.usable and segment.lend({"a": IMAGE}, 2) == {}
    assert segment.name not in ours()


def test_what_does_not_fit_is_not_lent(segment):
    answered(segment, Mapped(segment.name, segment.claim, file_bytes(SLOT)))
    assert segment.lend({"a": np.zeros((3, *IMAGE.shape[1:]), np.uint8)}, 2) == {}
    assert segment.lend({"a": np.zeros(3, complex)}, 2) == {} and segment.free == 2


@given(
    dtype=st.sampled_from(["uint8", "float32", "int64", "bool"]),
    shape=st.lists(st.integers(0, 2**31 - 1), max_size=8).map(tuple),
    offset=st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 500).map(lambda n: 64 * n)),
)
@settings(deadline=None, max_examples=300)
def test_places_lie_in_the_slots_or_are_refused(dtype, shape, offset):
    try:
        array = MAPPED.array("a", Placed(dtype, shape, offset))
    except SharedMemoryRefused as error:
        assert "\n" not in str(error)
    else:
        assert array.shape == shape and offset >= 4096 and offset + array.nbytes <= file_bytes(SLOT) and dtype != "bool"
        assert array.sum() == 0  # every byte can be read


@pytest.fixture(scope="module", autouse=True)
def mapped():
    """Memory of zeros for all examples."""
    global MAPPED
    segment = Segment(SLOT)
    MAPPED = Mapped(segment.name, segment.claim, file_bytes(SLOT))
    segment.unlink()


EMPTY = (0, 2**31 - 1, 2**31 - 1, 2**31 - 1)  # and yet more than numpy can name


@pytest.mark.parametrize(
    "offset, shape", [(4096, EMPTY), (0, (1,)), (4095, (1,)), (4096 + 1, (1,)), (4096, (2 * 8192 + 1,)), (4096 + 2 * 8192, (1,)), (4096, (2**40,))]
)
def test_edges(offset, shape):
    with pytest.raises(SharedMemoryRefused, match="does not lie in the 20480 bytes shared"):
        MAPPED.array("a", Placed("uint8", shape, offset))
    assert MAPPED.array("a", Placed("uint8", (2 * 8192,), 4096)).nbytes == 2 * 8192


def named():
    return f"robopolicy-{secrets.token_hex(16)}"


@pytest.mark.parametrize(
    "name", ["", "x", "../etc/passwd", "robopolicy-../../etc/passwd", "robopolicy-" + "0" * 31, "robopolicy-" + "0" * 32 + "\n", "/dev/shm/x"]
)
def test_other_names_are_refused(name):
    with pytest.raises(SharedMemoryRefused, match="not a name"):
        Mapped(name, "", 1 << 20)


def test_files_that_no_segment_makes_are_refused(segment, tmp_path, monkeypatch):
    def refused(name, expected, claim="", most=1 << 20):
        with pytest.raises(SharedMemoryRefused, match=expected):
            Mapped(name, claim, most)

    refused(named(), "cannot be opened here: No such file")
    made = []

    def file(size=8192, mode=0o600):
        path = FOLDER / named()
        path.write_bytes(b"x" * size)
        path.chmod(mode)
        made.append(path)
        return path.name

    try:
        link, pipe, folder, holes = (FOLDER / named() for _ in range(4))
        made += [link, pipe, holes]
        link.symlink_to(FOLDER / segment.name)
        refused(link.name, "cannot be opened here")
        os.mkfifo(pipe, 0o600)
        refused(pipe.name, "plain file")
        folder.mkdir()
        refused(folder.name, "cannot be opened here")
        folder.rmdir()
        with holes.open("wb") as sparse:
            sparse.truncate(1 << 16)
        holes.chmod(0o600)
        refused(holes.name, "holes")
        refused(file(mode=0o644), "nobody else")
        refused(file(size=100), "100 bytes, expected 4096")
        refused(file(), "8192 bytes, expected 4096 to 5000", most=5000)
        refused(file(), "does not know what is in it", claim="y" * 32)
        refused(file(), "does not know what is in it", claim="x" * 31)
        refused(segment.name, "does not know what is in it", claim="0" * 32)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        refused(file(), "of the server's user")
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def test_a_client_that_dies_leaves_nothing_after_the_next_start(segment):
    code = f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from real.shm import Segment; s = Segment(10); print(s.name, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        name = child.stdout.readline().strip()
        sweep()
        assert name in ours() and segment.name in ours()  # both makers live
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert name in ours()
        assert sweep() >= 1
    assert name not in ours() and segment.name in ours()


def test_no_room_is_no_memory(monkeypatch):
    spec = ObservationSpec({"observation.images.top": Field((24, 32, 3), "uint8", kind="image")})
    found = segment_for(spec, 2)
    assert found is not None and found.name in ours()
    found.unlink()
    before = ours()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert segment_for(spec, 2) is None and ours() == before
    assert segment_for(ObservationSpec({"observation.state": Field((3,))}), 2) is None
    monkeypatch.setattr(shm, "FOLDER", FOLDER / "there is none")
    assert segment_for(spec, 2) is None and sweep() == 0


class Remembers:
    """A policy whose plan and state are views of what it saw."""

    n_obs_steps, horizon, n_action_steps = 1, 1, 1
    spec = Spec(ObservationSpec({"observation.images.top": Field((64, 64, 3), "uint8", kind="image")}), ActionSpec({"action": Field((1,))}))

    def initial_state(self, batch):
        return {"last": np.zeros((batch, 1, 64, 64, 3), np.uint8)}

    def reset(self, state, mask):
        return state

    def act(self, obs, state, noise, execution=None):
        image = obs["observation.images.top"]
        return Plan(state["last"][:, :, 0, 0, 0].astype(np.float32)[..., None], {"network_calls": np.ones(len(noise))}), {"last": image}


def wait_for(client, what):
    until = time.monotonic() + 5
    while not what() and time.monotonic() < until:
        client.poll(0.01)
    assert what()


def test_plans_are_those_of_messages_and_a_policy_may_keep_what_it_saw(serve, connect):
    server = serve(Remembers())
    shared, sent = connect(server.address), connect(server.address, shared_memory=False)
    wait_for(shared, lambda: shared._memory is not None and shared._memory.usable)
    seen = {}
    for client in (shared, sent):
        state, seen[client] = client.initial_state(1), []
        for value in range(8):  # each slot is written again several times
            plan, state = client.act({"observation.images.top": np.full((1, 1, 64, 64, 3), value, np.uint8)}, state, np.array([1]))
            seen[client].append(float(plan.actions[0, 0, 0]))
    assert seen[shared] == seen[sent] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert (shared.shared, shared.sent, sent.shared, sent.sent) == (8, 0, 0, 8)
    assert server.stats.shared_arrays == 8 and server.stats.shared_refused == 0


def test_a_torch_policy_plans_the_same(serve, connect):
    server, policy = serve(torch_policy()), torch_policy()
    clients = [connect(server.address, streams=2), connect(server.address, streams=2, shared_memory=False)]
    wait_for(clients[0], lambda: clients[0]._memory is not None and clients[0]._memory.usable)
    plans = [client.act(observation(policy, 2), client.initial_state(2), np.array([1, 2]))[0].actions for client in clients]
    np.testing.assert_array_equal(*plans)
    assert clients[0].shared == 1


def test_a_server_that_cannot_open_it_gets_images_in_messages(serve, connect, monkeypatch):
    server = serve(torch_policy())
    monkeypatch.setattr(shm, "FOLDER", FOLDER / "elsewhere")  # as on another host: the client's makes no memory there either
    policy = torch_policy()
    client = connect(server.address)
    client.act(observation(policy), client.initial_state(1), np.array([1]))
    assert (client.shared, client.sent) == (0, 1)
    raw = Raw(server.address)
    session = raw.hello()
    raw.send(Message("share", session, 2, meta={"name": named(), "claim": "0" * 32}))
    reply = raw.receive()
    assert reply.kind == "error" and reply.meta["code"] == "shm"
    raw.send(act_message(policy, session, 3))
    assert raw.receive().kind == "plan" and server.stats.shared_refused == 1


def test_wrong_places_cost_the_sender_an_error(serve):
    policy = torch_policy()
    server, segment = serve(policy), segment_for(policy.spec.observation, policy.n_obs_steps)
    raw = Raw(server.address)
    session = raw.hello()
    raw.send(Message("share", session, 2, meta=segment.offer))
    assert raw.receive().meta == {"proof": segment.proof}
    segment.unlink()
    name, shape = "observation.images.top", (1, 2, 24, 32, 3)
    for sequence, (placed, code) in enumerate(
        [
            (Placed("uint8", shape, 4096), None),
            (Placed("uint8", shape, 1 << 40), "shm"),
            (Placed("uint8", shape, 4097), "shm"),
            (Placed("uint8", (1, 2, 24, 32, 4), 4096), "spec"),
            (Placed("float32", (1, 2, 24, 16, 3), 4096), "spec"),
        ],
        start=3,
    ):
        message = act_message(policy, session, sequence)
        del message.arrays[name]
        message.shared = {name: placed}
        raw.send(message)
        assert raw.receive().meta.get("code") == code
    raw.send(Message("share", session, 20, meta={"name": 3, "claim": "x"}))
    assert raw.receive().meta["code"] == "wire"
    message = act_message(policy, session, 21)  # what was shared before is not any more
    del message.arrays[name]
    message.shared = {name: Placed("uint8", shape, 4096)}
    raw.send(message)
    assert raw.receive().meta["code"] == "shm"


def test_after_a_late_plan_there_is_new_memory(serve, connect):
    server = serve(torch_policy(), batch_s=0)
    client = connect(server.address)
    wait_for(client, lambda: client._memory is not None and client._memory.usable)
    before = client._memory
    client.request(observation(client), client.initial_state(1), np.array([1]), budget_s=5)
    client._lose()
    wait_for(client, lambda: client._memory is not None and client._memory.usable)
    assert client._memory is not before and before.free == 1  # never written again: the server may still read it
    client.act(observation(client), client.initial_state(1), np.array([1]))
    assert client.shared == 2 and not any(name in ours() for name in (before.name, client._memory.name))
