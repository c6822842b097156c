# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/examples/webapp.yaml with images of our own: a page and its PostgreSQL, as hardened as clients' services are."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._catalog import (
    parse_duration,
    parse_size,
    parse_volume,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Directory, apply_directory
from conftest import CHECKOUT
from test_images import LABELS, RUN_ID, wait_for

sys.path.insert(0, str(CHECKOUT / "tests" / "images"))
from testimage import image

CLIENT_UID = 1900000021
PASSWORD = """it's "50%" of $HOME \\ `id`"""
IMAGES = {"db": "database", "web": "visits"}
CATALOG: dict[str, dict[str, Any]] = yaml.safe_load((CHECKOUT / "docs/examples/webapp.yaml").read_text())["services"]
CONNECT = "import psycopg2, sys; psycopg2.connect(password=sys.argv[1]); print('in')"


class App:
    """The two services of one client, on a network without a way out."""

    def __init__(self, engine: docker.APIClient, network: str, subnet: str, folder: Path) -> None:
        self.engine, self.network, self.folder = engine, network, folder
        self.addresses = {"web": f"{subnet}.3", "db": f"{subnet}.4"}
        self.images = {service: image(name) for service, name in IMAGES.items()}
        self.ids: dict[str, str] = {}

    def create(self, service: str) -> None:
        """Make a container as the platform makes it of a catalog's entry."""
        entry = CATALOG[service]
        check = entry["healthcheck"]
        volumes = [parse_volume(volume) for volume in entry.get("volumes", [])]
        binds = [f"{self.folder}/data/{source}:{target}" for source, target, dummy in volumes]
        binds += [f"{self.folder}/secrets/{name}:/run/secrets/{name}:ro" for name in entry["secrets"]]
        host_config = self.engine.create_host_config(
            network_mode=self.network,
            read_only=entry["read_only"],
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            init=True,
            tmpfs=dict(mount.split(":") for mount in entry.get("tmpfs", [])),
            binds=binds,
            mem_limit=parse_size(entry["mem_limit"]),
            nano_cpus=int(entry["cpus"] * 10**9),
            pids_limit=entry["pids_limit"],
        )
        endpoint = self.engine.create_endpoint_config(ipv4_address=self.addresses[service], aliases=[service])
        self.ids[service] = self.engine.create_container(
            self.images[service],
            labels=LABELS,
            user=f"{CLIENT_UID}:{CLIENT_UID}",
            environment=entry["environment"],
            stop_signal=entry.get("stop_signal"),
            healthcheck={
                "test": check["test"],
                # Asked more often than the example says, so that nobody waits.
                "interval": 10**9,
                "timeout": parse_duration(check["timeout"]),
                "retries": check["retries"],
                "start_period": parse_duration(check["start_period"]),
            },
            host_config=host_config,
            networking_config=self.engine.create_networking_config({self.network: endpoint}),
        )["Id"]

    def start(self, service: str) -> None:
        """Start a container and wait until it is healthy."""
        self.engine.start(self.ids[service])
        try:
            wait_for(lambda: self.state(service)["Health"]["Status"] == "healthy", seconds=60)
        except AssertionError:
            pytest.fail(f"{service}: {self.state(service)}\n{self.engine.logs(self.ids[service]).decode()}")

    def state(self, service: str) -> dict[str, Any]:
        """What the engine says of a container now."""
        return dict(self.engine.inspect_container(self.ids[service])["State"])

    def run(self, service: str, *command: str) -> str:
        """Run a program in a container and return all that it printed."""
        call = self.engine.exec_create(self.ids[service], list(command))
        output: bytes = self.engine.exec_start(call)
        return output.decode()

    def get(self, path: str = "/", **headers: str) -> tuple[int, str]:
        """Ask the page as the edge would."""
        connection = http.client.HTTPConnection(self.addresses["web"], 8080, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def visit(self) -> int:
        """Visit the page and return the number of the visit."""
        status, body = self.get()
        match = re.search(r"<h1>Visit (\d+)</h1>", body)
        assert status == 200 and match, body
        return int(match[1])


@contextlib.contextmanager
def made(number: int) -> Iterator[App]:
    """The folder and the network of one client, and its two containers, not yet started."""
    engine = docker.APIClient(version="auto")
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="agency-webapp-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, folder)
        (folder / "data").mkdir()
        apply_directory(Directory(str(folder / "data" / "db"), 0o2750, CLIENT_UID, CLIENT_UID, reader=CLIENT_UID))
        (folder / "secrets").mkdir(0o700)
        secret = folder / "secrets" / "db_password"
        secret.write_text(f"{PASSWORD}\n")
        os.chown(secret, 0, CLIENT_UID)
        secret.chmod(0o440)
        subnet = f"10.211.{(RUN_ID + number) % 250}"
        name = f"agency-webapp-{RUN_ID}-{number}"
        pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=f"{subnet}.0/28")])
        engine.create_network(name, ipam=pool, labels=LABELS, internal=True)
        stack.callback(engine.remove_network, name)
        app = App(engine, name, subnet, folder)
        for service in IMAGES:
            app.create(service)
            stack.callback(engine.remove_container, app.ids[service], force=True)
        yield app


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    """The running application."""
    with made(1) as app:
        app.start("db")
        app.start("web")
        yield app


