"""ROS 2 bags: what we write is read by rosbags and mcap, what others write is brought together by stamp, broken files are one line."""

import json
import shutil
import sqlite3

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.cli import app
from robopolicy.data.convert import bag_messages
from robopolicy.data.convert.bag_import import import_bags
from robopolicy.data.convert.conversion import SourceOptions, convert, detect
from robopolicy.data.dataset import Dataset
from robopolicy.data.layout import CAPTURE
from robopolicy.data.writer import DatasetWriter

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
CAMERA, MS = "observation.images.top cam", 10**6


def spec(images=False, dim=3):
    fields = {
        "observation.state": Field((dim,), unit="rad", names=tuple(f"j{i}" for i in range(dim))),
        "observation.force-torque": Field((2, 3), "float64", "N"),
    }
    if images:
        fields[CAMERA] = Field((16, 24, 3), "uint8", "px", kind="image")
    action = {"arm": Field((2,), unit="rad", low=(-1, -2), high=(1, 2), kind="position", names=("a", "b")), "gripper": Field((1,), kind="gripper")}
    return Spec(ObservationSpec(fields, 10.0), ActionSpec(action, 10.0))


def make(path, episodes, images=False, seed=0, stamps=None):
    rng = np.random.default_rng(seed)
    whole = spec(images)
    with DatasetWriter(path, whole, 10, "arm", "stack", provenance={"recorded": {"sync": "before"}}) as writer:
        for number, frames in enumerate(episodes):
            base = 5 * 10**9 + number
            for t in range(frames):
                row = base + 100 * MS * t
                observation = {n: rng.normal(size=f.shape).astype(f.dtype) for n, f in whole.observation.fields.items() if not f.is_image}
                capture = {"observation.state": row - 3 * MS, "observation.force-torque": row - 1, "action": row}
                if images:
                    observation[CAMERA] = np.full((16, 24, 3), (20 * t, 250 - 20 * t, 100), np.uint8)
                    capture[CAMERA] = row - 20 * MS
                extras = {"takeover": t == 1, "next.reward": float(rng.normal()), "visits": 2**53 + 1 + t, "größe": t, "gr__e": -t}
                writer.add_frame(observation, rng.normal(size=3).astype(np.float32), stamps(capture, t) if stamps else capture, extras)
            writer.save_episode(success=[True, False, None][number % 3], seed=number or None, task="stack" if number < 2 else "unstack")


def assert_equal(first, second, images=False):
    a, b = Dataset.open(first), Dataset.open(second)
    assert a.spec == b.spec and a.fps == b.fps
    assert a.success.tolist() == b.success.tolist() and a.seeds.tolist() == b.seeds.tolist() and a.tasks == b.tasks
    assert a.episode_starts.tolist() == b.episode_starts.tolist() and set(a.arrays) == set(b.arrays)
    for name, array in a.arrays.items():
        if name == CAMERA:
            assert np.abs(array.astype(int) - b.arrays[name]).max() <= (6 if images == "lossy" else 3)
        else:
            assert np.array_equal(array, b.arrays[name]), name


@pytest.mark.parametrize("target", ["rosbag2", "mcap"])
def test_there_and_back_is_the_same_data_set_and_rosbags_reads_what_is_between(target, tmp_path):
    make(tmp_path / "set", [4, 3, 2])
    done = convert(tmp_path / "set", tmp_path / "bags", target=target, progress=False)
    assert (done.episodes, done.frames) == (3, 9) and detect(tmp_path / "bags") == "rosbag2"
    bag = tmp_path / "bags" / ("episode_000001" if target == "rosbag2" else "episode_000001.mcap")
    with AnyReader([bag], default_typestore=STORE) as reader:
        found = {c.topic: (c.msgtype, c.msgcount) for c in reader.connections}
        joints = [(reader.deserialize(d, c.msgtype), t) for c, t, d in reader.messages([c for c in reader.connections if c.topic == "/joint_states"])]
        about = [json.loads(reader.deserialize(d, c.msgtype).data) for c, _, d in reader.messages() if c.topic == "/episode"]
    assert found["/joint_states"] == ("sensor_msgs/msg/JointState", 3) and found["/action"] == ("sensor_msgs/msg/JointState", 3)
    assert found["/column/takeover"] == ("std_msgs/msg/Bool", 3) and found["/state/force_torque"][1] == 3
    data = Dataset.open(tmp_path / "set")
    for (message, log_ns), t in zip(joints, range(4, 7), strict=True):
        row = int(np.ravel(data.arrays[CAPTURE + "action"])[t])
        assert message.name == ["j0", "j1", "j2"] and message.position.astype(np.float32).tolist() == data.arrays["observation.state"][t].tolist()
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == row - 3 * MS and log_ns == row
    assert about == [{"episode": 1, "task": "stack", "success": False, "seed": 1}]
    convert(tmp_path / "bags", tmp_path / "again", progress=False)
    assert_equal(tmp_path / "set", tmp_path / "again")


