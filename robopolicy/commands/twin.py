"""``robopolicy twin``: a simulated world behind the robot interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def twin(
        task: Annotated[str, typer.Argument(help="Task, e.g. peg-insert-side (see: robopolicy list tasks).")],
        bind: Annotated[str, typer.Option(help="Loopback address: tcp://127.0.0.1:PORT (port 0: any free one) or ipc://PATH.")] = "tcp://127.0.0.1:5556",
        lockstep: Annotated[bool, typer.Option("--lockstep", help="Step once for every command, as fast as they come, instead of in real time.")] = False,
        episodes: Annotated[int | None, typer.Option(min=1, help="Episodes of a run; without end if not given.")] = None,
        seed0: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the next has the next seed.")] = 0,
        speed: Annotated[float, typer.Option(min=0.01, help="Real time: how many times faster than the task's rate.")] = 1.0,
        silence: Annotated[float | None, typer.Option(min=0.01, help="Seconds without a command after which the robot holds.")] = None,
        observations: Annotated[str, typer.Option(help="state, image or state+image.")] = "state",
        image_size: Annotated[int, typer.Option(min=8, help="Height and width of observation images, px.")] = 96,
        max_steps: Annotated[int | None, typer.Option(min=1, help="Time limit of an episode in control steps, if not the task's.")] = None,
        randomize: Annotated[str | None, typer.Option(help="Recipe or file whose randomize section the world follows, e.g. of robopolicy identify.")] = None,
        engine: Annotated[str, typer.Option(help="What steps the world: mujoco, warp, bullet.")] = "mujoco",
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Records of the last run's episodes, at the end; - prints them.")] = None,
        log: Annotated[Path | None, typer.Option(metavar="FILE", help="Append every command that arrives, one line of JSON each.")] = None,
        announce: Annotated[Path | None, typer.Option(help="File that gets the bound address once the twin is ready.")] = None,
        ros2: Annotated[bool, typer.Option("--ros2", help="Behind the topics of a robot under ros2_control, for `robopolicy run robot=ros2`.")] = False,
        namespace: Annotated[str, typer.Option(help="ROS 2: of the robot's topics.")] = "",
        domain: Annotated[int | None, typer.Option(min=0, max=232, help="ROS 2: domain, if not ROS_DOMAIN_ID.")] = None,
        interface: Annotated[str | None, typer.Option(help="ROS 2: network interface; loopback if not given.")] = None,
        clock: Annotated[bool, typer.Option("--clock", help="ROS 2: publish /clock.")] = False,
        pause: Annotated[float | None, typer.Option(min=0.0, help="ROS 2: s until the next episode begins by itself; else `twin/reset` does.")] = None,
        with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    ) -> None:
        """Simulate a robot: a task's world behind the same interface as a real one, for `robopolicy run robot=twin`.

        Example, over ROS 2: robopolicy twin arm/reach --ros2, and beside it: robopolicy run ros2 policy=runs/arm-reach
        """
        from contextlib import closing

        from real.lines import Lines
        from real.wire import require_loopback
        from robopolicy.json_output import emit_json
        from robopolicy.processes import announce as tell
        from robopolicy.processes import stop_signals
        from robopolicy.randomization import read_section, whole_ranges
        from robopolicy.twin.server import TwinServer, records_json
        from robopolicy.twin.world import World, open_log
        from sim.registry import make

        require_loopback(bind)
        with stop_signals(with_parent) as stopped, closing(Lines(_write)) as say:  # a closed pipe costs lines, not the robot
            section = None if randomize is None else whole_ranges(read_section(randomize))
            env = make(task, 1, observations, image_size, max_steps, engine=engine, randomize=section)  # type: ignore[arg-type]
            options: tuple[Any, ...] = (env, seed0, episodes, lockstep, speed, silence, open_log(log, env, lockstep, speed) if log else None)
            if ros2:
                from robopolicy.twin.ros import RosPlace, serve_world

                counts = serve_world(options, pause, RosPlace(namespace, domain, interface, clock), say, str(announce) if announce else None, stopped)
            else:
                world = World(*options)
                server = TwinServer(world, bind, say)
                tell(str(announce) if announce else None, server.address)
                pace = "lock-step" if lockstep else f"{world.rate_hz:g} Hz"
                say(f"ready: {env.task} at {server.address}, {pace}, holds after {world.silence_s:g} s without a command")
                server.serve(stopped)
                counts = records_json(env.task, world.finished())
            if json_file:
                emit_json(counts, json_file)


def _write(line: str) -> None:
    print(line, flush=True)
