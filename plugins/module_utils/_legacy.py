# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What earlier AgencyStack installers wrote, and what becomes of it here.

They were shell scripts: the registry was a list on one line, to which `sed` added the clients, and each client had a
file of variables of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import shown
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    VERSION,
    empty_document,
    fault_of_plain,
    plan_registry,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_schema import (
    ENTRY_SCHEMA,
    find_fault,
)

# What the original is called afterwards.
BEFORE_UPGRADE = ".before-upgrade"

_BLANK = re.compile(r"[ \t\r\n]*")
_VARIABLE = re.compile(r"[ \t]*([A-Z_]{1,64})=(.*)")

# What a client's own file calls what the list has.
_VARIABLES = {"CLIENT_ID": "client_id", "CLIENT_DOMAIN": "domain", "ISOLATION_LEVEL": "isolation_level"}
# What the settings were called -> what they are called now.
_SETTINGS = {"default_client": "default_client_id", "root_domain": "root_domain", "isolation_level": "isolation_level"}


@dataclass(frozen=True)
class OldClient:
    """A client of an earlier installer.

    Args:
        source: The file that tells of it.
        wanted: The edit that adds it to the registry; nothing in it has been checked.
        kept: What its entry gets beyond that.
    """

    source: str
    wanted: dict[str, Any]
    kept: dict[str, Any]


def is_old_list(text: str) -> bool:
    """Whether a registry's text is a list, which the registry of this collection never is."""
    return text.startswith("[", _after_blank(text, 0))


def _after_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return at if match is None else match.end()


def parse_list(text: str, decoder: json.JSONDecoder) -> list[dict[str, Any]]:
    """The entries of an earlier installer's registry.

    Of the damage that `sed` did, exactly this is read: entries without a comma between them, and a comma at the end.

    Args:
        text: What is_old_list() took for one.
        decoder: Reads an entry.

    Raises:
        ValueError: It is damaged in another way.
        RecursionError: It is nested too deeply.
    """
    entries: list[dict[str, Any]] = []
    at = _after_blank(text, text.index("[") + 1)
    while not text.startswith("]", at):
        entry, end = decoder.raw_decode(text, at)
        if not isinstance(entry, dict):
            raise json.JSONDecodeError("Expecting an object", text, at)
        entries.append(entry)
        at = _after_blank(text, end)
        if text.startswith(",", at):
            at = _after_blank(text, at + 1)
    rest = _after_blank(text, at + 1)
    if rest != len(text):
        raise json.JSONDecodeError("Extra data", text, rest)
    return entries


def parse_env(text: str) -> dict[str, str]:
    """The variables of a client's own file as texts; nothing in them is evaluated, and the last one of a name wins."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        match = _VARIABLE.fullmatch(line.rstrip("\r"))
        if match is not None:
            value = match[2].strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found[match[1]] = value
    return found


def complete_ids(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """The ids of which the list tells all that a client's own file could."""
    last = {str(entry.get("client_id")): entry for entry in entries}
    return {name for name, entry in last.items() if entry.get("domain") and entry.get("isolation_level")}


def old_clients(
    entries: Sequence[Mapping[str, Any]], path: str, files: Mapping[str, tuple[str, str]]
) -> list[OldClient]:
    """All clients of an earlier installer: of the list, and those that `sed` lost, from their own files.

    Args:
        entries: What the list has; of several entries of one client the last one counts.
        path: The list's file.
        files: (path, text) of clients' own files, by the name of the client's folder. A file that names another client,
            such as that of a copied folder, counts for nobody.
    """
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for entry in entries:
        # Ids are not checked here, and may be anything that JSON can say.
        found[entry["client_id"] if isinstance(entry.get("client_id"), str) else ascii(entry)] = (path, entry)
    for folder, (source, text) in files.items():
        variables = parse_env(text)
        if variables.get("CLIENT_ID") == folder:
            told = {key: variables[name] for name, key in _VARIABLES.items() if variables.get(name)}
            where, entry = found.get(folder, (source, {}))
            found[folder] = (where, told | {key: value for key, value in entry.items() if value not in (None, "")})
    return [
        OldClient(
            source,
            {key: entry[key] for key in _VARIABLES.values() if entry.get(key) not in (None, "")},
            {
                "created_at": _moment(entry.get("created_at")),
                **{key: value for key, value in entry.items() if key not in ENTRY_SCHEMA["properties"]},
            },
        )
        for source, entry in found.values()
    ]


def _moment(value: Any) -> str:
    """A time as the registry writes it; empty when it is none. What had no offset gets none."""
    try:
        text = datetime.fromisoformat(str(value)).isoformat(timespec="seconds")
    except ValueError:
        return ""
    return text if find_fault(ENTRY_SCHEMA["properties"]["created_at"], text) is None else ""


def plan_upgrade(
    clients: Sequence[OldClient],
    path: str,
    text: str,
    config: Mapping[str, Any],
    occupied: Sequence[tuple[str, str]] = (),
    now: str = "",
    edit: Sequence[Mapping[str, Any]] = (),
) -> tuple[dict[str, Any], list[Change]]:
    """The registry that an earlier installer's clients make, each checked and given its network as a new one is.

    Args:
        clients: The clients.
        path: The registry's file.
        text: What it says.
        config: The platform's effective settings.
        occupied: As for plan_registry().
        now: As for plan_registry().
        edit: What the operator wants to change in the same run. A domain or a level in it takes the place of the old
            one, so that a client can be taken over whose old one is refused.

    Raises:
        InvalidInput: Not every client can be taken over; all faults at once.
    """
    named: dict[str, dict[str, Any]] = {}
    for item in edit:
        given = {key: item[key] for key in ("domain", "isolation_level") if item.get(key) is not None}
        named.setdefault(str(item.get("client_id")), {}).update(given)
    wanted = [client.wanted | named.get(str(client.wanted.get("client_id")), {}) for client in clients]
    faults: list[str] = []
    for client, item in zip(clients, wanted, strict=True):
        own = _faults_of(item, config)
        unfit = fault_of_plain(client.kept, "the entry")
        faults += [
            f"Client {shown(item.get('client_id'))} in {client.source}, which an earlier installer wrote, cannot be "
            f"taken over: {fault}"
            for fault in (own if unfit is None else [*own, unfit])
        ]
    if faults:
        raise InvalidInput(faults)
    try:
        document, changes = plan_registry(empty_document(), wanted, config, occupied, now)
    except InvalidInput as exc:
        faults = [f"{path}, which an earlier installer wrote, cannot be upgraded: {fault}" for fault in exc.faults]
        raise InvalidInput(faults) from exc
    kept = {client.wanted["client_id"]: client.kept for client in clients}
    document["clients"] = [entry | kept[entry["client_id"]] for entry in document["clients"]]
    upgrade = Change(
        action="update",
        kind="registry",
        name=path,
        before=text,
        after=f"upgraded to version {VERSION}; what an earlier installer wrote is kept as {path}{BEFORE_UPGRADE}",
    )
    return document, [upgrade, *(replace(change, after=change.after | kept[change.name]) for change in changes)]


def _faults_of(item: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Why a client could not be added even if it were the only one."""
    try:
        plan_registry(empty_document(), [item], config)
    except InvalidInput as exc:
        return exc.faults
    return []


def old_settings(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier installer's config.yaml means here; None when it is none of those."""
    if not {"default_client", "clients_file"} <= settings.keys():
        return None
    return {new: settings[old] for old, new in _SETTINGS.items() if settings.get(old) is not None}
