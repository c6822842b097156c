# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the registry's file may say: its JSON Schema, and a reader of exactly the keywords that it uses.

The library jsonschema is not on the hosts, and importing it takes longer than everything else that a module does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import LEVELS
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import (
    CLIENT_ID,
    RESERVED_CLIENT_IDS,
    SERVICE_NAME,
)

# The end of the text in every dialect: to Python alone, '$' also means the place before a last line end.
_END = r"$(?!\n)"
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = rf"^(?:localhost|(?:\*\.)?(?:{_LABEL}\.)+(?![0-9]+$){_LABEL}){_END}"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PRIVATE = rf"(?:10\.{_BYTE}|172\.(?:1[6-9]|2[0-9]|3[01])|192\.168)"
_TIME = r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"

# Above what systemd and the distributions give away, and no more than 31 bits.
_IDS = {"type": "integer", "minimum": 65536, "maximum": 2147483647}
_MOMENT = {"type": "string", "pattern": f"^{_TIME}{_END}"}

_SUBNET = rf"^{_PRIVATE}\.{_BYTE}\.{_BYTE}/(?:9|1[0-9]|2[0-9]){_END}"
_INDEX = {
    "type": "integer",
    "minimum": 1,
    # With the longest prefix, and the letter of a second bridge, a bridge's name has 15 characters then.
    "maximum": 9999999,
}

# Descriptions complete the sentence "it must be ...".
ENTRY_SCHEMA: dict[str, Any] = {
    "description": "an object that describes one client; keys that are not named here are kept",
    "type": "object",
    "required": [
        *("client_id", "domain", "aliases", "isolation_level", "services", "state", "index", "subnet", "uid", "gid"),
    ],
    "properties": {
        "client_id": {
            "description": "the client's name, once in the file: 1 to 32 of a-z, 0-9, '_' and '-', beginning and "
            f"ending with a letter or digit, and none of {', '.join(sorted(RESERVED_CLIENT_IDS))}",
            "type": "string",
            "pattern": f"^{CLIENT_ID.pattern}{_END}",
            "not": {"enum": sorted(RESERVED_CLIENT_IDS)},
        },
        "domain": {
            "description": "the client's main host name in its canonical form: lower case, A-labels, no dot at the end",
            "type": "string",
            "maxLength": 253,
            "pattern": _HOST_NAME,
        },
        "aliases": {
            "description": "a list of the client's further host names",
            "type": "array",
            "items": {
                "description": "a host name in its canonical form: lower case, A-labels, no dot at the end",
                "type": "string",
                "maxLength": 253,
                "pattern": _HOST_NAME,
            },
        },
        "isolation_level": {
            "description": f"the client's isolation level, one of {', '.join(LEVELS)}",
            "type": "string",
            "enum": list(LEVELS),
        },
        "services": {
            "description": "an object with the client's services by name, names of 1 to 24 of a-z, 0-9 and '-'",
            "type": "object",
            "propertyNames": {
                "description": "a name of 1 to 24 of a-z, 0-9 and '-'",
                "type": "string",
                "pattern": f"^{SERVICE_NAME.pattern}{_END}",
            },
            "additionalProperties": {
                "description": "an object with what the client has different from the catalog, with Compose's keys",
                "type": "object",
            },
        },
        "state": {
            "description": "what the client is to be, one of present, suspended, absent (it is being removed)",
            "type": "string",
            "enum": ["present", "suspended", "absent"],
        },
        "index": {
            "description": "the client's number, once in the file, a whole number from 1 to 9999999; its bridge is "
            "named after it",
            **_INDEX,
        },
        "subnet": {
            "description": "the client's network, which overlaps no other: private IPv4, /9 to /29, as 10.217.0.0/28",
            "type": "string",
            "pattern": _SUBNET,
        },
        "internal_subnet": {
            "description": "the network of a hard client's services, which overlaps no other: private IPv4, /9 to /29",
            "type": "string",
            "pattern": _SUBNET,
        },
        "uid": {
            "description": "the owner of the client's files and processes, once in the file, a whole number from 65536 "
            "to 2147483647",
            **_IDS,
        },
        "gid": {
            "description": "the group of the client's files and processes, once in the file, a whole number from 65536 "
            "to 2147483647",
            **_IDS,
        },
        "created_at": {
            "description": "when the client was added, as 2026-01-31T12:00:00+00:00, or empty when nobody knows; "
            "without an offset it is the host's local time",
            **_MOMENT,
        },
        "protected": {
            "description": "true or false, whether the client's removal is refused",
            "type": "boolean",
        },
        "egress": {
            "description": "whether the client's containers may reach addresses outside the host, one of allow, deny",
            "type": "string",
            "enum": ["allow", "deny"],
        },
        "egress_allow": {
            "description": "a list of what stays open with egress deny",
            "type": "array",
            "items": {"description": "a text such as 203.0.113.0/24:443", "type": "string", "maxLength": 60},
        },
        "rate_limit": {
            "description": "an object with average and burst, the requests that the edge lets through",
            "type": "object",
            "required": ["average", "burst"],
            "properties": {
                name: {"description": f"{what}, 0 to 1000000", "type": "integer", "minimum": 0, "maximum": 1000000}
                for name, what in (("average", "requests per second"), ("burst", "requests at once"))
            },
        },
        "resources": {
            "description": "an object with what a hard client has for itself, where it differs from the settings",
            "type": "object",
            "properties": {
                "memory": {"description": "a size of all its containers together, as 512m", "type": "string"},
                "cpus": {"description": "number of CPUs of all its containers together", "type": "number"},
                "pids": {"description": "processes of all its containers together, a whole number", "type": "integer"},
                "disk": {"description": "the size of its volume, as 10g", "type": "string"},
            },
        },
        "removal": {
            "description": "what becomes of the data of an absent client, one of keep, purge",
            "type": "string",
            "enum": ["keep", "purge"],
        },
        "removed_at": {
            "description": "when the removal of an absent client was ordered, as 2026-01-31T12:00:00+00:00",
            **_MOMENT,
        },
    },
}