def test_an_mcap_file_is_one_that_foxglove_opens(tmp_path):
    make(tmp_path / "set", [3], images=True)
    convert(tmp_path / "set", tmp_path / "bags", target="mcap", progress=False)
    with (tmp_path / "bags/episode_000000.mcap").open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None and reader.get_header().profile == "ros2"
        assert {s.encoding for s in summary.schemas.values()} == {"ros2msg"} and summary.statistics.message_count == 1 + 3 * 9
        assert "/camera/top_cam/image_raw/compressed" in {c.topic for c in summary.channels.values()}
        assert len(list(reader.iter_messages(topics=["/action"]))) == 3


@pytest.mark.parametrize("images", ["raw", "png", "jpeg"])
def test_pictures_there_and_back(images, tmp_path):
    make(tmp_path / "set", [5], images=True)
    convert(tmp_path / "set", tmp_path / "bags", target="mcap", progress=False, images=images)
    convert(tmp_path / "bags", tmp_path / "again", progress=False)
    assert_equal(tmp_path / "set", tmp_path / "again", "lossy" if images == "jpeg" else True)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    episodes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    seed=st.integers(0, 2**20),
    ages=st.lists(st.tuples(st.integers(0, 99 * MS), st.integers(0, 99 * MS)), min_size=6, max_size=6),
    storage=st.sampled_from(["rosbag2", "mcap"]),
)
def test_whatever_the_stamps_are_they_come_back(episodes, seed, ages, storage, tmp_path):
    for name in ("set", "bags", "again"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)

    def stamps(capture, t):
        row = capture["action"]
        return {"observation.state": row - ages[t][0], "observation.force-torque": row - ages[t][1], "action": row}

    make(tmp_path / "set", episodes, seed=seed, stamps=stamps)
    convert(tmp_path / "set", tmp_path / "bags", target=storage, progress=False)
    convert(tmp_path / "bags", tmp_path / "again", progress=False)
    assert_equal(tmp_path / "set", tmp_path / "again")


# ---- bags of others


def header(ns):
    return TYPES["std_msgs/msg/Header"](stamp=TYPES["builtin_interfaces/msg/Time"](sec=ns // 10**9, nanosec=ns % 10**9), frame_id="")


def joint_state(ns, names, values):
    none = np.zeros(0)
    return TYPES["sensor_msgs/msg/JointState"](
        header=header(ns), name=list(names), position=np.array(values, float), velocity=10 * np.array(values, float), effort=none
    )


def picture(ns, colour, encoding="bgr8", pad=0):
    data = np.zeros((16, 24 * 3 + pad), np.uint8)
    data[:, : 24 * 3] = np.tile(np.array(colour, np.uint8), 24)
    kind = TYPES["sensor_msgs/msg/Image"]
    return kind(header=header(ns), height=16, width=24, encoding=encoding, is_bigendian=0, step=24 * 3 + pad, data=data.reshape(-1))


def wrench(ns, force):
    three = TYPES["geometry_msgs/msg/Vector3"]
    body = TYPES["geometry_msgs/msg/Wrench"](force=three(x=force, y=0.0, z=0.0), torque=three(x=0.0, y=0.0, z=-force))
    return TYPES["geometry_msgs/msg/WrenchStamped"](header=header(ns), wrench=body)


def write(path, messages, plugin=StoragePlugin.MCAP):
    """Write (topic, log time, message) to a bag."""
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for topic, log_ns, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], log_ns, STORE.serialize_cdr(message, kind))


