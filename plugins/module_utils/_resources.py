# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hard clients reserve, and whether the host has that much."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import parse_size
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import names_in, read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import shown
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput

KIB, MIB, GIB = 1024, 1024**2, 1024**3
# More than any host has; the arithmetic of kernels and file systems is good for it.
_MOST = 2**50

_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


@dataclass(frozen=True)
class Resources:
    """What one hard client has for itself, and is kept to.

    Args:
        memory: Bytes.
        cpus: CPUs, parts of one included.
        pids: Number of processes and threads.
        disk: Bytes of its volume.
    """

    memory: int
    cpus: float
    pids: int
    disk: int


@dataclass(frozen=True)
class HostSize:
    """What the host has.

    Args:
        memory: Bytes.
        cpus: Number of CPUs.
        disk: Bytes of the file system that holds the volumes: what is free, and what our volumes occupy already.
    """

    memory: int
    cpus: int
    disk: int


@dataclass(frozen=True)
class Capacity:
    """What hard clients may reserve together: what the host has, less what is kept for the host itself.

    Args:
        memory: Bytes.
        cpus: CPUs, as many as are given away.
        disk: Bytes.
        reserved_memory: Bytes.
        reserved_cpus: CPUs.
        reserved_disk: Bytes.
    """

    memory: int
    cpus: float
    disk: int
    reserved_memory: int = 0
    reserved_cpus: float = 0.0
    reserved_disk: int = 0


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{shown(value)} is no size such as 256m or 2g")
    return parse_size(str(value))


def _number(value: Any) -> float:
    # float() takes more than is meant: 'nan', '1_0', ' 1'.
    if isinstance(value, bool) or _NUMBER.fullmatch(str(value)) is None:
        raise ValueError(f"{shown(value)} is no number such as 0.5 or 2")
    return float(value)


