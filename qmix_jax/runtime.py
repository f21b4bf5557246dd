"""One agent of an exported team, with NumPy alone.

This file stands on its own: it imports nothing of qmix_jax, and `qmix-jax export` puts a copy of it beside the weights.
Wherever there are Python and NumPy, that folder is enough:

    from runtime import DecentralisedAgent

    agent = DecentralisedAgent("team", agent="ally_0")
    agent.reset()  # before every episode
    action = agent.act(observation, available)

An agent gets its own observation and availability and nothing else: no state, no mixer, no word from the others.
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FORMAT, FORMAT_VERSION = "qmix_jax.team", 1
CONTRACT, WEIGHTS = "contract.json", "weights.safetensors"
NORM_EPSILON = 1e-6

Shield = Callable[[Any, Any, Any], Any]
"""(observation (*batch, O), state or None, available (*batch, A)) -> available (*batch, A), bool."""


class ArtifactError(ValueError):
    """A folder cannot be used as an exported team; the message is one line that says why."""


def narrow(shield: Shield, observation: Any, state: Any, available: Any) -> Any:
    """The legal actions that the shield leaves, where it leaves any; else those that there were.

    Whatever the shield does, nothing illegal becomes legal, and no agent is left without an action. It works on
    copies. Arrays are NumPy's or JAX's alike.

    Raises:
        ValueError: where the shield returns something else than one bool for each action.
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
    """The contract of an exported team; raises ArtifactError unless it is one of this format and version."""
    try:
        contract = json.loads((folder / CONTRACT).read_bytes())
        name, version = contract["format"], contract["format_version"]
    except OSError as error:
        raise ArtifactError(f"{folder} is no exported team: {CONTRACT} cannot be read") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / CONTRACT} is no contract of an exported team, or is damaged") from error
    if (name, version) != (FORMAT, FORMAT_VERSION):
        wanted = f"{FORMAT} version {FORMAT_VERSION}"
        raise ArtifactError(f"{folder} is in format {name} version {version}; this program reads {wanted}")
    return contract


