"""The wire: what is encoded comes back; whatever else arrives is a WireError of one line and costs no memory."""

import socket
import tracemalloc

import msgpack
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from policies.spec import ActionSpec, Field, InputError, ObservationSpec
from real import wire
from real.wire import DTYPES, PROTOCOL, Limits, Message, Placed, WireError, checked_bind, checked_connect, configure, decode, encode, is_loopback, receive

LIMITS = Limits(frames=8, frame_bytes=1 << 16)
NAMES = st.text(max_size=20)
NUMBERS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20), st.none())
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
MESSAGES = st.builds(
    Message,
    kind=NAMES,
    session=st.integers(0, 2**63 - 1),
    sequence=st.integers(0, 2**63 - 1),
    budget_s=st.floats(0, 1e6),
    ages_s=st.dictionaries(NAMES, st.floats(0, 1e6), max_size=3),
    fingerprint=NAMES,
    meta=st.dictionaries(NAMES, st.one_of(NUMBERS, st.lists(NUMBERS, max_size=5)), max_size=4),
    arrays=st.dictionaries(NAMES.map("a".__add__), ARRAYS, max_size=4),
    shared=st.dictionaries(
        NAMES.map("s".__add__),
        st.builds(Placed, st.just("uint8"), st.lists(st.integers(0, 5), max_size=4).map(tuple), st.integers(0, 2**63 - 1)),
        max_size=2,
    ),
)
SMALL = st.sampled_from([0, 64, wire.SMALL])  # whether arrays lie in the header or in frames of their own


def as_bytes(message, small=wire.SMALL):
    before, wire.SMALL = wire.SMALL, small
    try:
        return [bytes(frame) for frame in encode(message)]
    finally:
        wire.SMALL = before


@given(MESSAGES, SMALL)
@settings(deadline=None, max_examples=150)
def test_round_trip(message, small):
    frames = as_bytes(message, small)
    assert len(frames) == 1 + sum(a.nbytes > small for a in message.arrays.values())
    back = decode(frames, LIMITS)
    assert list(back.arrays) == list(message.arrays)
    for name, array in message.arrays.items():
        assert back.arrays[name].dtype == array.dtype and back.arrays[name].shape == array.shape and back.arrays[name].flags.aligned
        np.testing.assert_array_equal(back.arrays[name], array)
    back.arrays = message.arrays
    assert back == message


def test_arrays_of_any_layout_cross_in_c_order():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    back = decode(as_bytes(Message("x", arrays={"a": array})), LIMITS).arrays["a"]
    np.testing.assert_array_equal(back, array)


def test_encoding_and_decoding_copy_no_image():
    image = np.zeros((480, 640, 3), np.uint8)
    frames = encode(Message("x", arrays={"image": image}))
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), image)
    back = decode([frames[0], frames[1]], Limits(frame_bytes=1 << 20)).arrays["image"]
    assert np.shares_memory(back, image)


@pytest.mark.parametrize("dtype", ["object", "complex64", "float16", "datetime64[s]", "S3"])
def test_other_dtypes_do_not_cross(dtype):
    with pytest.raises(TypeError, match="does not cross the wire"):
        encode(Message("x", arrays={"a": np.zeros(2, dtype)}))


@given(st.lists(st.binary(max_size=200), max_size=12))
@settings(deadline=None, max_examples=300)
def test_random_bytes_are_wire_errors(frames):
    with pytest.raises(WireError) as caught:
        decode(frames, LIMITS)
    assert "\n" not in str(caught.value)


@given(MESSAGES, SMALL, st.data())
@settings(deadline=None, max_examples=400)
def test_mutated_messages_decode_or_are_wire_errors(message, small, data):
    frames = as_bytes(message, small)
    which = data.draw(st.integers(0, len(frames) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "drop", "twice"]))
    frame = bytearray(frames[which])
    if kind == "flip" and frame:
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        frame = frame[: data.draw(st.integers(0, len(frame)))]
    elif kind == "grow":
        frame += data.draw(st.binary(min_size=1, max_size=20))
    frames[which] = bytes(frame)
    frames = frames[:which] + frames[which + 1 :] if kind == "drop" else frames + frames[which:] if kind == "twice" else frames
    try:
        back = decode(frames, LIMITS)
    except WireError as error:
        assert "\n" not in str(error)
    else:
        assert sum(map(len, frames[1:])) <= sum(a.nbytes for a in back.arrays.values()) <= sum(map(len, frames))


