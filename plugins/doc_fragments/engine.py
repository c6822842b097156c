# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that speaks with the Docker engine."""

from __future__ import annotations


class ModuleDocFragment:
    """How the engine is reached."""

    DOCUMENTATION = r"""
options:
  docker_host:
    description:
      - URL of the Docker engine's socket on the host.
    type: str
    default: unix:///var/run/docker.sock
requirements:
  - docker (Python library, 5.0 or newer)
"""
