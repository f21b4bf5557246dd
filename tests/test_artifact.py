"""Files of an exported team as untrusted input: loading ends soon, in an agent or one line; inputs that it refuses."""

import hashlib
import json
import os
import random
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import merge
from exporting import LEGAL, OBS

from qmix_jax.deployed_agent import ArtifactError, DecentralisedAgent


def edit(team, **changes):
    path = team / "contract.json"
    path.write_text(json.dumps(merge(json.loads(path.read_text()), changes)))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def rehash(team):
    """The contract's hash of the weights, as an attacker would set it."""
    edit(team, sha256={"weights.safetensors": hashlib.sha256((team / "weights.safetensors").read_bytes()).hexdigest()})


def write_header(team, header):
    """Another header (text, or entries) before the same numbers."""
    path = team / "weights.safetensors"
    data = path.read_bytes()
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + struct.unpack("<Q", data[:8])[0] :])
    rehash(team)


def read_header(team):
    data = (team / "weights.safetensors").read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def entry(team, name, **changes):
    header = read_header(team)
    write_header(team, header | {name: header[name] | changes})


def swap(team, first, second):
    """Two arrays of one size that name the same bytes."""
    header = read_header(team)
    assert header[first]["shape"] == header[second]["shape"]
    entry(team, first, data_offsets=header[second]["data_offsets"])


def number(team, value):
    """Another last number of the weights."""
    path = team / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", value))
    rehash(team)


def replace(path, make):
    path.unlink()
    make(path)


def grow(path, size):
    with path.open("r+b") as file:
        file.truncate(size)


def agents(team, *entries):
    path = team / "contract.json"
    contract = json.loads(path.read_text())
    path.write_text(json.dumps(contract | {"agents": [contract["agents"][0] | entry for entry in entries]}))


def contract_text(text):
    return lambda team: (team / "contract.json").write_text(text)


