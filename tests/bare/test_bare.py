# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stranger's path on a machine with systemd, git and make: each test goes on where the one before it ended."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stranger import Stranger
from tenancy import ROOT, Tenancy, eventually
from visitor import trusted

FLAVOUR = "bare"
MYAGENCY = "CLIENT_ID=myagency DOMAIN=example.com ISOLATION_LEVEL=medium"


def nothing_of_ours(stranger: Stranger) -> bool:
    """Whether the machine has neither our files nor an engine nor our firewall."""
    absent = f"! test -e {ROOT} && ! command -v dockerd && ! command -v nft && ! test -e /etc/docker"
    return stranger.machine.run(absent, check=False).returncode == 0


# -- Before anything is there


def test_the_machine_has_git_and_make_and_nothing_to_start_from(stranger: Stranger) -> None:
    assert nothing_of_ours(stranger)
    for program in ("python3", "docker", "curl", "ip"):
        assert stranger.machine.run(f"command -v {program}", check=False).returncode != 0


def test_only_root_may(stranger: Stranger) -> None:
    done = stranger.make(MYAGENCY, user="nobody")
    assert done.status != 0
    assert "root" in done.output
    assert "sudo make multi_tenancy" in done.output
    assert nothing_of_ours(stranger)


def test_without_a_network_the_cause_is_named(stranger: Stranger) -> None:
    stranger.machine.unplug()
    done = stranger.make(MYAGENCY)
    stranger.machine.plug()
    assert done.status != 0
    assert "network" in done.output
    assert nothing_of_ours(stranger)


def test_a_check_run_shows_the_plan_and_touches_nothing(stranger: Stranger) -> None:
    done = stranger.make(f"{MYAGENCY} CHECK=1")
    assert done.status == 0, done.output
    assert done.changed > 0
    assert "example.com" in done.output
    assert nothing_of_ours(stranger)


def test_all_faults_of_the_input_are_told_at_once(stranger: Stranger) -> None:
    done = stranger.make("CLIENT_ID='My Agency' DOMAIN='exa_mple..com' ISOLATION_LEVEL=extreme")
    assert done.status != 0
    for wrong in ("My Agency", "exa_mple..com", "extreme"):
        assert wrong in done.output
    assert nothing_of_ours(stranger)


def test_a_port_in_use_is_named_with_its_process(stranger: Stranger) -> None:
    listener = "from socket import *; s = create_server(('0.0.0.0', 443)); s.accept()"
    stranger.machine.run(f"systemd-run --unit=test-squatter /usr/bin/python3 -c {shlex.quote(listener)}; sleep 1")
    done = stranger.make(MYAGENCY)
    stranger.machine.run("systemctl stop test-squatter")
    assert done.status != 0
    assert "443" in done.output
    assert "python3" in done.output
    assert nothing_of_ours(stranger)


# -- The main job


def test_one_command_brings_a_client_online(stranger: Stranger, tenancy: Tenancy, tmp_path: Path) -> None:
    done = stranger.make(MYAGENCY)
    assert done.status == 0, done.output
    for promised in ("myagency", "medium", "https://example.com", f"{ROOT}/clients/myagency/data"):
        assert promised in done.output
    visitor = trusted(stranger.machine, tmp_path, inside=True)
    answer = visitor.get("https://example.com/")
    assert answer.status == 200
    assert "myagency" in answer.body
    redirect = visitor.get("http://example.com/page")
    assert redirect.status in (301, 308)
    assert redirect.headers["location"] == "https://example.com/page"
    stranger.machine.write(f"{ROOT}/clients/myagency/data/site/hello.txt", "fresh\n")
    assert visitor.get("https://example.com/hello.txt").body == "fresh\n"
    assert [entry["client_id"] for entry in tenancy.clients()] == ["myagency"]
    assert tenancy.firewall_is_loaded()


def test_a_second_run_changes_nothing(stranger: Stranger, tenancy: Tenancy) -> None:
    before = tenancy.container_ids()
    done = stranger.make(MYAGENCY)
    assert done.status == 0, done.output
    assert done.changed == 0, done.output
    assert tenancy.container_ids() == before


