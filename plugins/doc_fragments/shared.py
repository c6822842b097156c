# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option of modules that know services which clients share."""

from __future__ import annotations


class ModuleDocFragment:
    """Services of which one instance serves several clients."""

    DOCUMENTATION = r"""
options:
  shared:
    description:
      - What the services were given that V(soft) clients share, as M(agency_stack.multi_tenancy.client_registry)
        returns it.
    type: list
    elements: dict
    default: []
"""
