"""What the numbers of the particle worlds' observations and actions mean."""

from qmix_jax.envs.layout import AgentLayout, Feature, Layout

MOVES = ("stay", "left (x falls)", "right (x grows)", "down (y falls)", "up (y grows)")


def mpe_layout(task: str, names: tuple[str, ...], num_landmarks: int, num_words: int) -> Layout:
    """What each agent sees, and what it can do."""
    low, high = (0.15, 0.65) if task == "simple_speaker_listener" else (0.25, 0.75)
    kinds = {
        "velocity": (Feature("vx"), Feature("vy")),
        "position": (Feature("x"), Feature("y")),
        "offset": (Feature("dx"), Feature("dy")),  # relative to the agent's own position
        "message": _numbered("word", num_words, 0.0, 1.0),
        "goal": _numbered("is_landmark", num_landmarks, low, high),
    }
    agents = tuple(_agent_layout(task, name, names, num_landmarks, num_words) for name in names)
    used = {kind for agent in agents for _, kind in agent.blocks}
    rule = "every action of the agent's own list, always"
    return Layout({name: features for name, features in kinds.items() if name in used}, agents, rule, state=None)


def _agent_layout(task: str, name: str, names: tuple[str, ...], num_landmarks: int, num_words: int) -> AgentLayout:
    others = [other for other in names if other != name]
    own, landmarks = (name, "velocity"), [(f"landmark_{i}", "offset") for i in range(num_landmarks)]
    words = range(num_words)
    goals, messages = [(f"goal of {other}", "goal") for other in others], [(other, "message") for other in others]
    if task == "simple_spread":
        places = [(other, "offset") for other in others]
        return AgentLayout((own, (name, "position"), *landmarks, *places, *messages), MOVES)
    if task == "simple_reference":
        actions = tuple(f"{move}, say word_{word}" for word in words for move in MOVES)
        return AgentLayout((own, *landmarks, *goals, *messages), actions)
    if name == names[0]:  # the speaker
        return AgentLayout(tuple(goals), tuple(f"say word_{word}" for word in words))
    return AgentLayout((own, *landmarks, *messages), MOVES)


def _numbered(name: str, count: int, low: float | None = None, high: float | None = None) -> tuple[Feature, ...]:
    return tuple(Feature(f"{name}_{i}", low, high) for i in range(count))