def header(**changes):
    fields = {"v": PROTOCOL, "kind": "x", "session": 1, "seq": 1, "budget": 1.0, "ages": {}, "spec": "", "meta": {}, "arrays": []}
    return msgpack.packb(list({**fields, **changes}.values()))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"v": 2}, "protocol version: expected 3, found 2"),
        ({"v": True}, "protocol version"),
        ({"v": PROTOCOL + 1}, "protocol version"),
        ({"v": None}, "protocol version"),
        ({"more": 1}, "expected 9 values: version, kind"),
        ({"kind": 3}, "'kind'"),
        ({"kind": "k" * 200}, "'kind'"),
        ({"session": -1}, "'session'"),
        ({"session": 2**63}, "'session'"),
        ({"session": True}, "'session'"),
        ({"seq": 1.0}, "'seq'"),
        ({"budget": float("nan")}, "budget"),
        ({"budget": -1}, "budget"),
        ({"budget": "1"}, "budget"),
        ({"ages": {"a": float("inf")}}, "age of a"),
        ({"ages": [1]}, "'ages'"),
        ({"meta": {"a": {"b": 1}}}, "'a'"),
        ({"meta": {"a": float("nan")}}, "'a'"),
        ({"meta": {"a": 2**63}}, "'a'"),
        ({"meta": {"a": [1] * 5000}}, "'a'"),
        ({"meta": {str(i): 1 for i in range(300)}}, "'meta'"),
        ({"meta": {"a": msgpack.Timestamp(1)}}, "not msgpack"),
        ({"arrays": 3}, "'arrays'"),
        ({"arrays": [["a", "float32", [1], None]]}, "describes more arrays than the message has frames, 0"),
        ({"arrays": [["a", "uint8", [1], b"1"]] * 9}, "at most 8"),
    ],
)
def test_bad_headers(changes, expected):
    with pytest.raises(WireError, match=expected):
        decode([header(**changes)], LIMITS)


def test_the_protocol_before_is_named():
    with pytest.raises(WireError, match="protocol version: expected 3, found 2"):
        decode([msgpack.packb({"v": 2, "kind": "hello"})], LIMITS)


@pytest.mark.parametrize(
    "array, size, expected",
    [
        (["a", "object", [1], None], 8, "dtype"),
        (["a", "float32", [2], None], 4, "needs 8 bytes, found 4"),
        (["a", "float32", [2], b"1234"], None, "needs 8 bytes, found 4"),
        (["a", "float32", [-1], None], 4, "shape"),
        (["a", "float32", [True], None], 4, "shape"),
        (["a", "float32", [1.0], None], 4, "shape"),
        (["a", "float32", [2**31 - 1] * 8, None], 4, "at most 65536"),
        (["a", "float32", [1] * 9, None], 4, "shape"),
        (["a", "float32", [0, *[2**31 - 1] * 3], None], 0, "shape"),  # empty, and yet more than numpy can name
        (["a", "float32", [*[2**31 - 1] * 7, 0], b""], None, "shape"),
        (["a", "float32", [1]], 4, "expected \\[name, dtype, shape, place\\]"),
        (["a", "float32", [1], b"1234"], 4, "describes 0 arrays in frames, the message has 1"),
        (["a", "float32", [1], "1234"], None, "place '1234'"),
        (["a", "float32", [1], True], None, "place True"),
        (["a", "float32", [1], -64], None, "place -64"),
        (["a", "uint8", [1 << 17], 4096], None, "at most 65536"),
        (["a", "uint8", [wire.SMALL + 1], bytes(wire.SMALL + 1)], None, "not msgpack"),
        ([3, "float32", [1], None], 4, "name"),
        (["a", ["float32"], [1], None], 4, "dtype"),
        (["a", "uint8", [1 << 17], None], 1 << 17, "at most 65536"),
    ],
)
def test_bad_arrays(array, size, expected):
    with pytest.raises(WireError, match=expected):
        decode([header(arrays=[array]), *([] if size is None else [bytes(size)])], LIMITS)


