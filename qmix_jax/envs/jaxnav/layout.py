"""What the numbers of JaxNav's observations, state and actions mean."""

from qmix_jax.envs.layout import AgentLayout, Feature, Layout


def jaxnav_layout(names: tuple[str, ...], beams: int, inner: tuple[int, int], actions: list[list[float]]) -> Layout:
    """For robots with these names; `inner` are the rows and columns within the outer walls; `actions` are the speeds
    (m/s) and rates of turn (rad/s) to reach.
    """
    angles = [0.0] if beams == 1 else [360 * k / (beams - 1) - 180 for k in range(beams)]
    kinds = {
        "lidar": tuple(Feature(f"range_at_{angle:.4g}_degrees", -0.5, 0.5) for angle in angles),
        "motion": (Feature("speed", -0.5, 0.5), Feature("turn", -1.0, 1.0)),
        "goal": (Feature("distance", -0.5, 0.5), Feature("bearing", -1.0, 1.0)),
        "walls": tuple(Feature(f"is_wall_{y}_{x}", 0.0, 1.0) for y in range(inner[0]) for x in range(inner[1])),
        "robot": (
            *(Feature(name, -0.5, 0.5) for name in ("x", "y")),
            Feature("heading", -1.0, 1.0),
            *(Feature(name, -0.5, 0.5) for name in ("goal_x", "goal_y", "speed")),
            Feature("turn", -1.0, 1.0),
            *(Feature(name, 0.0, 1.0) for name in ("has_reached_goal", "has_crashed")),
        ),
        "time": (Feature("time_over_limit", -0.5, 0.5),),
    }
    moves = tuple(f"drive at {speed:g} m/s, turn left at {turn:g} rad/s" for speed, turn in actions)
    agents = tuple(
        AgentLayout(((name, "lidar"), (name, "motion"), (f"goal of {name}", "goal")), moves) for name in names
    )
    state = (("map", "walls"), *((name, "robot") for name in names), ("clock", "time"))
    return Layout(kinds, agents, "always", state)
