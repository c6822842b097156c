# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings' file edge: config.yaml and the component's registration, read and compared."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import (
    effective_config,
    initial_text,
    text_with,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError

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
    except (yaml.YAMLError, ValueError) as exc:
        # The latter for what looks like a date and is none.
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


def plan_settings(
    layout: Layout, chosen: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Change]]:
    """The effective settings, and how the files differ from what they must say.

    Args:
        layout: Where the files lie.
        chosen: Top-level scalars to be written.
        overrides: Settings for this run alone.

    Raises:
        TenancyError: A file cannot be read, or the settings are wrong.
    """
    before = read_text(layout.config)
    if before is None:
        after = initial_text(chosen)
    else:
        after = before
        present = parse(before, layout.config)
        differing = {key: value for key, value in chosen.items() if present.get(key) != value}
        if differing:
            after = text_with(before, differing)
            if parse(after, layout.config) != present | differing:
                raise TenancyError(f"{', '.join(differing)} cannot be set in {layout.config}; set it there by hand.")
    settings = chosen if before is None else parse(after, layout.config)
    config = effective_config([(layout.config, settings), ("The call", overrides)])
    changes = []
    for kind, path, old, new in (
        ("settings", layout.config, before, after),
        ("registration", layout.registration, read_text(layout.registration), registration(layout)),
    ):
        if old != new:
            changes.append(Change("create" if old is None else "update", kind, path, old, new, payload=new))
    return config, changes
