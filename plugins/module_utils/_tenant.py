# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host must hold for a client, derived from its registry entry and the platform's settings."""

from __future__ import annotations

import html
import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import (
    parse_duration,
    parse_size,
    parse_volume,
    without_values,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import LEVELS
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import (
    LABEL_CLIENT,
    LABEL_LEVEL,
    LABEL_PLATFORM,
    LABEL_SERVICE,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._network import NetworkSpec
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    client_services,
    hostnames,
    routed_services,
    service_hostnames,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerSpec
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Directory

WELCOME_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@DOMAIN@</title>
<style>
:root { color-scheme: light dark; }
body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto 0; padding: 0 1.5rem; }
h1 { font-size: 1.8rem; line-height: 1.2; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>@DOMAIN@ is ready</h1>
<p>This is the site of <strong>@CLIENT@</strong>, served from a container of its own.</p>
<p>Replace this page by putting files into <code>clients/@CLIENT@/data/site/</code> on the host.</p>
</body>
</html>
"""


def network_name(client: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The name of a client's network."""
    return f"{config['name_prefix']}-{client['client_id']}"


def bridge_name(client: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The name of a client's bridge on the host: short, and with the prefix that the firewall knows."""
    return f"{config['name_prefix']}-{client['index']}"


def firewall_networks(clients: Iterable[Mapping[str, Any]], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks that the firewall must know: of all clients but those on their way out.

    Returns:
        `bridge`, `subnet`, `egress` (allow or deny) and `egress_allow` (destinations that deny leaves open) of each.
    """
    return [
        {"bridge": bridge_name(client, config), "subnet": client["subnet"], **_egress(client, config)}
        for client in clients
        if client["state"] != "absent"
    ]


def _egress(client: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    default = config.get(client["isolation_level"], {})
    return {
        "egress": client.get("egress") or default.get("egress", "allow"),
        "egress_allow": list(client.get("egress_allow", default.get("egress_allow", []))),
    }


def network(client: Mapping[str, Any], config: Mapping[str, Any]) -> NetworkSpec:
    """The client's own bridge network."""
    subnet = ipaddress.IPv4Network(client["subnet"])
    return NetworkSpec(
        name=network_name(client, config),
        client_id=client["client_id"],
        bridge=bridge_name(client, config),
        subnet=str(subnet),
        gateway=str(subnet[1]),
        internal=False,
        labels=_labels(client, config),
    )


def containers(client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> list[ContainerSpec]:
    """The containers of a client that is present; none for another state."""
    if client["state"] != "present":
        return []
    level = LEVELS[client["isolation_level"]]
    specs = []
    for name, service in sorted(client_services(client, config).items()):
        healthcheck = service.get("healthcheck")
        user = service.get("user", f"{client['uid']}:{client['gid']}")
        specs.append(
            ContainerSpec(
                # '.' is in no client id and in no service name, so that two clients can never mean one container.
                name=f"{config['name_prefix']}-{client['client_id']}.{name}",
                client_id=client["client_id"],
                service=name,
                image=service["image"],
                network=network_name(client, config),
                subnet=client["subnet"],
                labels=_labels(client, config) | {LABEL_SERVICE: name},
                user=user,
                command=service.get("command"),
                entrypoint=service.get("entrypoint"),
                environment={key: str(value) for key, value in service["environment"].items()},
                binds=[
                    {"source": layout.client(client["client_id"], "data", source), "target": target, "read_only": ro}
                    for source, target, ro in map(parse_volume, service["volumes"])
                ],
                tmpfs=dict(_tmpfs(mount, user) for mount in service["tmpfs"]),
                cap_add=sorted(service["cap_add"]),
                read_only=service["read_only"],
                mem_limit=parse_size(service.get("mem_limit", level.mem_limit)),
                nano_cpus=int(service.get("cpus", level.cpus) * 10**9),
                pids_limit=service.get("pids_limit", level.pids_limit),
                stop_signal=service.get("stop_signal"),
                stop_timeout=max(1, parse_duration(service["stop_grace_period"]) // 10**9),
                healthcheck=None
                if healthcheck is None
                else {
                    "test": healthcheck["test"],
                    "interval": parse_duration(healthcheck["interval"]),
                    "timeout": parse_duration(healthcheck["timeout"]),
                    "retries": healthcheck["retries"],
                    "start_period": parse_duration(healthcheck["start_period"]),
                },
                start_first=service["deploy"]["update_config"]["order"] == "start-first",
            )
        )
    return specs


def directories(client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> list[Directory]:
    """The client's directories, parents first."""
    client_id, uid, gid = client["client_id"], client["uid"], client["gid"]

    def at(*parts: str) -> str:
        return layout.client(client_id, *parts)

    result = [
        Directory(at(), 0o750, 0, gid),
        Directory(at("multi_tenancy"), 0o750, 0, 0),
        Directory(at("data"), 0o750, 0, gid),
        Directory(at("secrets"), 0o700, 0, 0),
        Directory(at("certs"), 0o700, 0, 0),
        Directory(at("backups"), 0o700, 0, 0),
        Directory(layout.client_log(client_id), 0o750, 0, gid),
    ]
    sources = {
        parse_volume(volume)[0] for service in client_services(client, config).values() for volume in service["volumes"]
    }
    # The default ACL lets the client's services read what the operator drops there under any umask.
    return result + [Directory(at("data", source), 0o2750, uid, gid, reader=uid) for source in sorted(sources)]


def routes(client: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the edge must route for a client, also a suspended one: one entry for each service that has a port."""
    if client["state"] == "absent":
        return []
    services = client_services(client, config)
    return [
        {
            "client_id": client["client_id"],
            "service": name,
            "hostnames": service_hostnames(client, config, name),
            "port": services[name]["port"],
        }
        for name in routed_services(client, config)
    ]


def effective(client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The client's effective configuration, as its config.yaml shows it."""
    return {
        **{key: client[key] for key in ("client_id", "domain", "aliases", "isolation_level", "state")},
        "hostnames": hostnames(client, config),
        "network": {
            "name": network_name(client, config),
            "bridge": bridge_name(client, config),
            "subnet": client["subnet"],
        },
        "uid": client["uid"],
        "gid": client["gid"],
        "data": layout.client(client["client_id"], "data"),
        "services": {name: without_values(service) for name, service in client_services(client, config).items()},
    }


def effective_text(client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> str:
    """The text of a client's config.yaml: JSON, which is YAML."""
    client_id = client["client_id"]
    return (
        f"# The effective configuration of client {client_id}, made anew at each run. To change it:\n"
        f"#   make update_client CLIENT_ID={client_id} [DOMAIN=...] [ALIASES=...] [SERVICES=...]\n"
        f"#   {layout.base('scripts', 'update_client.sh')} --client-id {client_id} [--domain ...] ...\n"
        + json.dumps(effective(client, config, layout), indent=2, sort_keys=True)
        + "\n"
    )


def welcome_page(client: Mapping[str, Any]) -> str:
    """The first page of a client's site."""
    client_id, domain = html.escape(client["client_id"]), html.escape(client["domain"])
    return WELCOME_PAGE.replace("@CLIENT@", client_id).replace("@DOMAIN@", domain)


def _labels(client: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    return {
        LABEL_PLATFORM: config["name_prefix"],
        LABEL_CLIENT: client["client_id"],
        LABEL_LEVEL: client["isolation_level"],
    }


def _tmpfs(mount: str, user: str) -> tuple[str, str]:
    """Path and mount options, with an owner.

    A path that the image lacks belongs to everybody when a container starts first, and to root when it starts again.
    """
    path, _colon, options = mount.partition(":")
    uid, _colon, gid = user.partition(":")
    owner = [f"uid={uid}", *([f"gid={gid}"] if gid else [])]
    given = [option for option in options.split(",") if option]
    named = {option.partition("=")[0] for option in given}
    return path, ",".join([*given, *(option for option in owner if option.partition("=")[0] not in named)])
