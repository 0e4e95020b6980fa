"""Between actors and their learner nothing is lost, nothing comes twice, and strangers cost nothing."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

from policies.spec import InputError
from real.keys import authorize, new_keys
from real.wire import PROTOCOL, Message, WireError, encode
from robopolicy.training import actor_learner_hub
from robopolicy.training.actor_learner_hub import Hub
from robopolicy.training.actor_learner_link import Link
from robopolicy.training.actor_learner_spool import Spool
from robopolicy.training.actor_learner_wire import CHUNK_STEPS, Layout, stacked

ROW = {"obs/x": np.zeros((2, 3), np.float32), "reward": np.zeros(2, np.float32), "terminated": np.zeros(2, bool)}
WEIGHTS = {"w": np.zeros((4, 100), np.float32), "b": np.zeros(4, np.float32)}
LAYOUT = Layout.of(ROW, WEIGHTS, {"task": "toy"})
PATIENCE_S = 30.0


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


def chunk(number: int, steps: int = 2) -> dict[str, np.ndarray]:
    """Steps ``number * steps`` on: the reward is the number of the step."""
    return stacked([{**ROW, "reward": np.full(2, number * steps + step, np.float32)} for step in range(steps)])


class Learner:
    """Keeps chunks in a list, which stands for the disk: it outlives hubs."""

    def __init__(self, said: list[str], actors: int = 1) -> None:
        self.kept: list[list[int]] = [[] for _ in range(actors)]
        self.said, self.address = said, "tcp://127.0.0.1:0"

    @contextmanager
    def up(self, run: str = "run", layout: Layout = LAYOUT) -> Iterator[Hub]:
        hub = Hub(self.address, layout, run, [len(one) for one in self.kept], say=self.said.append)
        self.address = hub.address
        with closing(hub):
            yield hub

    def keep(self, hub: Hub, most: int = 10_000) -> None:
        """Keep what has come, up to ``most`` control steps; it may be in the middle of a chunk."""
        while most and (found := hub.take()) is not None:
            kept = self.kept[found.actor]
            assert found.first == len(kept)
            own = [int(reward) for reward in found.arrays["reward"][:most, 0]]
            kept += own
            hub.keep(found.actor, len(kept))
            most -= len(own)


def spool(folder: Path, capacity: int = 1000) -> Spool:
    return Spool(folder / "spool", capacity, LAYOUT.limits())


def test_chunks_survive_the_learner_and_come_once_and_in_order(tmp_path: Path) -> None:
    said: list[str] = []
    learner, draw = Learner(said), random.Random(0)
    waiting = spool(tmp_path)
    with learner.up() as hub, closing(Link(hub.address, 0, LAYOUT, waiting, say=said.append)) as link:
        link.wait_for_welcome()
        for number in range(10):
            link.put(chunk(number), anew=number == 0)
        until(lambda: hub.counts.taken >= 12)
        learner.keep(hub, most=7)  # the others were taken and are lost with this learner
        last = 10
        for life in range(3):
            hub.close()
            for _ in range(draw.randrange(1, 5)):
                link.put(chunk(last), anew=False)
                last += 1
            if life == 0:  # long enough to be said
                until(lambda: not link.connected and "silent" in said[-1])
                assert link.heard.silences >= 1 and f"room for {1000 - waiting.steps}" in said[-1]
            with learner.up() as hub:
                until(lambda: learner.keep(hub) or len(learner.kept[0]) >= 2 * last - 2)  # noqa: B023 (called at once)
        with learner.up() as hub:
            until(lambda: learner.keep(hub) or (len(learner.kept[0]) == 2 * last and link.waiting_steps == 0))
    assert learner.kept[0] == list(range(2 * last))
    assert not list((tmp_path / "spool").glob("*.chunk"))
    assert any("is back" in line for line in said)


def test_what_a_dead_actor_had_written_is_sent_by_the_next_one(tmp_path: Path) -> None:
    said: list[str] = []
    learner = Learner(said)
    with learner.up() as hub, closing(Link(hub.address, 0, LAYOUT, spool(tmp_path), say=said.append)) as link:
        link.wait_for_welcome()
        hub.close()
        for number in range(5):
            link.put(chunk(number), anew=number == 0)
    left = spool(tmp_path)
    assert left.steps == 10 and left.next == 10
    with learner.up() as hub, closing(Link(hub.address, 0, LAYOUT, left, say=said.append)) as link:
        link.wait_for_welcome()
        link.put(chunk(5), anew=True)
        until(lambda: learner.keep(hub) or len(learner.kept[0]) == 12)
    assert learner.kept[0] == list(range(12))


def test_a_silent_actor_is_said_and_counted_and_may_come_back(tmp_path: Path) -> None:
    said: list[str] = []
    learner = Learner(said)
    with learner.up() as hub:
        link = Link(hub.address, 0, LAYOUT, spool(tmp_path), say=said.append)
        link.wait_for_welcome()
        until(lambda: hub.present == [0])
        link.close()
        until(lambda: bool(said) and "actor 0 is silent" in said[-1] and not hub.present)
        assert hub.counts.silences >= 1
        with closing(Link(hub.address, 0, LAYOUT, spool(tmp_path), say=said.append)) as again:
            again.wait_for_welcome()
            assert hub.counts.returns >= 1 and "started anew" in said[-1]


def test_weights_arrive_whole_and_the_newest_alone(tmp_path: Path) -> None:
    learner = Learner([])
    with learner.up() as hub, closing(Link(hub.address, 0, LAYOUT, spool(tmp_path), say=learner.said.append)) as link:
        link.wait_for_welcome()
        for version in (1, 2, 3):
            hub.publish(version, {"w": np.full((4, 100), version, np.float32), "b": np.zeros(4, np.float32)})
        hub.allow(12, 34)
        seen: list[int] = []
        until(lambda: (found := link.weights()) is not None and not seen.append(found[0]) and found[1]["w"][3, 99] == 3)
        assert seen[-1] == 3 and (link.heard.total, link.heard.allowed) == (12, 34)


def test_another_recipe_another_actor_and_a_number_too_many_are_refused(tmp_path: Path) -> None:
    learner = Learner([])
    other = Layout.of(ROW, WEIGHTS, {"task": "another"})
    with learner.up() as hub:
        for actor, layout, expected in ((0, other, "another recipe"), (1, LAYOUT, "actors 0 to 0")):
            link = Link(hub.address, actor, layout, spool(tmp_path / str(actor)), say=learner.said.append)
            with closing(link), pytest.raises(InputError, match=expected):
                link.wait_for_welcome()
                until(lambda: link.check() is not None)  # noqa: B023 (called at once)
    with pytest.raises(InputError, match="only loopback"):
        Link("tcp://10.0.0.1:5000", 0, LAYOUT, spool(tmp_path))


def test_chunks_of_one_run_never_get_into_another(tmp_path: Path) -> None:
    learner = Learner([])
    with learner.up() as hub, closing(Link(hub.address, 0, LAYOUT, spool(tmp_path), say=learner.said.append)) as link:
        link.wait_for_welcome()
        hub.close()
        link.put(chunk(0), anew=True)
    with learner.up(run="another") as hub:
        link = Link(hub.address, 0, LAYOUT, spool(tmp_path), say=learner.said.append)
        with closing(link), pytest.raises(InputError, match=r"another run of the learner.*--fresh"):
            until(lambda: link.check() is not None)


def test_what_waits_for_a_run_that_is_begun_anew_is_given_up_and_counted(tmp_path: Path) -> None:
    learner = Learner([])
    with learner.up() as hub, closing(Link(hub.address, 0, LAYOUT, spool(tmp_path), say=learner.said.append)) as link:
        link.wait_for_welcome()
        hub.close()
        link.put(chunk(0), anew=True)
        link.put(chunk(1), anew=False)
    with learner.up(run="another") as hub:
        anew = Spool(tmp_path / "spool", 1000, LAYOUT.limits(), fresh=True)
        with closing(Link(hub.address, 0, LAYOUT, anew, say=learner.said.append)) as link:
            link.wait_for_welcome()
            link.check()
            assert (anew.steps, anew.next, anew.run) == (0, 0, "another") and "4 control steps that waited for another run are given up" in learner.said
            link.put(chunk(0, 3), anew=True)
            until(lambda: learner.keep(hub) or learner.kept[0] == [0, 1, 2])
    assert spool(tmp_path).run == "another"


def test_a_learner_goes_when_its_actors_know_that_the_run_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the word got lost on the way: an actor that never hears it collects for nobody."""
    send, lost = actor_learner_hub.send, []

    def forgetful(socket: zmq.Socket, message: Message, identity: bytes | None = None) -> bool:
        if message.meta.get("done") and not lost:
            lost.append(message)
            return True
        return send(socket, message, identity)

    monkeypatch.setattr(actor_learner_hub, "send", forgetful)
    learner = Learner([])
    with learner.up() as hub, closing(Link(hub.address, 0, LAYOUT, spool(tmp_path), say=learner.said.append)) as link:
        link.wait_for_welcome()
        hub.allow(12, 12, done=True)
        began = time.monotonic()
        hub.close(told_s=PATIENCE_S)
        assert link.heard.done and lost and time.monotonic() - began < PATIENCE_S / 2


