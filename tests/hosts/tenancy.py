# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is really there on a test machine, read from its engine, its kernel and its files."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from testhost import Machine

ROOT = "/opt/agency_stack"
REGISTRY = f"{ROOT}/multi_tenancy/clients.json"
EDGE = "mt-edge"


def eventually(there: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it comes true within the seconds that it may need to start."""
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


@dataclass(frozen=True)
class Tenancy:
    """The tenancy on one machine."""

    machine: Machine

    def client(self, client_id: str) -> dict[str, Any]:
        """The client's entry in the registry."""
        (entry,) = (one for one in self.clients() if one["client_id"] == client_id)
        return entry

    def clients(self) -> list[dict[str, Any]]:
        """All entries of the registry."""
        clients: list[dict[str, Any]] = json.loads(self.machine.read(REGISTRY))["clients"]
        return clients

    def container(self, name: str) -> dict[str, Any]:
        """What the engine says about a container."""
        (inspected,) = json.loads(self.machine.run(f"docker container inspect {name}").stdout)
        return dict(inspected)

    def health(self, name: str) -> str:
        """What the engine says about the container's health."""
        return str(self.container(name)["State"]["Health"]["Status"])

    def network(self, name: str) -> dict[str, Any]:
        """What the engine says about a network."""
        (inspected,) = json.loads(self.machine.run(f"docker network inspect {name}").stdout)
        return dict(inspected)

    def container_ids(self) -> dict[str, str]:
        """The id of each container, with the time of its start: both stay while nothing is touched."""
        template = "{{.Name}} {{.Id}} {{.State.StartedAt}}"
        script = f"ids=$(docker ps --all --quiet); [ -z \"$ids\" ] || docker inspect --format '{template}' $ids"
        lines = self.machine.run(script).stdout.splitlines()
        return dict(line.removeprefix("/").split(" ", 1) for line in lines)

    def process(self, pid: int) -> dict[str, str]:
        """What the kernel says about a process: the lines of its status."""
        lines = self.machine.read(f"/proc/{pid}/status").splitlines()
        return {key: value.strip() for key, dummy, value in (line.partition(":") for line in lines)}

    def site(self, client_id: str) -> tuple[str, int]:
        """The address and port at which the edge reaches the client's site."""
        (network,) = self.container(f"mt-{client_id}.site")["NetworkSettings"]["Networks"].values()
        address = network["IPAddress"]
        routes = self.machine.run(f"cat {ROOT}/multi_tenancy/traefik/dynamic/*").stdout
        (port,) = set(re.findall(rf"http://{re.escape(address)}:(\d+)", routes))
        return address, int(port)

    def connects(self, address: str, port: int, origin: str | None = None) -> bool:
        """Whether a TCP connection can be opened from the network of the container, or from the machine itself."""
        pid = self.container(origin)["State"]["Pid"] if origin else None
        enter = f"nsenter --target {pid} --net " if pid else ""
        attempt = f"{enter}timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"
        return self.machine.run(attempt, check=False).returncode == 0

    def firewall_is_loaded(self) -> bool:
        """Whether our table is in the kernel."""
        return self.machine.run("nft list table inet agency_stack", check=False).returncode == 0
