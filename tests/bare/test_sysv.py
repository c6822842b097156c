# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stranger's path on a machine with sysvinit, in short: each test goes on where the one before it ended."""

from __future__ import annotations

from pathlib import Path

from stranger import Stranger
from tenancy import Tenancy
from visitor import trusted

FLAVOUR = "sysv"


def test_one_command_brings_the_default_client_online(stranger: Stranger, tenancy: Tenancy, tmp_path: Path) -> None:
    assert stranger.machine.run("command -v systemctl", check=False).returncode != 0
    done = stranger.make()
    assert done.status == 0, done.output
    assert "default" in trusted(stranger.machine, tmp_path, inside=True).get("https://default.localhost/").body
    assert tenancy.firewall_is_loaded()


def test_a_second_run_changes_nothing(stranger: Stranger, tenancy: Tenancy) -> None:
    before = tenancy.container_ids()
    done = stranger.make()
    assert (done.status, done.changed) == (0, 0), done.output
    assert tenancy.container_ids() == before


def test_a_reboot_brings_firewall_and_site_back(stranger: Stranger, tenancy: Tenancy, tmp_path: Path) -> None:
    stranger.machine.restart()
    assert trusted(stranger.machine, tmp_path).wait_for("https://default.localhost/").status == 200
    assert tenancy.firewall_is_loaded()