def test_keys_let_only_authorised_actors_in(tmp_path: Path) -> None:
    public, _ = new_keys(tmp_path / "learner", "server")
    for name in ("known", "stranger"):
        new_keys(tmp_path / name, "arm")
        (tmp_path / name / "server.key").write_bytes(public.read_bytes())
    authorize(tmp_path / "learner", tmp_path / "known" / "arm.key")
    with closing(Hub("tcp://127.0.0.1:0", LAYOUT, "run", [0], keys=tmp_path / "learner", say=lambda text: None)) as hub:
        with closing(Link(hub.address, 0, LAYOUT, spool(tmp_path / "a"), keys=tmp_path / "known")) as link:
            link.wait_for_welcome()
        link = Link(hub.address, 0, LAYOUT, spool(tmp_path / "b"), keys=tmp_path / "stranger")
        with closing(link), pytest.raises(InputError, match="does not know the key"):
            until(lambda: link.check() is not None)


def test_hostile_bytes_cost_nothing(tmp_path: Path) -> None:
    draw = random.Random(1)
    learner = Learner([])
    with learner.up() as hub, closing(Link(hub.address, 0, LAYOUT, spool(tmp_path), say=learner.said.append)) as link:
        link.wait_for_welcome()
        session = link._session
        good = encode(Message("steps", session, meta={"anew": True, "episodes": []}, arrays=chunk(0)))
        claim = msgpack.packb([PROTOCOL, "steps", session, 0, 0.0, {}, "", {"anew": True}, [["obs/x", "float32", [1 << 28], None]]])
        context = zmq.Context()
        raw = context.socket(zmq.DEALER)
        raw.connect(hub.address)
        for number in range(1000):
            frames = [bytearray(frame) for frame in good]
            for _ in range(draw.randrange(4)):
                frames[0][draw.randrange(len(frames[0]))] = draw.randrange(256)
            raw.send_multipart([claim] if number % 10 == 0 else [b"x"] * draw.randrange(1, 90) if number % 10 == 1 else frames)
        host, port = hub.address.rpartition("/")[2].split(":")
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(draw.randbytes(1 << 16))
        until(lambda: hub.counts.refused + hub.counts.malformed > 900)
        assert hub.counts.taken == 0  # not even an exact copy with the right session: it came from another connection
        link.put(chunk(0), anew=True)
        until(lambda: learner.keep(hub) or learner.kept[0] == [0, 1])
        context.destroy(linger=0)


