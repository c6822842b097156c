# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cap on all containers of a hard client together: a cgroup that is the parent of theirs.

The engine keeps cgroups either by itself (driver cgroupfs) or through systemd, and the kernel has two versions of them.
With cgroupfs the parent is made below the root of each hierarchy; with systemd it is a slice with a unit file. Either
way it is the kernel's own files that are read and compared.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, cast

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._boot import (
    CGROUP_ROOT,
    CPU_PERIOD,
    must_run,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import LEVELS
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import engine_errors
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    names_in,
    read_text,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import Resources, size_text

Driver = Literal["cgroupfs", "systemd"]
CONTROLLERS = ("memory", "cpu", "pids")
UNITS = "/etc/systemd/system"
# Below it lie the parents of all platforms on the host. Their names hold a '-': the kernel's files beside them, such as
# tasks and memory.limit_in_bytes, have none.
ABOVE = "agency_stack"
# The kernel keeps whole pages, and some kernels have pages of this size.
_PAGE = 65536
# Version 1 shows no limit as the highest number of pages.
_UNLIMITED = 2**62


@dataclass(frozen=True)
class EngineCgroups:
    """How the engine keeps cgroups.

    Args:
        driver: Who makes them.
        version: Of the kernel's interface, 1 or 2.
    """

    driver: Driver
    version: int


@dataclass(frozen=True)
class Limits:
    """What a cgroup limits; None is no limit.

    Args:
        memory: Bytes.
        swap: Bytes beyond the memory.
        cpu_quota: Microseconds of CPU time in each CPU_PERIOD.
        pids: Number of processes and threads.
    """

    memory: int | None
    swap: int | None
    cpu_quota: int | None
    pids: int | None


@dataclass(frozen=True)
class Parent:
    """The cgroup parent of one client.

    Args:
        name: What the engine takes as cgroup_parent.
        client_id: Whose it is.
        limits: What it is to limit; None when it is not wanted.
    """

    name: str
    client_id: str
    limits: Limits | None = None


@dataclass(frozen=True)
class ParentState:
    """What there is of a cgroup parent.

    Args:
        path: Where it lies below the root of a hierarchy; '' when the kernel has none.
        limits: What it limits; None when the kernel has none.
        unit: The text of its unit file, with systemd.
        busy: Whether processes run in it.
    """

    path: str = ""
    limits: Limits | None = None
    unit: str | None = None
    busy: bool = False


def engine_cgroups(info: Mapping[str, Any]) -> EngineCgroups:
    """How an engine keeps cgroups, from what it says of itself (docker info).

    Raises:
        TenancyError: It keeps none.
    """
    driver = info.get("CgroupDriver")
    if driver not in ("cgroupfs", "systemd"):
        raise TenancyError(
            f"The engine limits no containers (cgroup driver {driver!a}), so there can be no hard clients on this "
            "host; it takes the driver cgroupfs or systemd."
        )
    # Engines that do not tell are older than version 2.
    return EngineCgroups(cast(Driver, driver), int(info.get("CgroupVersion") or 1))


def engine_to_come() -> EngineCgroups:
    """How an engine that is yet to be installed on this host will keep cgroups, by its own rule."""
    version = 2 if os.path.exists(f"{CGROUP_ROOT}/cgroup.controllers") else 1
    return EngineCgroups("systemd" if version == 2 and os.path.isdir("/run/systemd/system") else "cgroupfs", version)


def parents_of(config: Mapping[str, Any]) -> str:
    """What the names of a platform's parents begin with, with the driver cgroupfs; the client's id follows."""
    return f"/{ABOVE}/{config['name_prefix']}-"


def parent_name(client: Mapping[str, Any], config: Mapping[str, Any], engine: EngineCgroups) -> str:
    """What the engine takes as cgroup_parent of a client's containers.

    The name_prefix is the platform's own on its engine. A slice has the client's index, as '-' in the name of a slice
    means that it lies in another one.
    """
    if engine.driver == "systemd":
        return f"{ABOVE}-{config['name_prefix']}-{client['index']}.slice"
    return f"{parents_of(config)}{client['client_id']}"


def cgroup_parents(clients: Iterable[Mapping[str, Any]], config: Mapping[str, Any], engine: Any) -> dict[str, str]:
    """What the engine takes as cgroup_parent of the containers of each client with dedicated resources, by client id.

    Args:
        clients: Registry entries.
        config: The platform's settings.
        engine: A docker.APIClient; None where the engine is still to be installed.
    """
    dedicated = [client for client in clients if LEVELS[client["isolation_level"]].dedicated]
    if not dedicated:
        return {}
    if engine is None:
        kept_by = engine_to_come()
    else:
        with engine_errors("Asking the engine"):
            kept_by = engine_cgroups(engine.info())
    return {client["client_id"]: parent_name(client, config, kept_by) for client in dedicated}


def limits_of(resources: Resources) -> Limits:
    """The limits that keep a client to its resources."""
    return Limits(
        memory=resources.memory // _PAGE * _PAGE,
        swap=0,
        # Down to a hundredth of a percent, which is the finest that systemd takes.
        cpu_quota=int(resources.cpus * 10000 + 1e-6) * CPU_PERIOD // 10000,
        pids=resources.pids,
    )


def slice_text(limits: Limits, version: int) -> str:
    """The unit file of a slice."""
    lines = [f"MemoryMax={limits.memory}", "MemorySwapMax=0"]
    if version == 1:
        lines = [f"MemoryLimit={limits.memory}"]
    quota = (limits.cpu_quota or 0) * 100 / CPU_PERIOD
    return "\n".join(
        [
            "# Written by agency_stack.multi_tenancy.client_resources; edits are overwritten.",
            "[Unit]",
            "Description=All containers of one hard client of AgencyStack",
            "",
            "[Slice]",
            "MemoryAccounting=yes",
            "CPUAccounting=yes",
            "TasksAccounting=yes",
            *lines,
            f"CPUQuota={quota:g}%",
            f"TasksMax={limits.pids}",
            "",
        ]
    )


def plan_parents(
    wanted: Sequence[Parent], actual: Mapping[str, ParentState], engine: EngineCgroups, wait: bool
) -> tuple[list[Change], list[str]]:
    """Compare wanted parents with those that are there.

    Args:
        wanted: The parents in question, those that are not wanted included.
        actual: What CgroupHost.read() saw, by name.
        engine: How the engine keeps them.
        wait: Whether a parent that is not wanted, and in which something runs, stays for now; otherwise its removal is
            planned, and refused when it is applied.

    Returns:
        The changes, and the ids of the clients whose parents stay.
    """
    changes: list[Change] = []
    staying = []
    for parent in wanted:
        state = actual[parent.name]
        before = None if state == ParentState() else _shown(state.limits, state.unit)
        if parent.limits is not None:
            unit = slice_text(parent.limits, engine.version) if engine.driver == "systemd" else None
            after = _shown(parent.limits, unit)
            if before != after:
                action: Any = "create" if before is None else "update"
                changes.append(Change(action, "cgroup", parent.name, before, after, parent.client_id, (parent, state)))
        elif before is not None and state.busy and wait:
            staying.append(parent.client_id)
        elif before is not None:
            changes.append(Change("delete", "cgroup", parent.name, before, None, parent.client_id, (parent, state)))
    return changes, staying


def _shown(limits: Limits | None, unit: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"limits": None if limits is None else asdict(limits)}
    return shown if unit is None else shown | {"unit": unit.splitlines()}


class CgroupHost(Protocol):
    """Where parents are read and made."""

    def read(self, names: Sequence[str]) -> dict[str, ParentState]:
        """What there is of each parent."""

    def apply(self, change: Change) -> None:
        """Make a parent as it is wanted, or remove it."""


def cgroup_host(engine: EngineCgroups, root: str = CGROUP_ROOT, units: str = UNITS) -> CgroupHost:
    """The host's side of an engine's driver."""
    kernel = Kernel(engine.version, root)
    return Slices(kernel, units) if engine.driver == "systemd" else Folders(kernel)


class Kernel:
    """The kernel's files of cgroups.

    Args:
        version: Of the interface.
        root: Where cgroups are mounted.
    """

    def __init__(self, version: int, root: str) -> None:
        self.version = version
        self.root = root

    def file(self, path: str, controller: str, name: str) -> str:
        """One file of a cgroup."""
        return os.path.join(self.folder(path, controller), name)

    def folder(self, path: str, controller: str) -> str:
        """A cgroup's folder, with version 1 the one of a controller."""
        return os.path.join(self.root, *([controller] if self.version == 1 else []), path.lstrip("/"))

    def hierarchies(self) -> list[str]:
        """The roots of all hierarchies: the engine makes a container's cgroups in each of them."""
        if self.version == 2:
            return [self.root]
        paths = [os.path.join(self.root, name) for name in names_in(self.root)]
        # Links are second names of the same hierarchies.
        return [path for path in paths if os.path.isdir(path) and not os.path.islink(path)]

    def exists(self, path: str) -> bool:
        """Whether there is anything of a cgroup."""
        return any(os.path.isdir(os.path.join(root, path.lstrip("/"))) for root in self.hierarchies())

    def limits(self, path: str) -> Limits | None:
        """What a cgroup limits; None when it is not there, or not in all hierarchies."""
        if not all(os.path.isdir(self.folder(path, controller)) for controller in CONTROLLERS):
            return None
        if self.version == 1:
            memory = self._number(path, "memory", "memory.limit_in_bytes")
            both = self._number(path, "memory", "memory.memsw.limit_in_bytes", missing=memory)
            swap = None if both is None else max(0, both - (memory or 0))
            quota = self._number(path, "cpu", "cpu.cfs_quota_us")
            period = self._number(path, "cpu", "cpu.cfs_period_us", missing=CPU_PERIOD)
        else:
            memory = self._number(path, "memory", "memory.max")
            swap = self._number(path, "memory", "memory.swap.max", missing=0)
            quota = self._number(path, "cpu", "cpu.max")
            period = self._number(path, "cpu", "cpu.max", field=1, missing=CPU_PERIOD)
        if quota is not None and period:
            quota = quota * CPU_PERIOD // period
        return Limits(memory, swap, quota, self._number(path, "pids", "pids.max"))

    def _number(self, path: str, controller: str, name: str, field: int = 0, missing: int | None = None) -> int | None:
        text = read_text(self.file(path, controller, name))
        if text is None:
            return missing
        value = text.split()[field]
        # -1 is how version 1 says it of the CPU.
        return None if value in ("max", "-1") or int(value) >= _UNLIMITED else int(value)

    def busy(self, path: str) -> bool:
        """Whether processes run in a cgroup, or in one below it."""
        return any(read_text(os.path.join(folder, "cgroup.procs")) for folder in self._below(path, "pids"))

    def _below(self, path: str, controller: str) -> list[str]:
        """The folders of a cgroup and of all below it, the innermost first."""
        return [folder for folder, dummy, dummy in os.walk(self.folder(path, controller), topdown=False)]

    def set_limits(self, path: str, limits: Limits) -> None:
        """Make a cgroup with all above it, and limit it; also one in which containers run."""
        for controller in CONTROLLERS:
            self._make(path, controller)
        now = self.limits(path)
        self.refuse_less_than_used(path, limits)
        if self.version == 1:
            memory, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
            # The limit with swap may not be the lower one at any moment.
            grows = now is not None and now.memory is not None and (limits.memory or 0) > now.memory
            for name in (both, memory) if grows else (memory, both):
                if name == memory or os.path.exists(self.file(path, "memory", both)):
                    self._put(path, "memory", name, limits.memory)
            self._put(path, "cpu", "cpu.cfs_period_us", CPU_PERIOD)
            self.lower_below(path, limits)
            self._put(path, "cpu", "cpu.cfs_quota_us", limits.cpu_quota)
        else:
            if os.path.exists(self.file(path, "memory", "memory.swap.max")):
                self._put(path, "memory", "memory.swap.max", limits.swap)
            self._put(path, "memory", "memory.max", limits.memory)
            self._put(path, "cpu", "cpu.max", f"{limits.cpu_quota} {CPU_PERIOD}")
        self._put(path, "pids", "pids.max", limits.pids)

    def _make(self, path: str, controller: str) -> None:
        above = ""
        for part in path.strip("/").split("/"):
            if self.version == 2 and controller not in self._given(above):
                # What a cgroup limits is on offer where the one above it hands it down.
                self._put(above, controller, "cgroup.subtree_control", f"+{controller}")
            above = f"{above}/{part}"
            try:
                self.make_folder(self.folder(above, controller))
            except OSError as exc:
                raise TenancyError(
                    f"The kernel's controller {controller} cannot be had at {self.folder(above, controller)} "
                    f"({exc.strerror}), so clients cannot be limited on this host."
                ) from exc

    def _given(self, path: str) -> list[str]:
        return (read_text(self.file(path, "", "cgroup.subtree_control")) or "").split()

    def _put(self, path: str, controller: str, name: str, value: object) -> None:
        file = self.file(path, controller, name)
        try:
            # The kernel's files are there or not; none is made.
            with open(
                file, "w", encoding="ascii", opener=lambda path, dummy: os.open(path, os.O_WRONLY | os.O_TRUNC)
            ) as handle:
                handle.write(str(value))
        except FileNotFoundError as exc:
            raise TenancyError(
                f"The kernel's controller {controller} cannot be had ({file} is missing), "
                "so clients cannot be limited on this host."
            ) from exc
        except OSError as exc:
            if exc.errno in (errno.EBUSY, errno.ENOMEM) and controller == "memory":
                raise TenancyError(_in_use(int(str(value)), self._used(path))) from exc
            raise TenancyError(f"The kernel does not take {value} as {file} ({exc.strerror}).") from exc

    def refuse_less_than_used(self, path: str, limits: Limits) -> None:
        """Refuse a limit of memory that processes would be killed for."""
        used = self._used(path)
        if limits.memory is not None and used > limits.memory:
            raise TenancyError(_in_use(limits.memory, used))

    def _used(self, path: str) -> int:
        """Bytes that the kernel cannot take back from the processes in a cgroup."""
        text = read_text(self.file(path, "memory", "memory.stat")) or ""
        values = dict(line.split() for line in text.splitlines())
        anonymous, shared = ("total_rss", "total_shmem") if self.version == 1 else ("anon", "shmem")
        return int(values.get(anonymous, 0)) + int(values.get(shared, 0))

    def lower_below(self, path: str, limits: Limits) -> None:
        """With version 1 a cgroup may not have less than one below it: take that much from the containers in it.

        What the engine knows of them is more then, until they are made anew from what is wanted now.
        """
        if self.version == 2 or limits.cpu_quota is None:
            return
        for folder in self._below(path, "cpu")[:-1]:
            below = os.path.relpath(folder, self.folder("", "cpu"))
            period = self._number(below, "cpu", "cpu.cfs_period_us", missing=CPU_PERIOD) or CPU_PERIOD
            quota = self._number(below, "cpu", "cpu.cfs_quota_us")
            if quota is not None and quota * CPU_PERIOD > limits.cpu_quota * period:
                self._put(below, "cpu", "cpu.cfs_quota_us", limits.cpu_quota * period // CPU_PERIOD)

    def remove(self, path: str) -> None:
        """Remove a cgroup from all hierarchies, and the one above it when it is the last; what is not there is fine."""
        for hierarchy in self.hierarchies():
            folder = os.path.join(hierarchy, path.lstrip("/"))
            for below, dummy, dummy in os.walk(folder, topdown=False):
                try:
                    self.remove_folder(below)
                except OSError as exc:
                    raise TenancyError(_still_runs(path)) from exc
            with contextlib.suppress(OSError):
                self.remove_folder(os.path.dirname(folder))

    def make_folder(self, folder: str) -> None:
        """Make a cgroup, in which the kernel at once shows its files; unit tests put these there."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o755)

    def remove_folder(self, folder: str) -> None:
        """Remove a cgroup with the kernel's files in it."""
        os.rmdir(folder)


def _in_use(limit: int, used: int) -> str:
    return (
        f"Its memory cannot be limited to {size_text(limit)} while its containers use {size_text(used, up=True)}: "
        "stop some of them, or let resources.memory be more."
    )


def _still_runs(name: str) -> str:
    return (
        f"The cgroup {name} cannot be removed because something still runs in it: remove the client's containers first."
    )


class Folders:
    """Parents that we make in the kernel's own folders, for the driver cgroupfs."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def read(self, names: Sequence[str]) -> dict[str, ParentState]:
        """What there is of each parent."""
        return {name: self._state(name) for name in names}

    def _state(self, name: str) -> ParentState:
        if not self.kernel.exists(name):
            return ParentState()
        return ParentState(name, self.kernel.limits(name), busy=self.kernel.busy(name))

    def apply(self, change: Change) -> None:
        """Make a parent as it is wanted, or remove it."""
        parent: Parent = change.payload[0]
        if parent.limits is not None:
            self.kernel.set_limits(parent.name, parent.limits)
            _verify(parent, self.read([parent.name]))
        elif self.kernel.busy(parent.name):
            raise TenancyError(_still_runs(parent.name))
        else:
            self.kernel.remove(parent.name)


class Slices:
    """Parents that systemd makes from unit files, for the driver systemd."""

    def __init__(self, kernel: Kernel, units: str) -> None:
        self.kernel = kernel
        self.units = units

    def read(self, names: Sequence[str]) -> dict[str, ParentState]:
        """What there is of each parent, with one question for all."""
        if not names:
            return {}
        command = ["systemctl", "show", "--property=Id,ActiveState,ControlGroup", *names]
        paths = parse_show(must_run(command, "systemd does not tell of its slices"))
        return {name: self._state(name, paths.get(name, "")) for name in names}

    def _state(self, name: str, path: str) -> ParentState:
        unit = read_text(os.path.join(self.units, name))
        if not path:
            return ParentState(unit=unit)
        limits = self.kernel.limits(path)
        if limits is not None and self.kernel.version == 1:
            # systemd does not limit swap with version 1; each container's own limit does.
            limits = Limits(limits.memory, 0, limits.cpu_quota, limits.pids)
        return ParentState(path, limits, unit, self.kernel.busy(path))

    def apply(self, change: Change) -> None:
        """Make a slice as it is wanted, or remove it."""
        parent, state = cast(tuple[Parent, ParentState], change.payload)
        file = os.path.join(self.units, parent.name)
        if parent.limits is None:
            # systemd would end what runs in it.
            if state.path and self.kernel.busy(state.path):
                raise TenancyError(_still_runs(parent.name))
            must_run(["systemctl", "stop", parent.name], f"systemd could not stop {parent.name}")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
            _read_units()
            return
        if state.path:
            self.kernel.refuse_less_than_used(state.path, parent.limits)
            self.kernel.lower_below(state.path, parent.limits)
        atomic_write(file, slice_text(parent.limits, self.kernel.version).encode(), 0o644)
        # A running slice takes its new limits from that.
        _read_units()
        must_run(["systemctl", "start", parent.name], f"systemd could not start {parent.name}")
        _verify(parent, self.read([parent.name]))


def _verify(parent: Parent, states: Mapping[str, ParentState]) -> None:
    limits = states[parent.name].limits
    if limits != parent.limits:
        raise TenancyError(f"The cgroup {parent.name} limits {limits} and not {parent.limits}; see the kernel's log.")


def _read_units() -> None:
    must_run(["systemctl", "daemon-reload"], "systemd could not read its units again")


def parse_show(text: str) -> dict[str, str]:
    """The paths of the running slices by name, from what `systemctl show` says of several."""
    paths = {}
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("ActiveState") == "active":
            paths[values.get("Id", "")] = values.get("ControlGroup", "")
    return paths
