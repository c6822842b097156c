# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything lies on the host."""

from __future__ import annotations

import os
from dataclasses import dataclass

DEFAULT_ROOT = "/opt/agency_stack"
DEFAULT_LOG_DIR = "/var/log/agency_stack"


@dataclass(frozen=True)
class Layout:
    """The paths below one root.

    Args:
        root: The AgencyStack root, such as /opt/agency_stack.
        log_dir: Where logs lie, such as /var/log/agency_stack.
    """

    root: str = DEFAULT_ROOT
    log_dir: str = DEFAULT_LOG_DIR

    def base(self, *parts: str) -> str:
        """A path of the platform's own."""
        return os.path.join(self.root, "multi_tenancy", *parts)

    def client(self, client_id: str, *parts: str) -> str:
        """A path of one client's."""
        return os.path.join(self.root, "clients", client_id, *parts)

    def removed(self, name: str) -> str:
        """Where the folder of a removed client is kept; root's alone, since its uid may be given to another client."""
        return self.base("removed", name)

    def client_log(self, client_id: str) -> str:
        """The folder of one client's logs."""
        return os.path.join(self.log_dir, "clients", client_id)

    @property
    def config(self) -> str:
        """The platform's settings, the operator's to edit."""
        return self.base("config.yaml")

    @property
    def registry(self) -> str:
        """The desired state of all clients."""
        return self.base("clients.json")

    @property
    def registration(self) -> str:
        """What other AgencyStack tools read of this component."""
        return os.path.join(self.root, "registry", "multi_tenancy.json")
