# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that works on the platform's files."""

from __future__ import annotations


class ModuleDocFragment:
    """Where the platform lies."""

    DOCUMENTATION = r"""
options:
  root:
    description:
      - The AgencyStack root on the host.
    type: path
    default: /opt/agency_stack
  log_dir:
    description:
      - Where logs lie on the host; every applied change is noted in C(components/multi_tenancy.log) below it.
    type: path
    default: /var/log/agency_stack
"""
