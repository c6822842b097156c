# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host is like, read before anything is touched: system, engine, ports, routes."""

from __future__ import annotations

import glob
import importlib.util
import ipaddress
import os
import shutil
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
OLDEST_DEBIAN = 12

# What the host needs: the Debian package, and how to see that it is there.
PROGRAMS = {
    "nftables": "nft",
    "procps": "sysctl",
    "logrotate": "logrotate",
    # For the volumes of hard clients.
    "e2fsprogs": "mkfs.ext4",
    "mount": "losetup",
    "util-linux": "mountpoint",
}
LIBRARIES = {"python3-docker": "docker", "python3-yaml": "yaml", "python3-cryptography": "cryptography"}
ENGINE_PACKAGE = "docker.io"

_TCP_LISTEN = "0A"


@dataclass(frozen=True)
class HostFacts:
    """What was read.

    Args:
        uid: Effective uid of the process.
        system: ID and VERSION_ID of os-release.
        engine: Version of the engine, or None when none answers.
        engine_managed: Whether the engine says that we installed it.
        packages: Debian packages that are missing.
        listeners: (port, pid, program) of listening TCP sockets on ports of interest, but for the edge's own.
        subnets: (IPv4 network, what it is) of host routes and foreign networks.
        port_start: The lowest port that every user may bind.
        systemd: Whether systemd is PID 1.
        missing_images: Built-in images that the engine lacks.
    """

    uid: int
    system: tuple[str, str]
    engine: str | None
    engine_managed: bool
    packages: Sequence[str]
    listeners: Sequence[tuple[int, int | None, str]]
    subnets: Sequence[tuple[str, str]]
    port_start: int
    systemd: bool
    missing_images: Sequence[str] = field(default=())


def faults_of_host(facts: HostFacts, ports: Iterable[int]) -> list[str]:
    """Why this host cannot carry the platform as it is, each one sentence with its cure."""
    faults = []
    if facts.uid != 0:
        faults.append("Root rights are needed on the host: run it as root, with sudo, or with ansible_become=true.")
    name, version = facts.system
    number = version.partition(".")[0]
    # Debian's testing and unstable have no version.
    if name != "debian" or (number.isdigit() and int(number) < OLDEST_DEBIAN):
        system = " ".join(filter(None, (name, version))) or "of this host"
        faults.append(f"The system {system} is not supported: use Debian {OLDEST_DEBIAN} or newer.")
    for port, pid, program in facts.listeners:
        if port in set(ports):
            who = f"the process {program} (pid {pid})" if pid else "a process that cannot be seen from here"
            faults.append(f"Port {port} is taken by {who}: stop it, or set other ports under edge in config.yaml.")
    return faults


def read_system() -> tuple[str, str]:
    """ID and VERSION_ID of the system."""
    values = {}
    for line in (read_text("/etc/os-release") or "").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            values[key] = value.strip().strip("\"'")
    return values.get("ID", ""), values.get("VERSION_ID", "")


def missing_packages(engine_answers: bool) -> list[str]:
    """The Debian packages that the host lacks.

    Libraries are looked for in the interpreter that runs this module: on the control machine that is the virtualenv,
    which has its own.
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [package for package, program in PROGRAMS.items() if shutil.which(program, path=path) is None]
    missing += [package for package, library in LIBRARIES.items() if importlib.util.find_spec(library) is None]
    if not engine_answers and shutil.which("dockerd", path=path) is None:
        missing.append(ENGINE_PACKAGE)
    return missing


def read_rotation(table: str) -> dict[str, str]:
    """The file that tells logrotate of our logs: its path, and its text, empty when there is none that is text.

    Args:
        table: Name of the platform's firewall table, after which the file is named.
    """
    path = f"/etc/logrotate.d/{table.replace('_', '-')}"
    try:
        return {"path": path, "text": read_text(path) or ""}
    except TenancyError:
        return {"path": path, "text": ""}


def read_port_start() -> int:
    """The lowest port that a process without capabilities may bind."""
    return int((read_text(PORT_START) or "1024").strip())


def read_routes(bridge_prefix: str) -> list[tuple[str, str]]:
    """(IPv4 network, what it is) of the host's routes, but for the default route and our own bridges."""
    routes = []
    for line in (read_text("/proc/net/route") or "").splitlines()[1:]:
        interface, destination, _gateway, _flags, _ref, _use, _metric, mask, *_rest = line.split()
        prefix = bin(int(mask, 16)).count("1")
        if prefix and not interface.startswith(bridge_prefix):
            address = socket.inet_ntoa(struct.pack("<I", int(destination, 16)))
            routes.append((str(ipaddress.IPv4Network(f"{address}/{prefix}", strict=False)), f"a route on {interface}"))
    return routes


def read_listeners(ports: Iterable[int], own_containers: Iterable[str]) -> list[tuple[int, int | None, str]]:
    """(port, pid, program) of the processes that listen on these TCP ports, but for those in our own containers."""
    wanted = set(ports)
    inodes: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read_text(table) or "").splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _TCP_LISTEN and port in wanted:
                inodes[fields[9]] = port
    owners = _owners(set(inodes))
    own = list(own_containers)
    found = {}
    for inode, port in inodes.items():
        pid, program = owners.get(inode, (None, ""))
        # The path of a container's cgroup holds its id, with every driver and version of cgroups.
        cgroup = read_text(f"/proc/{pid}/cgroup") or ""
        if not any(container in cgroup for container in own):
            found[port] = (port, pid, program)
    return [found[port] for port in sorted(found)]


def _owners(inodes: set[str]) -> dict[str, tuple[int | None, str]]:
    if not inodes:
        return {}
    targets = {f"socket:[{inode}]": inode for inode in inodes}
    owners: dict[str, tuple[int | None, str]] = {}
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            inode = targets.get(os.readlink(link))
        except OSError:
            continue
        if inode is not None:
            pid = link.split("/")[2]
            owners[inode] = (int(pid), (read_text(f"/proc/{pid}/comm") or "?").strip())
    return owners


def engine_is_managed(info: Mapping[str, Any]) -> bool:
    """Whether the engine carries the label that we give to one which we installed."""
    return "agency_stack.managed=true" in (info.get("Labels") or [])
