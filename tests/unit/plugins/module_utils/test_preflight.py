# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a platform can lie: paths that other programs can read."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._preflight import read_host
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine

# Folder of logs -> whether it stands in logrotate's file as it is.
LOG_DIRS = {
    "/var/log/agency_stack": True,
    "/srv/a-b.c/log": True,
    "": False,
    "log": False,
    "/": False,
    "/with a blank": False,
    "/with a tab\t": False,
    "/with\nanother line": False,
    '/quoted"': False,
    "/back\\slash": False,
    "/pattern*": False,
    "/pattern[ab]": False,
    "/{{ template }}": False,
    "/caf\N{LATIN SMALL LETTER E WITH ACUTE}": False,
}


@pytest.mark.parametrize(("log_dir", "allowed"), LOG_DIRS.items())
def test_a_folder_of_logs_that_logrotate_would_misread_is_refused(
    engine: FakeEngine, config: dict[str, Any], log_dir: str, allowed: bool
) -> None:
    faults = read_host("unix:///var/run/docker.sock", config, Layout("/srv/root", log_dir))[1]
    found = [fault for fault in faults if fault.startswith("log_dir ")]
    assert len(found) == (not allowed)
    assert all(fault.isprintable() and "use an absolute path of letters, digits" in fault for fault in found)
