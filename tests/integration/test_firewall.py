# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewall table judged by real packets.

A host with three bridges, containers, a local network and an internet are built from network namespaces; the module
runs inside that host, which also has a mount namespace of its own, so that /etc of this machine is never written.
Whatever must be closed is first seen open without the table, so that a probe that cannot work proves nothing.

The last tests repeat the heart of it with containers of the machine's own engine and a table of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import itertools
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _firewall, _nft
from conftest import TEST_LABEL

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
IP_PKTINFO = 8
# Longer than any answer takes on a busy machine; probes wait side by side.
SILENCE = 1.0
ECHOES = itertools.count(random.randrange(65536))
ANSWERED, REFUSED, SILENT, UNREACHABLE = "answered", "refused", "silent", "unreachable"
# What a program is told whose packets the host does not let out.
NOT_LET_OUT = (errno.EHOSTUNREACH, errno.EPERM)
TABLE = "fwt_clients"
MODULE = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from ansible.module_utils.testing import patch_module_args
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import host_firewall
with patch_module_args(json.load(sys.stdin)):
    host_firewall.main()
"""
# An own /sys shows the namespace's own interfaces; /etc is written to a layer on top; no systemd is to be found.
PRIVATE_MOUNTS = """
mount -t sysfs sysfs /sys &&
mount -t tmpfs tmpfs "$1" && mkdir "$1/upper" "$1/work" &&
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc &&
if [ -d /run/systemd ]; then mount -t tmpfs tmpfs /run/systemd; fi &&
echo ready && exec cat
"""


class Namespace:
    """A network namespace that lives as long as this process; nothing is left behind even when it is killed."""

    def __init__(self, private_mounts: Path | None = None) -> None:
        command = ["unshare", "--net", "sh", "-c", "echo ready && exec cat"]
        if private_mounts is not None:
            command = ["unshare", "--net", "--mount", "sh", "-c", PRIVATE_MOUNTS, "sh", str(private_mounts)]
        # cat ends when its standard input is closed, at the latest with this process.
        self.holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == "ready\n"
        self.pid = self.holder.pid
        self.enter = ["nsenter", "--target", str(self.pid), "--net", *(["--mount"] if private_mounts else [])]

    def close(self) -> None:
        assert self.holder.stdin is not None
        self.holder.stdin.close()
        self.holder.wait(timeout=10)

    def sh(self, *command: str, stdin: str = "") -> str:
        done = subprocess.run([*self.enter, *command], input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ip(self, script: str) -> None:
        self.sh("ip", "-batch", "-", stdin=script)

    def call(self, body: Callable[[], T]) -> T:
        return in_namespace(self.pid, body)

    def sysctl(self, value: int, *names: str) -> None:
        def write() -> None:
            for name in names:
                Path(f"/proc/sys/net/{name}").write_text(f"{value}\n", encoding="ascii")

        self.call(write)


def in_namespace(pid: int, body: Callable[[], T]) -> T:
    """Run a function in a thread that is in the network namespace of a process; its sockets stay there."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            with open(f"/proc/{pid}/ns/net", "rb") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            outcome.append(body())
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def target(address: str, port: int) -> tuple[Any, ...]:
    """A socket address; 'fe80::1%eth0' is looked up in the namespace of the calling thread."""
    if "%" in address:
        host, interface = address.split("%")
        return (host, port, 0, socket.if_nametoindex(interface))
    return (address, port)


def tcp(address: str, port: int) -> str:
    with socket.socket(family(address), socket.SOCK_STREAM) as client:
        client.settimeout(SILENCE)
        try:
            client.connect(target(address, port))
            client.sendall(b"hello")
            return ANSWERED if client.recv(64) else REFUSED
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return SILENT