def test_a_bool_array_holds_only_bools():
    with pytest.raises(WireError, match="bool"):
        decode([header(arrays=[["a", "bool", [2], None]]), b"\x01\x02"], LIMITS)
    with pytest.raises(WireError, match="bool"):
        decode([header(arrays=[["a", "bool", [2], b"\x01\x02"]])], LIMITS)


def test_an_array_twice():
    places = [(["a", "uint8", [1], None], [b"1"]), (["a", "uint8", [1], b"1"], []), (["a", "uint8", [1], 0], [])]
    for first, frames in places:
        for second, more in places:
            with pytest.raises(WireError, match="twice"):
                decode([header(arrays=[first, second]), *frames, *more], LIMITS)


BIG = b"\x7f\xff\xff\xff"


@pytest.mark.parametrize("lead", [b"\xdd" + BIG, b"\xdf" + BIG, b"\xdb" + BIG, b"\xc6" + BIG, b"\xc9" + BIG + b"\x01", b"\x91" * 5000])
def test_claimed_lengths_and_depths_allocate_nothing(lead):
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode([b"\x99\x03" + lead], LIMITS)
        with pytest.raises(WireError):
            decode([lead], LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_limits_come_from_the_spec():
    spec = ObservationSpec({"observation.state": Field((7,)), "observation.images.top": Field((96, 96, 3), "uint8", kind="image")})
    limits = Limits.of_observations(spec, n_obs_steps=2, streams=3)
    assert limits.frame_bytes == 96 * 96 * 3 * 2 * 3 and limits.frames == 10
    assert Limits.of_actions(ActionSpec({"action": Field((7,))}), 1000, 2).frame_bytes == 7 * 4 * 1000 * 2


def test_too_many_frames_are_not_kept():
    context = zmq.Context()
    ours, theirs = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    try:
        configure(ours, LIMITS)
        theirs.connect(checked_bind(ours, "tcp://127.0.0.1:0"))
        theirs.send_multipart([b"x"] * 5000)
        theirs.send_multipart(as_bytes(Message("after")))
        assert ours.poll(2000)
        frames = receive(ours, LIMITS)
        assert frames is not None and len(frames) == LIMITS.frames + 3
        with pytest.raises(WireError, match="at most 8"):
            decode(frames[1:], LIMITS)
        assert ours.poll(2000)
        assert decode(receive(ours, LIMITS), LIMITS).kind == "after"
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:5555", "tcp://127.1.2.3:*", "tcp://[::1]:5", "tcp://localhost:5", "ipc:///tmp/a", "inproc://a"])
def test_loopback(address):
    assert is_loopback(address)


def test_the_ipv6_loopback_is_spoken_to_where_there_is_one():
    context = zmq.Context()
    try:
        served, asking = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        try:
            with socket.socket(socket.AF_INET6) as other:
                other.bind(("::1", 0))
        except OSError:
            with pytest.raises(InputError, match="cannot be bound"):
                checked_bind(served, "tcp://[::1]:0")
            return
        address = checked_bind(served, "tcp://[::1]:0")
        assert is_loopback(address)
        checked_connect(asking, address)
        asking.send(b"hello")
        assert served.poll(5000)
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.²:5",
        "tcp://*:5555",
        "tcp://0.0.0.0:5",
        "tcp://192.168.1.2:5",
        "tcp://[::]:5",
        "tcp://eth0:5",
        "tcp://127.0.0.1.evil.org:5",
        "udp://127.0.0.1:5",
        "x",
        "",
    ],
)
def test_everything_else_is_refused(address):
    context = zmq.Context()
    try:
        with pytest.raises(InputError, match="loopback") as caught:
            checked_bind(context.socket(zmq.ROUTER), address)
        assert "\n" not in str(caught.value)
    finally:
        context.destroy(linger=0)
