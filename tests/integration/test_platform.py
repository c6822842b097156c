# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job on a real engine, from bare to several clients; the tests build on each other, in this order."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TEST_LABEL, Outcome, Platform, docker

CONNECT = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)"


def connects_from(container: str, address: str, port: int) -> bool:
    """Whether a TCP connection from a container's network namespace succeeds."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", container).strip()
    command = ["nsenter", "-t", pid, "-n", "python3", "-c", CONNECT, address, str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def snapshot(root: Path) -> dict[str, tuple[int, int, int, float]]:
    """Owner, mode and time of every file, to see that nothing was touched."""
    return {
        str(path): (status.st_uid, status.st_gid, status.st_mode, status.st_mtime)
        for path in sorted(root.rglob("*"))
        for status in [path.lstat()]
    }


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """A TCP listener on all addresses of the host."""
    server = socket.create_server(("0.0.0.0", 0))
    stop = threading.Event()

    def serve() -> None:
        server.settimeout(0.2)
        while not stop.is_set():
            try:
                server.accept()[0].close()
            except TimeoutError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    stop.set()
    thread.join()
    server.close()


def test_check_mode_on_an_empty_host_plans_all_and_touches_nothing(platform: Platform) -> None:
    before = snapshot(platform.root)
    outcome = platform.run("multi_tenancy", "--check", "--diff", client_id="one", domain="one.example.com").ok()
    assert outcome.changed >= 8
    assert "Host(`one.example.com`)" in outcome.text
    assert snapshot(platform.root) == before
    assert platform.containers() == {}


def test_first_client_is_served_over_tls_from_its_own_container(platform: Platform) -> None:
    platform.run(client_id="one", domain="one.example.com", isolation_level="medium").ok()
    status, body = platform.get("one.example.com")
    assert (status, "<strong>one</strong>" in body) == (200, True)


def test_file_in_the_clients_folder_is_served_at_once_whatever_the_umask(platform: Platform) -> None:
    old = os.umask(0o077)
    try:
        (platform.site("one") / "new.txt").write_text("fresh")
    finally:
        os.umask(old)
    assert platform.get("one.example.com", "/new.txt") == (200, "fresh")


def test_plain_http_is_redirected(platform: Platform) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", platform.port - 1, timeout=5)
    connection.request("GET", "/x", headers={"Host": "one.example.com"})
    response = connection.getresponse()
    assert (response.status, response.headers["Location"]) == (301, f"https://one.example.com:{platform.port}/x")


def test_second_run_changes_nothing(platform: Platform) -> None:
    before = platform.containers(), snapshot(platform.root / "multi_tenancy" / "traefik")
    outcome = platform.run(client_id="one", domain="one.example.com", isolation_level="medium").ok()
    assert outcome.changed == 0
    assert (platform.containers(), snapshot(platform.root / "multi_tenancy" / "traefik")) == before


def test_default_client_comes_beside_the_first(platform: Platform) -> None:
    before = platform.containers()
    platform.run().ok()
    after = platform.containers()
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"it-default.site"}
    assert platform.get("default.localhost")[0] == 200
    assert platform.get("one.example.com")[0] == 200


def test_check_mode_on_a_host_that_is_up_to_date_plans_nothing(platform: Platform) -> None:
    assert platform.run("multi_tenancy", "--check", "--diff").ok().changed == 0


def test_container_is_hardened_and_limited(platform: Platform) -> None:
    details = platform.inspect("it-one.site")
    host = details["HostConfig"]
    client = platform.registry()["one"]
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["ReadonlyRootfs"] is True
    assert 0 < host["Memory"] <= 2**28 and host["PidsLimit"] > 0 and host["NanoCpus"] > 0
    assert details["Config"]["User"] == f"{client['uid']}:{client['gid']}"
    assert [mount["Source"] for mount in details["Mounts"]] == [str(platform.site("one"))]
    assert host["PortBindings"] in (None, {})


def test_clients_reach_neither_each_other_nor_the_host(platform: Platform, listener: int) -> None:
    one, other = (platform.inspect(f"it-{name}.site") for name in ("one", "default"))
    (own,) = [n["IPAddress"] for n in one["NetworkSettings"]["Networks"].values()]
    ((neighbour, gateway),) = [(n["IPAddress"], n["Gateway"]) for n in other["NetworkSettings"]["Networks"].values()]
    assert connects_from("it-one.site", own, 8080), "the probe itself must work"
    socket.create_connection((neighbour, 8080), timeout=2).close()  # from the host, as the edge does
    assert not connects_from("it-one.site", neighbour, 8080)
    socket.create_connection((gateway, listener), timeout=2).close()  # from the host itself
    own_gateway = one["NetworkSettings"]["Networks"]["it-one"]["Gateway"]
    for address in (own_gateway, gateway):
        assert not connects_from("it-one.site", address, listener)


def test_flushed_firewall_opens_the_host_is_told_and_is_mended(platform: Platform, listener: int) -> None:
    gateway = platform.inspect("it-one.site")["NetworkSettings"]["Networks"]["it-one"]["Gateway"]
    subprocess.run(["nft", "delete", "table", "inet", platform.table], check=True)
    assert connects_from("it-one.site", gateway, listener), (
        "without the table the host must be open, or it proves nothing"
    )
    told = platform.run("status")
    assert told.rc != 0 and "firewall table is missing" in told.text
    assert platform.run().ok().changed == 1
    assert not connects_from("it-one.site", gateway, listener)
    platform.run("status").ok()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        pytest.param(
            {"client_id": "Bad!", "domain": "no spaces.example.com", "isolation_level": "extreme"},
            ["client_id 'Bad!'", "domain 'no spaces.example.com'", "isolation_level 'extreme'"],
            id="all faults at once",
        ),
        pytest.param(
            {"client_id": "two", "isolation_level": "none"}, ["isolation_level 'none' is not allowed"], id="level"
        ),
        pytest.param(
            {"client_id": "two", "isolation_level": "hard", "memory": "900g"},
            ["Client 'two' asks for 900.0 GiB of memory"],
            id="more than the host has",
        ),
        pytest.param({"client_id": "two", "domain": "ONE.example.com"}, ["belongs to client 'one'"], id="owned"),
        pytest.param({"domain": "two.example.com"}, ["needs client_id"], id="domain alone"),
        pytest.param({"client_id": "{{ 7 * 7 }}"}, ["is not allowed"], id="template"),
        pytest.param({"client_id": "edge"}, ["reserved"], id="reserved"),
    ],
)
def test_bad_input_is_refused_in_words_and_nothing_is_touched(
    platform: Platform, edit: dict[str, str], words: list[str]
) -> None:
    before = platform.containers(), snapshot(platform.root)
    outcome = platform.run(**edit)
    assert outcome.rc != 0
    for word in words:
        assert word in outcome.text
    assert (platform.containers(), snapshot(platform.root)) == before


def test_taken_port_is_named_with_its_process(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 9555)):
        taken = {**platform.settings["edge"], "https_port": 9555}
        before = platform.containers()
        outcome = refused(platform, edge=taken)
        program = Path("/proc/self/comm").read_text().strip()
        assert f"Port 9555 is taken by the process {program} (pid {os.getpid()})" in outcome.text
        assert platform.containers() == before


def test_pool_that_a_foreign_network_overlaps_is_refused_for_new_clients_only(platform: Platform) -> None:
    docker("network", "create", "--subnet", "10.214.128.0/24", "--label", TEST_LABEL, "it_foreign")
    try:
        outcome = platform.run(client_id="two")
        assert outcome.rc != 0 and "overlaps 10.214.128.0/24 (the Docker network 'it_foreign')" in outcome.text
        assert "two" not in platform.registry()
        assert platform.run(client_id="one").ok().changed == 0
    finally:
        docker("network", "rm", "it_foreign")


def refused(platform: Platform, **settings: object) -> Outcome:
    """Run with other settings, and put the former ones back."""
    former = dict(platform.settings)
    platform.configure(**settings)
    try:
        outcome = platform.run()
    finally:
        platform.settings = former
        platform.configure()
    assert outcome.rc != 0, outcome.text
    return outcome


def test_unknown_setting_is_refused_by_name(platform: Platform) -> None:
    assert "'isolation' is no setting" in refused(platform, isolation="hard").text


def test_container_that_never_becomes_healthy_is_told_with_its_log_and_the_old_one_serves_on(
    platform: Platform,
) -> None:
    before = platform.containers()
    broken = {"site": {"command": ["-g", "daemon off; broken_directive on;"]}}
    outcome = refused(platform, services=broken)
    assert "broken_directive" in outcome.text and "earlier container was kept" in outcome.text
    assert platform.containers() == before
    assert platform.get("one.example.com")[0] == 200
    platform.run().ok()
    assert platform.containers() == before


def test_image_that_cannot_be_had_fails_its_client_alone(platform: Platform) -> None:
    missing = {"lost": {"image": "registry.invalid/lost:1", "port": 8080, "subdomain": "shop", "tmpfs": ["/tmp"]}}
    platform.configure(services=missing, client_services=["site", "lost"])
    outcome = platform.run(client_id="lost", domain="lost.example.com")
    assert outcome.rc != 0 and "Image registry.invalid/lost:1 cannot be had" in outcome.text
    platform.configure(client_services=["site"])
    outcome = platform.run(client_id="three", domain="three.example.com").ok()
    assert platform.get("three.example.com")[0] == 200
    assert platform.get("one.example.com")[0] == 200
    # Everything is tried again, and only the one is named.
    outcome = platform.run()
    assert outcome.rc != 0 and "Client lost:" in outcome.text and "Client one" not in outcome.text
    platform.configure(
        services={"lost": {**missing["lost"], "image": platform.inspect("it-one.site")["Config"]["Image"]}}
    )
    platform.run().ok()
    assert platform.get("lost.example.com")[0] == 200
    # nginx without a page of a client says so itself.
    assert platform.get("shop.lost.example.com")[0] == 403


def test_changed_service_is_replaced_without_a_failed_request(platform: Platform) -> None:
    before = platform.containers()
    failures: list[str] = []
    count = 0
    stop = threading.Event()

    def visit() -> None:
        nonlocal count
        while not stop.is_set():
            try:
                status, _body = platform.get("one.example.com")
                if status != 200:
                    failures.append(str(status))
            except OSError as exc:
                failures.append(repr(exc))
            count += 1

    visitor = threading.Thread(target=visit)
    visitor.start()
    platform.configure(services={**platform.settings["services"], "site": {"mem_limit": "80m"}})
    try:
        platform.run(client_id="one").ok()
    finally:
        time.sleep(0.5)
        stop.set()
        visitor.join()
    after = platform.containers()
    assert after["it-one.site"] != before["it-one.site"]
    assert after["it-default.site"] == before["it-default.site"], "another client was touched"
    assert set(after) == set(before)
    assert platform.inspect("it-one.site")["HostConfig"]["Memory"] == 80 * 2**20
    assert (failures, count > 20) == ([], True)


def test_renamed_domain_moves_route_and_certificate(platform: Platform) -> None:
    platform.run().ok()
    before = platform.containers()
    platform.run(client_id="one", domain="renamed.example.com").ok()
    assert platform.get("renamed.example.com")[0] == 200
    with pytest.raises(Exception, match="certificate"):
        platform.get("one.example.com")
    assert platform.containers() == before


def test_status_logs_and_restart(platform: Platform) -> None:
    status = platform.run("status").ok()
    assert "renamed.example.com" in status.text and "healthy" in status.text
    platform.get("renamed.example.com", "/marker-in-the-log")
    logs = platform.run("logs", client_id="one").ok()
    assert "marker-in-the-log" in logs.text and "it-default.site" not in logs.text
    started = {name: platform.inspect(name)["State"]["StartedAt"] for name in platform.containers()}
    platform.run("restart").ok()
    again = {name: platform.inspect(name)["State"]["StartedAt"] for name in platform.containers()}
    assert set(again) == set(started) and all(again[name] != started[name] for name in started)
    assert platform.get("renamed.example.com")[0] == 200


def test_component_log_tells_every_change(platform: Platform) -> None:
    log = (platform.logs / "components" / "multi_tenancy.log").read_text()
    for words in ('"kind": "network", "name": "it-one"', '"kind": "route", "name": "one"', '"user": "'):
        assert words in log
