"""What a task is called in words: one plain instruction, paraphrases that training uses, and others that it never sees.

A line of :data:`_TEXT` is ``task: plain; paraphrase; ... | held out; ...``. A task without a line is called by its own name.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from policies.spec import InputError

_TEXT = """
metaworld/assembly: put the ring on the peg; place the nut over the peg; lift the ring onto the peg | slip the nut onto the peg
metaworld/basketball: put the ball in the basket; drop the ball through the hoop; dunk the ball | throw the ball into the basket
metaworld/bin-picking: move the cube to the other bin; put the cube in the left bin; carry the cube over | take the cube into the other bin
metaworld/box-close: close the box; put the lid on the box; cover the box with its lid | shut the box with the lid
metaworld/button-press: press the button; push the button in; push the button forward | hit the button
metaworld/button-press-topdown: press the button from above; push the button down; press down on the button | hit the button from above
metaworld/button-press-topdown-wall: press the button from above behind the wall; push the button down over the wall | hit the button down past the wall
metaworld/button-press-wall: press the button behind the wall; push the button in around the wall | hit the button behind the wall
metaworld/coffee-button: press the button of the coffee machine; start the coffee machine; make coffee | turn the coffee machine on
metaworld/coffee-pull: pull the mug away from the coffee machine; take the mug out; pull the cup back | bring the mug from the coffee machine
metaworld/coffee-push: push the mug under the coffee machine; put the cup in the coffee machine; push the mug in | move the mug to the coffee machine
metaworld/dial-turn: turn the dial; rotate the dial; turn the knob around | twist the dial
metaworld/disassemble: take the ring off the peg; remove the nut from the peg; lift the ring away | pull the nut off the peg
metaworld/door-close: close the door; push the door shut; shut the door | swing the door closed
metaworld/door-lock: lock the door; turn the lock shut; rotate the lock clockwise | bolt the door
metaworld/door-open: open the door; pull the door open; swing the door open | get the door open
metaworld/door-unlock: unlock the door; turn the lock open; rotate the lock back | undo the lock of the door
metaworld/drawer-close: close the drawer; push the drawer in; shut the drawer | slide the drawer closed
metaworld/drawer-open: open the drawer; pull the drawer out; pull the drawer open | slide the drawer open
metaworld/faucet-close: close the faucet; turn the tap off; turn the faucet clockwise | shut the tap
metaworld/faucet-open: open the faucet; turn the tap on; turn the faucet counterclockwise | let the tap run
metaworld/hammer: hammer the nail; hit the nail with the hammer; drive the nail into the wall | knock the nail in
metaworld/hand-insert: put the hand into the hole; reach into the hole; lower the hand in the hole | stick the gripper into the hole
metaworld/handle-press: press the handle down; push down the handle; lower the handle | force the handle down
metaworld/handle-press-side: press the handle down from the side; push down the side handle | force the side handle down
metaworld/handle-pull: pull the handle up; lift the handle; raise the handle | draw the handle up
metaworld/handle-pull-side: pull the handle up from the side; lift the side handle | draw the side handle up
metaworld/lever-pull: pull the lever; raise the lever; pull the lever up | lift the lever up
metaworld/peg-insert-side: insert the peg from the side; put the peg into the hole; push the peg in sideways | slide the peg into its hole
metaworld/peg-unplug-side: unplug the peg; pull the peg out sideways; remove the peg from the hole | draw the peg out of its hole
metaworld/pick-out-of-hole: pick the puck out of the hole; lift the puck from the hole; take the puck out | get the puck out of the hole
metaworld/pick-place: pick up the puck and place it at the goal; lift the puck to the goal; carry the puck to the goal | bring the puck up to the goal
metaworld/pick-place-wall: lift the puck over the wall to the goal; carry the puck over the wall | bring the puck over the wall
metaworld/plate-slide: slide the plate into the cabinet; push the plate in; slide the plate forward | shove the plate into the cabinet
metaworld/plate-slide-back: slide the plate back; pull the plate out of the cabinet; get the plate back | drag the plate back
metaworld/plate-slide-back-side: slide the plate back sideways; pull the plate out of the side cabinet | drag the plate back sideways
metaworld/plate-slide-side: slide the plate sideways into the cabinet; push the plate in from the side | shove the plate sideways
metaworld/push: push the puck to the goal; move the puck along the table; shove the puck to the goal | slide the puck to the goal
metaworld/push-back: pull the puck back to the goal; drag the puck backwards; bring the puck back | push the puck back
metaworld/push-wall: push the puck around the wall to the goal; move the puck past the wall | slide the puck around the wall
metaworld/reach: reach the goal; move the hand to the goal; go to the goal | bring the gripper to the goal
metaworld/reach-wall: reach the goal behind the wall; move the hand over the wall to the goal | bring the gripper past the wall
metaworld/shelf-place: put the puck on the shelf; place the block on the shelf; lift the puck onto the shelf | set the puck on the shelf
metaworld/soccer: kick the ball into the goal; score a goal; push the ball into the net | shoot the ball into the goal
metaworld/stick-pull: pull the box with the stick; use the stick to pull the thermos; hook the thermos and pull | drag the thermos with the stick
metaworld/stick-push: push the box with the stick; use the stick to push the thermos; shove the thermos with the stick | move the thermos by the stick
metaworld/sweep: sweep the block off the table; wipe the cube to the side; sweep the cube away | brush the block off the table
metaworld/sweep-into: sweep the block into the hole; wipe the cube into the hole; sweep the cube in | brush the block into the hole
metaworld/window-close: close the window; push the window shut; shut the window | slide the window closed
metaworld/window-open: open the window; push the window open; slide the window aside | get the window open
arm/reach: move the hand to the mark; go to the mark; reach the mark | bring the hand to the mark
arm/push: push the cube to the mark; shove the cube to the mark; move the cube on the table | slide the cube to the mark
"""


@dataclass(frozen=True)
class Instructions:
    """What a task is called.

    Attributes:
        training: Said in training; the first is the plain one.
        held_out: Never said in training; may be empty.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...] = ()


@functools.cache
def _lines() -> dict[str, Instructions]:
    out = {}
    for line in _TEXT.strip().splitlines():
        task, _, said = line.partition(": ")
        training, _, held_out = said.partition(" | ")
        out[task] = Instructions(tuple(training.split("; ")), tuple(held_out.split("; ")) if held_out else ())
    return out


def instructions(task: str) -> Instructions:
    """Return what the registered task ``task`` is called; the words of its name where nothing better is known."""
    return _lines().get(task) or Instructions((task.rpartition("/")[2].replace("-", " ").replace("_", " "),))


def phrases(task: str, kind: str) -> tuple[str, ...]:
    """Return instructions of a task: the ``plain`` one, those of ``training``, or those ``held_out``.

    Raises:
        InputError: if none is held out.
    """
    said = instructions(task)
    found = {"plain": said.training[:1], "training": said.training, "held_out": said.held_out}[kind]
    if not found:
        raise InputError(f"task {task!r}: no instruction is held out; use the plain one: {said.training[0]!r}")
    return found
