# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The platform's settings: what config.yaml may say, its defaults, and the effective whole."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import (
    BUILT_IN,
    check_arguments,
    container_faults,
    merge,
    normalise_services,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import fault_of_level
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import reference
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import (
    canonical_domain,
    check_client_id,
    shown,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput

# https://www.rfc-editor.org/rfc/rfc1918
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")

_NAME_PREFIX = re.compile(r"[a-z][a-z0-9]{0,5}")

CONFIG_SPEC: dict[str, Any] = {
    "default_client_id": {"type": "str", "default": "default"},
    "root_domain": {"type": "str", "default": "localhost"},
    "isolation_level": {"type": "str", "default": "medium"},
    "client_services": {"type": "list", "elements": "str", "default": ["site"]},
    "network_pool": {"type": "str", "default": "10.217.0.0/16"},
    "subnet_prefix": {"type": "int", "default": 28},
    # systemd's table of uids leaves 1879048192 to 2147483647 unused (https://systemd.io/UIDS-GIDS/).
    "uid_base": {"type": "int", "default": 1900000000},
    "name_prefix": {"type": "str", "default": "mt"},
    "health_timeout": {"type": "int", "default": 60},
    "edge": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "image": {"type": "str", "default": BUILT_IN},
            "http_port": {"type": "int", "default": 80},
            "https_port": {"type": "int", "default": 443},
            "api_port": {"type": "int", "default": 8079},
            "mem_limit": {"type": "str", "default": "512m"},
        },
    },
    "firewall": {
        "type": "dict",
        "apply_defaults": True,
        "options": {
            "clients_reach_edge": {"type": "bool", "default": False},
        },
    },
    "services": {"type": "dict", "default": {}},
}

SITE_SERVICE: dict[str, Any] = {
    "image": BUILT_IN,
    "volumes": ["site:/srv/www:ro"],
    "tmpfs": ["/tmp:size=16m,mode=1777"],
    "stop_signal": "SIGQUIT",
    "healthcheck": {"test": ["CMD", "/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8081/healthz"]},
    "deploy": {"update_config": {"order": "start-first"}},
    "mem_limit": "64m",
    "cpus": 1.0,
    "pids_limit": 32,
    "port": 8080,
}


def effective_config(layers: list[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Lay the settings over each other and check the result.

    Args:
        layers: (where it comes from, settings), the weakest first. Mappings are merged key by key, null takes a setting
            back to its default, all else replaces.

    Returns:
        The effective settings, every key present, images of the platform's own as real references.

    Raises:
        InvalidInput: All faults at once.
    """
    merged: dict[str, Any] = {}
    faults: list[str] = []
    for source, settings in layers:
        unknown = sorted(str(key) for key in settings if key not in CONFIG_SPEC)
        faults += [
            f"{source}: '{shown(key)[1:-1]}' is no setting; known are {', '.join(CONFIG_SPEC)}." for key in unknown
        ]
        merged = merge(merged, {key: value for key, value in settings.items() if key in CONFIG_SPEC})
    config, messages = check_arguments(CONFIG_SPEC, merged)
    where = " and ".join(source for source, settings in layers if settings) or "The settings"
    faults += [f"{where}: {message}" for message in messages]
    if faults:
        raise InvalidInput(faults)
    catalog = merge({"site": SITE_SERVICE}, config["services"])
    services, faults = normalise_services(catalog)
    faults += _value_faults(config, services, list(catalog))
    if faults:
        raise InvalidInput([f"{where}: {fault}" for fault in faults])
    config["services"] = services
    prefix = config["name_prefix"]
    config["firewall"]["table"] = "agency_stack" if prefix == "mt" else f"agency_stack_{prefix}"
    if config["edge"]["image"] == BUILT_IN:
        config["edge"]["image"] = reference("edge")
    return config


def _value_faults(config: Mapping[str, Any], services: Mapping[str, Any], catalog: Sequence[str]) -> list[str]:
    faults: list[str] = []
    for check, key in ((check_client_id, "default_client_id"), (canonical_domain, "root_domain")):
        try:
            check(config[key])
        except InvalidInput as exc:
            faults += [f"{key}: {fault}" for fault in exc.faults]
    level_fault = fault_of_level(config["isolation_level"])
    if level_fault:
        faults.append(level_fault)
    try:
        pool = ipaddress.IPv4Network(config["network_pool"])
        if not pool.prefixlen < config["subnet_prefix"] <= 29:
            faults.append(
                f"subnet_prefix {config['subnet_prefix']} must lie between the pool's {pool.prefixlen} and 29."
            )
        if not any(pool.subnet_of(ipaddress.IPv4Network(network)) for network in _PRIVATE):
            faults.append(f"network_pool {pool} is not a private range: use a part of {', '.join(_PRIVATE)}.")
    except ValueError as exc:
        faults.append(f"network_pool: {exc}; use a private IPv4 network such as 10.217.0.0/16.")
    if _NAME_PREFIX.fullmatch(config["name_prefix"]) is None:
        faults.append(
            f"name_prefix {shown(config['name_prefix'])} is not allowed: use 1 to 6 of a-z and 0-9, a letter first."
        )
    if not 65536 <= config["uid_base"] <= 2147400000:
        faults.append("uid_base must lie between 65536 and 2147400000.")
    if not 1 <= config["health_timeout"] <= 3600:
        faults.append("health_timeout must lie between 1 and 3600 seconds.")
    ports = [config["edge"][key] for key in ("http_port", "https_port", "api_port")]
    if not all(1 <= port <= 65535 for port in ports) or len(set(ports)) != len(ports):
        faults.append("edge: http_port, https_port and api_port must be three different ports from 1 to 65535.")
    faults += [f"edge.{fault}." for fault in container_faults(config["edge"])]
    faults += [
        f"client_services: '{shown(name)[1:-1]}' is not in the catalog ({', '.join(catalog)})."
        for name in config["client_services"]
        if name not in catalog
    ]
    return faults


def initial_text(settings: Mapping[str, Any]) -> str:
    """The first config.yaml: what was chosen, and the rest as comments with the defaults.

    Args:
        settings: What the operator named on the first run.
    """
    lines = [
        "---",
        "# Settings of agency_stack.multi_tenancy on this host. Edit, then run: make multi_tenancy",
        "# A re-run keeps your edits. What is commented out shows the default.",
        "",
    ]
    for key, spec in CONFIG_SPEC.items():
        if key in settings or key in ("default_client_id", "root_domain", "isolation_level"):
            lines.append(f"{key}: {json.dumps(settings.get(key, spec.get('default')))}")
        elif spec["type"] == "dict" and spec.get("options"):
            lines.append(f"# {key}:")
            lines += [f"#   {name}: {json.dumps(option['default'])}" for name, option in spec["options"].items()]
        else:
            lines.append(f"# {key}: {json.dumps(spec['default'])}")
    return "\n".join(lines) + "\n"


def text_with(text: str, settings: Mapping[str, Any]) -> str:
    """config.yaml with some top-level scalars set; every other line, comments included, stays as it is."""
    for key, value in settings.items():
        line = f"{key}: {json.dumps(value)}"
        found = re.search(rf"^{re.escape(key)}:.*$", text, re.MULTILINE)
        if found:
            text = text[: found.start()] + line + text[found.end() :]
        else:
            text = text + ("" if text.endswith("\n") or not text else "\n") + line + "\n"
    return text