def read_weights(path: Path, sha256: str | None = None) -> dict[str, np.ndarray]:
    """The float32 arrays of a safetensors file: 8 bytes with the header's length, the header as JSON, raw numbers.

    Raises:
        ArtifactError: where the file is missing, cut short, damaged, or not the one with this SHA-256.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read") from error
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 8
    header, body = data[8 : 8 + length], memoryview(data)[8 + length :]
    if len(header) < length:
        raise ArtifactError(f"{path} is cut short: {len(data)} bytes do not hold its header")
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        arrays = {name: _read_array(path, name, entry, body) for name, entry in entries.items()}
    except ArtifactError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is no safetensors file, or is damaged") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise ArtifactError(f"{path} is not the file that {CONTRACT} was written with, or is damaged")
    return arrays


def _read_array(path: Path, name: str, entry: dict, body: memoryview) -> np.ndarray:
    begin, end = entry["data_offsets"]
    if end > len(body):
        raise ArtifactError(f"{path} is cut short: '{name}' ends at byte {end} of {len(body)}")
    if entry["dtype"] != "F32" or end - begin != 4 * math.prod(entry["shape"]):
        raise ArtifactError(f"{path}: '{name}' is not {entry['shape']} numbers of float32")
    return np.frombuffer(body[begin:end], "<f4").reshape(entry["shape"])


def _check_sizes(path: Path, weights: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    for name in sorted({*weights, *shapes}):
        found, wanted = weights[name].shape if name in weights else None, shapes.get(name)
        if found != wanted:
            raise ArtifactError(f"{path}: '{name}' has shape {found}, and {CONTRACT} says {wanted}")


# --- the agent ---------------------------------------------------------------------------------------------------


class DecentralisedAgent:
    """One agent of an exported team, acting greedily on what it alone sees.

    Args:
        path: the folder that `qmix-jax export` wrote.
        agent: the agent's name, as the contract lists them.
        shield: narrows the legal actions before each choice. Called as `shield(observation, None, available)` with
            NumPy arrays padded to the team's sizes, as one agent's row was in training. A team that was trained with
            a shield is not loaded without one.

    Raises:
        ArtifactError: one line, where the folder is no exported team of this format, is damaged, or has wrong sizes.
        ValueError: one line, for an unknown agent or a missing shield.
    """

    def __init__(self, path: str | Path, agent: str, shield: Shield | None = None):
        folder = Path(path)
        contract = read_contract(folder)
        try:
            self._read(folder, contract, agent)
            trained_with = contract["shield"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{folder / CONTRACT} is damaged: {error} is missing or wrong") from error
        if trained_with is not None and shield is None:
            raise ValueError(f"the team in {folder} was trained with the shield {trained_with}; say shield=...")
        self._shield = shield
        self.reset()

    def _read(self, folder: Path, contract: dict, agent: str) -> None:
        """Take this agent's sizes and weights from the team's."""
        network, agents = contract["network"], {entry["name"]: entry for entry in contract["agents"]}
        if agent not in agents:
            raise ValueError(f"{folder} has no agent '{agent}'; its agents are {', '.join(agents)}")
        weights = read_weights(folder / WEIGHTS, contract["sha256"][WEIGHTS])
        _check_sizes(folder / WEIGHTS, weights, expected_shapes(network, len(agents)))
        index, entry = list(agents).index(agent), agents[agent]
        if not network["share_parameters"]:
            weights = {name: array[index] for name, array in weights.items()}
        if "agent_id" in weights:  # the same in every step
            weights["bias"] = weights["bias"] + weights.pop("agent_id")[index]
        self.name = agent
        self.actions: tuple[str, ...] = tuple(entry["actions"])
        self.obs_size, self.num_actions = int(entry["obs_size"]), len(self.actions)
        self._padded_obs_size, self._padded_num_actions = weights["obs"].shape[0], weights["q"].shape[1]
        if not (0 < self.obs_size <= self._padded_obs_size and 0 < self.num_actions <= self._padded_num_actions):
            raise ArtifactError(f"{folder / CONTRACT}: the sizes of {agent} are larger than the network's")
        self._weights = weights

    def reset(self) -> None:
        """Forget the episode: zero recurrent state, no last action."""
        self._hidden = np.zeros_like(self._weights["gru_recurrent_bias"])
        self._last_action = self._padded_num_actions

    def act(self, observation: Any, available: Any) -> int:
        """The legal action with the largest Q, the first of equals; remembered for the next step.

        Args:
            observation: this agent's own, (obs_size,) finite numbers.
            available: (num_actions,) true where the action is legal; at least one.

        Raises:
            ValueError: one line, where the input is not that; the agent stays as it was.
        """
        observation, available = self._check_observation(observation), self._check_available(available)
        if self._shield is not None:
            available = narrow(self._shield, observation, None, available)
        self._hidden, q = self._step(observation)
        self._last_action = int(np.argmax(np.where(available, q, -np.inf)))
        return self._last_action

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
        if not ((available == 0) | (available == 1)).all():
            raise ValueError(f"{self.name}: available must hold true and false only")
        padded = np.zeros(self._padded_num_actions, bool)
        padded[: self.num_actions] = available
        if not padded.any():
            raise ValueError(f"{self.name}: no action is legal; at least one must be")
        return padded

    def _step(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next recurrent state, and Q of every action (see `qmix_jax.agents.recurrent` and `.gru`)."""
        weights, hidden = self._weights, self._hidden
        x = observation @ weights["obs"] + weights["bias"]
        if "last_action" in weights:
            x = x + weights["last_action"][self._last_action]
        x = np.maximum(self._normalised(0, x), 0)
        x_r, x_z, x_n = np.split(x @ weights["gru_input"] + weights["gru_bias"], 3)
        h_r, h_z, h_n = np.split(hidden @ weights["gru_recurrent"], 3)
        r, z = _sigmoid(x_r + h_r), _sigmoid(x_z + h_z)
        n = np.tanh(x_n + r * (h_n + weights["gru_recurrent_bias"]))
        hidden = (1 - z) * n + z * hidden
        return hidden, self._normalised(1, hidden) @ weights["q"] + weights["q_bias"]

    def _normalised(self, layer: int, x: np.ndarray) -> np.ndarray:
        """Layer normalisation of the first layer (0) or the recurrent state (1), where the team has it."""
        weights = self._weights
        if "norm_scale" not in weights:
            return x
        x = (x - x.mean()) / np.sqrt(x.var() + np.float32(NORM_EPSILON))
        return x * weights["norm_scale"][layer] + weights["norm_bias"][layer]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5
