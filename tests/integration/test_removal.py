# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of clients on the real engine: an entry goes last, and only when nothing else is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Platform, docker

LEFT = "it-left-over"


@pytest.fixture(scope="module")
def clients(platform: Platform) -> Platform:
    """A platform with two clients."""
    platform.run(clients="one,two").ok()
    return platform


@pytest.fixture
def left_over(clients: Platform) -> Iterator[str]:
    """A volume of the client one, which no run deletes."""
    labels = {"platform": clients.prefix, "client_id": "one"}
    docker("volume", "create", *(f"--label=agency_stack.{key}={value}" for key, value in labels.items()), LEFT)
    yield LEFT
    docker("volume", "rm", "--force", LEFT)


def test_a_client_of_which_something_is_left_keeps_its_entry_and_the_next_run_finishes(
    clients: Platform, left_over: str
) -> None:
    leaving = [{"client_id": name, "state": "absent"} for name in ("one", "two")]
    before = clients.registry()
    clients.run("multi_tenancy", "--check", client_list=leaving).ok()
    assert clients.registry() == before
    told = f"Client one: volume {left_over} is still there; no run deletes what it holds; "
    removed = clients.run(client_list=leaving)
    assert removed.rc != 0
    assert told in removed.text
    assert "Client two" not in removed.text
    # Only what is still in use stays allocated.
    assert {name: (entry["state"], entry["subnet"]) for name, entry in clients.registry().items()} == {
        "one": ("absent", before["one"]["subnet"])
    }
    docker("volume", "rm", left_over)
    clients.run(client_list=leaving[:1]).ok()
    assert clients.registry() == {}
    assert list(clients.containers()) == ["it-edge"]


def test_the_file_for_logrotate_is_made_anew_when_it_differs(clients: Platform) -> None:
    path = Path(f"/etc/logrotate.d/agency-stack-{clients.prefix}")
    text = path.read_text(encoding="utf-8")
    assert f'"{clients.logs}/clients/*/*.log"\n' in text
    path.write_text("# altered\n", encoding="utf-8")
    for arguments, after in ((["--check"], "# altered\n"), ([], text)):
        told = clients.run("multi_tenancy", *arguments, client_id="one").ok().text
        assert "changed  Let logs be rotated" in told
        assert path.read_text(encoding="utf-8") == after
