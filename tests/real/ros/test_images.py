import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.spec import InputError
from real.ros import api
from real.ros.images import FramePool, decode, image_size, read_compressed, read_image
from tests.require import require


def image(pixels, encoding, step, stamp=(5, 6), height=None, width=None):
    message = api.message("sensor_msgs/msg/Image")()
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    message.header.frame_id = "lens"
    message.height, message.width, message.encoding, message.step = height, width, encoding, step
    message.data = pixels
    return api.serialize(message)


SIZES = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "8UC4": 4, "mono8": 1, "8UC1": 1}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SIZES)), st.integers(1, 9), st.integers(1, 9), st.integers(0, 7), st.integers(0, 2**31 - 1))
def test_every_encoding_pixel_by_pixel_with_padded_rows(encoding, height, width, padding, seed):
    size = SIZES[encoding]
    step = width * size + padding
    raw = np.random.default_rng(seed).integers(0, 256, (height, step), np.uint8)
    found = read_image(image(raw.tobytes(), encoding, step, height=height, width=width))
    out = np.zeros((height, width, 3), np.uint8)
    decode(found, out)
    assert found.stamp_ns == 5_000_000_006 and image_size(found) == (height, width)
    for y in range(height):
        for x in range(width):
            pixel = raw[y, x * size : (x + 1) * size].tolist()
            red_green_blue = pixel * 3 if size == 1 else pixel[:3] if encoding.startswith("rgb") else pixel[2::-1]
            assert out[y, x].tolist() == red_green_blue


@pytest.mark.parametrize("kind", [".png", ".jpg"])
def test_compressed_pictures_as_opencv_reads_them(kind):
    require("libgl")
    import cv2

    rgb = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8), (5, 5), 0)
    file = cv2.imencode(kind, rgb[..., ::-1])[1].tobytes()
    message = api.message("sensor_msgs/msg/CompressedImage")()
    message.header.stamp.sec, message.format, message.data = 9, kind, file
    found = read_compressed(api.serialize(message))
    out = np.zeros((24, 32, 3), np.uint8)
    decode(found, out)
    assert image_size(found) == (24, 32) and found.stamp_ns == 9 * 10**9
    assert np.array_equal(out, cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
    if kind == ".png":
        assert np.array_equal(out, rgb)
    small = np.zeros((12, 16, 3), np.uint8)
    with pytest.raises(InputError, match="image of 32x24 pixels, 16x12 are expected"):
        decode(found, small)
    decode(found, small, resize=True)
    assert np.abs(small.astype(int) - out.reshape(12, 2, 16, 2, 3).mean((1, 3))).max() <= 1


def test_a_bomb_is_refused_by_its_header():
    import struct

    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60000, 60000)
    message = api.message("sensor_msgs/msg/CompressedImage")(data=head, format="png")
    with pytest.raises(InputError, match="60000x60000"):
        decode(read_compressed(api.serialize(message)), np.zeros((4, 4, 3), np.uint8), resize=True)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 2**31 - 1), st.booleans())
def test_whatever_the_bytes_it_is_an_image_or_one_line(noise, seed, cut):
    whole = bytearray(image(bytes(range(60)), "bgr8", 15, height=4, width=5))
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(whole), 3):
        whole[at] = rng.integers(0, 256)
    for cdr in (noise, bytes(whole[: rng.integers(0, len(whole))] if cut else whole)):
        for read in (read_image, read_compressed):
            try:
                decode(read(cdr), np.zeros((4, 5, 3), np.uint8))
            except InputError as error:
                assert "\n" not in str(error)


def test_an_array_is_used_again_only_when_nobody_holds_it():
    pool = FramePool((2, 2, 3))
    held = [pool.take() for _ in range(6)]
    assert len({id(array) for array in held}) == 6
    view, last = held[0][0], id(held[5])
    first = id(held[0])
    held.clear()
    again = {id(pool.take()) for _ in range(3)}
    assert first not in again and again == {next(iter(again))}, "a view still shows the first; the next free one is taken, again and again"
    del view
    assert id(pool.take()) == first and last


def test_markers_without_a_length_do_not_hide_the_size_of_a_picture():
    require("libgl")
    import cv2

    file = cv2.imencode(".jpg", np.zeros((24, 32, 3), np.uint8))[1].tobytes()
    small = b"\xff\xc0\x00\x0b\x08\x00\x02\x00\x02\x01\x01\x11\x00"  # a frame of 2x2 that only a wrong reader finds
    message = api.message("sensor_msgs/msg/CompressedImage")()
    message.format, message.data = "jpeg", file[:2] + b"\xff\x01" + file[2:]
    assert image_size(read_compressed(api.serialize(message))) == (24, 32)
    message.data = b"\xff\xd8\xff\x01" + b"\xff\xda\x00\x02" + small + file[2:]
    with pytest.raises(InputError, match="neither a JPEG nor a PNG"):
        image_size(read_compressed(api.serialize(message)))
