"""What the numbers of the Robot Warehouse's observations, state and actions mean."""

from itertools import product

from qmix_jax.envs.layout import AgentLayout, Feature, Layout

ACTIONS = ("do nothing", "forward", "turn left", "turn right", "pick up or put down the shelf")
FACING = tuple(Feature(f"faces_{way}", 0.0, 1.0) for way in ("up", "right", "down", "left"))
OWN = (
    Feature("row", 0.0, 1.0),
    Feature("column", 0.0, 1.0),
    Feature("is_carrying", 0.0, 1.0),
    *FACING,
    Feature("is_on_path", 0.0, 1.0),
)
"""A robot's own numbers, which an observation starts with."""


def warehouse_layout(names: tuple[str, ...], reach: int, grid_size: tuple[int, int]) -> Layout:
    """The robot's own numbers, robots in the cells around it, and shelves there and at its own cell."""
    kinds = {
        "own": OWN,
        "robot": (Feature("is_robot", 0.0, 1.0), *FACING),
        "shelf": (Feature("is_shelf", 0.0, 1.0), Feature("is_requested", 0.0, 1.0)),
        "request": (Feature("is_requested", 0.0, 1.0),),
    }
    side = range(-reach, reach + 1)
    offsets = list(product(side, side))  # rows down, columns to the right
    agents = tuple(
        AgentLayout(
            (
                (name, "own"),
                *((_beside(offset, name), "robot") for offset in offsets if any(offset)),
                *((_beside(offset, name), "shelf") for offset in offsets),
            ),
            ACTIONS,
        )
        for name in names
    )
    state = (
        *((name, "own") for name in names),
        *((f"cell {row} {column}", "request") for row, column in product(*map(range, grid_size))),
    )
    return Layout(kinds, agents, "all, but forward into a shelf while carrying one", state)


def _beside(offset: tuple[int, int], name: str) -> str:
    return f"cell {offset[0]:+d} {offset[1]:+d}" if any(offset) else name
