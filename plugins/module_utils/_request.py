# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator typed, as make and the scripts hand it over: texts in, an edit of registry and settings out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import shown
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"", "0", "false", "no", "off"})

# Settings that are written to config.yaml when no client is named.
SETTINGS = ("default_client_id", "root_domain")

# What a hard client has for itself.
RESOURCES = ("memory", "cpus", "pids", "disk")
# What belongs to one client and makes no sense without it.
OF_CLIENT = (
    *("domain", "aliases", "services", "protected", "purge", "restore_data"),
    *("egress", "egress_allow", "rate_limit", *RESOURCES),
)

REQUEST_SPEC: dict[str, Any] = {
    "type": "dict",
    "default": {},
    "options": {
        name: {"type": "str"}
        for name in (
            *("client_id", "domain", "aliases", "isolation_level", "services", "protected", "state"),
            *("purge", "restore_data", "clients", *SETTINGS),
            *("egress", "egress_allow", "rate_limit", *RESOURCES),
        )
    },
}


@dataclass(frozen=True)
class Request:
    """What is to be changed.

    Args:
        edit: Clients to add or change, as client_registry takes them.
        settings: Top-level settings to write.
        restore: Kept folders to bring back, by client id.
    """

    edit: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    restore: dict[str, str] = field(default_factory=dict)


def read_request(request: Mapping[str, str | None]) -> Request:
    """Take the texts apart; whether the values are allowed is judged where they are used.

    Args:
        request: Texts by the names of REQUEST_SPEC; None and '' name nothing. Of `aliases`, ',' is the empty list.

    Raises:
        InvalidInput: Something was named for a client, and no client.
    """
    given = {key: value for key, value in request.items() if value}
    client_id = given.get("client_id")
    faults: list[str] = []
    edit: list[dict[str, Any]] = []
    settings: dict[str, Any] = {key: given[key] for key in SETTINGS if key in given}
    if client_id is None:
        orphans = [key for key in OF_CLIENT if key in given]
        faults += [f"{key} {shown(given[key])} needs client_id: name the client that it belongs to." for key in orphans]
        if "state" in given:
            faults.append("client_id is missing: name the client.")
        # Without a client named, the level is that of new clients.
        if "isolation_level" in given:
            settings["isolation_level"] = given["isolation_level"]
    else:
        edit.append(_client(client_id, given, faults))
    edit += [{"client_id": name} for name in _names(given.get("clients", ""))]
    if faults:
        raise InvalidInput(faults)
    restore = {client_id: given["restore_data"]} if client_id is not None and "restore_data" in given else {}
    return Request(edit, settings, restore)


def _client(client_id: str, given: Mapping[str, str], faults: list[str]) -> dict[str, Any]:
    """One client as client_registry takes it."""
    client: dict[str, Any] = {"client_id": client_id}
    client |= {key: given[key] for key in ("domain", "isolation_level", "state", "egress") if key in given}
    client |= {key: _names(given[key]) for key in ("aliases", "egress_allow") if key in given}
    resources: dict[str, Any] = {key: given[key] for key in RESOURCES if key in given}
    for key, kind in (("cpus", float), ("pids", int)):
        # What is no number is refused by name, with the rest of the client's settings.
        with contextlib.suppress(ValueError):
            resources |= {key: kind(resources[key])} if key in resources else {}
    if resources:
        client["resources"] = resources
    if "rate_limit" in given:
        average, colon, burst = given["rate_limit"].partition(":")
        if all(text.isascii() and text.isdigit() and len(text) < 10 for text in (average, burst if colon else "0")):
            client["rate_limit"] = {"average": int(average), "burst": int(burst) if colon else 2 * int(average)}
        else:
            what = "it takes requests per second and at once, as 50:100"
            faults.append(f"rate_limit is {shown(given['rate_limit'])}; {what}.")
    if "services" in given:
        client["services"] = {name: {} for name in _names(given["services"])}
    for key in ("protected", "purge"):
        if key in given and given[key].lower() not in TRUE | FALSE:
            faults.append(f"{key} is {shown(given[key])}; it takes yes or no.")
    if "protected" in given:
        client["protected"] = given["protected"].lower() in TRUE
    if "purge" in given:
        client["data"] = "purge" if given["purge"].lower() in TRUE else "keep"
    return client


def _names(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