SHARED_SCHEMA: dict[str, Any] = {
    "description": "an object that describes what a shared service was given; keys that are not named here are kept",
    "type": "object",
    "required": ["service", "index", "subnet", "uid", "gid"],
    "properties": {
        "service": {
            "description": "the service's name, once in the list: 1 to 24 of a-z, 0-9 and '-'",
            "type": "string",
            "pattern": f"^{SERVICE_NAME.pattern}{_END}",
        },
        **{key: ENTRY_SCHEMA["properties"][key] for key in ("index", "subnet", "uid", "gid")},
    },
}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Registry of clients, <root>/multi_tenancy/clients.json",
    "description": "an object with the desired state of all clients of a host; keys that are not named here are kept",
    "type": "object",
    "required": ["version", "clients"],
    "properties": {
        "version": {
            "description": "the version of the file's form, 1",
            "type": "integer",
            "const": 1,
        },
        "clients": {
            "description": "a list of all clients",
            "type": "array",
            "items": ENTRY_SCHEMA,
        },
        "shared": {
            "description": "a list of the services of which one instance serves all soft clients",
            "type": "array",
            "items": SHARED_SCHEMA,
        },
    },
}


def schema_text() -> str:
    """The schema as docs/clients.schema.json holds it."""
    return json.dumps(SCHEMA, indent=2) + "\n"


class Fault(NamedTuple):
    """One place where a value does not follow its schema.

    Args:
        at: Keys and positions that lead to it.
        schema: What holds there.
        value: What stands there; MISSING when nothing does.
    """

    at: tuple[str | int, ...]
    schema: Mapping[str, Any]
    value: Any


MISSING = object()

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": (int, float),
    "number": (int, float),
}


def _has_type(name: str, value: Any) -> bool:
    if name in ("integer", "number") and isinstance(value, bool):
        return False
    if name == "integer" and isinstance(value, float) and not value.is_integer():
        return False
    return isinstance(value, _TYPES[name])


# Whether a value obeys a keyword. Each schema names its type first, so that the others meet that type alone.
_RULES: dict[str, Callable[[Any, Any], bool]] = {
    "type": _has_type,
    "const": lambda wanted, value: bool(wanted == value),
    "enum": lambda allowed, value: value in allowed,
    "not": lambda schema, value: find_fault(schema, value) is not None,
    "minimum": lambda least, value: bool(value >= least),
    "maximum": lambda most, value: bool(value <= most),
    "maxLength": lambda most, value: len(value) <= most,
    "pattern": lambda pattern, value: re.search(pattern, value) is not None,
}
_ANNOTATIONS = frozenset({"$schema", "title", "description"})
_STRUCTURE = frozenset({"required", "properties", "propertyNames", "additionalProperties", "items"})


def find_fault(schema: Mapping[str, Any], value: Any, at: tuple[str | int, ...] = ()) -> Fault | None:
    """The first place where a value, as JSON gives it, does not follow a schema; None when it does everywhere.

    What no schema describes is not looked at, so that the work and the nesting are bounded by the schema.

    Raises:
        KeyError: The schema uses a keyword that is not known here.
    """
    for keyword, argument in schema.items():
        if keyword not in _ANNOTATIONS and keyword not in _STRUCTURE and not _RULES[keyword](argument, value):
            return Fault(at, schema, value)
    if isinstance(value, dict):
        known, others, names = (schema.get(key) for key in ("properties", "additionalProperties", "propertyNames"))
        for key in schema.get("required", ()):
            if key not in value:
                return Fault((*at, key), schema["properties"][key], MISSING)
        for key, part in value.items():
            fault = find_fault(names, key, (*at, key)) if names else None
            below = (known or {}).get(key, others)
            if fault is None and below is not None:
                fault = find_fault(below, part, (*at, key))
            if fault is not None:
                return fault
    elif isinstance(value, list) and "items" in schema:
        for number, part in enumerate(value):
            fault = find_fault(schema["items"], part, (*at, number))
            if fault is not None:
                return fault
    return None
