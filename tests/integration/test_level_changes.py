# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client's level changes under load: no visitor is turned away, nothing is lost, and others notice nothing.

The tests build on each other, in this order.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BIN, CHECKOUT, Platform, docker, unsafe

# Some minutes under load, and several runs for each change.
pytestmark = pytest.mark.long

CLIENT, HOST = "mover", "mover.example"
OTHERS = {"calm-soft": "soft", "calm-medium": "medium", "calm-hard": "hard"}
PAGE = "what the client had before"
# Every change there is, one after the other.
WAY = ["soft", "medium", "hard", "soft", "hard", "medium", "soft"]
CHANGES = list(itertools.pairwise(WAY))


# Seconds that each change took.
LASTED: dict[tuple[str, str], float] = {}


class Visitors:
    """Visitors who ask for a page again and again, each time on a new connection, and one who keeps his connection.

    Args:
        platform: Whom they ask.
        host: For what.
    """

    def __init__(self, platform: Platform, host: str) -> None:
        self.platform, self.host = platform, host
        self.asked = 0
        self.faults: list[str] = []
        self.kept_asked = 0
        self.kept_faults: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        loops = [self._new, self._new, self._kept]
        self._threads = [threading.Thread(target=loop) for loop in loops]

    def __enter__(self) -> Visitors:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, number: int = 20) -> None:
        """Wait until that many more have asked."""
        wanted, deadline = self.asked + number, time.monotonic() + 30
        while self.asked < wanted:
            assert time.monotonic() < deadline, self.faults
            time.sleep(0.02)

    def _new(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self.platform.get(self.host)
                fault = None if answer == (200, PAGE) else f"{answer[0]} {answer[1][:60]!r}"
            except OSError as exc:
                fault = repr(exc)
            except http.client.HTTPException as exc:
                fault = repr(exc)
            with self._lock:
                self.asked += 1
                if fault is not None:
                    self.faults.append(f"{time.monotonic():.2f} {fault}")

    def _kept(self) -> None:
        context = ssl.create_default_context(cafile=str(self.platform.root / "multi_tenancy" / "ca" / "ca.crt"))
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            self.kept_asked += 1
            try:
                if connection is None:
                    raw = socket.create_connection(("127.0.0.1", self.platform.port), timeout=10)
                    connection = http.client.HTTPConnection(self.host)
                    connection.sock = context.wrap_socket(raw, server_hostname=self.host)
                connection.request("GET", "/")
                response = connection.getresponse()
                body = response.read().decode()
                fault = None if (response.status, body) == (200, PAGE) else f"{response.status}"
                if response.will_close or response.status == 421:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as exc:
                fault = type(exc).__name__
                connection = None
            if fault is not None:
                self.kept_faults.append(fault)
            time.sleep(0.02)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("levels"), "zf", "10.238.0.0/20", 10843)
    platform.remove()
    platform.root.mkdir()
    small = {"memory": "256m", "cpus": 0.1, "pids": 128, "disk": "32m"}
    platform.configure(scripts=False, health_timeout=60, soft={"rate_average": 0}, hard=small)
    for client_id, level in {CLIENT: WAY[0], **OTHERS}.items():
        named = {"client_id": client_id, "domain": f"{client_id}.example", "isolation_level": level}
        platform.run("add_client", **named).ok()
    yield platform
    platform.remove()


def fill(platform: Platform, client_id: str, page: str) -> None:
    """Files of a client's own, made by its own uid."""
    uid = platform.registry()[client_id]["uid"]
    site = Path(os.path.realpath(platform.site(client_id)))
    (site / "below").mkdir()
    (site / "index.html").write_text(page)
    (site / "below" / "page").write_text("below")
    os.link(site / "below" / "page", site / "same")
    (site / "link").symlink_to("below/page")
    for path in (site / "below", site / "index.html", site / "same"):
        os.chown(path, uid, -1)


def content(platform: Platform, client_id: str = CLIENT) -> dict[str, tuple[str, int]]:
    """Names, content and owner of all files of a client's site."""
    site = Path(os.path.realpath(platform.site(client_id)))
    return {
        str(path.relative_to(site)): (
            os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "",
            path.lstat().st_uid,
        )
        for path in site.rglob("*")
    }


def key(platform: Platform) -> str:
    return (platform.root / "clients" / CLIENT / "certs" / "tls.key").read_text()


def others(platform: Platform) -> dict[str, object]:
    """What of the other clients must stay as it is."""
    running = platform.containers()
    ids = {name: running[name] for name in running if any(client_id in name for client_id in OTHERS)}
    files = {client_id: content(platform, client_id) for client_id in OTHERS}
    started = {name: platform.inspect(name)["State"]["StartedAt"] for name in ids}
    return {"ids": ids, "files": files, "started": started, "shared": running.get("zf-shared.site")}


