# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The effects of a stack plan: containers made, started, waited for and removed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import (
    engine_errors,
    image_fault,
    is_missing_image,
    pull_image,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import familiar
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_SPEC
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import printable
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import (
    LOG_CONFIG,
    ContainerSpec,
    ContainerState,
    Start,
    read_container,
)

# Engine 25 and later probe a starting container at this interval; earlier ones wait a whole interval first.
START_INTERVAL_NS = 10**9
START_INTERVAL_API = (1, 44)

_ALIVE = ("running", "restarting", "paused")


def list_containers(client: Any, labels: Mapping[str, str]) -> list[ContainerState]:
    """All containers with these labels, in one call."""
    filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
    with engine_errors("Listing the containers"):
        return [read_container(container) for container in client.containers(all=True, filters=filters)]


class StackApplier:
    """Brings containers up and takes them away.

    Args:
        client: A docker.APIClient.
        health_timeout: Seconds that a container has to become healthy.
        undo: What else is to be taken back before an earlier container is started again.
    """

    def __init__(self, client: Any, health_timeout: float, undo: Callable[[], None] = lambda: None) -> None:
        self.client = client
        self.health_timeout = health_timeout
        self.undo = undo
        self._pulling = threading.Lock()
        self._pulled: set[str] = set()

    def apply(self, change: Change) -> None:
        """Do one change of a StackPlan."""
        payload = change.payload
        if isinstance(payload, Start):
            self._start(payload)
        elif isinstance(payload, ContainerState):
            self._remove(payload.id, payload.name)
        else:
            old, new = payload
            with engine_errors(f"Renaming container {old} to {new}"):
                self.client.rename(old, new)

    def wait_healthy(self, spec: ContainerSpec, container_id: str) -> None:
        """Wait until the container's own health check succeeds.

        The check is run by exec at once and again until it succeeds, because engines before 25 run it for the first
        time after a whole interval.

        Raises:
            TenancyError: The container ended, or the time is over; the text ends with its last log lines.
        """
        deadline = time.monotonic() + self.health_timeout
        command = _probe_command(spec)
        quiet_since = time.monotonic()
        while True:
            with engine_errors(f"Reading the state of container {spec.name}"):
                state = self.client.inspect_container(container_id)["State"]
            if state["Restarting"] or not state["Running"]:
                why = f"ended with exit code {state['ExitCode']}"
                if state.get("OOMKilled"):
                    why += " (out of memory)"
                break
            health = (state.get("Health") or {}).get("Status", "none")
            if health == "healthy" or (command is not None and self._probe(container_id, command)):
                return
            # Without any check, the image's own included, running for a second is all that can be known.
            if command is None and health == "none" and time.monotonic() - quiet_since >= 1:
                return
            if time.monotonic() >= deadline:
                why = f"did not become healthy within {self.health_timeout:g} s"
                break
            time.sleep(0.1)
        raise TenancyError(f"Container {spec.name} {why}. {self._last_lines(container_id)}")

    def _start(self, start: Start) -> None:
        spec = start.spec
        container_id = self._create(start) if start.existing is None else start.existing.id
        try:
            if not spec.start_first:
                self._stop(spec, start.olds)
            with engine_errors(f"Starting container {start.name}"):
                if start.restart:
                    self.client.restart(container_id, timeout=spec.stop_timeout)
                elif start.existing is not None and start.existing.state == "paused":
                    self.client.unpause(container_id)
                else:
                    # One that runs already, and is only to be waited for, is left as it is by the engine.
                    self.client.start(container_id)
            self.wait_healthy(spec, container_id)
        except BaseException as exc:
            earlier = _earlier(start.olds)
            try:
                if start.existing is None:
                    self._remove(container_id, start.name)
                elif earlier is not None and not (spec.start_first and start.existing.state == "running"):
                    # Not removed, nor stopped when it ran: it may be what served before an interrupted run.
                    with engine_errors(f"Stopping container {start.name}"):
                        self.client.stop(container_id, timeout=spec.stop_timeout)
            finally:
                self.undo()
                if earlier is not None and not (spec.start_first and earlier.state in _ALIVE):
                    # One that an interrupted run left may be at its address.
                    rivals = [old for old in start.olds if old is not earlier and old.addresses == earlier.addresses]
                    self._stop(spec, rivals)
                    with engine_errors(f"Starting the earlier container {earlier.name} again"):
                        self.client.start(earlier.id)
            if isinstance(exc, TenancyError) and earlier is not None:
                raise TenancyError(f"{exc} The earlier container was kept.") from exc
            raise

    def _stop(self, spec: ContainerSpec, states: Sequence[ContainerState]) -> None:
        for state in states:
            if state.state in _ALIVE:
                with engine_errors(f"Stopping container {state.name}"):
                    self.client.stop(state.id, timeout=spec.stop_timeout)

    def _create(self, start: Start) -> str:
        spec = start.spec
        further = [(*network, address) for network, address in zip(spec.networks, start.further, strict=True)]
        for _network, subnet, address in [(spec.network, spec.subnet, start.address), *further]:
            if subnet is not None and address is None:
                raise TenancyError(f"The subnet {subnet} has no address left for {start.name}.")
        with engine_errors(f"Creating container {start.name}"):
            host_config = self.client.create_host_config(
                network_mode=spec.network,
                cap_drop=["ALL"],
                cap_add=list(spec.cap_add) or None,
                security_opt=["no-new-privileges:true"],
                read_only=spec.read_only,
                tmpfs=dict(spec.tmpfs) or None,
                mem_limit=spec.mem_limit or None,
                memswap_limit=spec.mem_limit or None,
                nano_cpus=spec.nano_cpus or None,
                pids_limit=spec.pids_limit or None,
                cgroup_parent=spec.cgroup_parent,
                restart_policy={"Name": "unless-stopped"},
                log_config=LOG_CONFIG,
                init=True,
                mounts=[
                    {"Type": "bind", "Source": b["source"], "Target": b["target"], "ReadOnly": b["read_only"]}
                    for b in spec.binds
                ],
            )
            networking = None
            if start.address is not None:
                networking = self.client.create_networking_config(
                    {
                        spec.network: self.client.create_endpoint_config(
                            ipv4_address=start.address, aliases=[spec.service]
                        )
                    }
                )
            config = self.client.create_container_config(
                image=spec.image,
                command=list(spec.command) if spec.command else None,
                entrypoint=list(spec.entrypoint) if spec.entrypoint else None,
                user=spec.user,
                environment=dict(spec.environment),
                labels={**spec.labels, LABEL_SPEC: spec.hash},
                stop_signal=spec.stop_signal,
                healthcheck=None if spec.healthcheck is None else dict(spec.healthcheck),
                host_config=host_config,
                networking_config=networking,
                hostname=spec.service if start.address is not None else None,
            )
            config["StopTimeout"] = spec.stop_timeout
            if spec.healthcheck is not None and _api_version(self.client) >= START_INTERVAL_API:
                config["Healthcheck"]["StartInterval"] = START_INTERVAL_NS
            try:
                created = self.client.create_container_from_config(config, start.name)
            except Exception as exc:
                if not is_missing_image(exc):
                    raise
                self._pull(spec.image)
                created = self.client.create_container_from_config(config, start.name)
            container_id = str(created["Id"])
        # Engines before 25 take one network when a container is made.
        for network, _subnet, address in further:
            try:
                with engine_errors(f"Connecting container {start.name} to {network}"):
                    self.client.connect_container_to_network(
                        container_id, network, ipv4_address=address, aliases=[spec.service]
                    )
            except TenancyError:
                self._remove(container_id, start.name)
                raise
        return container_id

    def _pull(self, reference: str) -> None:
        # One pull at a time: many clients may wait for the same image, and only the first has to fetch it.
        with self._pulling:
            if reference in self._pulled:
                return
            try:
                pull_image(self.client, familiar(reference))
            except TenancyError as exc:
                raise image_fault(reference, exc) from exc
            self._pulled.add(reference)

    def _remove(self, container_id: str, name: str) -> None:
        with engine_errors(f"Removing container {name}", gone_ok=True):
            # The engine's own stop first: a container is given its grace before it is killed.
            with contextlib.suppress(Exception):
                self.client.stop(container_id)
            self.client.remove_container(container_id, v=True, force=True)

    def _probe(self, container_id: str, command: list[str]) -> bool:
        try:
            with engine_errors("Running the health check"):
                # With its output attached the call returns when the check has ended, not before.
                run = self.client.exec_create(container_id, command, stdout=True, stderr=True)
                self.client.exec_start(run["Id"])
                return bool(self.client.exec_inspect(run["Id"])["ExitCode"] == 0)
        except (TenancyError, OSError):
            # The container ended meanwhile, which the next look at its state tells better, or the check cannot be run,
            # or it hangs until the connection's time is over.
            return False

    def _last_lines(self, container_id: str) -> str:
        with engine_errors("Reading the container's log"):
            log = self.client.logs(container_id, tail=10).decode(errors="replace").strip()
        if not log:
            return "It logged nothing."
        return "Its last log lines: " + " | ".join(printable(line.strip()) for line in log.splitlines())


def _earlier(olds: Sequence[ContainerState]) -> ContainerState | None:
    """Which of the earlier containers is to serve again when the new one does not.

    An interrupted run may have stopped the one that served, and have left others beside it that never did. The engine
    lists the oldest last.
    """
    proven = [old for old in olds if old.state == "running" and old.health in ("", "healthy")]
    started = [old for old in olds if old.state != "created"]
    return next(iter(proven + started[-1:]), None)


def _probe_command(spec: ContainerSpec) -> list[str] | None:
    if spec.healthcheck is None:
        return None
    kind, *rest = spec.healthcheck["test"]
    if kind == "CMD":
        return list(rest)
    if kind == "CMD-SHELL":
        return ["/bin/sh", "-c", *rest]
    return None


def _api_version(client: Any) -> tuple[int, int]:
    major, minor = str(client.api_version).split(".")
    return int(major), int(minor)
