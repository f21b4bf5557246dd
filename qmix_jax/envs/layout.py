"""What the numbers of an observation and of an action mean, for people and for programs that feed an exported team."""

from typing import NamedTuple

from qmix_jax.envs.base import TeamEnv


class Feature(NamedTuple):
    """One number of an observation."""

    name: str
    low: float | None = None
    """The least that it can be; None where nothing bounds it."""
    high: float | None = None


class AgentLayout(NamedTuple):
    """One agent's observation and actions in their true sizes, without padding."""

    blocks: tuple[tuple[str, str], ...]
    """The observation's blocks in order: (whom or what it is about, which of `Layout.kinds` it holds)."""
    actions: tuple[str, ...]
    """What each action does."""
    aims: tuple[str | None, ...] = ()
    """Whom each action is aimed at; empty where none is aimed."""


class Layout(NamedTuple):
    """The team's observations and actions."""

    kinds: dict[str, tuple[Feature, ...]]
    """The features of each kind of block."""
    agents: tuple[AgentLayout, ...]
    availability: str
    """When an action is legal."""
    state: tuple[tuple[str, str], ...] | None = ()
    """The global state's blocks; None: the agents' observations side by side; empty: it is not described."""

    def features(self, agent: int) -> tuple[Feature, ...]:
        """All features of one agent's observation, in order."""
        return tuple(feature for _, kind in self.agents[agent].blocks for feature in self.kinds[kind])


def layout_of(env: TeamEnv) -> Layout:
    """The layout that the environment's own method `layout` gives, or one that only counts."""
    own = getattr(env, "layout", None)
    if own is not None:
        return own()
    spec = env.spec
    observation = tuple(Feature(f"observation_{i}") for i in range(spec.obs_size))
    actions = tuple(f"action_{i}" for i in range(spec.num_actions))
    agent = AgentLayout((("the agent", "observation"),), actions)
    return Layout({"observation": observation}, (agent,) * spec.num_agents, "as the environment says")


def _numbered(name: str, count: int, low: float | None = None, high: float | None = None) -> tuple[Feature, ...]:
    return tuple(Feature(f"{name}_{i}", low, high) for i in range(count))


def smax_layout(num_allies: int, num_enemies: int, unit_types: tuple[str, ...]) -> Layout:
    """SMAX's unit list: every other unit in order, allies first, then oneself; all zero where unseen or dead."""
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
        Feature("x_over_map_width", 0.0, 1.0),
        Feature("y_over_map_height", 0.0, 1.0),
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


MPE_MOVES = ("stay", "left (x falls)", "right (x grows)", "down (y falls)", "up (y grows)")


def mpe_layout(task: str, names: tuple[str, ...], num_landmarks: int, num_words: int) -> Layout:
    """JaxMARL's particle worlds: what each agent sees, and what it can do."""
    low, high = (0.15, 0.65) if task == "simple_speaker_listener" else (0.25, 0.75)
    kinds = {
        "velocity": (Feature("vx"), Feature("vy")),
        "position": (Feature("x"), Feature("y")),
        "offset": (Feature("dx"), Feature("dy")),  # its place, seen from oneself
        "message": _numbered("word", num_words, 0.0, 1.0),
        "goal": _numbered("is_landmark", num_landmarks, low, high),
    }
    agents = tuple(_mpe_agent(task, name, names, num_landmarks, num_words) for name in names)
    used = {kind for agent in agents for _, kind in agent.blocks}
    rule = "every action of the agent's own list, always"
    return Layout({name: features for name, features in kinds.items() if name in used}, agents, rule, state=None)


def _mpe_agent(task: str, name: str, names: tuple[str, ...], num_landmarks: int, num_words: int) -> AgentLayout:
    others = [other for other in names if other != name]
    own, landmarks = (name, "velocity"), [(f"landmark_{i}", "offset") for i in range(num_landmarks)]
    words = range(num_words)
    goals, messages = [(f"goal of {other}", "goal") for other in others], [(other, "message") for other in others]
    if task == "simple_spread":
        places = [(other, "offset") for other in others]
        return AgentLayout((own, (name, "position"), *landmarks, *places, *messages), MPE_MOVES)
    if task == "simple_reference":
        actions = tuple(f"{move}, say word_{word}" for word in words for move in MPE_MOVES)
        return AgentLayout((own, *landmarks, *goals, *messages), actions)
    if name == names[0]:  # the speaker
        return AgentLayout(tuple(goals), tuple(f"say word_{word}" for word in words))
    return AgentLayout((own, *landmarks, *messages), MPE_MOVES)