def udp(address: str, port: int) -> str:
    # Not connected: a host with several addresses may answer from another one.
    with socket.socket(family(address), socket.SOCK_DGRAM) as client:
        client.settimeout(SILENCE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"hello", target(address, port))
        try:
            client.recvfrom(64)
        except TimeoutError:
            return SILENT
        return ANSWERED


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def icmp(address: str, _port: int) -> str:
    mark = next(ECHOES) & 0xFFFF
    six = ":" in address
    echo, reply, protocol = (128, 129, socket.IPPROTO_ICMPV6) if six else (8, 0, socket.IPPROTO_ICMP)
    packet = struct.pack("!BBHHH", echo, 0, 0, mark, 1)
    packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
    deadline = time.monotonic() + SILENCE
    with socket.socket(family(address), socket.SOCK_RAW, protocol) as client:
        client.sendto(packet, target(address, 0))
        while (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            try:
                answer = client.recv(2048)
            except TimeoutError:
                break
            body = answer if six else answer[20:]
            if body[0] == reply and body[4:6] == packet[4:6]:
                return ANSWERED
    return SILENT


def let_out(probe: Callable[[str, int], str]) -> Callable[[str, int], str]:
    """The probe, with an outcome for packets that never leave."""

    def run(address: str, port: int) -> str:
        try:
            return probe(address, port)
        except OSError as exc:
            if exc.errno in NOT_LET_OUT:
                return UNREACHABLE
            raise

    return run


PROTOCOLS = {"tcp": let_out(tcp), "udp": let_out(udp), "icmp": let_out(icmp)}


class Server:
    """Echoes TCP and UDP, IPv4 and IPv6, on some ports of every address of a namespace."""

    def __init__(self, pid: int, *ports: int) -> None:
        self.sockets: list[socket.socket] = []
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for version in (socket.AF_INET, socket.AF_INET6):
                    listener = in_namespace(pid, lambda kind=kind, version=version: socket.socket(version, kind))
                    self.sockets.append(listener)
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if version == socket.AF_INET6:
                        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                    else:
                        listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
                    listener.bind(("", port))
                    if kind == socket.SOCK_STREAM:
                        listener.listen(512)
                    work = self._streams if kind == socket.SOCK_STREAM else self._datagrams
                    threading.Thread(target=work, args=(listener,), daemon=True).start()

    def _streams(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, dummy = listener.accept()
                threading.Thread(target=self._stream, args=(peer,), daemon=True).start()

    def _stream(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            while data := peer.recv(64):
                peer.sendall(data)

    def _datagrams(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (received := listener.recvmsg(64, 64))[3]:
                data, control, dummy, peer = received
                # Answers come from the address that was asked, or they would belong to no connection.
                level, kind, value = control[0]
                if level == socket.IPPROTO_IP:
                    value = b"\0" * 4 + value[4:]
                with contextlib.suppress(OSError):
                    listener.sendmsg([data], [(level, kind, value)], 0, peer)

    def close(self) -> None:
        for listener in self.sockets:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


# name: (bridge, IPv4, IPv6)
CONTAINERS = {
    "a1": ("fwt-a", "10.213.1.2", "fd13:1::2"),
    "a2": ("fwt-a", "10.213.1.3", "fd13:1::3"),
    "b1": ("fwt-b", "10.213.2.2", "fd13:2::2"),
    "foreign": ("br-other", "10.213.3.2", "fd13:3::2"),
}
GATEWAYS = {
    "fwt-a": ("10.213.1.1", "fd13:1::1"),
    "fwt-b": ("10.213.2.1", "fd13:2::1"),
    "br-other": ("10.213.3.1", "fd13:3::1"),
}
UPLINK = ("10.213.9.1", "fd13:9::1")
INTERNET = ("198.51.100.1", "2001:db8:1::1")
METADATA = (
    "169.254.169.254",
    "169.254.0.23",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "64:ff9b::a9fe:a9fe",
)
# Another address of the internet, and what a client's container has while its bridge comes and goes.
ELSEWHERE = "203.0.113.1"
PASSING = ("fwt-c", "10.213.0.1", "10.213.0.2")
# source, protocol, address, port
Probe = tuple[str, str, str, int]
PUBLISHED, PROXIED = 8080, 8081
# Whether the kernel shows bridged packets to the firewall (br_netfilter).
BRIDGED = "bridge/bridge-nf-call-iptables"


def network(bridge: str, gateway: str, *egress_allow: str, egress: str = "allow") -> dict[str, Any]:
    subnet = gateway.rsplit(".", 1)[0] + ".0/28"
    return {"bridge": bridge, "subnet": subnet, "egress": egress, "egress_allow": list(egress_allow)}


NETWORKS = [network(bridge, GATEWAYS[bridge][0]) for bridge in ("fwt-a", "fwt-b")]


@dataclass
class World:
    """A host, its containers, and outside: a machine of the local network that is the internet as well."""

    host: Namespace
    outside: Namespace
    containers: dict[str, Namespace]
    path: Path
    uplink: str

    def probe(self, source: str, protocol: str, address: str, port: int = 80) -> str:
        space = {"host": self.host, "outside": self.outside, **self.containers}[source]
        return space.call(lambda: PROTOCOLS[protocol](address, port))

    def probes(self, probes: Sequence[Probe]) -> list[str]:
        with ThreadPoolExecutor(max_workers=32) as pool:
            return list(pool.map(lambda probe: self.probe(*probe), probes))

    def module(self, **options: Any) -> dict[str, Any]:
        """Run the module inside the host, as Ansible does, and give its result."""
        options = {
            "table": TABLE,
            "bridge_prefix": "fwt-",
            "networks": NETWORKS,
            "path": str(self.path),
            "boot": False,
            **options,
        }
        done = subprocess.run(
            [*self.host.enter, sys.executable, "-c", MODULE, json.dumps(sys.path)],
            input=json.dumps(options),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.startswith("{") or done.stdout.startswith("\n{"), done.stdout + done.stderr
        return json.loads(done.stdout)

    def close_it(self) -> None:
        self.host.sh("nft", "-f", str(self.path))

    def open_it(self) -> None:
        self.host.sh("nft", "add", "table", "inet", TABLE)
        self.host.sh("nft", "delete", "table", "inet", TABLE)

    def nft(self, *words: str) -> str:
        return self.host.sh("nft", *words)

    def shown(self) -> str:
        """The table as nft lists it; empty when it is missing."""
        return self.host.sh("sh", "-c", f"nft list table inet {TABLE} 2>/dev/null || true")


@contextlib.contextmanager
def made_world(directory: Path, uplink: str) -> Iterator[World]:
    with contextlib.ExitStack() as stack:

        def namespace(private_mounts: Path | None = None) -> Namespace:
            space = Namespace(private_mounts)
            stack.callback(space.close)
            # No duplicate address detection: addresses work at once.
            space.sysctl(0, "ipv6/conf/default/accept_dad", "ipv6/conf/all/accept_dad")
            space.ip("link set lo up\n")
            return space

        layer = directory / "etc"
        layer.mkdir()
        host, outside = namespace(layer), namespace()
        host.sysctl(1, "ipv4/ip_forward", "ipv6/conf/all/forwarding", BRIDGED)
        host.ip("addr add 169.254.170.2/32 dev lo\naddr add 10.213.99.1/32 dev lo\n")
        nat = ""
        for bridge, (four, six) in GATEWAYS.items():
            host.ip(
                f"link add {bridge} type bridge\nlink set {bridge} up\n"
                f"addr add {four}/28 brd + dev {bridge}\naddr add {six}/64 dev {bridge} nodad\n"
            )
            subnet = four.rsplit(".", 1)[0] + ".0/28"
            nat += f'ip saddr {subnet} oifname != "{bridge}" masquerade\n'
        containers = {}
        for name, (bridge, four, six) in CONTAINERS.items():
            containers[name] = space = namespace()
            host.ip(
                f"link add v-{name} type veth peer name eth0 netns {space.pid}\n"
                f"link set v-{name} master {bridge}\nlink set v-{name} up\n"
            )
            space.ip(
                f"link set eth0 up\naddr add {four}/28 brd + dev eth0\naddr add {six}/64 dev eth0 nodad\n"
                f"route add default via {GATEWAYS[bridge][0]}\nroute add default via {GATEWAYS[bridge][1]}\n"
            )
        host.ip(f"link add eth0 type veth peer name eth0 netns {outside.pid}\nlink set eth0 up\n")
        if uplink != "eth0":
            host.ip(f"link add {uplink} type bridge\nlink set {uplink} up\nlink set eth0 master {uplink}\n")
        host.ip(f"addr add {UPLINK[0]}/28 dev {uplink}\naddr add {UPLINK[1]}/64 dev {uplink} nodad\n")
        outside.ip(
            "link set eth0 up\naddr add 10.213.9.2/28 dev eth0\naddr add fd13:9::2/64 dev eth0 nodad\n"
            + "".join(f"addr add {address} dev lo\n" for address in (*INTERNET, ELSEWHERE, *METADATA))
            + "route add 10.213.0.0/22 via 10.213.9.1\nroute add fd13::/16 via fd13:9::1\n"
        )
        host.ip("route add default via 10.213.9.2\nroute add default via fd13:9::2\n")
        # What the engine adds: masquerade, and a published port of b1.
        host.sh(
            "nft",
            "-f",
            "-",
            stdin=f"""table ip engine {{
                chain postrouting {{ type nat hook postrouting priority srcnat; {nat.replace(chr(10), ";")} }}
                chain prerouting {{ type nat hook prerouting priority dstnat;
                    fib daddr type local tcp dport {PUBLISHED} dnat to {CONTAINERS["b1"][1]}:80; }}
            }}""",
        )
        for space, *ports in (
            (host, 80, 443, PROXIED),
            (outside, 53, 80),
            *((space, 80) for space in containers.values()),
        ):
            stack.callback(Server(space.pid, *ports).close)
        yield World(host, outside, containers, directory / "firewall.nft", uplink)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made_world(tmp_path_factory.mktemp("fwt"), "eth0") as world:
        assert world.module()["changed"] is True
        yield world


@pytest.fixture(scope="module")
def rules(shared_world: World) -> str:
    return shared_world.path.read_text(encoding="ascii")


@pytest.fixture
def world(shared_world: World, rules: str) -> World:
    """The world with its table loaded, whatever the test before it did."""
    shared_world.path.write_text(rules, encoding="ascii")
    shared_world.close_it()
    return shared_world


def both(name: str, protocols: str, addresses: tuple[str, ...], port: int = 80) -> list[tuple[str, Probe]]:
    return [
        (f"{name}: {protocol} {address}", (name.split(maxsplit=1)[0], protocol, address, port))
        for address in addresses
        for protocol in protocols.split()
    ]


DENIED = dict(
    [
        *both("a1 to another client", "tcp udp icmp", CONTAINERS["b1"][1:]),
        *both("b1 to another client", "tcp icmp", CONTAINERS["a1"][1:]),
        *both("a1 to a foreign container", "tcp udp icmp", CONTAINERS["foreign"][1:]),
        *both("foreign to a client", "tcp udp icmp", CONTAINERS["a1"][1:]),
        *both("a1 to its own gateway", "tcp udp icmp", GATEWAYS["fwt-a"]),
        *both("a1 to another client's gateway", "tcp udp icmp", GATEWAYS["fwt-b"]),
        *both("a1 to a foreign gateway", "tcp icmp", GATEWAYS["br-other"]),
        *both("a1 to the host's uplink address", "tcp udp icmp", UPLINK),
        *both("a1 to an address on the host's lo", "tcp udp icmp", ("10.213.99.1",)),
        *both("a1 by broadcast", "udp", ("10.213.1.15", "255.255.255.255"), PROXIED),
        *both("a1 to metadata on the host", "tcp", ("169.254.170.2",)),
        *both("a1 to metadata elsewhere", "tcp icmp", METADATA),
        *both("a1 to a published port", "tcp", (UPLINK[0], GATEWAYS["fwt-a"][0], GATEWAYS["fwt-b"][0]), PUBLISHED),
        *both("a1 to a port of docker-proxy", "tcp", (*UPLINK, *GATEWAYS["fwt-a"]), PROXIED),
        *both("outside to a client", "tcp udp icmp", CONTAINERS["a1"][1:]),
        *both("outside to a client's published port", "tcp", UPLINK[:1], PUBLISHED),
        *both("a1 to the edge", "tcp", (UPLINK[0], GATEWAYS["fwt-a"][0]), 443),
    ]
)

ALLOWED = dict(
    [
        *both("a1 to the internet", "tcp udp icmp", INTERNET),
        *both("a1 to its own network", "tcp udp icmp", CONTAINERS["a2"][1:]),
        *both("host to a client", "tcp udp icmp", CONTAINERS["a1"][1:]),
        *both("a1 asks for names at a metadata address", "tcp udp", ("169.254.169.254", "168.63.129.16"), 53),
        *both("outside to the host", "tcp udp icmp", UPLINK),
        *both("outside to a foreign container", "tcp icmp", CONTAINERS["foreign"][1:]),
        *both("foreign to the host", "tcp udp icmp", (*GATEWAYS["br-other"], *UPLINK)),
        *both("foreign to the internet", "tcp udp", INTERNET),
        *both("foreign to metadata", "tcp", ("169.254.169.254",)),
    ]
)


@pytest.fixture(scope="module")
def outcomes(shared_world: World, rules: str) -> dict[str, dict[str, str]]:
    """What each probe met, with the table and without it."""
    shared_world.path.write_text(rules, encoding="ascii")
    found = {}
    probes = {**DENIED, **ALLOWED}
    for state, change in (("closed", shared_world.close_it), ("open", shared_world.open_it)):
        change()
        found[state] = dict(zip(probes, shared_world.probes(list(probes.values())), strict=True))
    return found


@pytest.mark.parametrize("name", DENIED)
def test_closed_by_the_table_alone(outcomes: dict[str, dict[str, str]], name: str) -> None:
    assert (outcomes["closed"][name], outcomes["open"][name]) == (SILENT, ANSWERED)


@pytest.mark.parametrize("name", ALLOWED)
def test_left_open(outcomes: dict[str, dict[str, str]], name: str) -> None:
    assert outcomes["closed"][name] == ANSWERED


def test_link_local_address_of_the_bridge(world: World) -> None:
    shown = world.host.sh("ip", "-o", "-6", "addr", "show", "dev", "fwt-a", "scope", "link")
    address = shown.split()[3].split("/")[0] + "%eth0"
    outcomes = {}
    for state, change in (("closed", world.close_it), ("open", world.open_it)):
        change()
        outcomes[state] = world.probes([("a1", protocol, address, 80) for protocol in PROTOCOLS])
    assert outcomes == {"closed": [SILENT] * 3, "open": [ANSWERED] * 3}


def test_neighbour_discovery_works_both_ways(world: World) -> None:
    for space, interface in ((world.host, "fwt-a"), (world.containers["a1"], "eth0")):
        space.ip(f"neigh flush dev {interface}\n")
    assert world.probe("a1", "tcp", INTERNET[1]) == ANSWERED
    world.host.ip("neigh flush dev fwt-a\n")
    assert world.probe("host", "tcp", CONTAINERS["a1"][2]) == ANSWERED


def test_bridged_packets_need_the_pair_when_the_kernel_shows_them(world: World) -> None:
    world.module(networks=NETWORKS[1:])
    assert world.probe("a1", "tcp", CONTAINERS["a2"][1]) == SILENT
    world.host.sysctl(0, BRIDGED)
    try:
        assert world.probe("a1", "tcp", CONTAINERS["a2"][1]) == ANSWERED
    finally:
        world.host.sysctl(1, BRIDGED)
    world.module()
    assert world.probe("a1", "tcp", CONTAINERS["a2"][1]) == ANSWERED


@contextlib.contextmanager
def container_of_a_third_client(world: World) -> Iterator[Namespace]:
    bridge, gateway, address = PASSING
    space = Namespace()
    try:
        world.host.ip(
            f"link add {bridge} type bridge\nlink set {bridge} up\naddr add {gateway}/28 dev {bridge}\n"
            f"link add v-c type veth peer name eth0 netns {space.pid}\nlink set v-c master {bridge}\nlink set v-c up\n"
        )
        space.ip(f"link set eth0 up\naddr add {address}/28 dev eth0\nroute add default via {gateway}\n")
        with contextlib.closing(Server(space.pid, 80)):
            yield space
    finally:
        space.close()
        world.host.sh("sh", "-c", f"ip link delete v-c; ip link delete {bridge} 2>/dev/null || true")


def test_while_a_bridge_is_away_nothing_for_it_leaves_the_host(world: World) -> None:
    """A stranger outside has the address of the client and would answer."""
    bridge, gateway, address = PASSING
    subnet = gateway.rsplit(".", 1)[0] + ".0/28"
    world.module(networks=[*NETWORKS, network(bridge, gateway)])
    world.outside.ip(f"addr add {address}/32 dev lo\n")
    world.outside.sh(
        *("nft", "-f", "-"),
        stdin=f"""table ip counted {{
            counter leaked {{ }}
            chain prerouting {{ type filter hook prerouting priority raw; ip daddr {subnet} counter name leaked; }}
        }}""",
    )
    probes = [
        (source, protocol, address, 80) for source in ("host", "foreign", "a1") for protocol in ("tcp", "udp", "icmp")
    ]

    def seen() -> tuple[list[str], int]:
        outcomes = world.probes(probes)
        listed = world.outside.sh("nft", "list", "counter", "ip", "counted", "leaked")
        return outcomes, int(re.findall(r"packets (\d+)", listed)[0])

    try:
        with container_of_a_third_client(world):
            assert seen() == ([ANSWERED] * 3 + [SILENT] * 6, 0)
            world.host.ip(f"link delete {bridge}\n")
            assert seen() == ([UNREACHABLE] * 3 + [SILENT] * 6, 0)
            started = time.monotonic()
            assert world.probe("host", "tcp", address) == UNREACHABLE
            assert time.monotonic() - started < SILENCE / 2
            # The gateway was an address of the host and is none now.
            assert world.probe("host", "tcp", gateway) == UNREACHABLE
            world.open_it()
            outcomes, packets = seen()
            assert outcomes == [ANSWERED] * 9, "the stranger answers whom nobody stops"
            assert packets > 9
    finally:
        world.outside.sh("nft", "delete", "table", "ip", "counted")
        world.outside.ip(f"addr del {address}/32 dev lo\n")


def test_a_connection_of_the_edge_outlives_its_bridge(world: World) -> None:
    """An unreachable client is no reason to give a connection up: it goes on once the bridge is back."""
    bridge, gateway, address = PASSING
    world.module(networks=[*NETWORKS, network(bridge, gateway)])
    with container_of_a_third_client(world):
        stream = world.host.call(lambda: socket.create_connection((address, 80), timeout=1))
        with stream:
            stream.settimeout(10)
            assert exchange(stream) == ANSWERED
            world.host.ip(f"link delete {bridge}\n")
            assert world.probe("host", "tcp", address) == UNREACHABLE
            stream.sendall(b"into the gap")
            world.host.ip(
                f"link add {bridge} type bridge\nlink set {bridge} up\naddr add {gateway}/28 dev {bridge}\n"
                f"link set v-c master {bridge}\n"
            )
            assert stream.recv(64) == b"into the gap"


# Rules that overlap each other, and rules for what no client may reach.
EGRESS_ALLOW = [
    "198.51.100.1:80",
    "198.51.100.0/25:80",
    "198.51.100.128/25:80",
    "198.51.100.1:53/udp",
    "[2001:db8:1::/48]:80",
    "169.254.169.254:80",
    "169.254.0.0/16:53/udp",
    *(f"{address}:80" for address in (CONTAINERS["b1"][1], CONTAINERS["foreign"][1], UPLINK[0], GATEWAYS["fwt-a"][0])),
    f"[{CONTAINERS['b1'][2]}]:80",
]
OPEN_BY_RULE = dict(
    [
        *both("a1 to what a rule names", "tcp", INTERNET),
        *both("a1 to a port over UDP that a rule names", "udp", INTERNET[:1], 53),
        *both("a1 to its own network", "tcp udp icmp", CONTAINERS["a2"][1:]),
        *both("host to a denied client", "tcp udp icmp", CONTAINERS["a1"][1:]),
        *both("b1 is not denied:", "tcp udp icmp", (*INTERNET, ELSEWHERE)),
    ]
)
CLOSED_BY_DENY = dict(
    [
        *both("a1 to another address", "tcp udp icmp", (ELSEWHERE,)),
        *both("a1 by another protocol", "udp icmp", INTERNET),
        *both("a1 to another port", "tcp", INTERNET, 53),
        *both("a1 to a port over UDP that no rule names", "udp", INTERNET[1:], 53),
        *both("a1 asks another machine for names", "tcp udp", (ELSEWHERE, "168.63.129.16"), 53),
        *both("a1 to the local network", "tcp icmp", ("10.213.9.2", "fd13:9::2")),
    ]
)
CLOSED_TO_ALL = dict(
    [
        *both("a1 to metadata", "tcp", ("169.254.169.254", "fd00:ec2::254")),
        *both("a1 to another client", "tcp", CONTAINERS["b1"][1:]),
        *both("a1 to a foreign container", "tcp", CONTAINERS["foreign"][1:]),
        *both("a1 to the host", "tcp", (*UPLINK, *GATEWAYS["fwt-a"])),
        *both("b1 to a denied client", "tcp", CONTAINERS["a1"][1:]),
        *both("outside to a denied client", "tcp", CONTAINERS["a1"][1:]),
    ]
)
DENIES = [network("fwt-a", GATEWAYS["fwt-a"][0], *EGRESS_ALLOW, egress="deny"), NETWORKS[1]]


def test_egress_that_is_denied(world: World) -> None:
    """Every probe that is closed by the policy answers without it, and every other one without the table."""
    probes = {**OPEN_BY_RULE, **CLOSED_BY_DENY, **CLOSED_TO_ALL}

    def seen() -> dict[str, str]:
        return dict(zip(probes, world.probes(list(probes.values())), strict=True))

    allowed = seen()
    assert world.module(networks=DENIES)["changed"] is True
    denied = seen()
    world.open_it()
    without = seen()
    closed = dict.fromkeys(CLOSED_TO_ALL, SILENT)
    assert denied == {**dict.fromkeys(probes, ANSWERED), **dict.fromkeys(CLOSED_BY_DENY, SILENT), **closed}
    assert allowed == {**dict.fromkeys(probes, ANSWERED), **closed}
    assert without == dict.fromkeys(probes, ANSWERED)


def test_egress_is_compared_as_it_is_loaded(world: World) -> None:
    world.module(networks=DENIES)
    small = world.nft("list", "table", "inet", TABLE)
    shuffled = [DENIES[1], DENIES[0] | {"egress_allow": list(reversed(EGRESS_ALLOW))}]
    assert world.module(networks=shuffled)["changed"] is False
    world.nft("delete", "element", "inet", TABLE, "open4", '{ "fwt-a" . 198.51.100.0/24 . tcp . 80 }')
    assert world.probe("a1", "tcp", INTERNET[0]) == SILENT
    assert world.module(networks=DENIES)["table_state"] == "altered"
    assert world.probe("a1", "tcp", INTERNET[0]) == ANSWERED
    assert world.nft("list", "table", "inet", TABLE) == small


def test_a_bridge_that_is_not_named_has_no_way_out(world: World) -> None:
    world.module(networks=NETWORKS[1:])
    outcomes = {source: world.probe(source, "tcp", INTERNET[0]) for source in ("a1", "b1")}
    assert outcomes == {"a1": SILENT, "b1": ANSWERED}


def test_connections_that_are_no_longer_allowed_end(world: World) -> None:
    def connect(address: str) -> socket.socket:
        stream = world.containers["a1"].call(lambda: socket.create_connection((address, 80), timeout=1))
        stream.settimeout(SILENCE)
        return stream

    with connect(INTERNET[0]) as named, connect(ELSEWHERE) as other:
        assert (exchange(named), exchange(other)) == (ANSWERED, ANSWERED)
        world.module(networks=DENIES)
        assert (exchange(named), exchange(other)) == (ANSWERED, SILENT)


def test_edge_ports_are_switched(world: World) -> None:
    def seen() -> list[str]:
        return world.probes([("a1", "tcp", address, port) for address in UPLINK for port in (80, 443, PROXIED)])

    assert seen() == [SILENT] * 6
    world.module(clients_reach_edge=True)
    assert seen() == [ANSWERED, ANSWERED, SILENT] * 2
    world.module(clients_reach_edge=True, edge_ports=[443])
    assert seen() == [SILENT, ANSWERED, SILENT] * 2
    world.module(clients_reach_edge=False)
    assert seen() == [SILENT] * 6


def exchange(stream: socket.socket) -> str:
    try:
        stream.sendall(b"still there")
        return ANSWERED if stream.recv(64) else REFUSED
    except TimeoutError:
        return SILENT


def test_connections_from_before_the_table(world: World) -> None:
    """Those that the host began live on; those that it would not allow are cut."""
    world.open_it()

    def connect(source: str, address: str, port: int = 80) -> socket.socket:
        space = {"host": world.host, "outside": world.outside, **world.containers}[source]
        stream = space.call(lambda: socket.create_connection((address, port), timeout=1))
        stream.settimeout(SILENCE)
        return stream

    pairs = {
        "edge to client": connect("host", CONTAINERS["a1"][1]),
        "client to internet": connect("a1", INTERNET[0]),
        "client to host": connect("a1", UPLINK[0]),
        "client to client": connect("a1", CONTAINERS["b1"][1]),
        "client to published port": connect("a1", UPLINK[0], PUBLISHED),
        "client to metadata": connect("a1", "169.254.169.254"),
        "outside to client": connect("outside", CONTAINERS["a1"][1]),
        "foreign to client": connect("foreign", CONTAINERS["a1"][1]),
    }
    with contextlib.ExitStack() as stack:
        for stream in pairs.values():
            stack.enter_context(stream)
        assert {name: exchange(stream) for name, stream in pairs.items()} == dict.fromkeys(pairs, ANSWERED)
        world.close_it()
        with ThreadPoolExecutor(max_workers=len(pairs)) as pool:
            outcomes = dict(zip(pairs, pool.map(exchange, pairs.values()), strict=True))
    kept = ("edge to client", "client to internet")
    assert outcomes == {name: ANSWERED if name in kept else SILENT for name in pairs}


def test_errors_about_a_connection_come_back(world: World) -> None:
    """A port that is closed on the internet is told to the container, as is a packet that is too big."""

    def refused() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.connect((INTERNET[0], 9))
            client.send(b"hello")
            with pytest.raises(ConnectionRefusedError):
                client.recv(64)
        return True

    assert world.containers["a1"].call(refused)


def test_packets_of_no_connection_do_not_leave_unmasqueraded(world: World) -> None:
    source, destination = CONTAINERS["a1"][1], INTERNET[0]

    def reset_packet(port: int) -> bytes:
        body = struct.pack("!HHIIBBHHH", port, 80, 1, 0, 5 << 4, 0x04, 0, 0, 0)
        pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!BBH", 0, 6, len(body))
        return body[:16] + struct.pack("!H", checksum(pseudo + body)) + body[18:]

    def seen_outside() -> bool:
        port = random.randrange(20000, 60000)
        with world.outside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)) as tap:

            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
                    raw.sendto(reset_packet(port), (destination, 0))

            world.containers["a1"].call(send)
            deadline = time.monotonic() + SILENCE
            while (left := deadline - time.monotonic()) > 0:
                tap.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    packet = tap.recv(2048)
                    if packet[12:16] == socket.inet_aton(source) and packet[20:22] == struct.pack("!H", port):
                        return True
        return False

    assert not seen_outside()
    world.open_it()
    assert seen_outside()


def test_reloads_under_a_flood(world: World) -> None:
    """Two hundred reloads: no connection of the edge is lost and no packet of another client gets through."""
    stop = threading.Event()
    good: list[str] = []
    leaks: list[bytes] = []
    sent = [0]
    trap = world.containers["b1"].call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    trap.bind((CONTAINERS["b1"][1], 7777))
    trap.settimeout(0.1)
    gun = world.containers["a1"].call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def edge() -> None:
        while not stop.is_set():
            good.append(tcp(CONTAINERS["a1"][1], 80))

    def shoot() -> None:
        while not stop.is_set():
            gun.sendto(b"leak", (CONTAINERS["b1"][1], 7777))
            sent[0] += 1

    def watch() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                leaks.append(trap.recv(64))

    threads = [
        threading.Thread(target=lambda: world.host.call(edge)),
        threading.Thread(target=shoot),
        threading.Thread(target=watch),
    ]
    with trap, gun:
        for thread in threads:
            thread.start()
        try:
            for dummy in range(200):
                world.close_it()
            leaked_while_reloading = len(leaks)
            world.open_it()
            time.sleep(0.3)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert len(good) > 200
    assert sent[0] > 1000
    assert set(good) == {ANSWERED}
    assert leaked_while_reloading == 0
    assert len(leaks) > 0, "without the table the same flood must get through"


def test_uplink_that_is_a_bridge_is_found(tmp_path: Path) -> None:
    with made_world(tmp_path, "br0") as world:
        assert world.module()["uplinks"] == ["br0"]
        assert [world.probe("a1", "tcp", address) for address in INTERNET] == [ANSWERED] * 2
        assert world.probe("a1", "tcp", CONTAINERS["foreign"][1]) == SILENT
        assert world.probe("outside", "tcp", CONTAINERS["a1"][1]) == SILENT
        assert world.probe("a1", "tcp", UPLINK[0]) == SILENT
        world.module(uplinks=[])
        assert world.probe("a1", "tcp", INTERNET[0]) == SILENT
        refused = world.module(bridge_prefix="fwt-", uplinks=["fwt-up"])
        assert refused["failed"] is True
        assert "would cut the host off" in refused["msg"]


TAMPERING = {
    "table deleted": ("delete table inet {t}",),
    "everything flushed": ("flush ruleset",),
    "rules flushed": ("flush table inet {t}",),
    "rule added before": ("insert rule inet {t} forward accept",),
    "pair added": ('add element inet {t} pairs {{ "fwt-a" . "fwt-b" }}',),
    "way out opened": ('add element inet {t} free {{ "fwt-c" }}',),
    "destination opened": ('add element inet {t} open4 {{ "fwt-c" . 0.0.0.0/0 . tcp . 443 }}',),
    "subnet forgotten": ("delete element inet {t} subnets {{ 10.213.1.0/28 }}",),
    "output flushed": ("flush chain inet {t} output",),
    "metadata opened": ("delete element inet {t} metadata4 {{ 169.254.0.0/16 }}",),
    "edge port opened": ("add element inet {t} edge_ports {{ 22 }}",),
    "switched off": ("add table inet {t} {{ flags dormant; }}",),
    "emptied and made anew": ("delete table inet {t}", "add table inet {t}"),
}


@pytest.mark.parametrize("commands", TAMPERING.values(), ids=TAMPERING.keys())
def test_tampering_is_noticed_and_mended(world: World, commands: tuple[str, ...]) -> None:
    good, engine = world.shown(), world.nft("list", "table", "ip", "engine")
    for command in commands:
        world.nft(command.format(t=TABLE))
    if "flush ruleset" in commands:
        world.host.sh("nft", "-f", "-", stdin=engine)
    tampered = world.shown()
    planned = world.module(_ansible_check_mode=True, _ansible_diff=True)
    assert planned["table_state"] == ("altered" if tampered else "missing")
    assert [(change["kind"], change["name"]) for change in planned["changes"]] == [("firewall table", f"inet {TABLE}")]
    assert planned["diff"][0]["before"] != planned["diff"][0]["after"]
    assert world.shown() == tampered, "check mode must not have mended it"
    assert world.module()["changes"] == planned["changes"]
    assert world.shown() == good
    assert world.probe("a1", "tcp", CONTAINERS["b1"][1]) == SILENT


def test_one_deleted_rule_is_noticed(world: World) -> None:
    listed = world.nft("-a", "list", "chain", "inet", TABLE, "from_client")
    handle = next(line.rsplit(" ", 1)[1] for line in listed.splitlines() if "@metadata4" in line)
    world.nft("delete", "rule", "inet", TABLE, "from_client", "handle", handle)
    assert world.probe("a1", "tcp", "169.254.169.254") == ANSWERED
    assert world.module()["table_state"] == "altered"
    assert world.probe("a1", "tcp", "169.254.169.254") == SILENT


def test_table_of_somebody_else_is_left_alone(world: World) -> None:
    world.nft("add", "table", "inet", "filter")
    world.nft("add", "chain", "inet", "filter", "input")
    try:
        for state in ("present", "absent"):
            refused = world.module(table="filter", state=state)
            assert refused["failed"] is True
            assert "not made by this collection" in refused["msg"]
        assert "chain input" in world.nft("list", "table", "inet", "filter")
    finally:
        world.nft("delete", "table", "inet", "filter")


def test_table_name_that_nft_refuses_writes_nothing(world: World, tmp_path: Path) -> None:
    refused = world.module(table="counter", path=str(tmp_path / "firewall.nft"))
    assert refused["failed"] is True
    assert "cannot load the firewall table 'inet counter'" in refused["msg"]
    assert not (tmp_path / "firewall.nft").exists()


def test_life_of_table_file_and_init_script(world: World, tmp_path: Path) -> None:
    (tmp_path / "multi tenancy").mkdir()
    options = {"table": "fwt_life", "path": str(tmp_path / "firewall.nft"), "boot": True, "log_dir": str(tmp_path)}
    script = "/etc/init.d/fwt-life-firewall"

    def exists() -> list[bool]:
        links = world.host.sh("sh", "-c", "ls /etc/rc2.d").split()
        return [
            Path(options["path"]).exists(),
            "table inet fwt_life\n" in world.nft("list", "tables"),
            world.host.sh("sh", "-c", f"test -x {script} && echo yes || echo no") == "yes\n",
            any(link.startswith("S") and link.endswith("fwt-life-firewall") for link in links),
        ]

    planned = world.module(**options, _ansible_check_mode=True)
    assert [change["action"] for change in planned["changes"]] == ["create"] * 4
    assert exists() == [False] * 4
    assert world.module(**options)["changes"] == planned["changes"]
    assert exists() == [True] * 4
    assert world.module(**options)["changed"] is False

    world.nft("delete", "table", "inet", "fwt_life")
    world.host.sh(script, "start")
    assert world.module(**options)["changed"] is False, "the script must load exactly the wanted table"
    world.host.sh(script, "stop")
    assert exists() == [True] * 4, "a stopped script leaves the table in place"

    world.host.sh("update-rc.d", "fwt-life-firewall", "disable")
    assert [change["kind"] for change in world.module(**options)["changes"]] == ["firewall start at boot"]
    assert exists() == [True] * 4

    removed = world.module(**options, state="absent")
    assert [change["action"] for change in removed["changes"]] == ["delete"] * 4
    assert exists() == [False] * 4
    assert world.module(**options, state="absent")["changed"] is False
    assert "fwt_life" in (tmp_path / "components" / "multi_tenancy.log").read_text(encoding="utf-8")
    assert not Path(script).exists(), "this machine's own /etc must stay untouched"


def test_bare_host_without_nft(world: World, tmp_path: Path) -> None:
    """With nft hidden: a true plan in check mode, one clear sentence otherwise."""
    hidden = Namespace(tmp_path)
    try:
        nft = _nft.find_nft()
        assert nft is not None
        # Not executable is not installed.
        hidden.sh("mount", "--bind", "/dev/null", nft)
        bare = World(hidden, world.outside, {}, tmp_path / "multi_tenancy" / "firewall.nft", "eth0")
        planned = bare.module(boot=True, _ansible_check_mode=True)
        assert [change["action"] for change in planned["changes"]] == ["create"] * 4
        assert planned["table_state"] == "missing"
        refused = bare.module(boot=True)
        assert refused["failed"] is True
        assert refused["msg"].endswith("install the package nftables.")
        assert not bare.path.exists()
    finally:
        hidden.close()


def test_missing_directory_is_told(world: World, tmp_path: Path) -> None:
    refused = world.module(table="fwt_nodir", path=str(tmp_path / "missing" / "firewall.nft"))
    assert refused["failed"] is True
    assert "its directory does not exist" in refused["msg"]
    assert "fwt_nodir" not in world.nft("list", "tables")


@pytest.mark.parametrize("count", [500, 2000])
def test_many_bridges(world: World, count: int) -> None:
    subnets = itertools.islice(ipaddress.ip_network("10.64.0.0/16").subnets(new_prefix=28), count)
    allow = [[f"203.0.113.{last}:443", f"[2001:db8::{last}]:443"] for last in (1, 2, 3)]
    networks = [
        {"bridge": f"fwt-{number:04d}", "subnet": str(subnet), "egress": egress, "egress_allow": allow[number % 3]}
        for number, (subnet, egress) in enumerate(zip(subnets, itertools.cycle(["allow", "deny"])))
    ]
    small = world.nft("list", "table", "inet", TABLE)
    assert world.module(networks=networks)["changed"] is True
    large = world.nft("list", "table", "inet", TABLE)
    assert world.module(networks=list(reversed(networks)))["changed"] is False
    # The same rules: nothing but elements of sets was added.
    assert large[large.index("\tchain ") :] == small[small.index("\tchain ") :]
    started = time.monotonic()
    world.close_it()
    assert time.monotonic() - started < 2.0


# The engine of this machine.

LABEL = TEST_LABEL
# What the engine asks for names that are not its containers'.
NAME_SERVER = "198.51.100.53"


def docker(*words: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def remove_leftovers() -> None:
    """Remove what a run that was killed could not remove itself."""
    for network in docker("network", "ls", "--format={{.Name}}", f"--filter=label={LABEL}").split():
        mark = re.fullmatch(r"fwt-([0-9]+)-[a-z]+", network)
        if mark and not Path(f"/proc/{mark[1]}").exists():
            docker("rm", "--force", "--volumes", network, check=False)
            docker("network", "rm", network, check=False)
            docker("image", "rm", "--force", f"fwt-{mark[1]}:latest", check=False)
            subprocess.run(["nft", "delete", "table", "inet", f"fwt_{mark[1]}"], capture_output=True, check=False)


@dataclass
class Container:
    """A container of the machine's engine, on a network of its own."""

    pid: int
    address: str
    gateway: str
    published: int
    bridge: str


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[dict[str, Container]]:
    """Two clients and a foreign container; each publishes its port 80."""
    remove_leftovers()
    mark = f"fwt-{os.getpid()}"
    empty = tmp_path / "empty.tar"
    subprocess.run(["tar", "--create", "--file", str(empty), "--files-from", "/dev/null"], check=True)
    # The programs of this machine, read-only, are image enough.
    mounts = [f"--volume=/{name}:/{name}:ro" for name in ("usr", "bin", "lib", "lib64") if Path(f"/{name}").exists()]
    found = {}
    with contextlib.ExitStack() as stack:
        docker("import", "--change", f"LABEL {LABEL}", str(empty), f"{mark}:latest")
        stack.callback(docker, "image", "rm", "--force", f"{mark}:latest", check=False)
        for number, name in enumerate(("a", "b", "other")):
            bridge = f"{'other' if name == 'other' else 'fwt'}-{os.getpid():x}{name[0]}"
            # Checkouts that are tested side by side do not share subnets.
            subnet = f"10.213.{100 + os.getpid() % 50 * 3 + number}"
            stack.callback(docker, "network", "rm", f"{mark}-{name}", check=False)
            docker(
                *("network", "create", "--label", LABEL, f"--subnet={subnet}.0/28", f"--gateway={subnet}.1"),
                *(f"--opt=com.docker.network.bridge.name={bridge}", f"{mark}-{name}"),
            )
            stack.callback(docker, "rm", "--force", "--volumes", f"{mark}-{name}", check=False)
            docker(
                *("run", "--detach", "--label", LABEL, "--name", f"{mark}-{name}", "--network", f"{mark}-{name}"),
                *(
                    "--ip",
                    f"{subnet}.2",
                    "--publish",
                    "80",
                    f"--dns={NAME_SERVER}",
                    *mounts,
                    f"{mark}:latest",
                    "sleep",
                    "600",
                ),
            )
            pid = int(docker("inspect", "--format={{.State.Pid}}", f"{mark}-{name}"))
            port = int(docker("port", f"{mark}-{name}", "80/tcp").split()[0].rsplit(":", 1)[1])
            found[name] = Container(pid, f"{subnet}.2", f"{subnet}.1", port, bridge)
            stack.callback(Server(pid, 80).close)
        yield found


def test_containers_of_the_real_engine(containers: dict[str, Container], tmp_path: Path) -> None:
    """Beside the engine's own rules, in a table of its own that looks at bridges named fwt-* alone."""
    a, b, other = (containers[name] for name in ("a", "b", "other"))
    table, path = f"fwt_{os.getpid()}", tmp_path / "firewall.nft"
    text = _firewall.render(
        _firewall.checked(
            table=table,
            bridge_prefix="fwt-",
            networks=[network(a.bridge, a.gateway), network(b.bridge, b.gateway)],
            uplinks=[],
            edge_ports=[],
            path=str(path),
        )
    )
    path.write_text(text, encoding="ascii")
    with contextlib.closing(Server(os.getpid(), port := random.randrange(20000, 30000))):
        probes: dict[str, tuple[int, Callable[[], str]]] = {
            "client to its gateway": (a.pid, lambda: tcp(a.gateway, port)),
            "client pings its gateway": (a.pid, lambda: icmp(a.gateway, 0)),
            "client to a foreign gateway": (a.pid, lambda: tcp(other.gateway, port)),
            "client to another client": (a.pid, lambda: tcp(b.address, 80)),
            "client to a foreign container": (a.pid, lambda: tcp(other.address, 80)),
            "client to another client's published port": (a.pid, lambda: tcp(a.gateway, b.published)),
            "client to a foreign published port": (a.pid, lambda: tcp(a.gateway, other.published)),
            "client to its own published port": (a.pid, lambda: tcp(a.gateway, a.published)),
            "foreign to a client's published port": (other.pid, lambda: tcp(other.gateway, a.published)),
            "foreign to the host": (other.pid, lambda: tcp(other.gateway, port)),
            "host to the client": (os.getpid(), lambda: tcp(a.address, 80)),
        }

        def seen() -> dict[str, str]:
            with ThreadPoolExecutor(max_workers=len(probes)) as pool:
                return dict(zip(probes, pool.map(lambda probe: in_namespace(*probe), probes.values()), strict=True))

        without = seen()
        try:
            _nft.load(str(path))
            assert _nft.table_state(table, text) == "ok"
            with_table = seen()
        finally:
            subprocess.run(["nft", "delete", "table", "inet", table], check=False)
    assert _nft.table_state(table, text) == "missing"
    # The engine keeps the networks themselves apart and leaves all else open.
    apart = {"client to another client": SILENT, "client to a foreign container": SILENT}
    assert without == {**dict.fromkeys(probes, ANSWERED), **apart}
    # docker-proxy is the host, as the edge is: the table cannot tell them apart, so clients must not publish ports.
    kept = ("foreign to a client's published port", "foreign to the host", "host to the client")
    assert with_table == {name: ANSWERED if name in kept else SILENT for name in probes}


def resolved(name: str) -> str:
    """What the engine's name server in the network namespace of a container says: an address, or no answer."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!xHH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(SILENCE)
        client.sendto(question, ("127.0.0.11", 53))
        with contextlib.suppress(TimeoutError):
            answer = client.recv(512)
            if struct.unpack("!H", answer[6:8]) == (1,):
                return socket.inet_ntoa(answer[-4:])
        return SILENT


def test_names_on_a_bridge_that_is_denied(containers: dict[str, Container], tmp_path: Path) -> None:
    """The engine knows its containers by itself; for other names it asks from within the container."""
    a, table, path = containers["a"], f"fwt_{os.getpid()}", tmp_path / "firewall.nft"
    link, outside = f"out{os.getpid()}", Namespace()

    def load(*egress_allow: str) -> None:
        denied = network(a.bridge, a.gateway, *egress_allow, egress="deny")
        options: dict[str, Any] = {"bridge_prefix": "fwt-", "networks": [denied], "uplinks": [], "edge_ports": []}
        path.write_text(_firewall.render(_firewall.checked(table=table, path=str(path), **options)), encoding="ascii")
        _nft.load(str(path))

    def asked() -> int:
        """Packets that came to the name server outside since the last call, after one more question."""
        in_namespace(a.pid, lambda: resolved("www.example"))
        return int(re.findall(r"packets (\d+)", outside.sh("nft", "reset", "counter", "ip", "counted", "asked"))[0])

    try:
        ip = ("ip", "-batch", "-")
        script = (
            f"link add {link} type veth peer name eth0 netns {outside.pid}\nlink set {link} up\n"
            f"addr add 10.213.98.1/30 dev {link}\nroute add {NAME_SERVER}/32 via 10.213.98.2\n"
        )
        subprocess.run(ip, input=script, text=True, check=True)
        outside.ip(f"link set eth0 up\naddr add 10.213.98.2/30 dev eth0\naddr add {NAME_SERVER}/32 dev lo\n")
        chain = "type filter hook prerouting priority raw; udp dport 53 counter name asked;"
        counted = f"table ip counted {{\ncounter asked {{ }}\nchain prerouting {{ {chain} }}\n}}\n"
        outside.sh("nft", "-f", "-", stdin=counted)
        assert asked() > 0
        load()
        assert in_namespace(a.pid, lambda: resolved(f"fwt-{os.getpid()}-a")) == a.address
        assert asked() == 0
        load(f"{NAME_SERVER}:53/udp")
        assert in_namespace(a.pid, lambda: resolved(f"fwt-{os.getpid()}-a")) == a.address
        assert asked() > 0
    finally:
        subprocess.run(["ip", "link", "delete", link], check=False)
        subprocess.run(["nft", "delete", "table", "inet", table], check=False)
        outside.close()
