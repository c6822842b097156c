# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge's own answers: its API, and what it really serves over TLS."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

_PAGE = 100000


def fetch(port: int, path: str, host: str = "127.0.0.1", timeout: float = 5.0) -> Any:
    """One document of the API, which the shared edge offers on the loopback interface alone.

    Raises:
        TenancyError: No Traefik answers there.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise TenancyError(f"The edge's API at {host}:{port} answers {response.status} to {path}.")
        return json.loads(body)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise TenancyError(f"The edge's API at {host}:{port} does not answer ({exc}); see the edge's log.") from exc
    finally:
        connection.close()


def by_name(port: int, kind: str, host: str = "127.0.0.1") -> dict[str, dict[str, Any]]:
    """All objects of one kind, such as http/routers or tcp/services, by name, in one call."""
    return {item["name"]: item for item in fetch(port, f"/api/{kind}?per_page={_PAGE}", host)}


def served_fingerprint(port: int, hostname: str, timeout: float = 5.0) -> str:
    """SHA-256 of the certificate that the edge serves for a host name, by a real handshake on the loopback interface.

    Raises:
        TenancyError: There is no handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate is compared byte by byte with the intended one, which says more than a chain check.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=timeout) as raw,
            context.wrap_socket(raw, server_hostname=hostname) as tls,
        ):
            return hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
    except (OSError, ssl.SSLError) as exc:
        raise TenancyError(f"The TLS handshake for {hostname} at 127.0.0.1:{port} failed ({exc}).") from exc
