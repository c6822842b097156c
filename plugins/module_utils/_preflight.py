# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is looked at before anything is made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._edge import EDGE_HOME
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import (
    HAS_DOCKER,
    connect,
    engine_errors,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._host import (
    HostFacts,
    engine_is_managed,
    faults_of_host,
    missing_packages,
    read_listeners,
    read_port_start,
    read_rotation,
    read_routes,
    read_system,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import BUILT_IN, reference
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_COMPONENT, LABEL_PLATFORM
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import shown
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._network import foreign_subnets
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._nft import Host, wanted_firewall
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput, TenancyError

# It stands in logrotate's file, where blanks, quotes and the characters of patterns mean something.
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")


def ask_engine(docker_host: str, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the engine says: version, whether it is ours, foreign subnets, images, and the ids of our edge."""
    answer: dict[str, Any] = {
        "version": None,
        "managed": False,
        "subnets": [],
        "images": set(),
        "edges": [],
        "homes": set(),
    }
    if not HAS_DOCKER:
        return answer
    try:
        client = connect(docker_host)
    except TenancyError:
        return answer
    with engine_errors("Asking the engine"):
        info = client.info()
        answer |= {"version": info["ServerVersion"], "managed": engine_is_managed(info)}
        if config is not None:
            platform = config["name_prefix"]
            answer["subnets"] = foreign_subnets(client.networks(), platform)
            answer["images"] = {tag for image in client.images() for tag in image.get("RepoTags") or []}
            labels = [f"{LABEL_PLATFORM}={platform}", f"{LABEL_COMPONENT}=edge"]
            edges = client.containers(all=True, filters={"label": labels})
            answer["edges"] = [container["Id"] for container in edges]
            mounts = [mount for container in edges for mount in container.get("Mounts") or []]
            answer["homes"] = {mount["Source"] for mount in mounts if mount.get("Destination") == EDGE_HOME}
    return answer


def read_host(
    docker_host: str, config: Mapping[str, Any] | None, layout: Layout | None = None
) -> tuple[dict[str, Any], list[str]]:
    """What the host is like, as host_info returns it, and why it cannot carry the platform.

    Args:
        docker_host: URL of the engine's socket.
        config: The platform's effective settings; None looks at the system and its packages alone.
        layout: Where the platform lies, to be compared with where the running one does; None asks no further.
    """
    engine = ask_engine(docker_host, config)
    ports = [] if config is None else [config["edge"][key] for key in ("http_port", "https_port", "api_port")]
    subnets = list(engine["subnets"])
    wanted_images: list[str] = []
    if config is not None:
        # Docker's own bridges stand both in its list and in the routes; the list names them better.
        known = {subnet for subnet, _what in subnets}
        subnets += [item for item in read_routes(f"{config['name_prefix']}-") if item[0] not in known]
        holders = {"edge": config["edge"], **config["services"]}
        wanted_images = [reference(name) for name in BUILT_IN if holders[name]["image"] == reference(name)]
    facts = HostFacts(
        uid=os.geteuid(),
        system=read_system(),
        engine=engine["version"],
        engine_managed=engine["managed"],
        packages=missing_packages(engine["version"] is not None),
        listeners=read_listeners(ports, engine["edges"]),
        subnets=subnets,
        port_start=read_port_start(),
        systemd=os.path.isdir("/run/systemd/system"),
        missing_images=[image for image in wanted_images if image not in engine["images"]],
    )
    faults = faults_of_host(facts, ports)
    if config is not None and layout is not None:
        faults += _faults_of_place(config, layout, engine["homes"])
    return {
        "architecture": os.uname().machine,
        "engine": facts.engine or "",
        "engine_managed": facts.engine_managed,
        "packages": list(facts.packages),
        "missing_images": list(facts.missing_images),
        "occupied": [{"subnet": subnet, "what": what} for subnet, what in facts.subnets],
        "port_start": facts.port_start,
        "rotation": {} if config is None else read_rotation(config["firewall"]["table"]),
        "systemd": facts.systemd,
    }, faults


def _faults_of_place(config: Mapping[str, Any], layout: Layout, homes: Iterable[str]) -> list[str]:
    """Why the platform cannot lie there: another one has its names, or other programs cannot read such paths."""
    prefix = config["name_prefix"]
    faults = [
        f"The platform with the name_prefix '{prefix}' on this engine lies in {home.rpartition('/multi_tenancy/')[0]}, "
        f"not in {layout.root}: name that one as AGENCY_ROOT, or set another name_prefix in config.yaml."
        for home in homes
        if home != layout.base("traefik")
    ]
    if _PATH.fullmatch(layout.log_dir) is None:
        faults.append(
            f"log_dir {shown(layout.log_dir)} is not allowed: use an absolute path of letters, digits, "
            "'.', '_', '-' and '/'."
        )
    host = Host(config["firewall"]["table"], layout.base("firewall.nft"))
    try:
        wanted_firewall(host, f"{prefix}-", [], [])
    except InvalidInput as exc:
        faults += exc.faults
    return faults