def a_robot(start=10**9):
    """A second of joints at 100 Hz, a camera at 10 Hz that arrives 30 ms late, a wrench at 20 Hz and commands at 25 Hz."""
    out = []
    for k in range(100):
        out.append(("/joint_states", start + 10 * MS * k, joint_state(start + 10 * MS * k, ["b", "a"], [k + 0.5, k])))
    for k in range(10):
        out.append(("/cam", start + 100 * MS * k + 30 * MS, picture(start + 100 * MS * k, (0, 0, 20 * k + 5), pad=8)))
    for k in range(20):
        out.append(("/wrench", start + 50 * MS * k + 1, wrench(start + 50 * MS * k, float(k))))
    for k in range(25):
        data = np.array([float(k), -float(k)])
        layout = TYPES["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        out.append(("/forward_position_controller/commands", start + 40 * MS * k, TYPES["std_msgs/msg/Float64MultiArray"](layout=layout, data=data)))
    return sorted(out, key=lambda item: item[1])


MAPPING = {
    "fps": 10,
    "task": "pour",
    "sync": "before",
    "observation": {
        "observation.state": {"topic": "/joint_states", "names": ["a", "b"], "unit": "rad"},
        "observation.velocity": {"topic": "/joint_states", "value": "velocity", "select": ["a"]},
        "observation.wrench": {"topic": "/wrench", "unit": "N"},
        "observation.images.top": {"topic": "/cam"},
    },
    "action": {"arm": {"topic": "/forward_position_controller/commands", "unit": "rad", "names": ["a", "b"]}},
}


def mapped(folder, **changes):
    file = folder / "mapping.yaml"
    file.write_text(yaml.safe_dump(MAPPING | changes))
    return file


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_streams_of_four_rates_become_rows_by_the_clock(plugin, tmp_path):
    write(tmp_path / "bag", a_robot(), plugin)
    out = CliRunner().invoke(app, ["data", "convert", str(tmp_path / "bag"), str(tmp_path / "set"), "--mapping", str(mapped(tmp_path))])
    assert out.exit_code == 0, out.output
    data = Dataset.open(tmp_path / "set")
    # rows at 1.03, 1.13, ... : from the moment at which the last of the topics has its first message (the camera, by its
    # arrival, with the stamps of then: joints of 1.03, a wrench of 1.0, a command of 1.0 logged at 1.0)
    rows = np.ravel(data.arrays[CAPTURE + "action"])
    first = int(rows[0])
    assert first == 1030 * MS and np.diff(rows).tolist() == [100 * MS] * (len(rows) - 1) and len(rows) == 10
    assert data.arrays["observation.state"].tolist() == [[3 + 10 * k, 3.5 + 10 * k] for k in range(10)]
    assert data.arrays["observation.velocity"].ravel().tolist() == [10 * (3 + 10 * k) for k in range(10)]
    assert np.ravel(data.arrays[CAPTURE + "observation.images.top"]).tolist() == [(1000 + 100 * k) * MS for k in range(10)]
    assert data.arrays["observation.wrench"][:, 0].tolist() == [2 * k for k in range(10)]
    assert data.arrays["action"][:, 0].tolist() == [(30 + 100 * k) // 40 for k in range(10)] and data.tasks == ["pour"]
    red = data.arrays["observation.images.top"][:, 8, 12, 0].astype(int)
    assert np.abs(red - [20 * k + 5 for k in range(10)]).max() <= 8  # blue-green-red in the bag, lines padded


def test_topics_on_different_clocks_are_one_line_and_no_rows_for_ever(tmp_path):
    since_boot, today = 12 * 10**9, 1_700_000_000 * 10**9
    messages = a_robot(since_boot)
    messages.append(("/joint_states", messages[-1][1] + 1, joint_state(today, ["b", "a"], [0.0, 0.0])))
    write(tmp_path / "bag", messages)
    with pytest.raises(InputError, match=r"a stamp of /joint_states is 1\.7e\+09 s after all before it: clocks that differ"):
        import_bags(tmp_path / "bag", tmp_path / "set", mapped(tmp_path))
    import_bags(tmp_path / "bag", tmp_path / "logged", mapped(tmp_path, stamps="log"))
    assert len(Dataset.open(tmp_path / "logged").arrays["action"]) >= 9


def test_what_waits_for_a_topic_that_begins_late_is_bounded(tmp_path, monkeypatch):
    import robopolicy.data.convert.bag_import as module
    from robopolicy.data.recording_streams import StreamHistory

    longest, add = [0], StreamHistory.add

    def counted(self, stamp_ns, value):
        done = add(self, stamp_ns, value)
        longest[0] = max(longest[0], len(self))
        return done

    monkeypatch.setattr(StreamHistory, "add", counted)
    monkeypatch.setattr(module, "_BEHIND_NS", 10**8)
    early = [(t, at - 5 * 10**9, joint_state(at - 5 * 10**9, ["b", "a"], [0.0, 0.0])) for t, at, _ in a_robot(6 * 10**9) if t == "/joint_states"]
    write(tmp_path / "bag", sorted(early + a_robot(2 * 10**9), key=lambda item: item[1]))
    import_bags(tmp_path / "bag", tmp_path / "set", mapped(tmp_path))
    assert 10 < longest[0] < 40, "a fifth of a second at 100 Hz, not all that came before the camera"


def test_rows_can_follow_a_topic_and_be_thinned_and_take_the_nearest(tmp_path):
    write(tmp_path / "bag", a_robot())
    import_bags(tmp_path / "bag", tmp_path / "led", mapped(tmp_path, lead="/cam", sync="nearest"))
    led = Dataset.open(tmp_path / "led")
    assert np.ravel(led.arrays[CAPTURE + "action"]).tolist() == [(1000 + 100 * k) * MS for k in range(10)]
    assert led.arrays["action"][:, 0].tolist() == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]  # 40 ms apart, of two as near the older
    import_bags(tmp_path / "bag", tmp_path / "thin", mapped(tmp_path, lead="/joint_states", thin=True))
    thin = np.ravel(Dataset.open(tmp_path / "thin").arrays[CAPTURE + "action"])
    assert set(np.diff(thin).tolist()) <= {80 * MS, 90 * MS, 100 * MS, 110 * MS} and len(thin) >= 9
    import_bags(tmp_path / "bag", tmp_path / "log", mapped(tmp_path, stamps="log", lead="/cam"))
    logged = np.ravel(Dataset.open(tmp_path / "log").arrays[CAPTURE + "observation.images.top"])
    assert logged.tolist() == [(1030 + 100 * k) * MS for k in range(10)]  # the bag's own time, not the camera's


def test_bags_of_one_folder_are_episodes(tmp_path):
    (tmp_path / "bags").mkdir()
    for number in range(2):
        write(tmp_path / "bags" / f"run_{number}", a_robot(10**9 * (number + 1)))
    mapped(tmp_path / "bags")
    done = convert(tmp_path / "bags", tmp_path / "set", progress=False, options=SourceOptions(fps=5, task="stir"))
    assert (done.episodes, done.frames, done.fps) == (2, 10, 5.0) and Dataset.open(tmp_path / "set").tasks == ["stir"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"observation": {"observation.state": {"topic": "/joint_state"}}}, "no topic '/joint_state'; did you mean '/joint_states'"),
        ({"observation": {"observation.state": {"topic": "/joint_states", "names": ["a", "c"]}}}, "no joint 'c'"),
        ({"observation": {"observation.state": {"topic": "/joint_states", "value": "effort", "names": ["a"]}}}, "2 joints but 0 of effort"),
        ({"observation": {"observation.state": {"topic": "/joint_states", "shape": [3]}}}, r"the mapping says \[3\]"),
        ({"lead": "/cm"}, "lead: no topic '/cm'; did you mean '/cam'"),
        ({"syn": "nearest"}, "syn"),
        ({"fps": 0}, "fps"),
        ({"extras": {"takeover": "/takeover"}}, "no topic '/takeover'"),
    ],
)
def test_what_a_mapping_gets_wrong_is_one_line(changes, said, tmp_path):
    write(tmp_path / "bag", a_robot())
    with pytest.raises(InputError, match=said) as error:
        convert(tmp_path / "bag", tmp_path / "set", progress=False, options=SourceOptions(mapping=mapped(tmp_path, **changes)))
    assert "\n" not in str(error.value) and not (tmp_path / "set").exists()


