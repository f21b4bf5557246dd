"""One agent of an exported team; where the team's network is the GRU, on NumPy alone.

This file imports nothing of qmix_jax, and `qmix-jax export` copies it beside the weights. With Python and NumPy, that
folder is enough:

    from deployed_agent import DecentralisedAgent

    agent = DecentralisedAgent("team", agent="ally_0")
    agent.reset()  # before every episode
    action = agent.act(observation, available)

An agent gets its own observation and its legal actions, and nothing else: no global state, no mixer, no messages from
other agents.

The files are untrusted input. Only regular files of a bounded size are read, nothing in them is executed, and whatever
they hold, loading soon ends with an agent or an error of one line.
"""

import hashlib
import json
import math
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FORMAT, FORMAT_VERSION, COMPILED_VERSION = "qmix_jax.team", 1, 2
"""COMPILED_VERSION: the format version of a team whose network is a compiled program alone."""
CONTRACT, WEIGHTS, PROGRAM = "contract.json", "weights.safetensors", "policy.jaxexport"
NORM_EPSILON = 1e-6
LOWEST = np.finfo(np.float32).min

MAX_CONTRACT, MAX_HEADER, MAX_WEIGHTS = 4 << 20, 1 << 16, 1 << 28
"""Bytes, at most: of a contract, of a weights file's header, and of its numbers or of a compiled program."""
MAX_AGENTS, MAX_SIZE, MAX_WORD = 1_000, 1_000_000, 200
"""At most: agents of a team, each size of their network, and the characters of a name."""