CONTRACT, WEIGHTS = "contract.json", "weights.safetensors"
HOSTILE = {
    "a contract that is a pipe": (lambda team: replace(team / CONTRACT, os.mkfifo), "is no regular file"),
    "weights that are a pipe": (lambda team: replace(team / WEIGHTS, os.mkfifo), "is no regular file"),
    "a device": (lambda team: replace(team / WEIGHTS, lambda p: p.symlink_to("/dev/zero")), "is no regular file"),
    "a folder": (lambda team: replace(team / WEIGHTS, Path.mkdir), "is no regular file"),
    "a link to itself": (lambda team: replace(team / CONTRACT, lambda p: p.symlink_to(p)), "cannot be read"),
    "a contract of a terabyte": (lambda team: grow(team / CONTRACT, 1 << 40), "is larger than the 4,194,304 bytes"),
    "weights of a terabyte": (lambda team: grow(team / WEIGHTS, 1 << 40), "is larger than the"),
    "ten million digits": (contract_text('{"format": ' + "1" * 10_000_000 + "}"), "is larger than"),
    "a million digits": (contract_text('{"format": ' + "1" * 1_000_000 + "}"), "is no contract"),
    "a million lists": (contract_text("[" * 1_000_000), "is no contract"),
    "a hundred thousand objects": (contract_text('{"format":' * 100_000), "is no contract"),
    "a contract that is a list": (contract_text("[]"), "is no contract"),
    "NaN": (contract_text('{"format": NaN, "format_version": 1}'), "is no contract"),
    "one entry twice": (contract_text('{"format": 1, "format": 2, "format_version": 1}'), "is no contract"),
    "a format of many lines": (lambda team: edit(team, format="\n" * 10_000), "is in format"),
    "a format of lists": (lambda team: edit(team, format=[[]]), "is in format a list"),
    "a huge size": (lambda team: edit(team, network={"hidden_size": 10**30}), "network.hidden_size is missing, wrong"),
    "sizes of terabytes": (lambda team: edit(team, network={"hidden_size": 10**6}), "network is missing, wrong or too"),
    "a size that is a truth value": (lambda team: edit(team, network={"hidden_size": True}), "network.hidden_size is"),
    "a switch that is a number": (lambda team: edit(team, network={"layer_norm": 1}), "network.layer_norm is"),
    "no agents": (agents, "agents is missing"),
    "one name twice": (lambda team: agents(team, {}, {}), "one name for two agents is"),
    "a name of two lines": (lambda team: agents(team, {"name": "a\nb"}), "agents[0].name is"),
    "a name that is a list": (lambda team: agents(team, {"name": []}), "agents[0].name is"),
    "an agent larger than the team": (lambda team: agents(team, {"obs_size": 12}), "agents[0].obs_size is"),
    "an agent without actions": (lambda team: agents(team, {"actions": []}), "agents[0].actions is"),
    "a shield that is a number": (lambda team: edit(team, shield=1), "shield is"),
    "no hash": (lambda team: edit(team, sha256=None), "sha256 is"),
    "a hash that is a number": (lambda team: edit(team, sha256={WEIGHTS: 1}), "sha256.weights.safetensors is"),
    "a header of lists": (lambda team: write_header(team, "[" * 60_000), "no safetensors file"),
    "a header that is no object": (lambda team: write_header(team, []), "no safetensors file"),
    "an array twice": (lambda team: write_header(team, '{"q": 1, "q": 2}'), "no safetensors file"),
    "an array that is none": (lambda team: write_header(team, {"q": None}), "no safetensors file"),
    "an unknown array": (
        lambda team: entry_of("\n../x", team),
        "'\\n../x' has shape [1], and contract.json says None",
    ),
    "negative sizes": (lambda team: entry(team, "q", shape=[-8, -5]), "'q' has shape [-8, -5]"),
    "sizes of sizes": (lambda team: entry(team, "q", shape=[[[8]], 5]), "'q' has shape [[[8]], 5]"),
    "a thousand sizes": (lambda team: entry(team, "q", shape=[1] * 1000), "'q' has shape [1, 1, 1, "),
    "other numbers": (lambda team: entry(team, "q", dtype="F16"), "'q' is not (8, 5) numbers of float32"),
    "overlapping arrays": (lambda team: swap(team, "norm_bias", "norm_scale"), "numbers of float32 from byte"),
    "a place before the file": (lambda team: entry(team, "q", data_offsets=[-160, 0]), "numbers of float32 from byte"),
    "a place behind the file": (
        lambda team: entry(team, "q", data_offsets=[10**9, 10**9 + 160]),
        "of float32 from byte",
    ),
    "a place that goes backward": (
        lambda team: entry(team, "q", data_offsets=[160, 0]),
        "numbers of float32 from byte",
    ),
    "no place": (lambda team: entry(team, "q", data_offsets=[]), "numbers of float32 from byte"),
    "a place in words": (lambda team: entry(team, "q", data_offsets="ab"), "no safetensors file"),
    "more bytes": (
        lambda team: (grow(team / WEIGHTS, 8 + (team / WEIGHTS).stat().st_size), rehash(team)),
        "8 bytes follow",
    ),
    "NaN weights": (lambda team: number(team, float("nan")), "'q_bias' holds numbers that are not finite"),
    "infinite weights": (lambda team: number(team, float("-inf")), "'q_bias' holds numbers that are not finite"),
}


def entry_of(name, team):
    write_header(team, read_header(team) | {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})


def refusal(team):
    """The error on loading the team, of one line within a second; '' where it loads."""
    began = time.perf_counter()
    try:
        DecentralisedAgent(team, agent="listener_0")
        said = ""
    except ValueError as error:  # ArtifactError, or the agent's name was changed
        said = str(error)
    assert time.perf_counter() - began < 1
    assert said.isprintable() and len(said) < 1_000
    return said


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_artifact_is_refused_in_one_line_at_once(team, name):
    spoil, message = HOSTILE[name]
    spoil(team)
    assert message in refusal(team)


JSON = [None, True, -1, 0, 10**40, 1e300, "", "\x00\n", "x" * 10_000, [], [[]], {}, {"": {}}]


def places(value, path=()):
    """The path of everything within a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def exchanged(value, path, new):
    """A JSON value with something else at a path."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = exchanged(value[path[0]], path[1:], new)
    return copy


def test_a_contract_or_header_with_anything_anywhere_is_taken_or_refused_in_one_line_at_once(team):
    contract, header, rng = json.loads((team / CONTRACT).read_text()), read_header(team), random.Random(0)
    compiled = contract | {"format_version": 2}
    for path in places(contract):
        for whole in (contract, compiled):
            (team / CONTRACT).write_text(json.dumps(exchanged(whole, path, rng.choice(JSON))))
            assert refusal(team) or whole is contract
    (team / CONTRACT).write_text(json.dumps(contract))
    for path in places(header):
        for new in rng.sample(JSON, 3):
            write_header(team, exchanged(header, path, new))
            assert refusal(team) or path[:1] == ("__metadata__",), path


