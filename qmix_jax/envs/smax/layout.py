"""What the numbers of SMAX's observations, state and actions mean."""

from qmix_jax.envs.layout import AgentLayout, Feature, Layout


def smax_layout(num_allies: int, num_enemies: int, unit_types: tuple[str, ...]) -> Layout:
    """SMAX's unit list: every other unit in order, allies first, then the agent itself; zeros where unseen or dead."""
    bits = tuple(Feature(f"is_{name}", 0.0, 1.0) for name in unit_types)
    unit = (
        Feature("health", 0.0, 1.0),
        Feature("dx_in_sight_ranges", -1.0, 1.0),
        Feature("dy_in_sight_ranges", -1.0, 1.0),
        Feature("last_movement_x", -1.0, 1.0),
        Feature("last_movement_y", -1.0, 1.0),
        Feature("last_attack_action", 0.0, 1.0),
        Feature("weapon_cooldown", 0.0, 1.0),
        *bits,
    )
    own = (
        Feature("health", 0.0, 1.0),
        Feature("x_over_map_width"),  # 0 to 1, and a little beyond where units push each other over the edge
        Feature("y_over_map_height"),
        Feature("weapon_cooldown", 0.0, 1.0),
        *bits,
    )
    allies = [f"ally_{i}" for i in range(num_allies)]
    enemies = [f"enemy_{i}" for i in range(num_enemies)]
    units = allies + enemies
    moves = ("move north (y grows)", "move east (x grows)", "move south", "move west", "stop")
    actions, aims = (*moves, *(f"attack {name}" for name in enemies)), (*[None] * len(moves), *enemies)
    agents = tuple(
        AgentLayout((*((other, "unit") for other in units if other != name), (name, "self")), actions, aims)
        for name in allies
    )
    place = (*own[:1], Feature("x"), Feature("y"), Feature("cooldown"), *bits)
    kinds = {"unit": unit, "self": own, "place": place, "side": (Feature("is_enemy"),), "type": (Feature("type"),)}
    state = tuple((name, kind) for kind in ("place", "side", "type") for name in units)
    rule = "moves: while alive; stop: always; attack: while both live and the enemy's centre is within weapon range"
    return Layout(kinds, agents, rule, state)
