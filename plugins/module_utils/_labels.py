# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that every object of ours in the engine carries; kept apart, so that planners need no engine library."""

from __future__ import annotations

DEFAULT_DOCKER_HOST = "unix:///var/run/docker.sock"

# Every object of ours carries these, so that everything can be found again without a state file.
LABEL_PLATFORM = "agency_stack.platform"
LABEL_COMPONENT = "agency_stack.component"
LABEL_CLIENT = "agency_stack.client_id"
LABEL_SERVICE = "agency_stack.service"
LABEL_LEVEL = "agency_stack.isolation_level"
LABEL_SPEC = "agency_stack.spec_hash"

# The value of LABEL_COMPONENT for a service of which one instance serves several clients.
SHARED = "shared"


def shared_id(service: str) -> str:
    """What stands for a shared service where a client's id stands for a client; '.' is in no client id."""
    return f"{SHARED}.{service}"