def test_whatever_bytes_change_the_artifact_is_taken_or_refused_in_one_line_at_once(team):
    whole, rng = {name: (team / name).read_bytes() for name in (CONTRACT, WEIGHTS)}, random.Random(1)
    for trial in range(300):
        for name, data in whole.items():
            (team / name).write_bytes(data)
        name = (CONTRACT, WEIGHTS)[trial % 2]
        data = bytearray(whole[name])
        place = rng.randrange(len(data) if name == CONTRACT else 1_000)
        change = rng.choice(["flip", "cut", "insert", "repeat"])
        if change == "flip":
            data[place] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del data[place:]
        elif change == "insert":
            data[place:place] = rng.randbytes(rng.randrange(1, 50))
        else:
            data[place:place] = data[place : place + 200]
        (team / name).write_bytes(data)
        if name == WEIGHTS:
            assert refusal(team), "the hash tells"
            rehash(team)
        refusal(team)


DAMAGES = {
    "no folder": (shutil.rmtree, "is no exported team"),
    "no weights": (lambda team: (team / "weights.safetensors").unlink(), "weights.safetensors cannot be read"),
    "wrong sizes": (lambda team: edit(team, network={"hidden_size": 9}), "'bias' has shape [8], and contract.json"),
    "other network": (lambda team: edit(team, network={"use_agent_id": True}), "'agent_id' has shape None"),
    "other version": (lambda team: edit(team, format_version=3), "version 3; this program reads qmix_jax.team version"),
    "other format": (lambda team: edit(team, format="other"), "is in format other"),
    "half a contract": (lambda team: cut(team / "contract.json", 200), "no contract of an exported team"),
    "contract without sizes": (lambda team: edit(team, network=None), "contract.json is damaged"),
    "empty weights": (lambda team: cut(team / "weights.safetensors", 0), "is cut short"),
    "half a header": (lambda team: cut(team / "weights.safetensors", 300), "is cut short"),
    "half the weights": (lambda team: cut(team / "weights.safetensors", -4), "is cut short"),
    "a flipped bit": (lambda team: flip(team / "weights.safetensors", -1), "is damaged"),
    "a damaged header": (lambda team: flip(team / "weights.safetensors", 8), "no safetensors file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_refused_in_one_line(team, damage):
    spoil, message = DAMAGES[damage]
    spoil(team)
    with pytest.raises(ArtifactError) as refused:
        DecentralisedAgent(team, agent="listener_0")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_an_unknown_agent_is_answered_with_those_there_are(team):
    with pytest.raises(ValueError, match="no agent 'ally_0'; its agents are speaker_0, listener_0"):
        DecentralisedAgent(team, agent="ally_0")


INPUTS = {
    "nan": (np.where(np.arange(11) == 4, np.nan, OBS), LEGAL, r"observation\[4\] is nan"),
    "infinite": (np.where(np.arange(11) == 0, np.inf, OBS), LEGAL, r"observation\[0\] is inf"),
    "short": (OBS[:10], LEGAL, r"has shape \(10,\), not \(11,\)"),
    "a batch": (OBS[None], LEGAL, r"has shape \(1, 11\)"),
    "padded actions": (OBS, [True] * 6, r"available has shape \(6,\), not \(5,\)"),
    "nothing legal": (OBS, [False] * 5, "no action is legal"),
    "no truth values": (OBS, [0.5] * 5, "true and false only"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_cannot_be_is_refused_in_one_line_and_leaves_the_agent_as_it_was(team, name):
    agent, untouched = (DecentralisedAgent(team, agent="listener_0") for _ in range(2))
    agent.act(OBS, LEGAL), untouched.act(OBS, LEGAL)
    observation, available, message = INPUTS[name]
    with pytest.raises(ValueError, match=message) as refused:
        agent.act(observation, available)
    assert "\n" not in str(refused.value)
    for scale in (0.5, -1, 2):
        assert agent.act(scale * OBS, LEGAL) == untouched.act(scale * OBS, LEGAL)
