# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host must hold for a client, derived from its registry entry and the platform's settings."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _client_edge
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._bridges import (
    client_labels,
    egress,
    internal_network,
    level_of,
    network,
    networks,
    shared_labels,
    shared_network,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import (
    parse_duration,
    parse_size,
    parse_volume,
    shared_service,
    without_values,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._contract import LEVELS, Level
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_SERVICE
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    client_services,
    hostnames,
    routed_services,
    service_hostnames,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import (
    Resources,
    wanted_resources,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._secrets import Secret
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._shared_folder import SharedFolder
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


def rate_limit(client: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, int]:
    """Requests per second that the edge lets through for a client on average, and at once; 0 is no limit."""
    own = client.get("rate_limit")
    if own is not None:
        return own["average"], own["burst"]
    if level_of(client).own_instances:
        return 0, 0
    return config["soft"]["rate_average"], config["soft"]["rate_burst"]


def resources(client: Mapping[str, Any], config: Mapping[str, Any]) -> Resources | None:
    """What is reserved for a client; None for one without dedicated resources."""
    return wanted_resources(client, config) if level_of(client).dedicated else None


def containers(
    client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout, cgroup_parent: str | None = None
) -> list[ContainerSpec]:
    """The containers that a client's level and state give it, each after those that it depends on.

    Args:
        client: Its registry entry.
        config: The platform's settings.
        layout: Where its files lie.
        cgroup_parent: The cgroup that caps the total of a client with dedicated resources.
    """
    level = level_of(client)
    specs: list[ContainerSpec] = []
    if level.own_edge and client["state"] != "absent":
        # Of a suspended client as well, whose visitors it asks to come again.
        specs.append(_client_edge.container(client, config, layout))
    if level.own_instances and client["state"] == "present":
        specs += _service_containers(client, config, layout)
    total = resources(client, config)
    if total is None:
        return specs
    # The kernel refuses a container with more CPU than the cgroup it is in.
    cpus = int(total.cpus * 10**9)
    return [
        replace(
            spec,
            cgroup_parent=cgroup_parent,
            nano_cpus=min(spec.nano_cpus or cpus, cpus),
            mem_limit=min(spec.mem_limit or total.memory, total.memory),
        )
        for spec in specs
    ]


def _service_containers(client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> list[ContainerSpec]:
    client_id, level = client["client_id"], level_of(client)
    front = network(client, config)
    place: dict[str, Any] = {"network": front.name, "subnet": front.subnet}
    if level.own_edge:
        inner = internal_network(client, config)
        place = {"network": inner.name, "subnet": inner.subnet}
        way_out = egress(client, config)
        # A service is on the bridge that leads out only if there is anything out there for it.
        if way_out is not None and (way_out.policy == "allow" or way_out.rules):
            place["networks"] = [(front.name, front.subnet)]
    return [
        _container(
            name,
            service,
            level,
            # '.' is in no client id and in no service name, so that two clients can never mean one container.
            name=f"{front.name}.{name}",
            client_id=client_id,
            labels=client_labels(client, config) | {LABEL_SERVICE: name},
            user=service.get("user", f"{client['uid']}:{client['gid']}"),
            binds=[
                *(
                    _bind(layout.client(client_id, "data", source), target, ro)
                    for source, target, ro in map(parse_volume, service["volumes"])
                ),
                *(
                    _bind(layout.client(client_id, "secrets", secret), f"/run/secrets/{secret}", True)
                    for secret in service["secrets"]
                ),
            ],
            **place,
        )
        for name, service in client_services(client, config).items()
    ]


def shared_container(shared: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> ContainerSpec:
    """The one container of a service that clients share.

    The folder with the folders of all clients is mounted as a whole, so that a new client does not touch it.
    """
    name = shared["service"]
    service = shared_service(name, config["services"][name])[0]
    spec = shared_network(shared, config)
    return _container(
        name,
        service,
        LEVELS["soft"],
        name=spec.name,
        client_id=spec.client_id,
        labels=shared_labels(shared, config),
        user=f"{shared['uid']}:{shared['gid']}",
        binds=[
            _bind(layout.base("shared", name), target, ro)
            for _source, target, ro in map(parse_volume, service["volumes"])
        ],
        network=spec.name,
        subnet=spec.subnet,
    )


def _bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    return {"source": source, "target": target, "read_only": read_only}


def _container(service_name: str, service: Mapping[str, Any], level: Level, **place: Any) -> ContainerSpec:
    """A container as the catalog describes its service, in its place."""
    healthcheck = service.get("healthcheck")
    return ContainerSpec(
        service=service_name,
        image=service["image"],
        command=service.get("command"),
        entrypoint=service.get("entrypoint"),
        environment={key: str(value) for key, value in service["environment"].items()},
        tmpfs=dict(_tmpfs(mount, place["user"]) for mount in service["tmpfs"]),
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
        **place,
    )


def shared_directories(shared: Iterable[Mapping[str, Any]], layout: Layout) -> list[Directory]:
    """The folders that the instances that clients share mount as a whole, parents first.

    A client's own uid may go through to its folder, and nobody may list whose folders are in there.
    """
    tops = [Directory(layout.base("shared", item["service"]), 0o711, 0, 0) for item in shared]
    return [Directory(layout.base("shared"), 0o711, 0, 0), *tops] if tops else []


def shared_folders(
    client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout, shared: Iterable[Mapping[str, Any]]
) -> list[SharedFolder]:
    """Where the folders of a client lie that a shared instance serves, or served before the client's level changed."""
    client_id = client["client_id"]
    joined = client["state"] != "absent" and not level_of(client).own_instances
    folders = []
    for item in shared:
        name = item["service"]
        service = config["services"].get(name, {})
        volumes = [parse_volume(volume)[0] for volume in service.get("volumes", [])]
        if "shared" in service:
            volumes = [parse_volume(volume)[0] for volume in shared_service(name, service)[0]["volumes"]]
        if joined and (name not in client["services"] or not volumes):
            continue
        folders.append(
            SharedFolder(
                client_id=client_id,
                # Of what the catalog has lost, the service's name is as good as any.
                own=layout.client(client_id, "data", volumes[0] if volumes else name),
                shared=layout.base("shared", name, client_id),
                to_shared=joined,
                uid=client["uid"],
                own_gid=client["gid"],
                shared_gid=item["gid"],
            )
        )
    return folders


def client_secrets(client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> list[Secret]:
    """The secrets that a client's services read."""
    if not level_of(client).own_instances:
        return []
    names = {name for service in client_services(client, config).values() for name in service["secrets"]}
    client_id = client["client_id"]
    return [Secret(client_id, layout.client(client_id, "secrets", name), client["gid"]) for name in sorted(names)]


def directories(client: Mapping[str, Any], config: Mapping[str, Any], layout: Layout) -> list[Directory]:
    """The client's directories, parents first; of those that a shared instance serves, shared_folders() tells."""
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
    if level_of(client).own_edge:
        result += _client_edge.directories(client, layout)
    if not level_of(client).own_instances:
        return result
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
        "networks": [
            {"name": spec.name, "bridge": spec.bridge, "subnet": spec.subnet} for spec in networks(client, config)
        ],
        **_effective_limits(client, config),
        "uid": client["uid"],
        "gid": client["gid"],
        "data": layout.client(client["client_id"], "data"),
        "services": {name: without_values(service) for name, service in client_services(client, config).items()},
    }


def _effective_limits(client: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the client's level limits, with the values that hold."""
    limits: dict[str, Any] = {}
    average, burst = rate_limit(client, config)
    if average:
        limits["rate_limit"] = {"average": average, "burst": burst}
    way_out = egress(client, config)
    if way_out is not None:
        limits["egress"] = way_out.policy
        limits["egress_allow"] = [str(rule) for rule in way_out.rules]
    reserved = resources(client, config)
    if reserved is not None:
        limits["resources"] = asdict(reserved)
    return limits


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
