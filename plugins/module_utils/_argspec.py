# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument specs that modules share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._egress import POLICIES
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import DEFAULT_DOCKER_HOST
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import (
    DEFAULT_LOG_DIR,
    DEFAULT_ROOT,
    Layout,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import DATA_FATES, STATES

PLATFORM_SPEC: dict[str, Any] = {
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "log_dir": {"type": "path", "default": DEFAULT_LOG_DIR},
}

ENGINE_SPEC: dict[str, Any] = {"docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST}}

# What every module for clients takes: their registry entries and the platform's settings.
CLIENTS_SPEC: dict[str, Any] = {
    **PLATFORM_SPEC,
    "clients": {"type": "list", "elements": "dict", "required": True},
    "config": {"type": "dict", "required": True},
    "defer_failures": {"type": "bool", "default": False},
}

# Of modules that make, or remove, what belongs to the named clients.
STATE_SPEC: dict[str, Any] = {"state": {"type": "str", "choices": ["present", "absent"], "default": "present"}}

# An edit of the registry: clients to add, change or remove.
EDIT_OPTION: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "default": [],
    "options": {
        "client_id": {"type": "str", "required": True},
        "domain": {"type": "str"},
        "aliases": {"type": "list", "elements": "str"},
        "isolation_level": {"type": "str"},
        "services": {"type": "dict"},
        "state": {"type": "str", "choices": list(STATES)},
        "data": {"type": "str", "choices": list(DATA_FATES)},
        "protected": {"type": "bool"},
        "egress": {"type": "str", "choices": list(POLICIES)},
        "egress_allow": {"type": "list", "elements": "str"},
        "rate_limit": {
            "type": "dict",
            "options": {"average": {"type": "int", "required": True}, "burst": {"type": "int", "required": True}},
        },
        "resources": {
            "type": "dict",
            "options": {
                "memory": {"type": "str"},
                "cpus": {"type": "float"},
                "pids": {"type": "int"},
                "disk": {"type": "str"},
            },
        },
    },
}

# The allocations of the services that clients share, as client_registry returns them.
SHARED_OPTION: dict[str, Any] = {"type": "list", "elements": "dict", "default": []}


def layout_of(params: Mapping[str, Any]) -> Layout:
    """The paths that a module's O(root) and O(log_dir) mean."""
    return Layout(params["root"], params["log_dir"])
