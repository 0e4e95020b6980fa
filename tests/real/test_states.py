"""The states of a run: every way that exists, and none that does not."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from real.states import TRANSITIONS, States


@pytest.mark.parametrize(("before", "after"), [*itertools.product(TRANSITIONS, TRANSITIONS)])
def test_only_drawn_ways_exist(before, after):
    changes = []
    states = States(lambda *change: changes.append(change))
    states.now = before
    if before == after or before == "stopped":
        states.enter(after, "why")
        assert states.now == before and not changes
    elif after in TRANSITIONS[before]:
        states.enter(after, "why")
        assert (states.now, states.cause, changes) == (after, "why", [(before, after, "why")])
    else:
        with pytest.raises(ValueError, match=f"no way from {before} to {after}"):
            states.enter(after)


@given(st.lists(st.sampled_from(sorted(TRANSITIONS)), max_size=12))
def test_stopped_is_for_ever(ways):
    states = States()
    states.enter("stopped", "first cause")
    for state in ways:
        states.enter(state, "another")
    assert (states.now, states.cause) == ("stopped", "first cause")
