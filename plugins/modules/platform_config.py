#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: platform_config
short_description: Keep the settings of the platform
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Reads C(config.yaml), lays the settings named here over it, checks the whole and returns the effective settings that
    the other modules take as C(config).
  - Writes C(config.yaml) when it is missing, or when O(custom) or O(set) names a value that differs. Everything else in
    the file, the operator's comments included, stays as it is.
  - The precedence is defaults, C(config.yaml), O(custom), O(set), O(overrides), the strongest last.
  - A C(config.yaml) that an earlier AgencyStack installer wrote is replaced by one that says the same, and kept beside
    it as C(config.yaml.before-upgrade).
  - Registers the component in C(<root>/registry/multi_tenancy.json) for other AgencyStack tools.
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
  - agency_stack.multi_tenancy.platform
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  set:
    description:
      - Top-level scalar settings to write into C(config.yaml), such as V(root_domain).
    type: dict
    default: {}
  custom:
    description:
      - Settings to merge into C(config.yaml), mappings key by key; V(null) takes a setting back to its default.
    type: dict
    default: {}
  custom_source:
    description:
      - The name of the file that O(custom) is from, for messages.
    type: str
    default: custom settings
  force:
    description:
      - Write C(config.yaml) anew, with the settings that it has and the comments that it is made with. When that
        differs, the old one is kept beside it as C(config.yaml.<UTC time>).
    type: bool
    default: false
  overrides:
    description:
      - Settings that are stronger than C(config.yaml) for this run alone; they are not written.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Read the settings, and make the file on the first run
  agency_stack.multi_tenancy.platform_config:
  register: platform

- name: Give new clients a domain below example.com
  agency_stack.multi_tenancy.platform_config:
    set:
      root_domain: example.com

- name: Merge a file of settings into config.yaml
  agency_stack.multi_tenancy.platform_config:
    custom: "{{ lookup('ansible.builtin.file', 'agency.yml') | from_yaml }}"
    custom_source: agency.yml
"""

RETURN = r"""
config:
  description: The effective settings, every key present, each image a real reference.
  returned: success
  type: dict
  sample: {"root_domain": "localhost", "isolation_level": "medium"}
path:
  description: The settings file.
  returned: success
  type: str
  sample: /opt/agency_stack/multi_tenancy/config.yaml
changes:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import PLATFORM_SPEC, layout_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import atomic_write
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._settings import plan_settings


def run(module: AnsibleModule) -> None:
    """Plan and apply."""
    layout = layout_of(module.params)
    params = module.params
    config, changes = plan_settings(
        layout, params["set"], params["overrides"], params["custom"], params["custom_source"], params["force"]
    )

    def apply(change: Change) -> None:
        os.makedirs(os.path.dirname(change.name), mode=0o755, exist_ok=True)
        # Settings may hold what is meant for root alone; the registration is for all tools.
        atomic_write(change.name, change.payload.encode(), mode=0o644 if change.kind == "registration" else 0o640)

    finish(module, converge(module, changes, apply, layout.log_dir, config=config, path=layout.config))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            "set": {"type": "dict", "default": {}},
            "custom": {"type": "dict", "default": {}},
            "custom_source": {"type": "str", "default": "custom settings"},
            "force": {"type": "bool", "default": False},
            "overrides": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