def test_without_a_client_the_default_one_is_made_beside_it(
    stranger: Stranger, tenancy: Tenancy, tmp_path: Path
) -> None:
    before = tenancy.container_ids()
    done = stranger.make()
    assert done.status == 0, done.output
    visitor = trusted(stranger.machine, tmp_path, inside=True)
    assert "default" in visitor.get("https://default.localhost/").body
    assert "myagency" in visitor.get("https://example.com/").body
    assert tenancy.container_ids().items() >= before.items()
    assert {entry["client_id"] for entry in tenancy.clients()} == {"myagency", "default"}


def test_a_check_run_on_an_up_to_date_machine_plans_nothing(stranger: Stranger, tenancy: Tenancy) -> None:
    before = tenancy.container_ids()
    done = stranger.make("CHECK=1")
    assert done.status == 0, done.output
    assert done.changed == 0, done.output
    assert tenancy.container_ids() == before


# -- Looking after it


def test_status_lists_clients_and_their_health(stranger: Stranger, tenancy: Tenancy) -> None:
    sites = "mt-myagency.site", "mt-default.site"
    assert eventually(lambda: all(tenancy.health(name) == "healthy" for name in sites))
    done = stranger.make(target="multi_tenancy-status")
    assert done.status == 0, done.output
    for client_id, domain in (("myagency", "example.com"), ("default", "default.localhost")):
        (line,) = (line for line in done.output.splitlines() if client_id in line and domain in line)
        assert "medium" in line
        assert "healthy" in line


def test_logs_show_what_was_done_and_who_visited(stranger: Stranger, tmp_path: Path) -> None:
    trusted(stranger.machine, tmp_path, inside=True).get("https://example.com/who-was-here")
    done = stranger.make(target="multi_tenancy-logs")
    assert done.status == 0, done.output
    assert "myagency" in done.output
    assert "who-was-here" in done.output


def test_restart_brings_everything_back(stranger: Stranger, tenancy: Tenancy, tmp_path: Path) -> None:
    before = tenancy.container_ids()
    done = stranger.make(target="multi_tenancy-restart")
    assert done.status == 0, done.output
    after = tenancy.container_ids()
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)
    visitor = trusted(stranger.machine, tmp_path, inside=True)
    assert visitor.get("https://example.com/").status == 200
    assert visitor.get("https://default.localhost/").status == 200


# -- Faults that need a running platform


def test_the_hostname_of_another_client_is_refused(stranger: Stranger, tenancy: Tenancy) -> None:
    before = tenancy.clients(), tenancy.container_ids()
    done = stranger.make("CLIENT_ID=thief DOMAIN=example.com ISOLATION_LEVEL=medium")
    assert done.status != 0
    assert "example.com" in done.output
    assert "myagency" in done.output
    assert (tenancy.clients(), tenancy.container_ids()) == before


@pytest.fixture
def settings(stranger: Stranger) -> Iterator[Callable[[str], None]]:
    """Adds lines to the platform's settings, as the operator would with an editor, for the time of one test."""
    path = f"{ROOT}/multi_tenancy/config.yaml"
    before = stranger.machine.read(path)
    yield lambda lines: stranger.machine.write(path, before + lines)
    stranger.machine.write(path, before)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("services:\n  site:\n    image: registry.invalid/nothing:1\n", "registry.invalid/nothing:1"),
        (
            "health_timeout: 5\nservices:\n  site:\n    healthcheck:\n      test: [CMD, /bin/busybox, 'false']\n"
            "      interval: 1s\n      start_period: 1s\n      retries: 1\n",
            "healthy",
        ),
    ],
    ids=["image", "health"],
)
def test_what_cannot_replace_the_old_container_is_named_and_the_old_one_runs_on(
    stranger: Stranger, tenancy: Tenancy, settings: Callable[[str], None], tmp_path: Path, lines: str, named: str
) -> None:
    before = tenancy.container_ids()
    settings(lines)
    done = stranger.make(MYAGENCY)
    assert done.status != 0
    assert named in done.output
    assert "myagency" in done.output
    assert tenancy.container_ids() == before
    assert trusted(stranger.machine, tmp_path, inside=True).get("https://example.com/").status == 200


def test_once_the_fault_is_repaired_all_is_as_before(stranger: Stranger, tenancy: Tenancy) -> None:
    before = tenancy.container_ids()
    done = stranger.make()
    assert done.status == 0, done.output
    assert stranger.make().changed == 0
    assert tenancy.container_ids() == before
