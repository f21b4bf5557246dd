"""What processes on several hosts divide and say, without any other process (those are in tests/cluster)."""

import socket

import jax
import numpy as np
import pytest
from conftest import tiny
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from qmix_jax.run import cluster, gloo, hosts
from qmix_jax.run.devices import split_devices
from qmix_jax.settings import ConfigError


@pytest.mark.parametrize(
    ("changes", "processes", "each", "expected"),
    [
        ({"num_seeds": 4}, 2, 2, (4, 1)),
        ({"num_seeds": 2}, 2, 2, (2, 2)),  # the devices of a process share a seed
        ({"num_seeds": 1}, 2, 2, (1, 4)),  # a seed's data over both
        ({"num_seeds": 2}, 4, 1, (2, 2)),
        ({"num_seeds": 2, "devices": "2"}, 2, 4, (2, 1)),  # one device of each process
    ],
)
def test_seeds_are_split_over_processes_first_then_data(changes, processes, each, expected):
    assert split_devices(tiny(**changes), processes * each, processes) == expected


def test_work_that_does_not_divide_over_the_processes_is_refused():
    with pytest.raises(ConfigError, match="3 processes cannot share the work: num_seeds=1, or else"):
        split_devices(tiny(), 3, 3)
    with pytest.raises(ConfigError, match=r"devices=2 cannot share .*, and divide over 4 processes; use devices=auto"):
        split_devices(tiny(num_seeds=4, devices="2"), 4, 4)


def test_the_share_of_a_process_with_all_devices_is_the_whole_array():
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("seed", "data"))
    whole = {"replay": np.arange(24.0).reshape(2, 4, 3), "optimiser": np.arange(6).reshape(2, 3), "clock": np.array(7)}
    specs = {"replay": P("seed", "data"), "optimiser": P("seed"), "clock": P()}
    placed = {name: jax.device_put(array, NamedSharding(mesh, specs[name])) for name, array in whole.items()}
    jax.tree.map(np.testing.assert_array_equal, hosts.shares(placed), whole)


def test_shares_are_joined_by_seeds_and_by_data():
    """Two seeds, each split over two processes; what both of these hold only the first of them wrote."""
    shares = [
        {"replay": np.array([[1, 2]]), "optimiser": np.array([[5]]), "clock": np.array(7)},
        {"replay": np.array([[3, 4]])},
        {"replay": np.array([[11, 12]]), "optimiser": np.array([[15]])},
        {"replay": np.array([[13, 14]])},
    ]
    joined = hosts.join(shares, columns=2)
    assert joined["replay"].tolist() == [[1, 2, 3, 4], [11, 12, 13, 14]]
    assert joined["optimiser"].tolist() == [[5], [15]] and joined["clock"] == 7


def test_one_process_is_the_first_and_passes_values_to_itself():
    channel = hosts.Channel()
    assert hosts.is_first() and hosts.count() == 1
    assert channel.all({"a": 1}) == [{"a": 1}] and channel.first("b") == "b"


def test_the_words_of_a_command_line_that_join_processes_are_no_settings_of_the_run():
    line = ["env=probe", "distributed=on", "distributed.coordinator_address=host:1234", "distributed.process_id=1"]
    settings, rest = cluster.take_words([*line, "distributed.num_processes=2", "seed=3"])
    assert rest == ["env=probe", "seed=3"]
    assert settings == cluster.Settings("on", "host:1234", num_processes=2, process_id=1)
    assert cluster.take_words(["seed=3"]) == (cluster.Settings("auto"), ["seed=3"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distributed=maybe"], "distributed.mode=maybe"),
        (["distributed.coordinator_address=host"], "distributed.coordinator_address=host is no HOST:PORT"),
        (["distributed.proces_id=0"], "unknown setting 'distributed.proces_id'"),
        (["distributed.num_processes=2", "distributed.process_id=2"], "distributed.process_id=2 is none of 2"),
    ],
)
def test_wrong_words_are_one_line(words, message):
    with pytest.raises(ConfigError, match=message):
        cluster.take_words(words)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("127.0.1.1", "127.0.0.1"), "127.0.1.1"),  # one machine
        (("127.0.1.1", "10.0.0.2"), "10.0.0.1"),
        (("127.0.1.1", "127.0.1.1", "10.0.0.3"), "10.0.0.1"),  # and a second process on process 0's machine
        (("10.0.0.1", "10.0.0.2"), "10.0.0.1"),
        (("::1", "fe80::2"), "10.0.0.1"),
    ],
)
def test_gloo_listens_where_other_machines_reach_it(monkeypatch, answers, expected):
    """The address of process 0, where each process answers with its own towards process 0's name."""

    class Told:
        def all(self, own):
            assert own == answers[0]
            return list(answers)

    monkeypatch.setattr(gloo, "address_towards", lambda host, port: answers[0] if host == "machine" else "10.0.0.1")
    assert gloo.own_address(Told(), "machine:1234") == expected  # pyright: ignore[reportArgumentType]


def test_an_address_without_a_route_is_passed_over(monkeypatch):
    udp = (socket.AF_INET, socket.SOCK_DGRAM, 0, "")
    refused, reached = (*udp, ("255.255.255.255", 1)), (*udp, ("127.0.0.1", 1))  # nobody may send to all
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: [refused, reached])
    assert gloo.address_towards("machine", 1) == "127.0.0.1"
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: [refused])
    with pytest.raises(OSError, match="there is no route to machine"):
        gloo.address_towards("machine", 1)
