# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that takes a list of clients."""

from __future__ import annotations


class ModuleDocFragment:
    """The clients and the settings that they are derived with."""

    DOCUMENTATION = r"""
options:
  clients:
    description:
      - The registry entries of the clients in question, as M(agency_stack.multi_tenancy.client_registry) returns them.
      - The number of calls to the engine does not grow with this list, only the effects grow with what differs.
    type: list
    elements: dict
    required: true
  config:
    description:
      - The platform's effective settings, as M(agency_stack.multi_tenancy.platform_config) returns them.
    type: dict
    required: true
  defer_failures:
    description:
      - With V(true), failures of single clients are returned in RV(ignore:failures) and the task succeeds, so that a
        role can go on with the other clients and fail at its end.
    type: bool
    default: false
"""
