# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker engine in memory, with the shapes and the refusals of the real one (Engine 20.10, API 1.41)."""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import docker
import requests
from docker.errors import APIError, ImageNotFound, NotFound


def refusal(status: int, explanation: str, kind: type[APIError] = APIError) -> APIError:
    """An answer of the engine that is no success."""
    response = requests.Response()
    response.status_code = status
    return kind(f"{status}", response=response, explanation=explanation)


class FakeEngine(docker.APIClient):
    """A client and the engine behind it; the SDK's own helpers that build requests are the real ones.

    What happens to a container is decided by its image's name: one of `broken` ends at once, one of `sick` runs and
    never becomes healthy. Its own health check is never run by the engine here, as in an engine before 25 during the
    first interval, unless settle() is called.
    """

    def __init__(self) -> None:
        # Not the parent's: it would connect.
        self._version = "1.41"
        self._general_configs = {}
        self.networks_by_id: dict[str, dict[str, Any]] = {}
        self.containers_by_id: dict[str, dict[str, Any]] = {}
        self.volume_labels: dict[str, dict[str, str] | None] = {}
        self.execs: dict[str, tuple[str, bool]] = {}
        self.local_images: set[str] = set()
        self.registry: set[str] = set()
        self.broken: set[str] = set()
        self.sick: set[str] = set()
        self.calls: list[tuple[Any, ...]] = []
        self.before_call: Callable[[int, str], None] = lambda number, name: None
        self.after_call: Callable[[], None] = lambda: None
        self._ids = (hashlib.sha256(str(number).encode()).hexdigest() for number in itertools.count())
        self._lock = threading.RLock()

    # What is not written below must not be asked: no test speaks with a real engine by accident.
    def _url(self, pathfmt: str, *args: Any, **kwargs: Any) -> str:
        raise AssertionError(f"the fake engine does not know {pathfmt}")

    # ---- looking

    def info(self) -> dict[str, Any]:
        self._called("info")
        return {
            "ServerVersion": "20.10.24",
            "Labels": ["agency_stack.managed=true"],
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "1",
        }

    def images(self) -> list[dict[str, Any]]:
        self._called("images")
        return [{"Id": f"sha256:{name}", "RepoTags": [name], "RepoDigests": None} for name in sorted(self.local_images)]

    def networks(self, filters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        self._called("networks")
        wanted = wanted_labels(filters)
        return [
            copy.deepcopy(network)
            for network in list(self.networks_by_id.values())
            if all_in(wanted, network["Labels"] or {})
        ]

    def volumes(self, filters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self._called("volumes")
        wanted = wanted_labels(filters)
        found = [
            {"Name": name, "Driver": "local", "Labels": labels and dict(labels)}
            for name, labels in self.volume_labels.items()
            if all_in(wanted, labels or {})
        ]
        # As the real one: null instead of an empty list.
        return {"Volumes": found or None, "Warnings": None}

    def inspect_network(self, net_id: str) -> dict[str, Any]:
        self._called("inspect_network", net_id)
        network = self._network(net_id)
        attached = {
            container["Id"]: {"Name": container["Name"]}
            for container in list(self.containers_by_id.values())
            if container["State"] == "running" and network["Id"] in container["NetworkIds"].values()
        }
        return copy.deepcopy(network) | {"Containers": attached}

    def containers(
        self,
        all: bool = False,
        filters: Mapping[str, list[str]] | None = None,
    ) -> list[dict[str, Any]]:
        self._called("containers", all)
        wanted = wanted_labels(filters)
        return [
            self._listed(container)
            for container in reversed(list(self.containers_by_id.values()))
            if (all or container["State"] in ("running", "paused", "restarting"))
            and all_in(wanted, container["Config"]["Labels"])
        ]

    def inspect_container(self, container: str) -> dict[str, Any]:
        self._called("inspect_container", container)
        found = self._container(container)
        state: dict[str, Any] = {
            "Status": found["State"],
            "Running": found["State"] in ("running", "paused", "restarting"),
            "Paused": found["State"] == "paused",
            "Restarting": found["State"] == "restarting",
            "OOMKilled": False,
            "ExitCode": found["ExitCode"],
        }
        if found["Health"]:
            state["Health"] = {"Status": found["Health"]}
        return {
            "Id": found["Id"],
            "Name": f"/{found['Name']}",
            "State": state,
            "Config": copy.deepcopy(found["Config"]),
        }

    def logs(self, container: str, tail: int | str = "all") -> bytes:
        self._called("logs", container, tail)
        lines = self._container(container)["Log"]
        return "".join(f"{line}\n" for line in (lines if tail == "all" else lines[-int(tail) :])).encode()

    # ---- networks

    def create_network(self, **request: Any) -> dict[str, Any]:
        self._called("create_network", request["name"])
        config = request["ipam"]["Config"][0]
        subnet = ipaddress.IPv4Network(config["Subnet"])
        for network in list(self.networks_by_id.values()):
            if network["Name"] == request["name"]:
                raise refusal(409, f"network with name {request['name']} already exists")
            if subnet.overlaps(ipaddress.IPv4Network(network["IPAM"]["Config"][0]["Subnet"])):
                raise refusal(403, "Pool overlaps with other one on this address space")
        network_id = next(self._ids)
        self.networks_by_id[network_id] = {
            "Name": request["name"],
            "Id": network_id,
            "Driver": request["driver"],
            "Internal": request["internal"],
            "IPAM": {"Driver": "default", "Config": [dict(config)]},
            "Options": dict(request["options"]),
            "Labels": dict(request["labels"]),
        }
        self.after_call()
        return {"Id": network_id, "Warning": ""}

    def remove_network(self, net_id: str) -> None:
        self._called("remove_network", net_id)
        network = self._network(net_id)
        if any(
            container["State"] == "running" and network["Id"] in container["NetworkIds"].values()
            for container in list(self.containers_by_id.values())
        ):
            raise refusal(403, f"error while removing network: network {network['Name']} has active endpoints")
        del self.networks_by_id[network["Id"]]
        self.after_call()

    def disconnect_container_from_network(self, container: str, net_id: str, force: bool = False) -> None:
        self._called("disconnect", container, net_id)
        found, network = self._container(container), self._network(net_id)
        del found["Endpoints"][network["Name"]]
        del found["NetworkIds"][network["Name"]]
        self.after_call()

    def connect_container_to_network(
        self, container: str, net_id: str, ipv4_address: str | None = None, aliases: list[str] | None = None
    ) -> None:
        self._called("connect", container, net_id)
        found, network = self._container(container), self._network(net_id)
        name = network["Name"]
        if name in found["Endpoints"]:
            raise refusal(403, f"endpoint with name {found['Name']} already exists in network {name}")
        if found["State"] == "running":
            if ipaddress.IPv4Address(ipv4_address) not in ipaddress.IPv4Network(network["IPAM"]["Config"][0]["Subnet"]):
                raise refusal(400, "no configured subnet or ip-range contain the IP address")
            self._refuse_taken(found, name, str(ipv4_address))
        found["Endpoints"][name] = self.create_endpoint_config(ipv4_address=ipv4_address, aliases=aliases)
        found["NetworkIds"][name] = network["Id"]
        self.after_call()

    # ---- containers

    def create_container_from_config(self, config: Mapping[str, Any], name: str) -> dict[str, Any]:
        self._called("create_container", name)
        if config["Image"] not in self.local_images:
            raise refusal(404, f"No such image: {config['Image']}", ImageNotFound)
        for container in list(self.containers_by_id.values()):
            if container["Name"] == name:
                raise refusal(
                    409, f'Conflict. The container name "/{name}" is already in use by container "{container["Id"]}"'
                )
        container_id = next(self._ids)
        endpoints = (config.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        self.containers_by_id[container_id] = {
            "Id": container_id,
            "Name": name,
            "Config": copy.deepcopy(dict(config)),
            "State": "created",
            "ExitCode": 0,
            "Health": "",
            "Log": [],
            "Starts": 0,
            "Endpoints": copy.deepcopy(dict(endpoints)),
            # As the real one: the id is looked up at the first start and kept from then on.
            "NetworkIds": dict.fromkeys(endpoints, ""),
        }
        self.after_call()
        return {"Id": container_id, "Warnings": None}

    def start(self, container: str) -> None:
        self._called("start", container)
        self._run(self._container(container))
        self.after_call()

    def stop(self, container: str, timeout: int | None = None) -> None:
        self._called("stop", container, timeout)
        found = self._container(container)
        if found["State"] in ("running", "paused", "restarting"):
            found |= {"State": "exited", "ExitCode": 0, "Health": "unhealthy" if found["Health"] else ""}
        self.after_call()

    def restart(self, container: str, timeout: int = 10) -> None:
        self._called("restart", container, timeout)
        found = self._container(container)
        found["State"] = "exited"
        self._run(found)
        self.after_call()

    def unpause(self, container: str) -> None:
        self._called("unpause", container)
        found = self._container(container)
        if found["State"] != "paused":
            raise refusal(500, f"Container {container} is not paused")
        found["State"] = "running"
        self.after_call()

    def remove_container(self, container: str, v: bool = False, force: bool = False) -> None:
        self._called("remove_container", container)
        found = self._container(container)
        if found["State"] in ("running", "paused", "restarting") and not force:
            raise refusal(409, f"You cannot remove a running container {container}.")
        del self.containers_by_id[found["Id"]]
        self.after_call()

    def rename(self, container: str, name: str) -> None:
        self._called("rename", container, name)
        found = self._container(container)
        if any(other["Name"] == name for other in list(self.containers_by_id.values())):
            raise refusal(409, f'Conflict. The container name "/{name}" is already in use')
        found["Name"] = name
        self.after_call()

    def exec_create(self, container: str, cmd: list[str], stdout: bool = True, stderr: bool = True) -> dict[str, str]:
        self._called("exec_create", container, tuple(cmd))
        found = self._container(container)
        if found["State"] != "running":
            raise refusal(409, f"Container {container} is not running")
        exec_id = next(self._ids)
        # Without its output attached the real one's start returns at once, and the end is not known yet.
        self.execs[exec_id] = (found["Id"], stdout or stderr)
        return {"Id": exec_id}

    def exec_start(self, exec_id: str) -> bytes:
        self._called("exec_start", exec_id)
        return b""

    def exec_inspect(self, exec_id: str) -> dict[str, Any]:
        self._called("exec_inspect", exec_id)
        container_id, attached = self.execs[exec_id]
        failed = self._container(container_id)["Config"]["Image"] in self.sick
        return {"Running": not attached, "ExitCode": int(failed) if attached else None}

    def pull(self, repository: str, stream: bool, decode: bool) -> Iterator[dict[str, Any]]:
        self._called("pull", repository)
        if repository in self.registry:
            self.local_images.add(repository)
            return iter([{"status": "Pulling"}, {"status": "Downloaded"}])
        return iter([{"error": "manifest unknown"}])

    # ---- for tests

    def by_name(self, name: str) -> dict[str, Any]:
        """The container of this name."""
        return next(container for container in list(self.containers_by_id.values()) if container["Name"] == name)

    def names(self) -> list[str]:
        """The names of all containers."""
        return sorted(container["Name"] for container in list(self.containers_by_id.values()))

    def running(self, **labels: str) -> list[str]:
        """The names of the running containers with these labels (dots written as __)."""
        wanted = {f"agency_stack.{key}": value for key, value in labels.items()}
        return sorted(
            container["Name"]
            for container in list(self.containers_by_id.values())
            if container["State"] == "running" and all_in(wanted, container["Config"]["Labels"])
        )

    def settle(self) -> None:
        """Let the engine run the health checks of all running containers once."""
        for container in list(self.containers_by_id.values()):
            if container["State"] == "running" and container["Health"]:
                container["Health"] = "unhealthy" if container["Config"]["Image"] in self.sick else "healthy"

    def snapshot(self) -> Any:
        """All that the engine holds."""
        return copy.deepcopy((self.networks_by_id, self.containers_by_id, sorted(self.local_images)))

    def effects(self) -> list[str]:
        """The names of the calls that changed something, in order."""
        looking = {"info", "images", "networks", "inspect_network", "containers", "inspect_container", "logs"}
        looking |= {"volumes", "exec_create", "exec_start", "exec_inspect"}
        return [call[0] for call in self.calls if call[0] not in looking]

    # ---- inside

    def _called(self, name: str, *args: Any) -> None:
        with self._lock:
            self.calls.append((name, *args))
            number = len(self.calls)
        self.before_call(number, name)

    def _network(self, name: str) -> dict[str, Any]:
        for network in list(self.networks_by_id.values()):
            if name in (network["Name"], network["Id"]):
                return network
        raise refusal(404, f"network {name} not found", NotFound)

    def _container(self, name: str) -> dict[str, Any]:
        for container in list(self.containers_by_id.values()):
            if name in (container["Name"], container["Id"]):
                return container
        raise refusal(404, f"No such container: {name}", NotFound)

    def _run(self, container: dict[str, Any]) -> None:
        if container["State"] == "running":
            return
        for network, endpoint in container["Endpoints"].items():
            container["NetworkIds"][network] = self._network(container["NetworkIds"][network] or network)["Id"]
            self._refuse_taken(container, network, endpoint["IPAMConfig"]["IPv4Address"])
        container["Starts"] += 1
        image = container["Config"]["Image"]
        container["Log"] += [f"starting {image}", "listening"]
        if image in self.broken:
            container["Log"][-1] = "no such file"
            container |= {"State": "exited", "ExitCode": 3, "Health": ""}
        else:
            container |= {"State": "running", "Health": "starting" if container["Config"].get("Healthcheck") else ""}

    def _refuse_taken(self, container: dict[str, Any], network: str, address: str) -> None:
        for other in list(self.containers_by_id.values()):
            theirs = (other["Endpoints"].get(network) or {}).get("IPAMConfig", {}).get("IPv4Address")
            if other is not container and other["State"] == "running" and theirs == address:
                raise refusal(403, "Address already in use")

    def _listed(self, container: Mapping[str, Any]) -> dict[str, Any]:
        words = {
            "created": "Created",
            "exited": f"Exited ({container['ExitCode']}) 2 minutes ago",
            "paused": "Up (Paused)",
        }
        health = {"": "", "starting": " (health: starting)"}.get(container["Health"], f" ({container['Health']})")
        running = container["State"] == "running"
        return {
            "Id": container["Id"],
            "Names": [f"/{container['Name']}"],
            "Image": container["Config"]["Image"],
            "Labels": dict(container["Config"]["Labels"]),
            "State": container["State"],
            "Status": f"Up 2 minutes{health}" if running else words.get(container["State"], ""),
            "HostConfig": {"NetworkMode": container["Config"]["HostConfig"]["NetworkMode"]},
            "NetworkSettings": {
                "Networks": {
                    name: {
                        "IPAMConfig": copy.deepcopy(endpoint["IPAMConfig"]),
                        "NetworkID": container["NetworkIds"][name],
                        "IPAddress": endpoint["IPAMConfig"]["IPv4Address"] if running else "",
                    }
                    for name, endpoint in container["Endpoints"].items()
                }
                or {"host": {"IPAMConfig": None, "NetworkID": "", "IPAddress": ""}}
            },
        }


def wanted_labels(filters: Mapping[str, Any] | None) -> dict[str, str]:
    """The labels that a list is to be filtered by: one, or a list of them."""
    assert set(filters or {}) <= {"label"}
    given = (filters or {}).get("label", [])
    return dict(label.split("=", 1) for label in ([given] if isinstance(given, str) else given))


def all_in(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels hold all that is wanted."""
    return all(labels.get(key) == value for key, value in wanted.items())
