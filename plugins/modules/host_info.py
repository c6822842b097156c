#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: See whether a host can carry the platform
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Reads the system, the engine, the ports and the routes of a host, in one task, and touches nothing.
  - Fails with all reasons at once when the host cannot carry the platform as it is.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    description: Changes nothing.
  idempotent:
    support: full
options:
  config:
    description:
      - The platform's effective settings, as M(agency_stack.multi_tenancy.platform_config) returns them.
      - Without it only the system and the packages are looked at, which needs no library on the host.
    type: dict
"""

EXAMPLES = r"""
- name: See whether the host can carry the platform
  agency_stack.multi_tenancy.host_info:
    config: "{{ platform.config }}"
  register: host

- name: Say which packages the host lacks
  ansible.builtin.debug:
    var: host.packages
"""

RETURN = r"""
engine:
  description: Version of the engine, empty when none answers.
  returned: success
  type: str
  sample: 28.5.2
engine_managed:
  description: Whether the engine was installed by this collection.
  returned: success
  type: bool
packages:
  description: Debian packages that the host lacks.
  returned: success
  type: list
  elements: str
  sample: ["docker.io", "nftables"]
architecture:
  description: The machine's architecture, as the kernel names it.
  returned: success
  type: str
  sample: x86_64
missing_images:
  description: Built-in images of the settings that the engine lacks.
  returned: success
  type: list
  elements: str
  sample: []
occupied:
  description: Networks of host routes and of foreign Docker networks.
  returned: success
  type: list
  elements: dict
  sample: [{"subnet": "172.17.0.0/16", "what": "the Docker network 'bridge'"}]
port_start:
  description: The lowest port that a process without capabilities may bind.
  returned: success
  type: int
  sample: 1024
systemd:
  description: Whether systemd runs the host.
  returned: success
  type: bool
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import ENGINE_SPEC
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import (
    HAS_DOCKER,
    LABEL_COMPONENT,
    LABEL_PLATFORM,
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
    read_routes,
    read_system,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import BUILT_IN, reference
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._network import foreign_subnets
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import guarded


def ask_engine(docker_host: str, config: dict[str, Any] | None) -> dict[str, Any]:
    """What the engine says: version, whether it is ours, foreign subnets, images, and the ids of our edge."""
    answer: dict[str, Any] = {"version": None, "managed": False, "subnets": [], "images": set(), "edges": []}
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
            answer["edges"] = [container["Id"] for container in client.containers(filters={"label": labels})]
    return answer


def run(module: AnsibleModule) -> None:
    """Read, judge, return."""
    config = module.params["config"]
    engine = ask_engine(module.params["docker_host"], config)
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
    if faults:
        raise InvalidInput(faults)
    module.exit_json(
        changed=False,
        architecture=os.uname().machine,
        engine=facts.engine or "",
        engine_managed=facts.engine_managed,
        packages=facts.packages,
        missing_images=facts.missing_images,
        occupied=[{"subnet": subnet, "what": what} for subnet, what in facts.subnets],
        port_start=facts.port_start,
        systemd=facts.systemd,
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**ENGINE_SPEC, "config": {"type": "dict"}},
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
