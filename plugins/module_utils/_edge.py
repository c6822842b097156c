# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared edge: Traefik's static configuration and the container that runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import parse_size
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import (
    LABEL_COMPONENT,
    LABEL_PLATFORM,
    LABEL_SERVICE,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import spec_hash
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerSpec
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Directory

# The uid without any right of its own; the customary "nonroot" of small images. Files for the edge belong to its group.
EDGE_ID = 65532

# Where the edge's configuration is mounted in its container.
EDGE_HOME = "/etc/traefik"

HEADER = "# Made by agency_stack.multi_tenancy; the settings are in ../config.yaml under edge.\n"


def privileges(config: Mapping[str, Any], unprivileged_port_start: int) -> tuple[str, list[str]]:
    """(user, capabilities) with which the edge can bind its ports.

    A user other than root cannot bind low ports with NET_BIND_SERVICE, since Docker gives no ambient capabilities; so
    it is either uid 65532 with none, where the host lets everybody bind these ports, or root with that one alone.
    """
    lowest = min(config["edge"]["http_port"], config["edge"]["https_port"])
    if lowest >= unprivileged_port_start:
        return f"{EDGE_ID}:{EDGE_ID}", []
    return f"0:{EDGE_ID}", ["NET_BIND_SERVICE"]


def static_config(config: Mapping[str, Any]) -> str:
    """traefik.yml: JSON, which is YAML."""
    edge = config["edge"]
    # Without this a visitor's X_Client_Id would reach backends that read it as X-Client-Id.
    aliases = {"aliasHeadersStrategy": "delete"}
    document = {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "WARN", "noColor": True, "format": "common"},
        "accessLog": {"format": "json"},
        # "insecure" means: on the entry point named traefik, which listens on the loopback interface alone.
        "api": {"insecure": True, "dashboard": False},
        "ping": {"entryPoint": "traefik"},
        "entryPoints": {
            "traefik": {"address": f"127.0.0.1:{edge['api_port']}", "http": aliases},
            "web": {
                "address": f":{edge['http_port']}",
                "http": {
                    **aliases,
                    "redirections": {"entryPoint": {"to": "websecure", "scheme": "https", "permanent": True}},
                },
            },
            "websecure": {"address": f":{edge['https_port']}", "http": aliases},
        },
        "providers": {"file": {"directory": "/etc/traefik/dynamic", "watch": True}},
    }
    return HEADER + json.dumps(document, indent=2) + "\n"


def container(config: Mapping[str, Any], layout: Layout, unprivileged_port_start: int) -> ContainerSpec:
    """The edge's container."""
    user, capabilities = privileges(config, unprivileged_port_start)
    probe = ["/usr/local/bin/traefik", "healthcheck", "--configFile=/etc/traefik/traefik.yml"]
    return ContainerSpec(
        name=f"{config['name_prefix']}-edge",
        client_id=None,
        service="edge",
        image=config["edge"]["image"],
        network="host",
        subnet=None,
        labels={
            LABEL_PLATFORM: config["name_prefix"],
            LABEL_COMPONENT: "edge",
            LABEL_SERVICE: "edge",
            # Traefik reads this file only when it starts, so a change of it is a change of the container.
            "agency_stack.static_config": spec_hash(static_config(config)),
        },
        user=user,
        command=["--configFile=/etc/traefik/traefik.yml"],
        binds=[{"source": layout.base("traefik"), "target": EDGE_HOME, "read_only": True}],
        cap_add=capabilities,
        mem_limit=parse_size(config["edge"]["mem_limit"]),
        pids_limit=512,
        healthcheck={
            "test": ["CMD", *probe],
            "interval": 30 * 10**9,
            "timeout": 5 * 10**9,
            "retries": 3,
            "start_period": 30 * 10**9,
        },
    )


def directories(layout: Layout) -> list[Directory]:
    """The platform's directories, parents first."""
    return [
        Directory(layout.root, 0o755, 0, 0),
        Directory(layout.base(), 0o755, 0, 0),
        Directory(layout.root + "/clients", 0o711, 0, 0),
        Directory(layout.base("ca"), 0o755, 0, 0),
        Directory(layout.base("traefik"), 0o750, 0, EDGE_ID),
        Directory(layout.base("traefik", "dynamic"), 0o750, 0, EDGE_ID),
        Directory(layout.base("traefik", "staging"), 0o700, 0, 0),
        Directory(layout.log_dir, 0o755, 0, 0),
        Directory(layout.log_dir + "/clients", 0o711, 0, 0),
    ]
