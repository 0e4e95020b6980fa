import hypothesis
from hypothesis import strategies as st

from real.ros.stamps import StampClock

S = 1_000_000_000
OFFSET = -1_700_000_000 * S  # of a wall clock


def messages(clock, delays, begin=50 * S, rate_hz=100, offset=OFFSET, speed=1.0):
    """Give ``clock`` messages captured at ``begin``, ...; returns (true capture, what it says, arrival) of each."""
    out = []
    for k, delay in enumerate(delays):
        true = begin + k * S // rate_hz
        out.append((true, clock.capture_ns(true - offset if speed == 1.0 else round((true - offset) * speed), true + delay), true + delay))
    return out


@hypothesis.given(st.lists(st.integers(0, S // 5), min_size=1, max_size=80), st.sampled_from([1.0, 2.0, 0.5]))
def test_capture_is_never_after_arrival_nor_before_the_truth(delays, speed):
    clock = StampClock("robot", speed)
    for k, (true, said, arrival) in enumerate(messages(clock, delays, speed=speed)):
        assert true - 500 <= said <= min(arrival, true + min(delays[: k + 1]) + 500)  # stamps of 1.7e18 at a speed are rounded
    assert not clock.jumps and not clock.doubt(60 * S)


def test_the_least_delay_of_a_window_counts_and_old_ones_are_forgotten():
    clock = StampClock("robot", window_s=1.0)
    assert messages(clock, [5_000_000, 1_000_000, 9_000_000])[2][1] == 50 * S + 20_000_000 + 1_000_000
    drifted = messages(clock, [40_000_000] * 250, begin=51 * S)
    assert drifted[-1][1] == drifted[-1][2], "the least delay of the last second is 40 ms"


def test_a_zero_stamp_counts_as_its_arrival():
    clock = StampClock("robot")
    assert clock.capture_ns(0, 77) == 77 and clock.unstamped == 1 and clock.offset_ns is None and clock.there_ns(5) is None


def test_the_robots_time_now():
    clock = StampClock("robot", speed=2.0)
    messages(clock, [0, 0], speed=2.0)
    assert abs(clock.there_ns(51 * S) - 2 * (51 * S - OFFSET)) < 1000


@hypothesis.given(st.sampled_from([-3600.0, -5.0, -0.4, 0.4, 5.0, 3600.0]))
def test_a_jump_is_said_and_then_the_new_offset_holds(jump):
    clock = StampClock("the robot")
    messages(clock, [1_000_000] * 200)
    begin = 52 * S
    out = messages(clock, [1_000_000] * 300, begin=begin, offset=OFFSET - int(jump * S))
    assert clock.jumps == 1 and "that of the robot jumped" in clock.doubt(begin + S // 2)
    assert not clock.doubt(out[-1][2]) and out[-1][1] == out[-1][2]


def test_a_link_that_stalls_is_late_and_no_jump():
    clock = StampClock("robot")
    messages(clock, [1_000_000] * 100)
    late = messages(clock, [int(0.6 * S) - k * S // 100 for k in range(50)], begin=51 * S)
    assert not clock.jumps and abs(late[0][1] - late[0][0] - 1_000_000) < 10, "what was measured 0.6 s ago is that old"


def test_stamps_that_stay_behind_are_a_jump_in_the_end():
    clock = StampClock("robot")
    messages(clock, [1_000_000] * 100)
    messages(clock, [int(0.3 * S)] * 150, begin=51 * S)
    assert clock.jumps == 1


def test_seen_learns_nothing():
    clock = StampClock("robot")
    messages(clock, [2_000_000])
    offset = clock.offset_ns
    assert clock.seen(-OFFSET + 60 * S, 60 * S + 1) == 60 * S + 1 and clock.offset_ns == offset
    assert clock.ahead_ns(-OFFSET + 60 * S, 60 * S) == 2_000_000
