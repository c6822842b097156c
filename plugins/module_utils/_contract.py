# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of each isolation level, declared once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """What one isolation level means.

    Args:
        name: As in isolation_level.
        summary: One line for people.
        complete: Whether the whole contract is implemented; a level that is not is refused by name.
        own_instances: Each client has its own container of every service.
        own_bridge: Each client has its own network.
        mem_limit: Default memory limit of a service that names none, as Compose writes it.
        cpus: Default CPU limit of a service that names none, in CPUs.
        pids_limit: Default limit of processes of a service that names none.
    """

    name: str
    summary: str
    complete: bool
    own_instances: bool
    own_bridge: bool
    mem_limit: str = "256m"
    cpus: float = 1.0
    pids_limit: int = 256


LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level("soft", "shared services, client-specific data directories", False, False, False),
        Level("medium", "shared infrastructure, separate service instances", True, True, True),
        Level("hard", "a fully isolated stack with dedicated resources", False, True, True),
    )
}


def fault_of_level(name: object) -> str | None:
    """Why a level cannot be used, as one sentence; None when it can."""
    usable = ", ".join(level.name for level in LEVELS.values() if level.complete)
    level = LEVELS.get(name) if isinstance(name, str) else None
    if level is None:
        return f"isolation_level {ascii(name)[:80]} is not allowed: use one of {', '.join(LEVELS)}."
    if not level.complete:
        return (
            f"isolation_level '{name}' is not available in this version: its contract is not complete yet, "
            f"and it is never served as another level; use {usable}."
        )
    return None
