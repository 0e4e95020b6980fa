"""Requests and answers on the wire: 16 bytes before the body, and whatever comes instead of them never ends the node."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from cyclonedds.core import Policy
from hypothesis import given
from hypothesis import strategies as st

from real.ros import api as ros
from real.ros.dds.peers import engine_of, user_data
from real.ros.dds.services import frame, unframe
from real.ros.messages import MessageError, deserialize, serialize
from tests.real.ros.conformance.world import World, worlds

SetBool = ros.service("std_srvs/srv/SetBool")
PLAIN = b"\0\1\0\0"


@pytest.fixture
def world() -> Iterator[World]:
    with worlds() as opened:
        yield opened()


def test_the_header_stands_between_encapsulation_and_body() -> None:
    body = serialize(SetBool.Response(success=True, message="ok"))
    framed = frame(body, 0x1122334455667788, 7)
    assert framed == PLAIN + bytes.fromhex("8877665544332211") + (7).to_bytes(8, "little") + body[4:]
    assert unframe(framed) == (0x1122334455667788, 7, body)
    big = b"\0\0\0\0" + struct.pack(">Qq", 5, -1) + b"\1"
    assert unframe(big) == (5, -1, b"\0\0\0\0\1")


@given(
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_what_is_framed_comes_back(client: int, sequence: int, success: bool, text: str) -> None:
    answer = SetBool.Response(success=success, message=text)
    back = unframe(frame(serialize(answer), client, sequence))
    assert back[:2] == (client, sequence)
    assert deserialize(back[2], SetBool.Response) == answer


@given(st.binary(max_size=64))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        _, _, cdr = unframe(data)
        deserialize(cdr, SetBool.Request)
    except MessageError as refused:
        assert "\n" not in str(refused)


def test_engines_are_told_by_their_guid() -> None:
    assert engine_of(bytes([1, 15]) + bytes(14)) == "Fast DDS"
    assert engine_of(bytes([1, 16]) + bytes(14)) == "Cyclone DDS"
    assert engine_of(bytes(16)) == "an unknown DDS engine"


def test_user_data_is_pairs() -> None:
    assert user_data({Policy.Userdata: Policy.Userdata(b"serviceid=1.2;typehash=RIHS01_a=b;junk;\xff=1;")}) == {
        "serviceid": "1.2", "typehash": "RIHS01_a=b", "\ufffd": "1",
    }  # fmt: skip
    assert user_data({}) == {}


def test_broken_requests_are_passed_over_and_the_next_is_answered(world: World) -> None:
    asked: list[bool] = []

    def answer(request: Any, response: Any) -> Any:
        asked.append(request.data)
        response.message = "fine"
        return response

    world.node("server").create_service(SetBool, "switch", answer)
    client = world.node("client").create_client(SetBool, "switch")
    assert client.wait_for_service(timeout_sec=30.0)
    kind = client.writer.data_type
    good = frame(serialize(SetBool.Request(data=True)), 1, 1)
    for broken in (PLAIN + b"\xff" * 16 + b"\2\0\0\0", b"\0\7\0\0" + good[4:], b"\0\0\0\0" + good[4:]):  # DDS itself refuses shorter ones
        client.writer.write(kind.of(broken))
    assert world.result(client.call_async(SetBool.Request(data=True))).message == "fine"
    assert asked[-1] is True
    assert len(asked) <= 4


def test_answers_that_nobody_asked_for_are_passed_over(world: World) -> None:
    service = world.node("server").create_service(SetBool, "switch", lambda request, response: response)
    client = world.node("client").create_client(SetBool, "switch")
    assert client.wait_for_service(timeout_sec=30.0)
    good = frame(serialize(SetBool.Response(message="forged")), 99, 1)
    for broken in (good, frame(serialize(SetBool.Response(message="forged")), client._handle, 77)):  # to another client, to no request
        service.writer.write(service.writer.data_type.of(broken))
    response = world.result(client.call_async(SetBool.Request()))
    assert response.message == ""
