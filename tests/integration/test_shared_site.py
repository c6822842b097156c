# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One server for the files of all clients, run as hardened as the platform runs it and asked as an attacker would."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import SITE_ROOT, SITE_SHARED_COMMAND
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Directory, apply_directory
from test_images import HEALTH_CHECK, LABELS, RUN_ID, run_module, wait_for

SERVER_ID = 1900000007
LONG_ID = "a" * 32
UIDS = {"acme": 1900000001, "beta": 1900000002, "un_der": 1900000003, "z": 1900000004, LONG_ID: 1900000005}
ARCHIVES = Path.home() / ".cache" / "agency_stack" / "images"


class Site:
    """The running server and the folders that it serves."""

    def __init__(self, engine: docker.APIClient, container: str, address: str, top: Path) -> None:
        self.engine, self.container, self.address, self.top = engine, container, address, top

    def add(self, client_id: str, uid: int) -> Path:
        """A client's folder with a few files, as the platform makes it."""
        folder = self.top / client_id
        apply_directory(Directory(str(folder), 0o2750, uid, SERVER_ID, reader=uid))
        for name in ("index.html", "secret.txt", "sub/index.html", "listing/x", ".env", "swap/file"):
            self.write(client_id, name, f"{name} of {client_id}")
        return folder

    def write(self, client_id: str, name: str, text: str) -> None:
        """Let a client write a file into its folder, under the strictest umask."""
        script = 'mkdir -p "$(dirname "$0")" && printf %s "$1" > "$0"'
        self.act(client_id, "sh", "-c", script, name, text)

    def act(self, client_id: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program on the host as a client's uid, in the client's folder."""
        uid, folder = UIDS[client_id], self.top / client_id
        rights: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": [], "umask": 0o077}
        return subprocess.run(command, cwd=folder, **rights, capture_output=True, text=True, check=check)

    def ask(self, target: str, *headers: bytes) -> tuple[int, str]:
        """Send one request, byte by byte as given: (status, everything that came back)."""
        lines = b"".join(header + b"\r\n" for header in headers)
        request = b"GET %s HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n%s\r\n" % (target.encode(), lines)
        with socket.create_connection((self.address, 8080), timeout=5) as connection:
            connection.sendall(request)
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
        return int(answer.split(" ", 2)[1]), answer

    def status(self, client_id: str, target: str) -> int:
        """The status of a request that the edge would send for a client."""
        return self.ask(target, of(client_id))[0]

    def body(self, client_id: str, target: str) -> str:
        """What a client's visitor gets."""
        status, answer = self.ask(target, of(client_id))
        assert status == 200, answer
        return answer.partition("\r\n\r\n")[2]


def of(client_id: str) -> bytes:
    return b"X-Client-Id: " + client_id.encode()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The server in front of five clients."""
    engine = docker.APIClient(version="auto")
    built = run_module("image_archive", dest=str(ARCHIVES), names=["site"])
    imported = run_module("engine_image", images=built["images"])
    assert not imported.get("failed"), imported
    with contextlib.ExitStack() as stack:
        # Not below a folder that is closed to other uids, as the test framework's own are.
        top = Path(tempfile.mkdtemp(prefix="agency-shared-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, top)
        os.chown(top, 0, SERVER_ID)
        # Enough to pass through: the server cannot even list who is there.
        top.chmod(0o710)
        prefix = f"10.212.{RUN_ID % 250}"
        name = f"agency-shared-{RUN_ID}"
        pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=f"{prefix}.0/28")])
        engine.create_network(name, ipam=pool, labels=LABELS)
        stack.callback(engine.remove_network, name)
        endpoint = engine.create_endpoint_config(ipv4_address=f"{prefix}.3")
        host_config = engine.create_host_config(
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs={"/tmp": "size=16m"},
            pids_limit=64,
            mem_limit="128m",
            binds=[f"{top}:{SITE_ROOT}:ro"],
        )
        container = engine.create_container(
            built["images"][0]["image"],
            command=list(SITE_SHARED_COMMAND),
            labels=LABELS,
            user=f"{SERVER_ID}:{SERVER_ID}",
            stop_signal="SIGQUIT",
            healthcheck={"test": ["CMD", *HEALTH_CHECK], "interval": 10**9, "timeout": 3 * 10**9, "retries": 3},
            host_config=host_config,
            networking_config=engine.create_networking_config({name: endpoint}),
        )["Id"]
        stack.callback(engine.remove_container, container, force=True)
        engine.start(container)
        site = Site(engine, container, f"{prefix}.3", top)
        for client_id, uid in UIDS.items():
            site.add(client_id, uid)
        (top / "index.html").write_text("of nobody")
        (top / "index.html").chmod(0o644)
        wait_for(lambda: site.status("acme", "/") == 200)
        yield site


@pytest.mark.parametrize("client_id", UIDS)
def test_each_client_is_served_from_its_own_folder(site: Site, client_id: str) -> None:
    assert site.body(client_id, "/") == f"index.html of {client_id}"
    assert site.body(client_id, "/secret.txt") == f"secret.txt of {client_id}"
    assert site.body(client_id, "/sub/") == f"sub/index.html of {client_id}"


def test_clients_take_turns_on_one_connection(site: Site) -> None:
    with socket.create_connection((site.address, 8080), timeout=5) as connection:
        for client_id in ("acme", "beta", "acme"):
            connection.sendall(b"GET /secret.txt HTTP/1.1\r\nHost: example.com\r\n%s\r\n\r\n" % of(client_id))
            answer = b""
            while not answer.endswith(b"secret.txt of " + client_id.encode()):
                received = connection.recv(65536)
                assert received, answer
                answer += received


NO_IDS = [
    ((), 421),
    ((b"X-Client-Id:",), 421),
    ((b"X-Client-Id: ACME",), 421),
    ((b"X-Client-Id: acme.",), 421),
    ((b"X-Client-Id: .",), 421),
    ((b"X-Client-Id: ..",), 421),
    ((b"X-Client-Id: -acme",), 421),
    ((b"X-Client-Id: acme-",), 421),
    ((b"X-Client-Id: /acme",), 421),
    ((b"X-Client-Id: acme/sub",), 421),
    ((b"X-Client-Id: acme/../beta",), 421),
    ((b"X-Client-Id: index.html",), 421),
    ((b"X-Client-Id: a" + LONG_ID.encode(),), 421),
    ((b"X-Client-Id: acm\xc3\xa9",), 421),
    ((b"X-Client-Id: acme%0a",), 421),
    ((b"X-Client-Id: acme beta",), 421),
    ((b"X-Client-Id: acme,beta",), 421),
    ((b"X-Client-Id: \tacme",), 421),
    ((b"X-Client-Id: acme\t",), 421),
    ((b"X-Client-Id: acme\x0b",), 421),
    ((of("acme"), of("beta")), 421),
    ((of("beta"), of("acme")), 421),
    ((of("acme"), of("acme")), 421),
    ((of("acme"), b"x-client-id:"), 421),
    ((b"X_Client_Id: acme",), 421),
    ((b"X.Client.Id: acme",), 421),
    ((b"X-Client-Id : acme",), 400),
    ((b"X-Client-Id: acme\r\n beta",), 400),
    ((b"X-Client-Id: acme\r\n\tbeta",), 400),
    ((b"X-Client-Id: acme\n beta",), 400),
    ((b"X-Client-Id: acme\rbeta",), 400),
    ((b"X-Client-Id: acme\0",), 400),
]


@pytest.mark.parametrize(("headers", "status"), NO_IDS)
def test_whatever_is_not_exactly_one_id_is_refused(site: Site, headers: tuple[bytes, ...], status: int) -> None:
    assert site.status("acme", "/secret.txt") == 200
    refused, answer = site.ask("/secret.txt", *headers)
    assert (refused, "secret.txt of" in answer) == (status, False)


SAME_AS_ACME = [
    (b"x-CLIENT-id: acme",),
    (b"X-Client-Id:acme",),
    (b"X-Client-Id:   acme   ",),
    (of("acme"), b"X_Client_Id: beta"),
    (b"X_Client_Id: beta", of("acme")),
    (b"X.Client.Id: beta", of("acme")),
    (b"Connection: X-Client-Id", of("acme")),
]


@pytest.mark.parametrize("headers", SAME_AS_ACME)
def test_only_the_one_header_counts(site: Site, headers: tuple[bytes, ...]) -> None:
    status, answer = site.ask("/secret.txt", *headers)
    assert (status, answer.endswith("secret.txt of acme")) == (200, True)


TARGETS = [
    ("/beta/secret.txt", 404),
    ("//beta/secret.txt", 404),
    ("/../beta/secret.txt", 400),
    ("/sub/../../beta/secret.txt", 400),
    ("/..%2fbeta/secret.txt", 400),
    ("/%2e%2e/beta/secret.txt", 400),
    ("/%2e%2e%2fbeta%2fsecret.txt", 400),
    ("/..%252fbeta/secret.txt", 404),
    ("/..%5cbeta%5csecret.txt", 404),
    ("/..;/beta/secret.txt", 404),
    ("/../../../etc/passwd", 400),
    ("/secret.txt%00", 400),
    ("/%00/secret.txt", 400),
    ("http://beta/../beta/secret.txt", 400),
    ("http://beta/beta/secret.txt", 404),
    ("*", 400),
    ("/.env", 404),
    ("/%2eenv", 404),
    ("/listing/", 403),
    ("/nothing", 404),
    ("/healthz", 404),
]
OWN_TARGETS = [
    "//secret.txt",
    "/sub/../secret.txt",
    "/sub%2f..%2fsecret.txt",
    "/%73ecret.txt",
    "http://beta/secret.txt",
]


@pytest.mark.parametrize(("target", "status"), TARGETS)
def test_no_path_leaves_the_folder(site: Site, target: str, status: int) -> None:
    refused, answer = site.ask(target, of("acme"))
    assert (refused, " of " in answer) == (status, False)


@pytest.mark.parametrize("target", OWN_TARGETS)
def test_the_same_tricks_reach_the_own_file(site: Site, target: str) -> None:
    assert site.body("acme", target) == "secret.txt of acme"


LINKS = [
    ("relative.txt", "../beta/secret.txt", "/relative.txt", 403),
    ("absolute.txt", f"{SITE_ROOT}/beta/secret.txt", "/absolute.txt", 403),
    ("folder", "../beta", "/folder/secret.txt", 404),
    ("folder", "../beta", "/folder/", 404),
    ("deep/folder", "../../beta/sub", "/deep/folder/index.html", 404),
    ("start/index.html", "../../beta/index.html", "/start/", 403),
    ("own.txt", "secret.txt", "/own.txt", 403),
    ("own", "sub", "/own/index.html", 404),
    ("system.txt", "/etc/passwd", "/system.txt", 403),
]


@pytest.mark.parametrize(("name", "leads_to", "target", "status"), LINKS)
def test_no_symbolic_link_is_followed(site: Site, name: str, leads_to: str, target: str, status: int) -> None:
    link = site.top / "acme" / name
    site.act("acme", "mkdir", "-p", str(Path(name).parent))
    site.act("acme", "ln", "-s", leads_to, name)
    try:
        refused, answer = site.ask(target, of("acme"))
        assert (refused, " of " in answer or "root:" in answer) == (status, False)
        # What stands there without a link is served.
        link.unlink()
        site.write("acme", f"{target}index.html"[1:] if target.endswith("/") else target[1:], "no link")
        assert site.body("acme", target) == "no link"
    finally:
        site.act("acme", "rm", "-r", Path(name).parts[0])


def test_a_folder_that_is_swapped_for_a_link_never_shows_what_it_leads_to(site: Site) -> None:
    site.act("acme", "ln", "-s", "../beta/swap", "link")
    folder, link = (str(site.top / "acme" / name).encode() for name in ("swap", "link"))
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: at every moment one of the two stands there
    libc = ctypes.CDLL(None)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            assert libc.renameat2(here, folder, here, link, exchange) == 0

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        answers = [site.ask("/swap/file", of("acme")) for dummy in range(1500)]
    finally:
        done.set()
        swapper.join()
        site.act("acme", "find", ".", "-type", "l", "-delete")
    assert {status for status, _answer in answers} == {200, 404}
    assert {answer.rpartition(" of ")[2] for status, answer in answers if status == 200} == {"acme"}
    assert site.body("beta", "/swap/file") == "swap/file of beta"


def test_a_client_that_is_not_there_or_whose_folder_is_a_link_has_no_site(site: Site) -> None:
    link = site.top / "linked"
    link.symlink_to("beta")
    try:
        for target in ("/", "/secret.txt", "/sub/"):
            assert site.body("beta", target)
            assert (site.status("nobody", target), site.status("linked", target)) == (404, 404)
    finally:
        link.unlink()


def test_a_client_cannot_make_a_hard_link_to_anothers_file(site: Site) -> None:
    site.act("acme", "ln", "secret.txt", "again.txt")
    assert site.body("acme", "/again.txt") == "secret.txt of acme"
    refused = site.act("acme", "ln", "../beta/secret.txt", "hers.txt", check=False)
    assert (refused.returncode, "Permission denied" in refused.stderr) == (1, True)
    # Not even where the folders above and the other client's own let everybody in: the kernel protects hard links.
    site.act("beta", "chmod", "o+x", ".")
    site.act("beta", "chmod", "o+r", "secret.txt")
    site.top.chmod(0o711)
    try:
        assert site.act("acme", "cat", "../beta/secret.txt").stdout == "secret.txt of beta"
        refused = site.act("acme", "ln", "../beta/secret.txt", "hers.txt", check=False)
        assert (refused.returncode, "Operation not permitted" in refused.stderr) == (1, True)
    finally:
        site.top.chmod(0o710)
        site.act("beta", "chmod", "o-x", ".")
        site.act("beta", "chmod", "o-r", "secret.txt")
    assert site.status("acme", "/hers.txt") == 404


def test_what_a_client_writes_is_served_at_once_and_closed_to_the_others(site: Site) -> None:
    for number in range(3):
        site.write("acme", "new.txt", f"version {number}")
        assert site.body("acme", "/new.txt") == f"version {number}"
    site.top.chmod(0o711)
    try:
        assert "Permission denied" in site.act("beta", "cat", "../acme/new.txt", check=False).stderr
        assert site.act("acme", "cat", "../acme/new.txt").stdout == "version 2"
    finally:
        site.top.chmod(0o710)
    site.act("acme", "ln", "-sf", "secret.txt", "new.txt")
    assert site.status("acme", "/new.txt") == 403
    site.act("acme", "rm", "new.txt")
    assert site.status("acme", "/new.txt") == 404
    site.act("acme", "mkfifo", "-m", "640", "new.txt")
    assert site.status("acme", "/new.txt") == 404


def test_a_new_client_needs_no_restart(site: Site) -> None:
    assert site.status("late", "/") == 404
    UIDS["late"] = 1900000006
    site.add("late", UIDS["late"])
    assert site.body("late", "/") == "index.html of late"
    shutil.rmtree(site.top / "late")
    assert site.status("late", "/") == 404
    del UIDS["late"]


def test_a_redirect_names_neither_host_nor_folder(site: Site) -> None:
    status, answer = site.ask("/sub", of("acme"), b"X-Forwarded-Host: evil.example.com")
    assert (status, "\r\nLocation: /sub/\r\n" in answer) == (301, True)
    assert not any(text in answer for text in ("acme", "example.com", SITE_ROOT))


def test_the_log_tells_clients_apart(site: Site) -> None:
    site.ask("/marked?a=%22", of("acme"), b"X-Forwarded-For: 203.0.113.5", b'User-Agent: "quoted" \\ \x07')
    site.ask("/marked", of("beta"), of("acme"))

    def marked() -> list[dict[str, object]]:
        log = site.engine.logs(site.container, stderr=False).splitlines()
        return [json.loads(line) for line in log if b"/marked" in line]

    first, second = wait_for(lambda: marked() if len(marked()) == 2 else None)
    assert (first["client_id"], first["status"], first["remote_addr"]) == ("acme", 404, "203.0.113.5")
    assert first["agent"] == '"quoted" \\ \x07'
    assert (second["client_id"], second["status"]) == ("", 421)


def test_slow_visitors_of_one_client_leave_room_for_the_others(site: Site) -> None:
    with (site.top / "acme" / "big").open("wb") as big:
        big.truncate(64 * 1024**2)
    request = b"GET /big HTTP/1.1\r\nHost: example.com\r\n%s\r\n\r\n" % of("acme")
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((site.address, 8080), timeout=5)) for dummy in range(530)]
        for connection in slow:
            connection.sendall(request)
        statuses = [connection.recv(12) for connection in slow]
        assert (statuses.count(b"HTTP/1.1 200"), statuses.count(b"HTTP/1.1 503")) == (512, 18)
        assert site.status("acme", "/") == 503
        assert site.body("beta", "/") == "index.html of beta"
    wait_for(lambda: site.status("acme", "/") == 200)


def test_it_is_healthy_and_quiet(site: Site) -> None:
    wait_for(lambda: site.engine.inspect_container(site.container)["State"]["Health"]["Status"] == "healthy")
    assert site.ask("/healthz", of("acme"))[0] == 404
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((site.address, 8081), timeout=2)
    faults = site.engine.logs(site.container, stdout=False)
    assert not any(word in faults for word in (b"[emerg]", b"[alert]"))
