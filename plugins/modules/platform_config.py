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
  - Writes C(config.yaml) when it is missing, or when O(set) names a value that differs. Everything else in the file,
    the operator's comments included, stays as it is.
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

import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._argspec import PLATFORM_SPEC, layout_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import (
    effective_config,
    initial_text,
    merge,
    text_with,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import atomic_write, read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded

try:
    import yaml

    HAS_YAML = True
except ImportError:
    HAS_YAML = False


def parse(text: str, path: str) -> dict[str, Any]:
    """The settings in a text of config.yaml."""
    if not HAS_YAML:
        raise TenancyError(f"{path} cannot be read: {missing_required_lib('PyYAML')}")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise TenancyError(f"{path} is no valid YAML{at}: {getattr(exc, 'problem', exc)}; correct it.") from exc
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise TenancyError(f"{path} must hold settings of the form 'key: value'.")
    return settings


def registration(layout: Layout) -> str:
    """The component registration that other AgencyStack tools read."""
    document = {
        "component": "multi_tenancy",
        "collection": "agency_stack.multi_tenancy",
        "root": layout.base(),
        "config": layout.config,
        "clients": layout.registry,
        "log": os.path.join(layout.log_dir, "components", "multi_tenancy.log"),
    }
    return json.dumps(document, indent=2) + "\n"


def run(module: AnsibleModule) -> None:
    """Plan and apply."""
    layout = layout_of(module.params)
    before = read_text(layout.config)
    if before is None:
        after = initial_text(module.params["set"])
    else:
        after = before
        present = parse(before, layout.config)
        differing = {key: value for key, value in module.params["set"].items() if present.get(key) != value}
        if differing:
            after = text_with(before, differing)
            if parse(after, layout.config) != merge(present, differing):
                raise TenancyError(f"{', '.join(differing)} cannot be set in {layout.config}; set it there by hand.")
    settings = module.params["set"] if before is None else parse(after, layout.config)
    config = effective_config([(layout.config, settings), ("The call", module.params["overrides"])])
    changes = []
    for kind, path, old, new in (
        ("settings", layout.config, before, after),
        ("registration", layout.registration, read_text(layout.registration), registration(layout)),
    ):
        if old != new:
            changes.append(Change("create" if old is None else "update", kind, path, old, new, payload=new))

    def apply(change: Change) -> None:
        os.makedirs(os.path.dirname(change.name), mode=0o755, exist_ok=True)
        atomic_write(change.name, change.payload.encode(), mode=0o644)

    result = converge(module, changes, apply, layout.log_dir, config=config, path=layout.config)
    finish(module, result)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PLATFORM_SPEC,
            "set": {"type": "dict", "default": {}},
            "overrides": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