def test_the_page_keeps_its_visits_in_the_database(app: App) -> None:
    assert app.get("/healthz") == (200, "ok\n")
    assert app.get("/nothing")[0] == 404
    before = app.visit()
    status, body = app.get(X_Forwarded_For="192.0.2.1, <b>203.0.113.5")
    assert (status, "&lt;b&gt;203.0.113.5" in body, "192.0.2.1" in body) == (200, True, False)
    assert app.visit() == before + 2

    # The password counts, and it is nowhere but in its file.
    assert app.run("web", "python3", "-c", CONNECT, PASSWORD) == "in\n"
    assert "password authentication failed" in app.run("web", "python3", "-c", CONNECT, "other")
    assert "password authentication failed" in app.run("db", "psql", "postgresql://app:other@127.0.0.1/app", "-c", "")
    for container in app.ids.values():
        told = f"{app.engine.inspect_container(container)}{app.engine.logs(container)!r}"
        assert ("50%" in told, "/run/secrets/db_password" in told) == (False, True)


@pytest.mark.parametrize("service", IMAGES)
def test_nothing_runs_with_more_than_it_needs(app: App, service: str) -> None:
    facts = Path(f"/proc/{app.state(service)['Pid']}/status").read_text()
    for fact in (f"Uid:\t{CLIENT_UID}\t", f"Gid:\t{CLIENT_UID}\t", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"):
        assert fact in facts
    shell, write = {"db": ("sh", ": > {}"), "web": ("python3", "open('{}', 'w')")}[service]
    assert "Read-only file system" in app.run(service, shell, "-c", write.format("/usr/x"))
    assert app.run(service, shell, "-c", write.format("/dev/shm/x")) == ""


def test_the_database_is_the_clients_and_closed_to_all_others(app: App) -> None:
    cluster = app.folder / "data" / "db" / "cluster"
    assert cluster.stat().st_mode & 0o077 == 0
    assert {path.lstat().st_uid for path in [cluster, *cluster.rglob("*")]} == {CLIENT_UID}


def test_visits_survive_a_loss_of_power_and_an_orderly_stop(app: App) -> None:
    before = app.visit()
    for container in app.ids.values():
        app.engine.kill(container)  # SIGKILL
    app.start("db")
    app.start("web")
    assert app.visit() == before + 1
    for container in app.ids.values():
        app.engine.stop(container, timeout=20)
        assert app.engine.inspect_container(container)["State"]["ExitCode"] == 0
    app.start("db")
    app.start("web")
    assert app.visit() == before + 2


def test_the_page_says_that_its_database_is_away_and_finds_it_again(app: App) -> None:
    before = app.visit()
    app.engine.pause(app.ids["db"])
    try:
        assert app.get() == (503, "The database cannot be reached; try again soon.\n")
        assert app.get("/healthz")[0] == 503
    finally:
        app.engine.unpause(app.ids["db"])
    assert app.visit() == before + 1


def test_a_first_start_that_is_killed_at_any_moment_is_made_good_by_the_next() -> None:
    with made(2) as app:
        half, whole = (app.folder / "data" / "db" / name for name in ("cluster.new", "cluster"))
        for moment in ("PG_VERSION", "base/1", "base/5"):
            app.engine.start(app.ids["db"])
            wait_for(lambda: (half / moment).exists() and not (half / "left").exists(), seconds=60)  # noqa: B023
            app.engine.kill(app.ids["db"])
            assert (half.exists(), whole.exists()) == (True, False)
            (half / "left").touch()
        app.start("db")
        app.start("web")
        assert (half.exists(), whole.exists()) == (False, True)
        assert app.visit() == 1