def check_sides(platform: Platform, level: str) -> None:
    """The new side is there as a whole, and nothing is left of the old one."""
    names = {name for name in platform.containers() if name.startswith(f"zf-{CLIENT}.")}
    wanted = {"soft": set(), "medium": {"site"}, "hard": {"site", "traefik"}}[level]
    assert names == {f"zf-{CLIENT}.{name}" for name in wanted}
    label = f"label=agency_stack.client_id={CLIENT}"
    listed = docker("network", "ls", "--format", "{{.Name}}", "--filter", label, "--filter", "name=zf-")
    assert len(listed.split()) == {"soft": 0, "medium": 1, "hard": 2}[level]
    volumes = platform.root / "multi_tenancy" / "volumes"
    assert {path.name for path in volumes.glob(f"{CLIENT}*")} == (
        {f"{CLIENT}.img", f"{CLIENT}.limits"} if level == "hard" else set()
    )
    assert [file for file in platform.loops() if Path(file).name.startswith(CLIENT)] == (
        [str(volumes / f"{CLIENT}.img")] if level == "hard" else []
    )
    assert not list((platform.root / "clients" / CLIENT).glob("data.*"))
    assert platform.site(CLIENT).is_symlink() is (level == "soft")
    assert (platform.root / "multi_tenancy" / "shared" / "site" / CLIENT).exists() is (level == "soft")
    held = (platform.root / "multi_tenancy" / "traefik" / "dynamic" / f"{CLIENT}.yml").read_text()
    assert ("PRIVATE KEY" in held) is (level != "hard")


def test_before(platform: Platform) -> None:
    fill(platform, CLIENT, PAGE)
    for client_id in OTHERS:
        fill(platform, client_id, f"the page of {client_id}")
    check_sides(platform, WAY[0])
    assert platform.get(HOST) == (200, PAGE)


@pytest.mark.parametrize(("before", "after"), CHANGES, ids=[f"{before} to {after}" for before, after in CHANGES])
def test_no_visitor_is_turned_away(platform: Platform, before: str, after: str) -> None:
    assert platform.registry()[CLIENT]["isolation_level"] == before
    files, calm, old_key = content(platform), others(platform), key(platform)
    with Visitors(platform, HOST) as visitors:
        begin = time.monotonic()
        outcome = platform.run("update_client", client_id=CLIENT, isolation_level=after)
        LASTED[before, after] = time.monotonic() - begin
        visitors.more()
    told = f"{visitors.asked} asked, {len(visitors.faults)} failed; "
    told += f"kept connection: {visitors.kept_asked} asked, failed: {visitors.kept_faults}"
    print(f"{before} to {after} in {LASTED[before, after]:.0f} s: {told}")
    outcome.ok()
    assert visitors.faults == [], told
    assert visitors.asked > 100
    assert content(platform) == files
    assert others(platform) == calm
    check_sides(platform, after)
    # The shared edge had the old one.
    if after == "hard":
        assert key(platform) != old_key
    new_key = key(platform)
    assert platform.run("update_client", client_id=CLIENT, isolation_level=after).ok().changed == 0
    assert key(platform) == new_key


# A run of each change is killed at one moment; where, is drawn anew for each seed.
SEEDS = range(12) if os.environ.get("TENANCY_FULL") else range(1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("before", "after"), CHANGES, ids=[f"{before} to {after}" for before, after in CHANGES])
def test_a_killed_change_is_finished_by_the_next_run(platform: Platform, before: str, after: str, seed: int) -> None:
    platform.run("update_client", client_id=CLIENT, isolation_level=before).ok()
    files, calm = content(platform), others(platform)
    fraction = 0.25 + 0.75 * random.Random(f"{before} {after} {seed}").random()
    killed = killed_run(platform, after, fraction * LASTED.get((before, after), 30.0))
    # Whatever it left, visitors are served, and the data is in one place.
    assert platform.get(HOST) == (200, PAGE)
    platform.run("update_client", client_id=CLIENT, isolation_level=after).ok()
    print(f"{before} to {after}, {'killed' if killed else 'ended'} after {fraction:.0%}")
    assert platform.get(HOST) == (200, PAGE)
    assert content(platform) == files
    assert others(platform) == calm
    check_sides(platform, after)
    assert platform.run("update_client", client_id=CLIENT, isolation_level=after).ok().changed == 0


def killed_run(platform: Platform, level: str, seconds: float) -> bool:
    """Change the level, and kill the run with all that it has started; whether it was still running."""
    extra = {"client_id": CLIENT, "isolation_level": level, "agency_root": str(platform.root)}
    extra["log_dir"] = str(platform.logs)
    given = unsafe({f"multi_tenancy_{name}": value for name, value in extra.items()})
    command = [str(BIN / "ansible-playbook"), "playbooks/update_client.yml", "-i", "inventory/localhost.yml"]
    with subprocess.Popen(
        [*command, "-e", given],
        cwd=CHECKOUT,
        env={**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in [process.pid, *descendants(process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return True
    return False


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and those that these have."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [below for child in found for below in descendants(child)]
