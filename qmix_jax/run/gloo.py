"""The CPU devices of a run on several hosts, which exchange arrays through Gloo.

Gloo by itself listens at the address of its machine's name, which on Debian and Ubuntu is 127.0.1.1 and thus of no use
to other machines. Here it listens at the address from which the other machines are reached.
"""

import ipaddress
import socket
from contextlib import suppress

from jax._src import xla_bridge
from jax._src.distributed import global_state
from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]  # JAX has no setting for the address

from qmix_jax.run.hosts import Channel


def use_gloo(seconds: float) -> None:
    """Let this process's CPU devices, before there are any, exchange arrays with those of all other processes.

    Raises OSError where it has no route to another machine, HostLostError where another does not answer in `seconds`.
    """
    address = own_address(Channel("qmix_jax/addresses", seconds), global_state.coordinator_address or "")

    def client():
        return xla_bridge.make_cpu_client(_jax.make_gloo_tcp_collectives(global_state.client, hostname=address))

    xla_bridge.register_backend_factory("cpu", client, priority=0, fail_quietly=False)


def own_address(channel: Channel, coordinator: str) -> str:
    """This machine's address towards process 0, whose HOST:PORT is given; on the machine of process 0, where that is a
    loopback address, towards the first other machine, if there is one.
    """
    host, _, port = coordinator.rpartition(":")
    own = address_towards(host.strip("[]"), int(port))
    others = [each for each in channel.all(own) if not ipaddress.ip_address(each).is_loopback]
    return address_towards(others[0], int(port)) if others and ipaddress.ip_address(own).is_loopback else own


def address_towards(host: str, port: int) -> str:
    """The address that this machine would send from to a host. Nothing is sent."""
    for family, kind, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        with suppress(OSError), socket.socket(family, kind) as probe:  # such as IPv6 without a route
            probe.connect(place)
            return probe.getsockname()[0]
    raise OSError(f"there is no route to {host}")