def test_a_chunk_of_another_form_is_malformed() -> None:
    good = chunk(0)
    assert LAYOUT.require_chunk(good) == 2
    wrong = [
        ({**good, "more": good["reward"]}, "'more' is unknown"),
        ({name: good[name] for name in ("reward", "obs/x")}, "'terminated' is missing"),
        ({**good, "reward": good["reward"][:1]}, "same number of steps"),
        ({**good, "reward": good["reward"].astype(np.float64)}, "expected float32"),
        ({**good, "reward": np.full((2, 2), np.nan, np.float32)}, "not finite"),
        (chunk(0, CHUNK_STEPS + 1), "same number of steps"),
    ]
    for arrays, text in wrong:
        with pytest.raises(WireError, match=text):
            LAYOUT.require_chunk(arrays)
    with pytest.raises(InputError, match="not finite"):
        stacked([{**ROW, "reward": np.full(2, np.inf, np.float32)}])


def test_a_spool_that_is_full_says_so_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    waiting = spool(tmp_path, capacity=3)
    waiting.belong("run", 7)
    assert waiting.put(chunk(0), anew=True) == 7 and not waiting.full
    assert waiting.put(chunk(1), anew=False) == 9 and waiting.full
    waiting.forget(10)  # half of the second one
    assert not waiting.full and waiting.steps == 2 and waiting.find(10) == (9, 11) and waiting.find(8) is None
    file = tmp_path / "spool" / f"{9:012d}.chunk"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match="damaged"):
        spool(tmp_path)