def test_without_a_mapping_the_topics_are_told(tmp_path):
    write(tmp_path / "bag", a_robot())
    with pytest.raises(InputError, match=r"--mapping FILE .*/joint_states \(sensor_msgs/msg/JointState\)"):
        convert(tmp_path / "bag", tmp_path / "set", progress=False)
    out = CliRunner().invoke(app, ["data", "convert", str(tmp_path / "bag"), str(tmp_path / "bag2"), "--to", "mcap"])
    assert out.exit_code != 0 and "written from a data set" in f"{out.output} {out.exception}"


def test_truncated_and_damaged_bags_are_one_line(tmp_path):
    file = mapped(tmp_path)
    for plugin, ending in ((StoragePlugin.MCAP, "mcap"), (StoragePlugin.SQLITE3, "db3")):
        write(tmp_path / ending, a_robot(), plugin)
        (stored,) = (tmp_path / ending).glob(f"*.{ending}")
        whole = stored.read_bytes()
        rng = np.random.default_rng(0)
        broken = [whole[: len(whole) * k // 4] for k in range(4)]
        for _ in range(6):
            damaged = bytearray(whole)
            begin = int(rng.integers(0, len(damaged) - 400))
            damaged[begin : begin + 400] = rng.integers(0, 256, 400, np.uint8).tobytes()
            broken.append(bytes(damaged))
        refused = 0
        for contents in broken:
            stored.write_bytes(contents)
            shutil.rmtree(tmp_path / "set", ignore_errors=True)
            try:
                import_bags(tmp_path / ending, tmp_path / "set", file)
            except InputError as error:
                assert "\n" not in str(error) and ending in str(error)
                refused += 1
        assert refused >= 4  # every truncated one
        (tmp_path / ending / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
        with pytest.raises(InputError, match="not a whole bag"):
            import_bags(tmp_path / ending, tmp_path / "set2", file)
    with pytest.raises(InputError, match="no bag"):
        import_bags(tmp_path / "nothing", tmp_path / "set", file)


def test_a_bag_that_another_program_wrote_with_its_own_database(tmp_path):
    """The tables of rosbag2's SQLite storage are what they should be: read without rosbags."""
    make(tmp_path / "set", [3])
    convert(tmp_path / "set", tmp_path / "bags", target="rosbag2", progress=False)
    with sqlite3.connect(tmp_path / "bags/episode_000000/episode_000000.db3") as database:
        rows = database.execute("select topics.name, topics.type, count(*) from messages join topics on topics.id = topic_id group by topic_id").fetchall()
    assert ("/action", "sensor_msgs/msg/JointState", 3) in rows
    information = yaml.safe_load((tmp_path / "bags/episode_000000/metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["storage_identifier"] == "sqlite3" and information["message_count"] == sum(count for *_, count in rows)


def test_pictures_of_every_usual_encoding():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (4, 5, 3), np.uint8)
    alpha = np.full((4, 5, 1), 255, np.uint8)
    kind = TYPES["sensor_msgs/msg/Image"]
    for encoding, stored in (
        ("rgb8", rgb),
        ("bgr8", rgb[..., ::-1]),
        ("rgba8", np.concatenate([rgb, alpha], 2)),
        ("bgra8", np.concatenate([rgb[..., ::-1], alpha], 2)),
    ):
        data = np.ascontiguousarray(stored).reshape(-1)
        message = kind(header=header(0), height=4, width=5, encoding=encoding, is_bigendian=0, step=5 * stored.shape[2], data=data)
        assert np.array_equal(bag_messages.image(message, bag_messages.IMAGE), rgb), encoding
    grey = kind(header=header(0), height=4, width=5, encoding="mono8", is_bigendian=0, step=5, data=np.ascontiguousarray(rgb[..., 0]).reshape(-1))
    assert np.array_equal(bag_messages.image(grey, bag_messages.IMAGE)[..., 2], rgb[..., 0])
    grey.encoding = "16UC1"
    with pytest.raises(InputError, match="16UC1"):
        bag_messages.image(grey, bag_messages.IMAGE)
    short = kind(header=header(0), height=4, width=5, encoding="rgb8", is_bigendian=0, step=15, data=np.zeros(20, np.uint8))
    with pytest.raises(InputError, match="20 bytes"):
        bag_messages.image(short, bag_messages.IMAGE)


def test_stamps_of_both_byte_orders():
    message = joint_state(3 * 10**9 + 7, ["a"], [1.0])
    for little in (True, False):
        data = STORE.serialize_cdr(message, message.__msgtype__, little_endian=little)
        assert bag_messages.stamp_ns(data, 99, True) == 3 * 10**9 + 7
        assert bag_messages.stamp_ns(data, 99, False) == 99
    assert bag_messages.stamp_ns(STORE.serialize_cdr(joint_state(0, [], []), message.__msgtype__), 99, True) == 99  # never set
    with pytest.raises(InputError, match="32 bits"):
        bag_messages.header(STORE, 2**62)


def test_what_is_for_bags_alone_is_refused_elsewhere(tmp_path):
    make(tmp_path / "set", [3])
    for more, said in (
        ({"options": SourceOptions(mapping=tmp_path / "mapping.yaml")}, "which topic of a bag is which field; .* is lerobot"),
        ({"images": "png"}, "images 'png': is how bags hold pictures"),
    ):
        with pytest.raises(InputError, match=said):
            convert(tmp_path / "set", tmp_path / "out", target="lerobot", progress=False, **more)
    assert not (tmp_path / "out").exists()