def _whole(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError(f"{shown(value)} is no whole number")
    return int(number)


# What each may be: how it is read, the lowest, the highest, and how that is said.
_RULES: Mapping[str, tuple[Callable[[Any], float], float, float, str]] = {
    "memory": (_size, 32 * MIB, _MOST, "use 32m or more"),
    "cpus": (_number, 0.01, 4096, "use 0.01 to 4096"),
    "pids": (_whole, 16, 4194304, "use 16 to 4194304"),
    "disk": (_size, 16 * MIB, _MOST, "use 16m or more"),
}


def resource_faults(given: Any, where: str = "resources") -> list[str]:
    """What is wrong with resources as the operator wrote them, of which any may be left out; one sentence each."""
    if not isinstance(given, Mapping):
        return [f"{where} {shown(given)} must be a mapping with some of {', '.join(_RULES)}."]
    faults = []
    for key, value in given.items():
        if key not in _RULES:
            faults.append(f"{where}.{shown(key).strip(chr(39))} is not known; known are {', '.join(_RULES)}.")
            continue
        parse, lowest, highest, allowed = _RULES[key]
        try:
            if not lowest <= parse(value) <= highest:
                faults.append(f"{where}.{key} {shown(value)} is not allowed: {allowed}.")
        except ValueError as exc:
            faults.append(f"{where}.{key}: {exc}; {allowed}.")
    return faults


def parse_resources(given: Any, where: str = "resources") -> Resources:
    """Resources as the operator wrote them, all four of them.

    Args:
        given: memory and disk as Compose writes sizes, cpus and pids as numbers.
        where: The name of the setting, for the message.

    Raises:
        InvalidInput: Something is missing or wrong, all faults at once.
    """
    faults = resource_faults(given, where)
    if isinstance(given, Mapping):
        faults += [f"{where}.{key} is missing." for key in _RULES if key not in given]
    if faults:
        raise InvalidInput(faults)
    values: dict[str, Any] = {key: rule[0](given[key]) for key, rule in _RULES.items()}
    return Resources(**values)


def wanted_resources(client: Mapping[str, Any], config: Mapping[str, Any]) -> Resources:
    """What a hard client reserves: the defaults of its level, and over them what its registry entry names."""
    return parse_resources({key: config["hard"][key] for key in _RULES} | (client.get("resources") or {}))


def capacity_of(host: HostSize, settings: Mapping[str, Any]) -> Capacity:
    """What hard clients may reserve on a host.

    Args:
        host: What it has.
        settings: The platform's `capacity`: reserved_memory, reserved_cpus, reserved_disk, cpu_overcommit.
    """

    def reserved(key: str) -> int:
        # Nothing is no size for Compose.
        text = str(settings[key])
        return 0 if text in ("0", "0b") else parse_size(text)

    return Capacity(
        memory=host.memory,
        cpus=host.cpus * settings["cpu_overcommit"],
        disk=host.disk,
        reserved_memory=reserved("reserved_memory"),
        reserved_cpus=settings["reserved_cpus"],
        reserved_disk=reserved("reserved_disk"),
    )


def read_host(volumes: str) -> HostSize:
    """What this host has.

    Args:
        volumes: The folder that holds the volumes, or will.
    """
    memory = re.search(r"^MemTotal:\s+([0-9]+) kB$", read_text("/proc/meminfo") or "", re.MULTILINE)
    images = [os.path.join(volumes, name) for name in names_in(volumes) if name.endswith(".img")]
    occupied = sum(os.lstat(image).st_blocks * 512 for image in images)
    return HostSize(
        memory=int(memory[1]) * KIB if memory else 0, cpus=os.cpu_count() or 1, disk=free_disk(volumes) + occupied
    )


def free_disk(path: str) -> int:
    """Bytes that are free where a folder is, or will be made."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def admission_faults(
    wanted: Mapping[str, Resources],
    capacity: Capacity,
    touched: Collection[str],
    held: Mapping[str, Resources] | None = None,
) -> list[str]:
    """Which clients ask for more than the host has left, each one sentence for each kind of resource.

    Args:
        wanted: What each hard client of the host shall have, suspended ones too, by client id.
        capacity: What they may have together.
        touched: The clients to judge, in the order of `wanted`. The others have what they have, also where that is too
            much: the growth of one client never becomes the fault of another.
        held: What touched clients have been given before. Of what they do not ask more than that, they are not judged.
    """
    held = held or {}
    admitted = [resources for client_id, resources in wanted.items() if client_id not in touched]
    faults = []
    for client_id, resources in wanted.items():
        if client_id not in touched:
            continue
        found = []
        for key, total, reserved in (
            ("memory", capacity.memory, capacity.reserved_memory),
            ("cpus", capacity.cpus, capacity.reserved_cpus),
            ("disk", capacity.disk, capacity.reserved_disk),
        ):
            asked = getattr(resources, key)
            left = total - reserved - sum(getattr(other, key) for other in admitted)
            # Parts of CPUs do not add up exactly.
            if asked <= left + 1e-9 or (client_id in held and asked <= getattr(held[client_id], key)):
                continue
            found.append(_refusal(client_id, key, asked, left, total, reserved, len(admitted)))
        faults += found
        if not found:
            admitted.append(resources)
        elif client_id in held:
            admitted.append(held[client_id])
    return faults


def _refusal(client_id: str, key: str, asked: float, left: float, total: float, reserved: float, others: int) -> str:
    told = _cpus if key == "cpus" else size_text
    rest = told(max(0, left))
    what = {"memory": " of memory", "cpus": "", "disk": " of disk"}[key]
    spent = []
    if others:
        spent.append(f"what {others} other hard client{'s reserve' if others > 1 else ' reserves'}")
    if reserved:
        spent.append(f"{told(reserved)} for the host")
    after = f" after {' and '.join(spent)}" if spent else ""
    return (
        f"Client '{client_id}' asks for {told(asked, up=True)}{what}; "
        f"{rest.removesuffix(' CPUs')} of {told(total)} are left{after}."
    )


def size_text(size: float, up: bool = False) -> str:
    """A number of bytes for people, rounded down or up: what is left is never shown as enough when it is not."""
    rounded = math.ceil if up else math.floor
    if size >= GIB:
        return f"{rounded(size * 10 / GIB) / 10:.1f} GiB"
    return f"{rounded(size / MIB)} MiB"


def _cpus(number: float, up: bool = False) -> str:
    hundredths = number * 100
    return f"{(math.ceil(hundredths - 1e-6) if up else math.floor(hundredths + 1e-6)) / 100:g} CPUs"
