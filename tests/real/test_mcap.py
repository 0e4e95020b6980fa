"""MCAP as the black box writes it: read back to the last whole record, whatever has happened to the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from real.blackbox_format import image_array, image_parts, json_bytes, json_schema
from real.mcap import Channel, McapReader, McapWriter, time_span
from robopolicy.cli import main
from robopolicy.data.blackbox import describe, recover

TICK = Channel("/tick", "robopolicy.tick", "jsonschema", b'{"type":"object"}', "json")
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def ticks_of(path: Path) -> list[int]:
    """The numbers of the ticks in a file, in order."""
    return [json.loads(bytes(m.data))["n"] for m in McapReader(path)]


def test_a_torn_chunk_is_left_out_and_told(tmp_path, capsys):
    whole = tmp_path / "segment-000001.mcap"
    writer = McapWriter(whole)
    ends = []
    for n in range(5):
        for m in range(10):
            writer.add(TICK, 10**18 + n * 10 + m, [json_bytes({"n": n * 10 + m})])
        writer.flush()
        ends.append(writer.size)
    writer.close()
    data = whole.read_bytes()
    for cut in (ends[3], ends[3] + 1, ends[3] + 60, ends[4] - 1, ends[4] - 300):
        box = tmp_path / f"cut-{cut}"
        box.mkdir()
        (box / "segment-000007.mcap").write_bytes(data[:cut])
        out = box / "clean.mcap"
        assert main(["data", "recover", str(box), "--out", str(out), "--json", str(box / "told.json")]) == 0
        told = json.loads((box / "told.json").read_text())
        chunks = 4 if cut < ends[4] - 250 else 5 if told["messages"] == 50 else 4
        assert ticks_of(out) == list(range(10 * chunks)) and told["messages"] == 10 * chunks
        assert (told["lost_bytes"] == 0) == (cut == ends[3]), (cut, told)
        assert ("torn tail lost" in capsys.readouterr().out) == (cut != ends[3])
    flipped = bytearray(data)
    flipped[ends[1] + 400] ^= 1  # in the third chunk
    whole.write_bytes(flipped)
    contents = describe(tmp_path)
    assert contents.damaged == 1 and contents.messages == 40
    assert main(["data", "inspect", str(tmp_path)]) == 0
    assert "1 damaged chunks lost" in capsys.readouterr().out


def test_recover_refuses_what_is_no_black_box_and_never_replaces_a_file(tmp_path, capsys):
    (tmp_path / "x.mcap").write_bytes(b"something else")
    assert main(["data", "recover", str(tmp_path / "x.mcap")]) == 2
    assert "not an MCAP file" in capsys.readouterr().err
    writer = McapWriter(tmp_path / "segment-000001.mcap")
    writer.close()
    assert main(["data", "recover", str(tmp_path)]) == 2
    assert "no whole message" in capsys.readouterr().err and not list(tmp_path.glob("*.tmp"))
    writer = McapWriter(tmp_path / "segment-000002.mcap")
    writer.add(TICK, 5, [b"{}"])
    writer.finish()
    assert main(["data", "recover", str(tmp_path), "--out", str(tmp_path / "x.mcap")]) == 2
    assert (tmp_path / "x.mcap").read_bytes() == b"something else"
    assert [recover(tmp_path).out.name for _ in range(2)] == ["recovered.mcap", "recovered-2.mcap"]


@settings(max_examples=60)
@given(st.data())
def test_any_damage_is_read_as_far_as_it_is_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "a.mcap"
    writer = McapWriter(path)
    for n in range(6):
        writer.add(TICK, n + 1, [json_bytes({"n": n})])
        writer.flush()
    writer.finish()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(8, len(content)))])
    got = [int(json.loads(bytes(m.data))["n"]) for m in McapReader(path) if m.channel == TICK]
    assert got == sorted(set(got)) and set(got) <= set(range(6))  # never a message that was not written
    time_span(path)


def test_images_are_ros_messages():
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    for image, camera in ((PICTURE, "top"), (PICTURE[:, :, :1], "a_long_name"), (PICTURE[:7, :5], "x")):
        data = b"".join(bytes(part) for part in image_parts(image, 1_500_000_007, camera))
        message = store.deserialize_cdr(data, "sensor_msgs/msg/Image")
        assert (message.height, message.width, message.step) == (image.shape[0], image.shape[1], image.shape[1] * image.shape[2])
        assert message.encoding == ("rgb8" if image.shape[2] == 3 else "mono8")
        assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (1, 500_000_007, camera)
        np.testing.assert_array_equal(message.data.reshape(image.shape), image)
        name, stamp, back = image_array(data)
        assert (name, stamp) == (camera, 1_500_000_007)
        np.testing.assert_array_equal(back, image)


def test_json_of_odd_numbers():
    values = {"a": np.array([1.0, np.nan]), "b": float("inf"), "c": [float("-inf")], "d": {"e": None, "f": True}}
    assert json.loads(json_bytes(values)) == {"a": [1.0, "NaN"], "b": "Infinity", "c": ["-Infinity"], "d": {"e": None, "f": True}}
    described = json.loads(json_schema({**values, "s": "x", "m": np.zeros((2, 3)), "n": np.float64(1), "empty": []}))["properties"]
    assert described["a"] == {"type": "array", "items": {"type": "number"}} and described["d"]["properties"]["f"] == {"type": "boolean"}
    assert described["m"]["items"]["items"] == {"type": "number"} and described["s"] == {"type": "string"}
