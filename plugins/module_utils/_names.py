# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client id and a domain may be; everything that is built from them relies on these checks."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput

try:
    import idna

    HAS_IDNA = True
except ImportError:
    # Only names with letters outside ASCII need it; the host gets it with python3-docker.
    HAS_IDNA = False

# Names that stand for something of the platform, in paths, labels and commands.
RESERVED_CLIENT_IDS = frozenset(
    {
        "all",
        "ca",
        "config",
        "edge",
        "host",
        "localhost",
        "multi_tenancy",
        "none",
        "platform",
        "registry",
        "removed",
        "scripts",
    }
    | {"shared", "traefik", "ungrouped", "venv"}
)

CLIENT_ID = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


# What has no encoding, or ends a text for the system.
NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")


def shown(value: Any) -> str:
    """A hostile value as one short, printable, quoted piece of a sentence."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def printable(text: str) -> str:
    """A hostile text for the operator's terminal: control characters but line ends and tabs are made visible."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def check_client_id(value: Any) -> str:
    """The client id, or InvalidInput."""
    if not isinstance(value, str) or CLIENT_ID.fullmatch(value) is None:
        raise InvalidInput(
            [
                f"client_id {shown(value)} is not allowed: use 1 to 32 of a-z, 0-9, '_' and '-', "
                "beginning and ending with a letter or digit."
            ]
        )
    if value in RESERVED_CLIENT_IDS:
        listed = ", ".join(sorted(RESERVED_CLIENT_IDS))
        raise InvalidInput([f"client_id '{value}' is reserved for the platform; reserved are {listed}."])
    return value


def canonical_domain(value: Any, key: str = "domain") -> str:
    """A host name in the one form in which it is stored and compared: lower case, A-labels, no trailing dot.

    Args:
        value: What the operator gave; it may begin with `*.`.
        key: The name of the setting, for the message.

    Raises:
        InvalidInput: It is not a host name that a certificate and a route can be made for.
    """

    def refuse(why: str) -> InvalidInput:
        return InvalidInput([f"{key} {shown(value)} is not allowed: {why}."])

    if not isinstance(value, str) or not value:
        raise refuse("use a host name such as shop.example.com")
    # What idna does with a name grows with the square of its length.
    if len(value) > 1000:
        raise refuse("it is longer than 253 characters")
    name = value.lower()
    wildcard = name.startswith("*.")
    body = name[2:] if wildcard else name
    if not body.isascii():
        if not HAS_IDNA:
            raise refuse("letters outside ASCII need the Python library idna on the host")
        try:
            # uts46 folds case and width as browsers do, so that the stored name is what visitors really ask for.
            body = idna.encode(body, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as exc:
            raise refuse(f"it is no valid internationalised name ({ascii(str(exc))[1:-1]})") from exc
    labels = body.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise refuse(
                "each part between dots has 1 to 63 of a-z, 0-9 and '-', and begins and ends with a letter or digit"
            )
        if label.startswith("xn--"):
            _check_a_label(label, refuse)
    if len(body) + (2 if wildcard else 0) > 253:
        raise refuse("it is longer than 253 characters")
    if len(labels) < 2 and (wildcard or body != "localhost"):
        raise refuse("it needs at least two parts, as in shop.example.com")
    if labels[-1].isdigit() or _is_address(body):
        raise refuse("it is an IP address or ends in a number; use a host name")
    return f"*.{body}" if wildcard else body


def _check_a_label(label: str, refuse: Any) -> None:
    if not HAS_IDNA:
        return
    try:
        canonical = idna.encode(idna.decode(label)).decode("ascii")
    except (idna.IDNAError, UnicodeError) as exc:
        raise refuse(f"its part '{label}' is no valid internationalised name") from exc
    if canonical != label:
        raise refuse(f"its part '{label}' is not in its canonical form")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def derived_domain(client_id: str, root_domain: str) -> str:
    """The domain of a client that was given none; `_` is legal in an id but not in a host name."""
    return f"{client_id.replace('_', '-')}.{root_domain}"
