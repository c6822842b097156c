# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The desired state of all clients: merging an edit, allocating, and refusing what would hurt another client."""

from __future__ import annotations

import ipaddress
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import (
    in_order,
    merge,
    normalise_services,
    without_values,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import (
    LEVEL_SETTINGS,
    LEVELS,
    fault_of_level,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._egress import faults_of_egress, faults_of_rate
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import (
    CLIENT_ID,
    NO_TEXT,
    canonical_domain,
    check_client_id,
    derived_domain,
    shown,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import (
    Change,
    InvalidInput,
    TenancyError,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_schema import (
    MISSING,
    SCHEMA,
    Fault,
    find_fault,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import resource_faults

VERSION = 1

# What an operator may name of a client; everything else of an entry is allocated once and kept.
EDITABLE = ("domain", "aliases", "isolation_level", "services", "state", "protected", *LEVEL_SETTINGS)
STATES = ("present", "suspended", "absent")
# What becomes of a removed client's data.
DATA_FATES = ("keep", "purge")


class NewerVersion(TenancyError):
    """The registry was written by a later version of this collection."""


def empty_document() -> dict[str, Any]:
    """A registry without clients."""
    return {"version": VERSION, "clients": []}


def check_document(document: Any, path: str) -> dict[str, Any]:
    """The registry as read from its file, or a TenancyError that says why it cannot be used."""
    version: Any = document.get("version") if isinstance(document, Mapping) else None
    numbered = isinstance(version, int) and not isinstance(version, bool)
    if numbered and version > VERSION:
        # Whatever else it says has a form that is not known here.
        raise NewerVersion(
            f"{path} has version {shown(version)} and this collection knows version {VERSION}; nothing was touched: "
            "use the collection that wrote it."
        )
    if not numbered or version != VERSION or not isinstance(document.get("clients"), list):
        raise TenancyError(f'{path} is no client registry: it must be {{"version": {VERSION}, "clients": [...]}}.')
    fault = find_fault(SCHEMA, document)
    if fault is not None:
        raise TenancyError(f"{path}: {_sentence(document, fault)}; restore the file from a copy.")
    for entry in document["clients"]:
        entry_fault = _fault_of_entry(entry)
        if entry_fault:
            raise TenancyError(f"{path}: client '{entry['client_id']}' {entry_fault}; restore the file from a copy.")
    holders = [(f"client '{entry['client_id']}'", entry) for entry in document["clients"]]
    holders += [(f"the shared service '{item['service']}'", item) for item in document.get("shared", [])]
    for key in ("client_id", "service", "index", "uid", "gid"):
        seen: set[Any] = set()
        for who, entry in holders:
            if key in entry and entry[key] in seen:
                raise TenancyError(
                    f"{path}: {key} {shown(entry[key])} of {who} stands in it twice; restore the file from a copy."
                )
            seen.add(entry.get(key))
    subnets = sorted(
        (ipaddress.IPv4Network(entry[key]), who)
        for who, entry in holders
        for key in ("subnet", "internal_subnet")
        if key in entry
    )
    for (lower, one), (upper, other) in itertools.pairwise(subnets):
        if lower.overlaps(upper):
            raise TenancyError(
                f"{path}: the subnets {lower} of {one} and {upper} of {other} overlap; restore the file from a copy."
            )
    return deepcopy(dict(document))


def _sentence(document: Mapping[str, Any], fault: Fault) -> str:
    """What the registry's file has wrong, as the beginning of a sentence."""
    part, *rest = fault.at
    if not rest:
        return f"{part} {shown(fault.value)} is not allowed: it must be {fault.schema['description']}"
    number, *keys = rest
    entry = document[str(part)][int(number)]
    client_id = entry.get("client_id") if isinstance(entry, Mapping) else None
    known = isinstance(client_id, str) and CLIENT_ID.fullmatch(client_id) is not None
    who = f"client '{client_id}'" if known else f"entry {int(number) + 1}"
    allowed = fault.schema["description"]
    key = shown("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys)[1:])[1:-1]
    if fault.value is MISSING:
        return f"{who} lacks {key}, {allowed}"
    whose = f"{key} {shown(fault.value)} of {who}" if key else f"{who}, {shown(fault.value)},"
    return f"{whose} is not allowed: it must be {allowed}"


def _fault_of_entry(entry: Mapping[str, Any]) -> str | None:
    """What a schema cannot say of an entry, as a part of a sentence."""
    for key in ("index", "uid", "gid"):
        # To JSON Schema 1.0 is a whole number; a name that is made of it is another one.
        if not isinstance(entry[key], int):
            return f"has the {key} {shown(entry[key])}, which must be written without a decimal point"
    for key in {"subnet", "internal_subnet"} & entry.keys():
        try:
            ipaddress.IPv4Network(entry[key])
        except ValueError as exc:
            return f"has a {key} that is none ({exc})"
    return None


def plan_registry(
    document: Mapping[str, Any],
    wanted: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    occupied: Sequence[tuple[str, str]] = (),
    now: str = "",
    purge: bool = False,
    forget: Sequence[str] = (),
) -> tuple[dict[str, Any], list[Change]]:
    """Merge an edit into the registry.

    A removal marks a client absent; its entry, and with it its allocations, goes only when it is forgotten, after
    everything else of it is gone. So an interrupted removal is finished by the next run.

    Args:
        document: The registry as it is.
        wanted: Clients to add or change; only the keys that are present (and not None) change an existing client.
        config: The platform's effective settings.
        occupied: (network, what it is) of host routes and foreign networks that a new subnet must not overlap.
        now: Time stamp for new entries and removals, ISO 8601.
        purge: Whether every client that is not among the wanted is to be removed.
        forget: Absent clients whose entries are dropped, because nothing else of them is left.

    Returns:
        The new registry and one change for each client that differs.

    Raises:
        InvalidInput: All faults of the edit at once; nothing of it is taken then.
    """
    faults: list[str] = []
    entries: dict[str, dict[str, Any]] = {entry["client_id"]: deepcopy(entry) for entry in document["clients"]}
    # In the order in which they were named, each once.
    touched: dict[str, None] = {}
    if purge:
        named = {str(item.get("client_id")) for item in wanted}
        wanted = [*wanted, *({"client_id": name, "state": "absent"} for name in entries if name not in named)]
    for item in wanted:
        if item.get("state") == "absent" and str(item.get("client_id")) not in entries:
            # Gone already, which is what is wanted, unless it never could have been.
            faults += _faults_of(lambda item=item: check_client_id(item.get("client_id")))
            continue
        entry, item_faults = _merged(entries, item, config, now)
        faults += item_faults
        if not item_faults:
            entries[entry["client_id"]] = entry
            touched[entry["client_id"]] = None
    faults += _hostname_faults(entries, touched, config)
    if faults:
        raise InvalidInput(faults)
    shared = _allocate(document, entries, list(touched), config, occupied)
    before = {entry["client_id"]: entry for entry in document["clients"]}
    dropped = [name for name in dict.fromkeys(forget) if entries.get(name, {}).get("state") == "absent"]
    for name in dropped:
        del entries[name]
    changes = [
        Change(
            action="update" if client_id in before else "create",
            kind="registry entry",
            name=client_id,
            before=_shown(before.get(client_id)),
            after=_shown(entries[client_id]),
            client_id=client_id,
        )
        for client_id in sorted(touched)
        if client_id in entries and entries[client_id] != before.get(client_id)
    ]
    changes += [
        Change(action="delete", kind="registry entry", name=name, before=_shown(before.get(name)), client_id=name)
        for name in dropped
        if name in before
    ]
    changes += [
        Change(action="create", kind="shared service", name=item["service"], after=item)
        for item in shared
        if item not in document.get("shared", [])
    ]
    result = {**document, "clients": [entries[client_id] for client_id in sorted(entries)]}
    return result | ({"shared": shared} if shared else {}), changes


def _shown(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An entry as the diff shows it."""
    if entry is None:
        return None
    return {**entry, "services": {name: without_values(service) for name, service in entry["services"].items()}}


def select_clients(document: Mapping[str, Any], client_ids: Sequence[str] | None) -> list[dict[str, Any]]:
    """The named clients of a registry, or all.

    Raises:
        InvalidInput: One is not in it.
    """
    if client_ids is None:
        return list(document["clients"])
    known = {entry["client_id"]: entry for entry in document["clients"]}
    unknown = [client_id for client_id in client_ids if client_id not in known]
    if unknown:
        listed = ", ".join(known) or "nobody"
        raise InvalidInput([f"There is no client {shown(client_id)}; there are {listed}." for client_id in unknown])
    return [known[client_id] for client_id in sorted(set(client_ids))]


def shared_services(clients: Iterable[Mapping[str, Any]]) -> set[str]:
    """The services of which one instance serves several clients, while any of them is there."""
    return {
        service
        for client in clients
        if client["state"] != "absent" and not LEVELS[client["isolation_level"]].own_instances
        for service in client["services"]
    }


def hostnames(client: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Every host name that a client owns: of its services that are reached through the edge."""
    names = [name for service in routed_services(client, config) for name in service_hostnames(client, config, service)]
    return sorted({client["domain"], *client["aliases"], *names})


def client_services(client: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A client's services with its overrides laid over the catalog.

    Raises:
        InvalidInput: The catalog has lost one, or an override does not fit it.
    """
    catalog = config["services"]
    services: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    for name, overrides in client["services"].items():
        if name not in catalog:
            faults.append(f"services: {shown(name)} is not in the catalog ({', '.join(catalog)}).")
        elif not isinstance(overrides, Mapping):
            faults.append(f"services.{name} must be a mapping with Compose's keys.")
        elif overrides:
            own = {key: value for key, value in catalog[name].items() if key != "shared"}
            normal, service_faults = normalise_services({name: merge(own, overrides)})
            services |= normal
            faults += service_faults
        else:
            services[name] = catalog[name]
    if not LEVELS[client["isolation_level"]].own_instances:
        faults += _faults_of_sharing(client, catalog)
        if not faults:
            # The shared form of a service depends on nothing.
            return dict(sorted(services.items()))
    if not faults:
        try:
            return {name: services[name] for name in in_order(services)}
        except ValueError as exc:
            faults.append(str(exc))
    raise InvalidInput([f"Client '{client['client_id']}': {fault}" for fault in faults])


def shared_allocations(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What shared services were given, each with its `state`: present while any client is served by it."""
    used = shared_services(document["clients"])
    return [item | {"state": "present" if item["service"] in used else "absent"} for item in document.get("shared", [])]


def _faults_of_sharing(client: Mapping[str, Any], catalog: Mapping[str, Any]) -> list[str]:
    """Why a client cannot be served by the instances that it shares with others."""
    faults = []
    for name, overrides in client["services"].items():
        if "shared" not in catalog.get(name, {"shared": None}):
            shareable = ", ".join(other for other, service in catalog.items() if "shared" in service) or "none"
            faults.append(
                f"services: '{name}' cannot be shared, its catalog entry has no key 'shared'; at this level there are "
                f"{shareable}."
            )
        elif overrides:
            faults.append(f"services.{name}: the instance serves several clients, so it has no settings of one client.")
    return faults


def routed_services(client: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """The names of the services that the edge sends requests to."""
    return sorted(name for name, service in client_services(client, config).items() if "port" in service)


def service_hostnames(client: Mapping[str, Any], config: Mapping[str, Any], service: str) -> list[str]:
    """The host names at which one service of a client answers."""
    subdomain = client_services(client, config)[service].get("subdomain")
    bases = {client["domain"], *client["aliases"]}
    if not subdomain:
        return sorted(bases)
    # A subdomain in front of a wildcard would be no host name; the wildcard covers it already.
    return sorted(f"{subdomain}.{base}" for base in bases if not base.startswith("*."))


def fault_of_plain(value: Any, what: str, depth: int = 8) -> str | None:
    """Why a value cannot stand in a file of JSON and be read again as it was, as a sentence.

    Without it NaN, a lone surrogate or a nesting that no reader follows would make the registry unreadable.
    """
    if depth == 0:
        return f"{what} is nested too deeply."
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            return f"A key of {what} is no text."
        parts = [
            (part, f"{what}.{key}" if key.isascii() and key.isidentifier() else what) for key, part in value.items()
        ]
        keys = [(key, f"a key of {what}") for key in value]
    elif isinstance(value, list):
        parts, keys = [(part, what) for part in value], []
    elif isinstance(value, str):
        if NO_TEXT.search(value):
            return f"{what} holds NUL or half a character; use plain text."
        return None
    elif isinstance(value, (int, float)):
        fits = math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63
        return None if fits else f"{what} holds a number that is too large or none."
    else:
        return (
            None if value is None else f"{what} holds a {type(value).__name__}; use text, numbers, lists and mappings."
        )
    for part, where in (*keys, *parts):
        fault = fault_of_plain(part, where, depth - 1)
        if fault:
            return fault
    return None


def _merged(
    entries: Mapping[str, dict[str, Any]], item: Mapping[str, Any], config: Mapping[str, Any], now: str
) -> tuple[dict[str, Any], list[str]]:
    """The entry that an edit makes of a client, and the faults of the edit."""
    faults: list[str] = []
    given = {key: item[key] for key in EDITABLE if item.get(key) is not None}
    try:
        client_id = check_client_id(item.get("client_id"))
    except InvalidInput as exc:
        faults += exc.faults
        client_id = ""
    known = entries.get(client_id)
    entry: dict[str, Any] = deepcopy(known) if known else {"client_id": client_id, "created_at": now}
    if not known:
        entry |= {"aliases": [], "isolation_level": config["isolation_level"], "state": "present"}
        entry["services"] = {name: {} for name in config["client_services"]}
    if "domain" in given:
        faults += _set(entry, "domain", lambda: canonical_domain(given["domain"]))
    elif not known and client_id:
        faults += _set(entry, "domain", lambda: canonical_domain(derived_domain(client_id, config["root_domain"])))
    if "aliases" in given:
        faults += _set(
            entry, "aliases", lambda: sorted({canonical_domain(alias, "aliases") for alias in given["aliases"]})
        )
    if "isolation_level" in given:
        entry["isolation_level"] = given["isolation_level"]
    level_fault = fault_of_level(entry["isolation_level"]) if not known or "isolation_level" in given else None
    if level_fault:
        faults.append(level_fault)
    services = given.get("services", {})
    services_fault = fault_of_plain(services, "services")
    if services_fault is None and not isinstance(services, Mapping):
        services_fault = "services must be a mapping of names."
    if services_fault:
        faults.append(f"Client {shown(client_id)}: {services_fault}")
    elif "services" in given:
        # `name:` without anything is YAML's way to say: as in the catalog.
        entry["services"] = {name: {} if value is None else value for name, value in deepcopy(services).items()}
    if given.get("state", "present") not in STATES:
        faults.append(f"state {shown(given['state'])} is not allowed: use one of {', '.join(STATES)}.")
    elif "state" in given:
        entry["state"] = given["state"]
    if "protected" in given:
        entry["protected"] = given["protected"]
    faults += _set_level_settings(entry, given)
    faults += _mark_removal(entry, item, now)
    return entry, faults


def _set_level_settings(entry: dict[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Take over what only some levels know; what a client's new level does not know goes."""
    level = LEVELS.get(entry["isolation_level"])
    if level is None:
        return []
    who = f"Client {shown(entry['client_id'])}: "
    faults = []
    if isinstance(given.get("resources"), Mapping):
        # Ansible names every key that a mapping may have.
        named = {key: value for key, value in given["resources"].items() if value is not None}
        given = {**given, "resources": named}
    for key in LEVEL_SETTINGS:
        if key in given and key not in level.accepts:
            faults.append(
                f"{who}{key} is no setting of the level '{level.name}', which knows {', '.join(level.accepts)}."
            )
        elif key == "resources" and isinstance(given.get(key), Mapping):
            entry[key] = entry.get(key, {}) | given[key]
        elif key in given:
            entry[key] = deepcopy(given[key])
        elif key not in level.accepts:
            entry.pop(key, None)
    faults += faults_of_egress(given.get("egress"), given.get("egress_allow"), who)
    if "rate_limit" in given:
        limit = given["rate_limit"]
        if not isinstance(limit, Mapping) or set(limit) != {"average", "burst"}:
            faults.append(f"{who}rate_limit must have average and burst, in requests.")
        else:
            faults += faults_of_rate(limit["average"], limit["burst"], f"{who}rate_limit.")
    if "resources" in given:
        faults += [f"{who}{fault}" for fault in resource_faults(given["resources"])]
    return faults


def _mark_removal(entry: dict[str, Any], item: Mapping[str, Any], now: str) -> list[str]:
    """Note in an absent client's entry what becomes of its data, or that it stays after all."""
    if entry["state"] != "absent":
        entry.pop("removal", None)
        entry.pop("removed_at", None)
        return []
    if entry.get("protected"):
        name = entry["client_id"]
        return [f"Client '{name}' is protected and stays; set protected to false first if it is really to go."]
    fate = item.get("data") or entry.get("removal") or "keep"
    if fate not in DATA_FATES:
        return [f"data {shown(fate)} is not allowed: use one of {', '.join(DATA_FATES)}."]
    entry["removal"] = fate
    entry.setdefault("removed_at", now)
    return []


def _set(entry: dict[str, Any], key: str, make: Any) -> list[str]:
    return _faults_of(lambda: entry.__setitem__(key, make()))


def _faults_of(check: Any) -> list[str]:
    try:
        check()
    except InvalidInput as exc:
        return exc.faults
    return []


def _hostname_faults(
    entries: Mapping[str, Mapping[str, Any]], touched: Iterable[str], config: Mapping[str, Any]
) -> list[str]:
    """One fault for each host name that two clients, or two services of one client, would answer at.

    All clients are looked at, since a change of the catalog can give names to clients that no edit touches. Names are
    looked up in a table, so that adding one client does not compare all pairs.
    """
    touched = set(touched)
    owner: dict[str, str] = {}
    wildcards: dict[str, str] = {}
    below: dict[str, str] = {}
    faults: list[str] = []

    def claim(client_id: str, name: str) -> str | None:
        parent = name.partition(".")[2]
        taken = owner.get(name) or (below.get(parent) if name.startswith("*.") else wildcards.get(parent))
        if taken is not None and taken != client_id:
            return taken
        owner[name] = client_id
        if name.startswith("*."):
            wildcards[parent] = client_id
        else:
            below.setdefault(parent, client_id)
        return None

    for client_id in sorted(entries, key=lambda name: (name in touched, name)):
        entry = entries[client_id]
        try:
            names = hostnames(entry, config)
            faults += _service_name_faults(entry, config)
        except InvalidInput as exc:
            # What the catalog has lost must not keep a client from being removed.
            faults += exc.faults if entry["state"] != "absent" else []
            continue
        for name in names:
            taken = claim(client_id, name)
            if taken is not None:
                faults.append(
                    f"The host name {name} of client '{client_id}' belongs to client '{taken}' already; "
                    "choose another, or take it from that client first."
                )
    return faults


def _service_name_faults(client: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Two services at one name would answer in turn; a name that subdomain and domain make must be one."""
    faults: list[str] = []
    owner: dict[str, str] = {}
    for service in routed_services(client, config):
        for name in service_hostnames(client, config, service):
            other = owner.setdefault(name, service)
            if other != service:
                faults.append(
                    f"The services '{other}' and '{service}' of client '{client['client_id']}' would both answer at "
                    f"{name}; give one of them another subdomain."
                )
            if name not in (client["domain"], *client["aliases"]):
                faults += _set({}, "name", lambda name=name: canonical_domain(name, "the host name"))
    return faults


def _allocate(
    document: Mapping[str, Any],
    entries: dict[str, dict[str, Any]],
    touched: Sequence[str],
    config: Mapping[str, Any],
    occupied: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Give each new client an index and all that follows from it; allocations are never changed afterwards.

    Returns:
        The allocations of the services that clients share, which are made for the first client of each.
    """
    shared = [dict(item) for item in document.get("shared", [])]
    fresh = [client_id for client_id in touched if "index" not in entries[client_id]]
    inner = [
        client_id
        for client_id in touched
        if LEVELS[entries[client_id]["isolation_level"]].own_edge and "internal_subnet" not in entries[client_id]
    ]
    lacking = sorted(shared_services(entries.values()) - {item["service"] for item in shared})
    if not fresh and not inner and not lacking:
        return shared
    pool = ipaddress.IPv4Network(config["network_pool"])
    for network, what in occupied:
        if pool.overlaps(ipaddress.IPv4Network(network)):
            raise InvalidInput(
                [
                    f"network_pool {pool} overlaps {network} ({what}); "
                    "set network_pool in config.yaml to a private range that nothing else uses."
                ]
            )
    # What was allocated under earlier settings stays in use.
    old = [*(entry for entry in entries.values() if "index" in entry), *shared]
    indexes = {entry["index"] for entry in old}
    ids = {entry[key] for entry in old for key in ("uid", "gid")}
    numbers = (
        number for number in itertools.count(1) if number not in indexes and config["uid_base"] + number not in ids
    )
    used = [ipaddress.IPv4Network(entry[key]) for entry in old for key in ("subnet", "internal_subnet") if key in entry]
    subnets = _free_subnets(pool, config["subnet_prefix"], used)

    def subnet_for(whose: str) -> str:
        subnet = next(subnets, None)
        if subnet is None:
            raise InvalidInput(
                [
                    f"network_pool {pool} has no free /{config['subnet_prefix']} left for {whose}; "
                    "remove clients or set a larger pool in config.yaml."
                ]
            )
        return str(subnet)

    def allocation(whose: str) -> dict[str, Any]:
        subnet, index = subnet_for(whose), next(numbers)
        number = config["uid_base"] + index
        return {"index": index, "subnet": subnet, "uid": number, "gid": number}

    for client_id in fresh:
        entries[client_id] |= allocation(f"client '{client_id}'")
    for client_id in inner:
        entries[client_id]["internal_subnet"] = subnet_for(f"client '{client_id}'")
    shared += [{"service": service, **allocation(f"the shared service '{service}'")} for service in lacking]
    return shared


def _free_subnets(
    pool: ipaddress.IPv4Network, prefix: int, used: Iterable[ipaddress.IPv4Network]
) -> Iterator[ipaddress.IPv4Network]:
    """The parts of the pool that meet no used network, in order."""
    size = 2 ** (32 - prefix)
    # The numbers of the parts that each used network touches.
    first = int(pool.network_address)
    taken: set[int] = set()
    for network in used:
        if pool.overlaps(network):
            begin = (max(int(network.network_address), first) - first) // size
            end = (min(int(network.broadcast_address), int(pool.broadcast_address)) - first) // size
            taken.update(range(begin, end + 1))
    for number in range(pool.num_addresses // size):
        if number not in taken:
            yield ipaddress.IPv4Network((first + number * size, prefix))
