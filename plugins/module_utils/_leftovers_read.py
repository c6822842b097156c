# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge of the search for leftovers: one list of each kind of object, and the names in a few folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import engine_errors
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import names_in
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_PLATFORM
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._leftovers import Seen
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerState
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import read_places


def look(engine: Any | None, containers: Sequence[ContainerState], platform: str, layout: Layout) -> Seen:
    """All that can belong to clients.

    Args:
        engine: A docker.APIClient; None: there is no engine, and nothing of ours in it.
        containers: The platform's containers, which the caller has listed.
        platform: The platform's name prefix.
        layout: Where everything lies.
    """
    networks: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    if engine is not None:
        filters = {"label": f"{LABEL_PLATFORM}={platform}"}
        with engine_errors("Listing networks and volumes"):
            networks = engine.networks(filters=filters)
            volumes = engine.volumes(filters=filters)["Volumes"] or []
    logs = read_places(map(layout.client_log, names_in(layout.client_log(""))))
    return Seen(
        # '.' is in no client id: it is a service that several clients share.
        containers=[state for state in containers if "." not in (state.client_id or "")],
        networks=networks,
        volumes=volumes,
        routes=names_in(layout.base("traefik", "dynamic")),
        folders=[name for name in names_in(layout.client("")) if _is_ours(layout, name)],
        logs={os.path.basename(path): log for path, log in logs.items()},
    )


def _is_ours(layout: Layout, name: str) -> bool:
    """Whether a folder of a client holds a configuration that we made; a link to one is an operator's."""
    return not os.path.islink(layout.client(name)) and os.path.isfile(
        layout.client(name, "multi_tenancy", "config.yaml")
    )
