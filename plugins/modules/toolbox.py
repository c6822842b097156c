#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: toolbox
short_description: Install this collection on the host, with scripts for its operators
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Brings this very collection to C(<root>/multi_tenancy/toolbox/), makes a virtualenv with its pinned packages at
    C(<root>/multi_tenancy/venv), and writes C(<root>/multi_tenancy/scripts/*.sh), so that clients are added, changed
    and removed on the host itself, without a checkout.
  - A new version is unpacked beside the old one and takes its place at once, when its virtualenv is complete. Old
    versions are removed, except while a script still runs from them.
  - When a script of the toolbox runs the playbook, nothing is compared and nothing is installed.
  - Installs Debian's C(python3-venv) when the host's Python cannot make a virtualenv.
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
  version:
    description:
      - The hash of the collection's files; the control machine sets it.
    type: str
  requirements:
    description:
      - The hash of the pinned packages; the control machine sets it.
    type: str
  archive:
    description:
      - Path of the collection's archive on the host; the control machine sets it.
    type: path
  defer_failures:
    description:
      - Report what failed in RV(failures) instead of failing, so that the play goes on.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Install the scripts for operators
  agency_stack.multi_tenancy.toolbox:

- name: Install them below another root and go on when that fails
  agency_stack.multi_tenancy.toolbox:
    root: /srv/agency_stack
    defer_failures: true
  register: toolbox
"""

RETURN = r"""
changes:
  description: What was done, or would be done in check mode; C(action), C(kind), C(name) of each.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create", "kind": "link", "name": "/opt/agency_stack/multi_tenancy/venv", "client_id": null}]
failures:
  description: What could not be done, and why, with C(msg).
  returned: success
  type: list
  elements: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import PLATFORM_SPEC, layout_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import locked
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._toolbox import Toolbox, plan_toolbox
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._toolbox_store import (
    LOCK,
    ToolboxApplier,
    find_python,
    read_toolbox,
)

# Longer than an installation with a slow package index.
INSTALL_SECONDS = 900.0


def run(module: AnsibleModule) -> None:
    """Compare, and install."""
    params = module.params
    wanted = Toolbox(layout_of(params), params["version"], params["requirements"], find_python())
    if not plan_toolbox(wanted, read_toolbox(wanted)) or module.check_mode:
        install(module, wanted)
        return
    # Modes must not depend on the umask of whoever runs this.
    os.umask(0o022)
    os.makedirs(wanted.place(), mode=0o755, exist_ok=True)
    with locked(wanted.place(LOCK), INSTALL_SECONDS):
        install(module, wanted)


def install(module: AnsibleModule, wanted: Toolbox) -> None:
    """Plan and apply; without an archive that is needed, ask the control machine for it."""
    changes = plan_toolbox(wanted, read_toolbox(wanted))
    unpacks = any((change.action, change.kind) == ("create", "toolbox") for change in changes)
    if unpacks and not module.params["archive"] and not module.check_mode:
        module.exit_json(changed=False, needs_archive=True)
    applier = ToolboxApplier(wanted, module.params["archive"])
    finish(module, converge(module, changes, applier.apply, module.params["log_dir"]))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            "version": {"type": "str"},
            "requirements": {"type": "str"},
            "archive": {"type": "path"},
            "defer_failures": {"type": "bool", "default": False},
        },
        required_together=[("version", "requirements")],
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
