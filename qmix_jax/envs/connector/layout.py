"""What the numbers of Connector's observations, state and actions mean."""

from qmix_jax.envs.layout import AgentLayout, Feature, Layout

MOVES = ("stay", "up", "right", "down", "left")
PLANES = ("head", "target", "path")
OTHERS = "the other agents"


def connector_layout(names: tuple[str, ...], grid_size: int) -> Layout:
    """Every agent sees its own planes, then those of all others in one; the state has each agent's own."""
    cells = [(row, column) for row in range(grid_size) for column in range(grid_size)]
    features = tuple(Feature(f"{plane}_{row}_{column}", 0.0, 1.0) for plane in PLANES for row, column in cells)
    agents = tuple(AgentLayout(((name, "planes"), (OTHERS, "planes")), MOVES) for name in names)
    rule = "stay: always; moves: to an empty cell or the own target, until that is reached"
    return Layout({"planes": features}, agents, rule, tuple((name, "planes") for name in names))