NOT_WAITING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""How a file is opened: without blocking if a pipe has replaced it."""

Shield = Callable[[Any, Any, Any], Any]
"""(observation (*batch, O), state or None, available (*batch, A)) -> available (*batch, A), bool."""
MakeNetwork = Callable[[bytes, int], Any]
"""(compiled program, the agent's place in the team) -> its network, with `reset` and `step` as `_GRU` has them."""


class ArtifactError(ValueError):
    """A folder cannot be used as an exported team; the message, one line, says why."""


def narrow(shield: Shield, observation: Any, state: Any, available: Any) -> Any:
    """The legal actions that the shield leaves; all legal ones where it leaves none.

    No illegal action becomes legal, and every agent keeps one. The shield gets copies. Arrays are NumPy's or JAX's.

    Raises:
        ValueError: the shield returns anything but one bool for each action.
    """
    kept = shield(observation.copy(), state, available.copy())
    shape, dtype = getattr(kept, "shape", None), getattr(kept, "dtype", None)
    if shape != available.shape or dtype != available.dtype:
        raise ValueError(f"the shield returned shape {shape} of {dtype}, not {available.shape} of bool")
    kept = kept & available
    return kept | (available & ~kept.any(-1, keepdims=True))


def expected_shapes(network: Mapping[str, Any], num_agents: int) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight of a team, from the contract's `network`."""
    size, obs_size, num_actions = network["hidden_size"], network["obs_size"], network["num_actions"]
    shapes = {
        "obs": (obs_size, size),
        "bias": (size,),
        "gru_input": (size, 3 * size),
        "gru_bias": (3 * size,),
        "gru_recurrent": (size, 3 * size),
        "gru_recurrent_bias": (size,),
        "q": (size, num_actions),
        "q_bias": (num_actions,),
    }
    if network["use_last_action"]:
        shapes["last_action"] = (num_actions + 1, size)
    if network["layer_norm"]:
        shapes |= {"norm_scale": (2, size), "norm_bias": (2, size)}
    if not network["share_parameters"]:
        return {name: (num_agents, *shape) for name, shape in shapes.items()}
    return shapes | ({"agent_id": (num_agents, size)} if network["use_agent_id"] else {})


# --- the files ---------------------------------------------------------------------------------------------------


def read_contract(folder: Path) -> dict:
    """The contract of an exported team.

    Raises:
        ArtifactError: unless it is one of this format and version, with every entry that an agent needs.
    """
    path = folder / CONTRACT
    contract = _parse(read_file(path, MAX_CONTRACT, f"{folder} is no exported team: "))
    if not isinstance(contract, dict) or not {"format", "format_version"} <= contract.keys():
        raise ArtifactError(f"{path} is no contract of an exported team, or is damaged")
    name, version = contract["format"], contract["format_version"]
    if name != FORMAT or version not in (FORMAT_VERSION, COMPILED_VERSION):
        found, wanted = f"{_shown(name)} version {_shown(version)}", f"{FORMAT} version {FORMAT_VERSION}"
        raise ArtifactError(f"{folder} is in format {found}; this program reads {wanted} and {COMPILED_VERSION}")
    if flaw := contract_flaw(contract):
        raise ArtifactError(f"{path} is damaged: {flaw} is missing, wrong or too large")
    return contract


def contract_flaw(contract: dict) -> str:
    """The first entry that an agent needs and that is missing, of another type or out of bounds; '' where none is."""
    return next((name for name, is_right in _needed(contract) if not is_right), "")


def _needed(contract: dict) -> Iterator[tuple[str, bool]]:
    """Every entry that an agent needs, and whether it is valid; each check assumes that those before it succeeded."""
    parts: list[Any] = [contract.get(name) for name in ("network", "agents", "sha256")]
    network, agents, hashes = parts
    is_compiled = contract["format_version"] == COMPILED_VERSION
    yield "network", isinstance(network, dict)
    for name in ("obs_size", "num_actions") if is_compiled else ("obs_size", "num_actions", "hidden_size"):
        yield f"network.{name}", _counts(network.get(name), MAX_SIZE)
    for name in () if is_compiled else ("share_parameters", "use_agent_id", "use_last_action", "layer_norm"):
        yield f"network.{name}", isinstance(network.get(name), bool)
    yield "agents", isinstance(agents, list) and 0 < len(agents) <= MAX_AGENTS
    for i, agent in enumerate(agents):
        yield f"agents[{i}]", isinstance(agent, dict)
        yield f"agents[{i}].name", _is_word(agent.get("name"))
        yield f"agents[{i}].obs_size", _counts(agent.get("obs_size"), network["obs_size"])
        actions = agent.get("actions")
        yield f"agents[{i}].actions", isinstance(actions, list) and 0 < len(actions) <= network["num_actions"]
        yield f"agents[{i}].actions", all(map(_is_word, actions))
    yield "one name for two agents", len({agent["name"] for agent in agents}) == len(agents)
    shapes = {} if is_compiled else expected_shapes(network, len(agents))
    yield "network", 4 * sum(map(math.prod, shapes.values())) <= MAX_WEIGHTS
    file = PROGRAM if is_compiled else WEIGHTS
    yield "sha256", isinstance(hashes, dict)
    yield f"sha256.{file}", _is_word(hashes.get(file))
    yield "shield", "shield" in contract and (contract["shield"] is None or _is_word(contract["shield"]))


def _counts(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_WORD and value.isprintable()


def _shown(value: Any) -> str:
    """A value from a file as a few characters of one line."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "an object"
    return ascii(value)[:MAX_WORD].strip("'")


def read_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], sha256: str) -> dict[str, np.ndarray]:
    """The float32 arrays of these shapes from a safetensors file: 8 bytes with the header's length, the header as JSON,
    and the numbers of one array after another.

    Raises:
        ArtifactError: where the file is missing, cut short, damaged, not the one with this SHA-256, holds other arrays,
            or numbers that are not finite.
    """
    data = read_file(path, 8 + MAX_HEADER + 4 * sum(map(math.prod, shapes.values())))
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 8
    if 8 + length > len(data):
        raise ArtifactError(f"{path} is cut short: {len(data)} bytes do not hold its header")
    entries: Any = _parse(data[8 : 8 + length]) if length <= MAX_HEADER else None
    try:
        entries.pop("__metadata__", None)
        _check_shapes(path, {name: entry["shape"] for name, entry in entries.items()}, shapes)
        arrays = _cut(path, memoryview(data)[8 + length :], entries, shapes)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is no safetensors file, or is damaged") from error
    _check_hash(path, data, sha256)
    if name := not_finite(arrays):
        raise ArtifactError(f"{path}: '{name}' holds numbers that are not finite; agents cannot act by them")
    return arrays


def _check_hash(path: Path, data: bytes, sha256: str | None) -> None:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ArtifactError(f"{path} is not the file that {CONTRACT} was written with, or is damaged")


def not_finite(arrays: Mapping[str, np.ndarray]) -> str:
    """The name of the first array with a NaN or infinity; '' where there is none."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), "")


def _check_shapes(path: Path, found: dict[str, list], wanted: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted({*found, *wanted}):
        if name not in found or name not in wanted or found[name] != list(wanted[name]):
            shape, needed = _shown(str(found.get(name))), list(wanted[name]) if name in wanted else None
            raise ArtifactError(f"{path}: '{_shown(name)}' has shape {shape}, and {CONTRACT} says {needed}")


def _cut(path: Path, body: memoryview, entries: dict, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays, which must fill the body without gaps."""
    arrays, begin = {}, 0
    for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
        end = begin + 4 * math.prod(shapes[name])
        if entries[name] != {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [begin, end]}:
            raise ArtifactError(f"{path}: '{name}' is not {shapes[name]} numbers of float32 from byte {begin} on")
        if end > len(body):
            raise ArtifactError(f"{path} is cut short: '{name}' ends at byte {end} of {len(body)}")
        arrays[name] = np.frombuffer(body[begin:end], "<f4").reshape(shapes[name])
        begin = end
    if begin != len(body):
        raise ArtifactError(f"{path} is damaged: {len(body) - begin} bytes follow its last array")
    return arrays


def read_file(path: Path, most: int, context: str = "") -> bytes:
    """The bytes of a regular file; raises ArtifactError (`context` and a reason) where it has more than `most`, is not
    regular (reading a pipe would block), or cannot be read.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError(f"{context}{path} is no regular file")
        if found.st_size <= most:
            with open(os.open(path, NOT_WAITING), "rb") as file:
                data = file.read(most + 1)  # it may have grown
            if len(data) <= most:
                return data
    except (OSError, MemoryError) as error:
        raise ArtifactError(f"{context}{path} cannot be read") from error
    raise ArtifactError(f"{context}{path} is larger than the {most:,} bytes that it can need")


def _parse(data: bytes) -> Any:
    """The value of a JSON text; None where it is no JSON, nested too deeply, or has an entry twice."""
    try:
        return json.loads(data, object_pairs_hook=_without_twins, parse_constant=int)  # int refuses NaN and Infinity
    except (ValueError, RecursionError, MemoryError):
        return None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("an entry stands twice")
    return entries


# --- the agent ---------------------------------------------------------------------------------------------------


class DecentralisedAgent:
    """One agent of an exported team, acting greedily on its own observation.

    Args:
        path: the folder that `qmix-jax export` wrote.
        agent: the agent's name, as the contract lists them.
        shield: narrows the legal actions before each choice. Called as `shield(observation, None, available)` with
            NumPy arrays padded to the team's sizes, as in training. A team that was trained with a shield is not
            loaded without one.
        network: `CompiledNetwork` of the file compiled_network.py, which needs JAX: act by the team's compiled program,
            which is code. A team whose network is not the GRU is not loaded without it.

    Raises:
        ArtifactError: one line, where the folder is no exported team of this format, is damaged, or has wrong sizes.
        ValueError: one line, for an unknown agent or a missing shield.
    """

    def __init__(self, path: str | Path, agent: str, shield: Shield | None = None, network: MakeNetwork | None = None):
        folder = Path(path)
        contract = read_contract(folder)
        agents = {entry["name"]: entry for entry in contract["agents"]}
        if agent not in agents:
            raise ValueError(f"{folder} has no agent '{agent}'; its agents are {', '.join(agents)}")
        if contract["shield"] is not None and shield is None:
            raise ValueError(f"the team in {folder} was trained with the shield {contract['shield']}; pass shield=...")
        if not (network is None or callable(network)):
            raise ValueError(f"network={_shown(network)} must be the class CompiledNetwork, not its name")
        self._network = _load_network(folder, contract, list(agents).index(agent), network)
        self.name, self._shield, self._has_warned = agent, shield, False
        self.actions: tuple[str, ...] = tuple(agents[agent]["actions"])
        self.obs_size, self.num_actions = agents[agent]["obs_size"], len(self.actions)
        self._padded_obs_size, self._padded_num_actions = map(contract["network"].get, ("obs_size", "num_actions"))
        self._zeros = np.zeros(self._padded_num_actions, np.float32)
        self.reset()

    def reset(self) -> None:
        """Start an episode: the first recurrent state, no last action."""
        self._network.reset()
        self._last_action = self._padded_num_actions

    def act(self, observation: Any, available: Any) -> int:
        """The legal action with the largest Q-value, the first of equals; it is the next step's last action.

        A Q-value that is NaN or -inf (weights near float32's limits overflow) counts as the lowest; the agent warns
        once where a legal action's Q-value is not finite.

        Args:
            observation: this agent's own, (obs_size,) finite numbers.
            available: (num_actions,) true where the action is legal; at least one.

        Raises:
            ValueError: one line, where the input is not that; the agent's state does not change.
        """
        observation, available = self._check_observation(observation), self._check_available(available)
        if self._shield is not None:
            available = narrow(self._shield, observation, None, available)
        with np.errstate(over="ignore", invalid="ignore"):
            q = self._network.step(observation, self._last_action)
        is_finite = q.dot(self._zeros) == 0  # 0 times NaN or infinity is NaN (np.isfinite takes four times as long)
        values = q if is_finite else np.where(q > LOWEST, q, LOWEST)
        self._last_action = int(np.argmax(np.where(available, values, -np.inf)))
        if not is_finite:
            self._warn_once(q[available])
        return self._last_action

    def _warn_once(self, q: np.ndarray) -> None:
        if not self._has_warned and not np.isfinite(q).all():
            self._has_warned = True
            text = "Q-values of legal actions are NaN or infinite: it takes the largest that is a number, or the first"
            warnings.warn(f"{self.name}: {text}", RuntimeWarning, stacklevel=3)

    def _check_observation(self, observation: Any) -> np.ndarray:
        """The observation, padded with zeros."""
        observation = np.asarray(observation, np.float32)
        if observation.shape != (self.obs_size,):
            raise ValueError(f"{self.name}: the observation has shape {observation.shape}, not ({self.obs_size},)")
        finite = np.isfinite(observation)
        if not finite.all():
            place = int(np.argmin(finite))
            raise ValueError(f"{self.name}: observation[{place}] is {observation[place]}; all must be finite")
        padded = np.zeros(self._padded_obs_size, np.float32)
        padded[: self.obs_size] = observation
        return padded

    def _check_available(self, available: Any) -> np.ndarray:
        """The legal actions, padded with illegal ones."""
        available = np.asarray(available)
        if available.shape != (self.num_actions,):
            raise ValueError(f"{self.name}: available has shape {available.shape}, not ({self.num_actions},)")
        if available.dtype != bool and not ((available == 0) | (available == 1)).all():
            raise ValueError(f"{self.name}: available must hold true and false only")
        padded = np.zeros(self._padded_num_actions, bool)
        padded[: self.num_actions] = available
        if not padded.any():
            raise ValueError(f"{self.name}: no action is legal; at least one must be")
        return padded


def _load_network(folder: Path, contract: dict, index: int, make: MakeNetwork | None) -> Any:
    """The network of the team's agent number `index`: the compiled program where `make` is given, else on NumPy."""
    if make is not None:
        program = read_file(folder / PROGRAM, MAX_WEIGHTS)
        _check_hash(folder / PROGRAM, program, contract["sha256"].get(PROGRAM))
        return make(program, index)
    if contract["format_version"] == COMPILED_VERSION:
        how = "if you trust it, pass network=CompiledNetwork (from compiled_network.py, needs JAX)"
        raise ArtifactError(f"the network of {folder} is a compiled program, which is code: {how}")
    network, num_agents = contract["network"], len(contract["agents"])
    weights = read_weights(folder / WEIGHTS, expected_shapes(network, num_agents), contract["sha256"][WEIGHTS])
    if not network["share_parameters"]:
        weights = {name: array[index] for name, array in weights.items()}
    if "agent_id" in weights:  # the same in every step
        weights["bias"] = weights["bias"] + weights.pop("agent_id")[index]
    return _GRU(weights)


class _GRU:
    """One agent's network (equations: contract.json)."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = weights

    def reset(self) -> None:
        self._hidden = np.zeros_like(self.weights["gru_recurrent_bias"])

    def step(self, observation: np.ndarray, last_action: int) -> np.ndarray:
        weights, hidden = self.weights, self._hidden
        x = observation @ weights["obs"] + weights["bias"]
        if "last_action" in weights:
            x = x + weights["last_action"][last_action]
        x = np.maximum(self._normalised(0, x), 0)
        x, h = x @ weights["gru_input"] + weights["gru_bias"], hidden @ weights["gru_recurrent"]
        gates = 2 * hidden.size  # reset and update gates: sigmoids, as tanh
        r, z = np.split(0.5 * np.tanh(0.5 * (x[:gates] + h[:gates])) + 0.5, 2)
        n = np.tanh(x[gates:] + r * (h[gates:] + weights["gru_recurrent_bias"]))
        self._hidden = (1 - z) * n + z * hidden
        return self._normalised(1, self._hidden) @ weights["q"] + weights["q_bias"]

    def _normalised(self, layer: int, x: np.ndarray) -> np.ndarray:
        """Layer normalisation of the first layer (0) or the recurrent state (1), if the team has it."""
        if "norm_scale" not in self.weights:
            return x
        x = (x - x.mean()) / np.sqrt(x.var() + np.float32(NORM_EPSILON))
        return x * self.weights["norm_scale"][layer] + self.weights["norm_bias"][layer]
