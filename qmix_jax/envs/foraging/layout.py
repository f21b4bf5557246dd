"""What the numbers of Level-Based Foraging's observations and actions mean."""

from qmix_jax.envs.layout import AgentLayout, Feature, Layout

ACTIONS = ("stay", "up (row falls)", "down (row grows)", "left (column falls)", "right (column grows)", "load")


def foraging_layout(names: tuple[str, ...], num_food: int, cell: float) -> Layout:
    """Food, then the agent itself, then the others. `cell` is the length of a cell as a share of the grid's side."""
    thing = (
        Feature("row", -cell, 1.0),  # all are counted from the first row and column that the agent could see
        Feature("column", -cell, 1.0),
        Feature("level", 0.0, 1.0),
    )
    food = tuple((f"food_{i}", "thing") for i in range(num_food))
    agents = tuple(
        AgentLayout((*food, (name, "thing"), *((other, "thing") for other in names if other != name)), ACTIONS)
        for name in names
    )
    rule = "stay: always; moves: to a free cell of the grid; load: beside food that is not eaten"
    return Layout({"thing": thing}, agents, rule, state=None)
