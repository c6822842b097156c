# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The containers of the platform and of its clients: what is wanted, what the engine has, and the difference."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import (
    LABEL_CLIENT,
    LABEL_COMPONENT,
    LABEL_SERVICE,
    LABEL_SPEC,
    SHARED,
    shared_id,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, spec_hash

LOG_CONFIG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


@dataclass(frozen=True)
class ContainerSpec:
    """One container, as it is wanted.

    Args:
        name: The engine's name of it, while no other container of the service stands in its place.
        client_id: Whose it is; shared_id() of a service that several clients share; None for the platform's own.
        service: Name of the service.
        image: Reference.
        network: Name of the network, or 'host'.
        subnet: The network's IPv4 subnet, out of which an address is pinned; None for 'host'.
        networks: Further networks, name and IPv4 subnet of each, out of which an address is pinned as well.
        cgroup_parent: The cgroup that caps the client's total, or None for the engine's own.
        labels: Without the hash, which is added.
        user: uid:gid.
        command: Arguments, or None for the image's.
        entrypoint: Program, or None for the image's.
        environment: Variables.
        binds: Mappings with source, target and read_only.
        tmpfs: Mount options by path.
        cap_add: Capabilities on top of none.
        read_only: Whether the root file system is.
        mem_limit: Bytes.
        nano_cpus: Billionths of a CPU.
        pids_limit: Number of processes.
        stop_signal: Signal, or None for the image's.
        stop_timeout: Seconds between the signal and the kill.
        healthcheck: test (as Compose writes it), interval, timeout and start_period (nanoseconds), retries; or None.
        start_first: Whether a new container comes up beside the old one, which is stopped only then.
    """

    name: str
    client_id: str | None
    service: str
    image: str
    network: str
    subnet: str | None
    labels: Mapping[str, str]
    user: str
    command: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    binds: Sequence[Mapping[str, Any]] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    cap_add: Sequence[str] = ()
    read_only: bool = True
    mem_limit: int = 0
    nano_cpus: int = 0
    pids_limit: int = 0
    stop_signal: str | None = None
    stop_timeout: int = 10
    healthcheck: Mapping[str, Any] | None = None
    start_first: bool = False
    networks: Sequence[tuple[str, str]] = ()
    cgroup_parent: str | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical specification: an equal label on a container means that it is as wanted."""
        # Without the keys where they say nothing, so that containers keep the hash that they have.
        later = ("networks", "cgroup_parent")
        return spec_hash({key: value for key, value in asdict(self).items() if key not in later or value})

    def shown(self) -> dict[str, Any]:
        """As the diff shows it: values of the environment are left out, they may be secrets."""
        shown = {key: value for key, value in asdict(self).items() if key not in ("labels", "environment")}
        return shown | {"environment": sorted(self.environment), "spec_hash": self.hash[:12]}


@dataclass(frozen=True)
class ContainerState:
    """One container, as the engine lists it.

    Args:
        id: The engine's.
        name: Without the leading slash.
        client_id: From its labels, in the form of ContainerSpec.client_id.
        service: From its label.
        spec_hash: From its label.
        image: Reference.
        state: running, exited, created, paused, restarting, dead or removing.
        health: healthy, unhealthy, starting, or '' without a health check.
        addresses: IPv4 address by name of network; also of a stopped container, where one is pinned.
        writes: Whether it may write into folders of the host.
    """

    id: str
    name: str
    client_id: str | None
    service: str
    spec_hash: str
    image: str
    state: str
    health: str
    addresses: Mapping[str, str]
    writes: bool = True

    def shown(self) -> dict[str, Any]:
        """As the diff shows it."""
        return {"id": self.id[:12], "image": self.image, "state": self.state, "spec_hash": self.spec_hash[:12]}

    @property
    def serves(self) -> bool:
        """Whether it can take requests."""
        return self.state == "running" and self.health != "unhealthy"


@dataclass(frozen=True)
class Start:
    """What the applier needs to bring one container up.

    Args:
        spec: What is wanted.
        address: The pinned address; None on the host's network, or when the subnet is full.
        further: The pinned address on each further network, likewise.
        name: The name it gets.
        existing: The container that is as wanted and only has to be started, or waited for, if there is one.
        olds: The containers whose place it takes.
        restart: Whether `existing` runs and is to be started anew.
    """

    spec: ContainerSpec
    address: str | None
    name: str
    existing: ContainerState | None
    olds: Sequence[ContainerState]
    restart: bool = False
    further: Sequence[str | None] = ()


@dataclass(frozen=True)
class StackPlan:
    """What is to be done, in two steps between which the routes are moved.

    Args:
        starts: Containers to bring up.
        removals: Containers that nothing needs once the routes point to the others, and names to take over.
        backends: Address of each service by client, once the plan is done.
    """

    starts: list[Change]
    removals: list[Change]
    backends: dict[str, dict[str, str]]


_HEALTH = re.compile(r"\((healthy|unhealthy|health: starting)\)")


def read_container(container: Mapping[str, Any]) -> ContainerState:
    """One entry of the engine's list of containers."""
    labels = container.get("Labels") or {}
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    health = _HEALTH.search(container.get("Status") or "")
    addresses = {}
    for name, endpoint in networks.items():
        pinned = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
        address = pinned or endpoint.get("IPAddress")
        if address:
            addresses[name] = address
    service = labels.get(LABEL_SERVICE, "")
    return ContainerState(
        id=container["Id"],
        name=(container.get("Names") or ["/"])[0].removeprefix("/"),
        client_id=shared_id(service) if labels.get(LABEL_COMPONENT) == SHARED else labels.get(LABEL_CLIENT),
        service=service,
        spec_hash=labels.get(LABEL_SPEC, ""),
        image=container.get("Image", ""),
        state=container.get("State", ""),
        health="" if health is None else health[1].removeprefix("health: "),
        addresses=addresses,
        writes=any(mount.get("Type") == "bind" and mount.get("RW", True) for mount in container.get("Mounts") or ()),
    )


