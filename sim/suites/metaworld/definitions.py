"""The sets of Meta-World's tasks and when each counts as solved, as the installed suite defines both (tests compare them).

Yu et al. 2019, tables 1 to 3; McLean et al. 2025 for v3 (MT25 and ML25 are theirs). The suite reports success at every step; who
evaluates takes the first.
"""

from __future__ import annotations

_NAMES = """
assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall button-press-wall
coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open door-unlock drawer-close
drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side handle-pull handle-pull-side
lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall plate-slide plate-slide-back
plate-slide-back-side plate-slide-side push push-back push-wall reach reach-wall shelf-place soccer stick-pull stick-push
sweep sweep-into window-close window-open
"""
_MT10 = "button-press-topdown door-open drawer-close drawer-open peg-insert-side pick-place push reach window-close window-open"
_MT25_MORE = """
basketball button-press-topdown-wall button-press-wall coffee-button coffee-pull dial-turn disassemble door-lock faucet-close
faucet-open lever-pull pick-out-of-hole pick-place-wall stick-pull sweep-into
"""
_ML10_TRAIN = "basketball button-press-topdown door-open drawer-close peg-insert-side pick-place push reach sweep window-open"
_ML10_TEST = "door-close drawer-open lever-pull shelf-place sweep-into"
_ML25_TEST = "basketball button-press door-close shelf-place sweep"
_ML45_TEST = "bin-picking box-close door-lock door-unlock hand-insert"

TASKS, MT10 = tuple(_NAMES.split()), tuple(_MT10.split())
_MT25 = tuple(sorted((*MT10, *_MT25_MORE.split())))

#: Tag -> tasks, sorted. Training and test tasks of ML25 share one, as in the suite.
SETS: dict[str, tuple[str, ...]] = {
    "mt10": MT10,
    "mt25": _MT25,
    "mt50": TASKS,
    "ml10-train": tuple(_ML10_TRAIN.split()),
    "ml10-test": tuple(_ML10_TEST.split()),
    "ml25-train": _MT25,
    "ml25-test": tuple(_ML25_TEST.split()),
    "ml45-train": tuple(task for task in TASKS if task not in _ML45_TEST.split()),
    "ml45-test": tuple(_ML45_TEST.split()),
}

#: Task -> (what must come near its goal, how near in m or along which axis).
_NEAR: dict[str, tuple[str, str]] = {
    "basketball": ("the ball", "8 cm, z counted twice,"),
    "bin-picking": ("the object", "5 cm"),
    "box-close": ("the lid", "8 cm"),
    "button-press": ("the button", "2 cm, along its axis,"),
    "button-press-topdown": ("the button", "2.4 cm, along its axis,"),
    "button-press-topdown-wall": ("the button", "2.4 cm, along its axis,"),
    "button-press-wall": ("the button", "3 cm, along its axis,"),
    "coffee-button": ("the button", "2 cm, along its axis,"),
    "coffee-pull": ("the mug", "7 cm"),
    "coffee-push": ("the mug", "7 cm"),
    "dial-turn": ("the dial's knob", "7 cm"),
    "door-close": ("the door's handle", "8 cm"),
    "door-lock": ("the lock", "2 cm, in height,"),
    "door-open": ("the door's handle", "8 cm, along x,"),
    "door-unlock": ("the lock", "2 cm, along x,"),
    "drawer-close": ("the drawer's handle", "6.5 cm"),
    "drawer-open": ("the drawer's handle", "3 cm"),
    "faucet-close": ("the faucet's handle", "7 cm"),
    "faucet-open": ("the faucet's handle", "7 cm"),
    "hand-insert": ("the object", "5 cm"),
    "handle-press": ("the handle", "2 cm, in height,"),
    "handle-press-side": ("the handle", "2 cm, in height,"),
    "handle-pull": ("the handle", "5 cm, in height,"),
    "handle-pull-side": ("the handle", "8 cm"),
    "peg-insert-side": ("the peg's head", "7 cm, y and z counted twice,"),
    "peg-unplug-side": ("the peg", "7 cm"),
    "pick-out-of-hole": ("the object", "7 cm"),
    "pick-place": ("the puck", "7 cm"),
    "pick-place-wall": ("the puck", "7 cm"),
    "plate-slide": ("the plate", "7 cm"),
    "plate-slide-back": ("the plate", "7 cm"),
    "plate-slide-back-side": ("the plate", "7 cm"),
    "plate-slide-side": ("the plate", "7 cm"),
    "push": ("the puck", "5 cm"),
    "push-back": ("the puck", "7 cm"),
    "push-wall": ("the puck", "7 cm"),
    "reach": ("the hand", "5 cm"),
    "reach-wall": ("the hand", "5 cm"),
    "shelf-place": ("the puck", "7 cm"),
    "soccer": ("the ball", "7 cm, x counted three times,"),
    "sweep": ("the puck", "5 cm"),
    "sweep-into": ("the puck", "5 cm"),
    "window-close": ("the window's handle", "5 cm, along x,"),
    "window-open": ("the window's handle", "5 cm, along x,"),
}
_OTHER = {
    "assembly": "the ring's centre within 2 cm of the peg's axis and below its top",
    "disassemble": "the wrench above the goal's height",
    "hammer": "the nail driven in by more than 9 cm",
    "lever-pull": "the lever within 7.5 degrees of upright",
    "stick-pull": "the thermos within 12 cm of its goal with the stick in its handle",
    "stick-push": "the thermos within 12 cm of its goal with the stick held and lifted",
}


def success(task: str) -> str:
    """Return when ``task`` counts as solved, one line. Raises KeyError for a name that is not the suite's."""
    if task in _OTHER:
        return f"{_OTHER[task]} (the suite's flag)"
    thing, distance = _NEAR[task]
    return f"{thing} within {distance} of its goal (the suite's flag)"


def tags(task: str) -> tuple[str, ...]:
    """Return the sets that ``task`` belongs to."""
    return tuple(tag for tag, members in SETS.items() if task in members)
