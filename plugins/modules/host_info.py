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
rotation:
  description: C(path) and present C(text) of the file that tells logrotate of the platform's logs.
  returned: success, with O(config)
  type: dict
  sample: {"path": "/etc/logrotate.d/agency-stack", "text": ""}
systemd:
  description: Whether systemd runs the host.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import ENGINE_SPEC
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import InvalidInput
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._preflight import read_host
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import guarded


def run(module: AnsibleModule) -> None:
    """Read, judge, return."""
    facts, faults = read_host(module.params["docker_host"], module.params["config"])
    if faults:
        raise InvalidInput(faults)
    module.exit_json(changed=False, **facts)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**ENGINE_SPEC, "config": {"type": "dict"}},
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