def plan_stacks(
    wanted: Sequence[ContainerSpec],
    actual: Iterable[ContainerState],
    clients: Iterable[str | None],
    restart: bool = False,
    force: bool = False,
    routed: Mapping[str, Mapping[str, str]] | None = None,
) -> StackPlan:
    """Compare wanted containers with the engine's.

    Args:
        wanted: Containers that must run.
        actual: The platform's containers, as the engine lists them.
        clients: Whose containers are in question; those of others are left alone. None stands for the platform.
        restart: Whether containers that run as wanted are started anew.
        force: Whether containers that are as wanted are replaced as well; does nothing to a restart.
        routed: Address of each service by client to which the routes lead. Where two containers are as wanted, and both
            serve, the one there stays.
    """
    in_question = set(clients)
    by_service: dict[tuple[str | None, str], list[ContainerState]] = {}
    used: dict[str, set[str]] = {}
    for state in actual:
        if state.client_id in in_question:
            by_service.setdefault((state.client_id, state.service), []).append(state)
            for network, address in state.addresses.items():
                used.setdefault(network, set()).add(address)
    plan = StackPlan([], [], {})
    for spec in wanted:
        states = by_service.pop((spec.client_id, spec.service), [])
        ranked = as_wanted(spec, states, (routed or {}).get(spec.client_id or "", {}).get(spec.service))
        if restart:
            # A restart replaces nothing, since no route follows it: what is not as wanted is started anew as it is.
            ranked = ranked or sorted(states, key=lambda state: not state.serves)
            states = ranked[:1]
        elif force:
            ranked = []
        _plan_service(plan, spec, states, ranked[0] if ranked else None, used, restart)
    for states in by_service.values():
        plan.removals.extend(_removal(state) for state in states)
    return plan


