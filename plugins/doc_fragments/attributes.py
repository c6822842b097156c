# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module of the collection says about check mode, diff mode and idempotency."""

from __future__ import annotations


class ModuleDocFragment:
    """Shared attributes; a module adds support and, where it is partial, a description of the limit."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the changes without making them.
  diff_mode:
    description: Returns what has changed, or in C(check_mode) what would change, when run in diff mode.
  idempotent:
    description: When run twice in a row with the same arguments, the second run makes no change.
"""
