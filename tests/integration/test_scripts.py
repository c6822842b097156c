# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts on the host, run without the checkout and with a bare environment; the tests build on each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, Platform
from test_platform import snapshot

AT_ONCE = 20 if os.environ.get("TENANCY_FULL") else 4


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with its scripts, and its first client."""
    platform = Platform(tmp_path_factory.mktemp("agency"), "sc", "10.215.0.0/16", 9643)
    platform.remove()
    platform.root.mkdir()
    platform.configure()
    platform.run(client_id="one", domain="one.example.com").ok()
    platform.run("install_scripts").ok()
    yield platform
    platform.remove()


def start(platform: Platform, name: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
    """Start a script as somebody far from the checkout does."""
    return subprocess.Popen(
        [str(platform.root / "multi_tenancy" / "scripts" / f"{name}.sh"), *arguments],
        cwd="/",
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def script(platform: Platform, name: str, *arguments: str, **env: str) -> Outcome:
    """Run a script to its end."""
    process = start(platform, name, *arguments, **env)
    text, nothing = process.communicate()
    assert nothing is None
    return Outcome(process.returncode, text)


def toolbox(platform: Platform) -> set[str]:
    """What lies in the toolbox."""
    return {path.name for path in (platform.root / "multi_tenancy" / "toolbox").iterdir()} - {".lock", "current"}


def test_second_run_changes_nothing(platform: Platform) -> None:
    before = toolbox(platform)
    assert len(before) == 2
    outcome = platform.run("install_scripts").ok()
    assert outcome.changed == 0, outcome.text
    assert toolbox(platform) == before


def test_check_touches_nothing(platform: Platform) -> None:
    # The toolbox's own compiled modules come and go.
    before = {path: state for path, state in snapshot(platform.root).items() if "/toolbox/" not in path}
    outcome = script(platform, "add_client", "--client-id", "two", "--check").ok()
    assert "two" in outcome.text
    assert {path: state for path, state in snapshot(platform.root).items() if "/toolbox/" not in path} == before


def test_client_is_added_online_and_the_toolbox_stays(platform: Platform) -> None:
    before = toolbox(platform)
    outcome = script(platform, "add_client", "--client-id", "two", "--domain", "two.example.com").ok()
    assert "https://two.example.com" in outcome.text
    assert platform.get("two.example.com")[0] == 200
    assert toolbox(platform) == before
    assert platform.run(client_id="one").ok().changed == 0


@pytest.mark.long
def test_values_of_the_environment_are_no_options(platform: Platform) -> None:
    outcome = script(platform, "suspend_client", "--client-id", "two", "--check", CLIENT_ID="one", DOMAIN="x.test")
    assert "Client two" in outcome.ok().text


def test_list_is_a_table_or_the_registrys_list(platform: Platform) -> None:
    lines = script(platform, "list_clients").ok().text.splitlines()
    assert lines[0].split() == ["CLIENT", "LEVEL", "STATE", "SUBNET", "DOMAIN"]
    assert [line.split()[0] for line in lines[1:]] == ["one", "two"]
    listed = json.loads(script(platform, "list_clients", "--json").ok().text)
    assert listed["version"] == 1
    assert [client["client_id"] for client in listed["clients"]] == ["one", "two"]
    assert listed["clients"] == list(platform.registry().values())


@pytest.mark.long
def test_alias_is_added(platform: Platform) -> None:
    ids = platform.containers()
    script(platform, "update_client", "--client-id", "two", "--aliases", "www.two.example.com").ok()
    assert platform.get("www.two.example.com")[0] == 200
    assert platform.containers() == ids


def test_suspended_and_resumed(platform: Platform) -> None:
    script(platform, "suspend_client", "--client-id", "two").ok()
    assert platform.get("two.example.com")[0] == 503
    script(platform, "resume_client", "--client-id", "two").ok()
    assert platform.get("two.example.com")[0] == 200


def test_removed_with_its_data_kept_and_added_again(platform: Platform) -> None:
    (platform.site("two") / "kept.txt").write_text("kept")
    script(platform, "remove_client", "--client-id", "two").ok()
    assert set(platform.registry()) == {"one"}
    script(platform, "add_client", "--client-id", "two", "--domain", "two.example.com", "--restore-data", "latest").ok()
    assert platform.get("two.example.com", "/kept.txt") == (200, "kept")


def test_purge_is_not_done_unasked(platform: Platform) -> None:
    outcome = script(platform, "remove_client", "--client-id", "two", "--purge")
    assert (outcome.rc, "add --yes" in outcome.text) == (2, True)
    assert "two" in platform.registry()
    script(platform, "remove_client", "--client-id", "two", "--purge", "--yes").ok()
    assert set(platform.registry()) == {"one"}
    assert list((platform.root / "multi_tenancy" / "removed").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments", "code", "said"),
    [
        ("add_client", ["--help"], 0, "--restore-data"),
        ("add_client", [], 2, "--client-id"),
        ("add_client", ["--client-id", ""], 2, "must not be empty"),
        ("add_client", ["--client-id", "a", "--colour", "red"], 2, "--colour"),
        ("add_client", ["--client-id", "No/Good"], 1, "No/Good"),
        ("add_client", ["--client-id", "three", "--domain", "one.example.com"], 1, "belongs to client"),
        ("update_client", ["--client-id", "nobody"], 1, "nobody"),
        ("remove_client", ["--client-id", "nobody", "--purge", "--yes"], 1, "nobody"),
        ("status", ["--client-id", "nobody"], 1, "nobody"),
        ("status", [], 0, "one.example.com"),
        ("logs", ["--lines", "5"], 0, "one"),
        ("multi_tenancy", ["--check"], 0, "one"),
    ],
)
def test_exit_codes(platform: Platform, name: str, arguments: list[str], code: int, said: str) -> None:
    outcome = script(platform, name, *arguments)
    assert (outcome.rc, said in outcome.text) == (code, True), outcome.text


def test_list_of_500_clients_is_there_at_once(platform: Platform) -> None:
    path = platform.root / "multi_tenancy" / "clients.json"
    before = path.read_bytes()
    document = json.loads(before)
    (one,) = document["clients"]
    document["clients"] += [
        one
        | {"client_id": f"s{n:03}", "domain": f"s{n:03}.example.com", "index": 1000 + n}
        | {"uid": 700000 + n, "gid": 700000 + n, "subnet": f"10.200.{n // 16}.{n % 16 * 16}/28"}
        for n in range(500)
    ]
    try:
        path.write_text(json.dumps(document))
        begin = time.monotonic()
        listed: dict[str, Any] = json.loads(script(platform, "list_clients", "--json").ok().text)
        took = time.monotonic() - begin
        assert len(script(platform, "list_clients").ok().text.splitlines()) == 502
    finally:
        path.write_bytes(before)
    assert len(listed["clients"]) == 501
    assert took < 1.5


@pytest.mark.long
def test_interrupted_installation_is_repaired(platform: Platform) -> None:
    place = platform.root / "multi_tenancy" / "toolbox"
    version = os.readlink(place / "current")
    before = toolbox(platform)
    (place / "current").unlink()
    (place / ".new").mkdir()
    (place / version).rename(place / "0123456789abcdef")
    (platform.root / "multi_tenancy" / "scripts" / "status.sh").unlink()
    planned = platform.run("install_scripts", "--check").ok()
    assert planned.changed == 1
    assert not (place / "current").exists()
    assert platform.run("install_scripts").ok().changed == 1
    assert toolbox(platform) == before
    script(platform, "status").ok()


@pytest.mark.long
def test_without_packages_the_installation_fails_in_one_sentence(platform: Platform) -> None:
    place = platform.root / "multi_tenancy" / "toolbox"
    (venv,) = place.glob("venv-*")
    (venv / "stamp").unlink()
    old = dict(os.environ)
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}
    try:
        outcome = platform.run("install_scripts")
    finally:
        os.environ.clear()
        os.environ.update(old)
    assert outcome.rc != 0
    assert outcome.text.count("ERROR:") == 1
    assert "/etc/pip.conf" in outcome.text
    platform.run("install_scripts").ok()


def test_many_at_once_are_all_served(platform: Platform) -> None:
    running = [
        start(platform, "add_client", "--client-id", f"at{n}", "--domain", f"at{n}.example.com") for n in range(AT_ONCE)
    ]
    texts = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * AT_ONCE, "\n".join(texts)
    added = [client for client in platform.registry().values() if client["client_id"].startswith("at")]
    assert len(added) == AT_ONCE
    for key in ("subnet", "uid", "index"):
        assert len({client[key] for client in added}) == AT_ONCE
    assert {platform.get(client["domain"])[0] for client in added} == {200}
    assert platform.run(client_id="one").ok().changed == 0


@pytest.mark.long
def test_wait_for_another_run_ends(platform: Platform) -> None:
    first = start(platform, "add_client", "--client-id", "slow")
    try:
        assert first.stdout is not None
        first.stdout.readline()
        second = script(platform, "add_client", "--client-id", "hurry", "--wait", "1")
        assert (second.rc, "add_client.sh (process" in second.text) == (1, True), second.text
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate()
    assert first.returncode == 1
    assert "hurry" not in platform.registry()
    # The lock went with the process.
    script(platform, "multi_tenancy", "--wait", "60").ok()


def test_a_script_can_be_reached_over_a_link(platform: Platform, tmp_path: Path) -> None:
    link = tmp_path / "list"
    link.symlink_to(platform.root / "multi_tenancy" / "scripts" / "list_clients.sh")
    done = subprocess.run([link], env={}, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CLIENT")