def _plan_service(
    plan: StackPlan,
    spec: ContainerSpec,
    states: Sequence[ContainerState],
    keep: ContainerState | None,
    used: dict[str, set[str]],
    restart: bool,
) -> None:
    olds = [state for state in states if state is not keep]
    if keep is not None:
        address = keep.addresses.get(spec.network)
        name = keep.name
        # Nothing is taken away before the one that stays is known to serve: an interrupted run may have left both.
        unproven = bool(olds) and keep.health in ("starting", "unhealthy")
        if keep.state != "running" or restart or unproven:
            start = Start(spec, address, name, keep, olds, restart=restart and keep.state == "running")
            plan.starts.append(_start("update", spec, start, {"state": keep.state, "health": keep.health}))
    else:
        address = _freed_address(spec, olds) or _free_address(spec.subnet, used.setdefault(spec.network, set()))
        further = [_free_address(subnet, used.setdefault(network, set())) for network, subnet in spec.networks]
        names = {state.name for state in states}
        name = next(n for n in (spec.name, *(f"{spec.name}.next{i or ''}" for i in range(99))) if n not in names)
        before = olds[0].shown() if olds else None
        plan.starts.append(
            _start(
                "recreate" if olds else "create",
                spec,
                Start(spec, address, name, None, olds, further=further),
                before,
            )
        )
    plan.removals.extend(_removal(state) for state in olds)
    if name != spec.name:
        plan.removals.append(
            Change(
                action="update",
                kind="container name",
                name=spec.name,
                before=name,
                after=spec.name,
                client_id=spec.client_id,
                payload=(name, spec.name),
            )
        )
    if spec.client_id is not None and address is not None:
        plan.backends.setdefault(spec.client_id, {})[spec.service] = address


def as_wanted(spec: ContainerSpec, states: Iterable[ContainerState], routed: str | None = None) -> list[ContainerState]:
    """Those containers that are as wanted, the best first: one that serves before one that does not.

    Args:
        spec: What is wanted.
        states: The containers of the service.
        routed: The address to which the route leads, if it is known: whoever serves there comes first.
    """
    fitting = [
        state
        for state in states
        if state.spec_hash == spec.hash
        and state.state not in ("dead", "removing")
        and (spec.subnet is None or spec.network in state.addresses)
        and all(network in state.addresses for network, _subnet in spec.networks)
    ]
    return sorted(
        fitting,
        key=lambda state: (
            not state.serves,
            routed is not None and state.addresses.get(spec.network) != routed,
            state.health != "healthy",
            state.name != spec.name,
        ),
    )


def serving_backends(actual: Iterable[ContainerState], wanted: Iterable[ContainerSpec]) -> dict[str, dict[str, str]]:
    """Address of each service by client, as it serves now.

    Args:
        actual: The platform's containers.
        wanted: What says on which network a service is reached.
    """
    networks = {(spec.client_id, spec.service): spec.network for spec in wanted}
    backends: dict[str, dict[str, str]] = {}
    # One whose health is known comes before one that is still starting.
    for state in sorted(actual, key=lambda state: state.health == "starting"):
        address = state.addresses.get(networks.get((state.client_id, state.service), ""))
        if state.client_id is not None and address is not None and state.serves:
            backends.setdefault(state.client_id, {}).setdefault(state.service, address)
    return backends


def _freed_address(spec: ContainerSpec, olds: Sequence[ContainerState]) -> str | None:
    """The address that becomes free before the new container starts: its route need not be moved then.

    A service that is stopped first is away only until the new container serves, however many clients are done in
    between.
    """
    if spec.start_first or spec.subnet is None:
        return None
    subnet = ipaddress.IPv4Network(spec.subnet)
    freed = [state.addresses.get(spec.network) for state in sorted(olds, key=lambda state: not state.serves)]
    return next((address for address in freed if address and ipaddress.IPv4Address(address) in subnet), None)


def _free_address(subnet: str | None, used: set[str]) -> str | None:
    if subnet is None:
        return None
    # The first host address is the gateway.
    for host in itertools.islice(ipaddress.IPv4Network(subnet).hosts(), 1, None):
        if str(host) not in used:
            used.add(str(host))
            return str(host)
    # It is the applier that refuses, so that the other clients are done all the same.
    return None


def _start(action: Any, spec: ContainerSpec, start: Start, before: Any) -> Change:
    after = (
        {"state": "restarted" if start.restart else "running"}
        if start.existing
        else spec.shown() | {"address": start.address}
    )
    return Change(
        action=action,
        kind="container",
        name=spec.name,
        before=before,
        after=after,
        client_id=spec.client_id,
        payload=start,
    )


def _removal(state: ContainerState) -> Change:
    return Change(
        action="delete",
        kind="container",
        name=state.name,
        before=state.shown(),
        client_id=state.client_id,
        payload=state,
    )
