"""``isaacgym.terrain_utils``: patches of terrain as grids of heights, and their meshes.

A patch holds int16 heights in units of ``vertical_scale``, rows along x, columns along y, a point every ``horizontal_scale``.
Every function writes into the patch it is given, adds to what is there only where it says so, and returns the patch.
"""

from __future__ import annotations

import numpy as np


class SubTerrain:
    """One patch.

    Attributes:
        height_field_raw: (width, length) int16.
    """

    def __init__(self, terrain_name: str = "terrain", width: int = 256, length: int = 256, vertical_scale: float = 1.0, horizontal_scale: float = 1.0) -> None:
        self.terrain_name, self.width, self.length = terrain_name, width, length
        self.vertical_scale, self.horizontal_scale = vertical_scale, horizontal_scale
        self.height_field_raw = np.zeros((width, length), np.int16)

    def points(self, metres: float) -> int:
        """Return a length in points of the grid."""
        return int(metres / self.horizontal_scale)

    def units(self, metres: float) -> int:
        """Return a height in units of the grid."""
        return int(metres / self.vertical_scale)

    def centred(self, size: float) -> tuple[slice, slice]:
        """Return the square of ``size`` (m) in the middle."""
        half = self.points(size / 2)
        return slice(self.width // 2 - half, self.width // 2 + half), slice(self.length // 2 - half, self.length // 2 + half)


def random_uniform_terrain(terrain: SubTerrain, min_height: float, max_height: float, step: float = 1.0, downsampled_scale: float | None = None) -> SubTerrain:
    """Add random heights from ``min_height`` to ``max_height`` (m) in steps of ``step``, drawn every ``downsampled_scale`` m and interpolated."""
    coarse = downsampled_scale or terrain.horizontal_scale
    count = [max(2, round(size * terrain.horizontal_scale / coarse)) for size in (terrain.width, terrain.length)]
    levels = np.arange(min_height, max_height + 0.5 * step, step) / terrain.vertical_scale
    drawn = np.random.choice(levels, count)  # the interface draws from numpy's global state
    for axis, (size, known) in enumerate(zip((terrain.width, terrain.length), count, strict=True)):
        at = np.linspace(0, known - 1, size)
        drawn = np.apply_along_axis(lambda row, at=at, known=known: np.interp(at, np.arange(known), row), axis, drawn)
    terrain.height_field_raw += np.rint(drawn).astype(np.int16)
    return terrain


def sloped_terrain(terrain: SubTerrain, slope: float = 1.0) -> SubTerrain:
    """Add a plane that rises by ``slope`` along x."""
    rise = slope * terrain.horizontal_scale / terrain.vertical_scale * np.arange(terrain.width)
    terrain.height_field_raw += rise.astype(np.int16)[:, None]
    return terrain


def pyramid_sloped_terrain(terrain: SubTerrain, slope: float = 1.0, platform_size: float = 1.0) -> SubTerrain:
    """Add a pyramid that rises by ``slope`` (negative: a pit) from the edges to a flat platform of ``platform_size`` m in the middle."""
    sides = [1.0 - np.abs(np.arange(n) - n / 2) / (n / 2) for n in (terrain.width, terrain.length)]
    top = slope * terrain.horizontal_scale / terrain.vertical_scale * terrain.width / 2
    hill = top * np.outer(*sides)
    half = terrain.points(platform_size / 2)
    edge = hill[terrain.width // 2 - half, terrain.length // 2 - half]  # at the platform's corner, where the pyramid is lowest
    terrain.height_field_raw += np.clip(hill, min(edge, 0.0), max(edge, 0.0)).astype(np.int16)
    return terrain


def discrete_obstacles_terrain(
    terrain: SubTerrain, max_height: float, min_size: float, max_size: float, num_rects: int, platform_size: float = 1.0
) -> SubTerrain:
    """Set ``num_rects`` random rectangles with edges from ``min_size`` to ``max_size`` m to whole or half ``max_height``, up or down."""
    top = terrain.units(max_height)
    sizes = np.arange(terrain.points(min_size), max(terrain.points(max_size), terrain.points(min_size) + 1), 4)
    for _ in range(num_rects):
        width, length = np.random.choice(sizes, 2)
        row, column = np.random.randint(0, max(1, terrain.width - width)), np.random.randint(0, max(1, terrain.length - length))
        terrain.height_field_raw[row : row + width, column : column + length] = np.random.choice([-top, -top // 2, top // 2, top])
    terrain.height_field_raw[terrain.centred(platform_size)] = 0
    return terrain


def wave_terrain(terrain: SubTerrain, num_waves: int = 1, amplitude: float = 1.0) -> SubTerrain:
    """Add ``num_waves`` waves along either side, each of half ``amplitude`` m."""
    if num_waves > 0:
        phases = [2 * np.pi * num_waves * np.arange(n) / terrain.length for n in (terrain.width, terrain.length)]
        half = 0.5 * amplitude / terrain.vertical_scale
        terrain.height_field_raw += (half * np.cos(phases[0])[:, None] + half * np.sin(phases[1])[None]).astype(np.int16)
    return terrain


def stairs_terrain(terrain: SubTerrain, step_width: float, step_height: float) -> SubTerrain:
    """Add stairs that rise along x by ``step_height`` every ``step_width`` m."""
    steps = np.arange(terrain.width) // max(1, terrain.points(step_width))
    terrain.height_field_raw += ((steps + 1) * terrain.units(step_height)).astype(np.int16)[:, None]
    return terrain


def pyramid_stairs_terrain(terrain: SubTerrain, step_width: float, step_height: float, platform_size: float = 1.0) -> SubTerrain:
    """Set stairs that rise from all edges by ``step_height`` every ``step_width`` m to a platform of ``platform_size`` m."""
    wide = max(1, terrain.points(step_width))
    inside = [np.minimum(np.arange(n), n - 1 - np.arange(n)) // wide for n in (terrain.width, terrain.length)]
    level = np.minimum(inside[0][:, None], inside[1][None])
    most = (min(terrain.width, terrain.length) - terrain.points(platform_size)) // (2 * wide)
    terrain.height_field_raw[:] = np.minimum(level, max(0, most)) * terrain.units(step_height)
    return terrain


def stepping_stones_terrain(
    terrain: SubTerrain, stone_size: float, stone_distance: float, max_height: float, platform_size: float = 1.0, depth: float = -10.0
) -> SubTerrain:
    """Set square stones of ``stone_size`` m, ``stone_distance`` m apart, up to ``max_height`` m high or low, over ground at ``depth`` m."""
    size, gap, top = max(1, terrain.points(stone_size)), terrain.points(stone_distance), terrain.units(max_height)
    terrain.height_field_raw[:] = terrain.units(depth)
    for column in range(0, terrain.length, size + gap):
        offset = np.random.randint(0, size + gap)
        for row in range(offset - size, terrain.width, size + gap):
            stone = slice(max(0, row), max(0, row + size)), slice(column, column + size)
            terrain.height_field_raw[stone] = np.random.randint(-top - 1, top + 1)
    terrain.height_field_raw[terrain.centred(platform_size)] = 0
    return terrain


def convert_heightfield_to_trimesh(
    height_field_raw: np.ndarray, horizontal_scale: float, vertical_scale: float, slope_threshold: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mesh of a grid of heights.

    Args:
        height_field_raw: (R, C) int16.
        horizontal_scale: m between points.
        vertical_scale: m of a unit of height.
        slope_threshold: Steeper sides than this become upright: the upper points move over the lower; None: none do.

    Returns:
        vertices (R C, 3) float32 m; triangles (2 (R - 1) (C - 1), 3) uint32, anticlockwise from above.
    """
    heights = np.asarray(height_field_raw, float) * vertical_scale
    rows, columns = heights.shape
    x, y = np.meshgrid(horizontal_scale * np.arange(rows), horizontal_scale * np.arange(columns), indexing="ij")
    if slope_threshold is not None:
        most = slope_threshold * horizontal_scale
        for grid, axis in ((x, 0), (y, 1)):
            rise = np.diff(heights, axis=axis)
            before, after = ([(0, 1), (0, 0)], [(1, 0), (0, 0)]) if axis == 0 else ([(0, 0), (0, 1)], [(0, 0), (1, 0)])
            # A point moves towards the neighbour that stands higher than it by too much: the lower edge runs up to the wall.
            grid += horizontal_scale * (np.pad(rise > most, before).astype(float) - np.pad(-rise > most, after))
    vertices = np.stack([x, y, heights], axis=-1).reshape(-1, 3).astype(np.float32)
    index = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]))
    return vertices, np.concatenate([np.stack([a, d, c], axis=1), np.stack([a, b, d], axis=1)])
