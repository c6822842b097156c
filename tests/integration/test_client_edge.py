# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hard clients, each behind a Traefik of its own, and a medium one, behind one shared edge: all of it real.

The visitors come over the loopback interface, each from an address of his own; hostile containers are played by threads
in the network namespaces of real ones.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import http.client
import ipaddress
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _client_edge, _edge, _tenant
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._certificates import (
    issue,
    make_authority,
    read_certificate,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import atomic_write
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_PLATFORM, LABEL_SERVICE
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._network import NetworkSpec
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import empty_document, plan_registry
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerSpec, plan_stacks
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack_apply import (
    StackApplier,
    list_containers,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Directory, apply_directory
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._traefik import (
    RETRY_AFTER,
    ClientRoutes,
    Route,
    check_routes,
    faults_of_live,
    render,
)
from conftest import TEST_LABEL
from test_firewall import in_namespace
from test_images import run_module, wait_for

LABELS = dict([TEST_LABEL.split("=")])
PORTS = {"https_port": 9943, "http_port": 9942, "api_port": 9941}
POOL = f"10.212.{os.getpid() % 250}"
HARD = ("alpha", "beta")
KINDS = ("routers", "services")
VISITOR, FORGED, CLAIMED = "127.0.0.2", "198.51.100.66", "203.0.113.9"

# What a service answers with: all that reached it.
ECHO = "#!/bin/busybox sh\necho Content-Type: text/plain\necho\n/bin/busybox env\n"


@dataclass(frozen=True)
class Answer:
    """What a visitor got: the certificate is SHA-256 of the one that was served."""

    status: int
    headers: dict[str, str]
    body: str
    certificate: str

    @property
    def seen(self) -> dict[str, str]:
        """What the service was told, as CGI names it."""
        return dict(line.split("=", 1) for line in self.body.splitlines() if "=" in line)

    @property
    def service(self) -> str:
        """Whose service answered."""
        return self.seen.get("SERVICE_OF", f"none ({self.status})")


def context() -> ssl.SSLContext:
    """What a visitor who looks at the certificate himself uses."""
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def connect(
    name: str | None,
    address: str = "127.0.0.1",
    port: int = PORTS["https_port"],
    source: str | None = VISITOR,
    first: bytes = b"",
) -> ssl.SSLSocket:
    """A TLS connection, with some bytes in front of it."""
    raw = socket.create_connection((address, port), timeout=5, source_address=source and (source, 0))
    raw.sendall(first)
    return context().wrap_socket(raw, server_hostname=name)


def ask(stream: ssl.SSLSocket, host: str, path: str = "/cgi-bin/echo", headers: dict[str, str] | None = None) -> Answer:
    """One request on a connection that stays open."""
    connection = http.client.HTTPConnection(host)
    connection.sock = stream
    connection.request("GET", path, headers={"Host": host, **(headers or {})})
    response = connection.getresponse()
    certificate = hashlib.sha256(stream.getpeercert(binary_form=True) or b"").hexdigest()
    return Answer(response.status, dict(response.getheaders()), response.read().decode(), certificate)


def visit(
    name: str | None,
    host: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    path: str = "/cgi-bin/echo",
    **how: Any,
) -> Answer:
    """One request on a connection of its own; the host is the name in the TLS greeting, unless another is given."""
    with contextlib.closing(connect(name, **how)) as stream:
        return ask(stream, host or name or "none", path, headers)


def proxied(visitor: str, version: int = 2) -> bytes:
    """The beginning of a connection that claims to come from a visitor's address."""
    if version == 1:
        return f"PROXY TCP4 {visitor} 127.0.0.1 40000 443\r\n".encode()
    addresses = socket.inet_aton(visitor) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 40000, 443)
    return b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11" + struct.pack(">H", len(addresses)) + addresses


class World:
    """The platform of this test.

    Args:
        engine: The machine's.
        home: Where it lies.
        images: Reference of each built-in image.
    """

    def __init__(self, engine: docker.APIClient, home: Path, images: dict[str, str]) -> None:
        self.engine = engine
        self.images = images
        self.layout = Layout(str(home / "root"), str(home / "log"))
        self.prefix = f"t{os.getpid() % 10000}"
        edge = {**PORTS, "image": images["edge"]}
        settings = {"name_prefix": self.prefix, "network_pool": f"{POOL}.0/24", "edge": edge}
        self.config = effective_config([("config.yaml", settings)])
        wanted = [
            {"client_id": "alpha", "domain": "alpha.example.com", "aliases": ["*.alpha.example.com"]},
            {"client_id": "beta", "domain": "beta.example.com"},
            {"client_id": "gamma", "domain": "gamma.example.net"},
        ]
        entries = plan_registry(empty_document(), wanted, self.config)[0]["clients"]
        self.clients: dict[str, dict[str, Any]] = {client["client_id"]: client for client in entries}
        for number, name in enumerate(HARD, 8):
            self.clients[name] |= {"isolation_level": "hard", "internal_subnet": f"{POOL}.{number * 16}/28"}
        now = datetime.datetime.now(datetime.UTC)
        authority = make_authority("test", now)
        self.pairs = {name: issue(authority, self.names(name), now) for name in self.clients}
        self.addresses: dict[tuple[str, str], str] = {}

    # ---- what a client has

    def names(self, client_id: str) -> list[str]:
        client = self.clients[client_id]
        return [client["domain"], *client["aliases"]]

    def fingerprint(self, client_id: str) -> str:
        return read_certificate(self.pairs[client_id].certificate).fingerprint

    def front(self, client_id: str) -> NetworkSpec:
        return _tenant.network(self.clients[client_id], self.config)

    def internal(self, client_id: str) -> NetworkSpec:
        front, subnet = self.front(client_id), ipaddress.IPv4Network(self.clients[client_id]["internal_subnet"])
        return replace(
            front,
            name=f"{front.name}.internal",
            bridge=f"{front.bridge}i",
            subnet=str(subnet),
            gateway=str(subnet[1]),
            internal=True,
        )

    def routes(self, client_id: str, **changed: Any) -> ClientRoutes:
        """The routes to the client's service: for a hard client those of its own Traefik."""
        subnet = (self.internal if client_id in HARD else self.front)(client_id).subnet
        route = Route(client_id, "site", self.names(client_id), self.addresses[client_id, "site"], 8080)
        pair = self.pairs[client_id]
        routes = ClientRoutes(
            client_id, subnet, [replace(route, **changed)], pair.certificate, pair.key, self.fingerprint(client_id)
        )
        check_routes(routes)
        return routes

    def front_routes(self, client_id: str) -> ClientRoutes:
        address = self.addresses[client_id, "traefik"]
        routes = _client_edge.front_routes(self.clients[client_id], self.config, address, self.fingerprint(client_id))
        check_routes(routes)
        return routes

    # ---- files

    def write(self, path: str, text: str, group: int) -> None:
        atomic_write(path, text.encode(), 0o640, 0, group, staging_dir=self.layout.base("traefik", "staging"))

    def own_file(self, client_id: str, *parts: str) -> str:
        return self.layout.client(client_id, "traefik", *parts)

    def write_own(self, client_id: str, routes: ClientRoutes) -> None:
        """Give a client's own Traefik its routes."""
        self.write(self.own_file(client_id, "dynamic", "routes.yml"), render(routes), self.clients[client_id]["gid"])

    def write_edge(self, name: str, text: str) -> None:
        """Give the shared edge a file."""
        self.write(self.layout.base("traefik", "dynamic", f"{name}.yml"), text, _edge.EDGE_ID)

    # ---- containers

    def make_network(self, spec: NetworkSpec) -> None:
        spec = replace(spec, labels={**spec.labels, **LABELS})
        pool = {"Subnet": spec.subnet, "Gateway": spec.gateway}
        self.engine.create_network(**spec.request(), ipam={"Driver": "default", "Config": [pool]})

    def run(self, spec: ContainerSpec) -> list[Change]:
        """Run a container as the platform does, beside those that are there; what is to be removed then."""
        spec = replace(spec, labels={**spec.labels, **LABELS})
        plan = plan_stacks([spec], list_containers(self.engine, {LABEL_PLATFORM: self.prefix}), [spec.client_id])
        [start] = plan.starts
        StackApplier(self.engine, 20).apply(start)
        for name, subnet in spec.networks:
            network = self.engine.inspect_network(name)
            used = {endpoint["IPv4Address"].partition("/")[0]: key for key, endpoint in network["Containers"].items()}
            container = self.engine.inspect_container(start.payload.name)["Id"]
            if container not in used.values():
                free = [str(host) for host in ipaddress.IPv4Network(subnet).hosts()][1:]
                address = next(host for host in free if host not in used)
                self.engine.connect_container_to_network(container, name, ipv4_address=address)
        if spec.client_id is not None:
            self.addresses[spec.client_id, spec.service] = plan.backends[spec.client_id][spec.service]
        return [change for change in plan.removals if change.name.startswith(spec.name)]

    def busybox(self, client_id: str, service: str, place: NetworkSpec, *command: str, port: int = 0) -> None:
        """Run a container of the client's in one of its networks; it answers at the port, if there is one."""
        client = self.clients[client_id]
        probe = ["/bin/busybox", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{port}/"]
        self.run(
            ContainerSpec(
                name=f"{self.prefix}-{client_id}.{service}",
                client_id=client_id,
                service=service,
                image=self.images["site"],
                network=place.name,
                subnet=place.subnet,
                labels={**place.labels, LABEL_SERVICE: service},
                user=f"{client['uid']}:{client['gid']}",
                entrypoint=["/bin/busybox"],
                command=command,
                environment={"SERVICE_OF": client_id},
                binds=[{"source": self.layout.base("www"), "target": "/www", "read_only": True}],
                healthcheck={"test": ["CMD", *probe]} if port else None,
            )
        )

    def pid(self, client_id: str, service: str) -> int:
        """The first process of a container."""
        name = f"{self.prefix}-{client_id}.{service}"
        return int(self.engine.inspect_container(name)["State"]["Pid"])

    def inside_address(self, client_id: str) -> str:
        """The address of a client's own Traefik on the internal network."""
        seen = self.engine.inspect_container(f"{self.prefix}-{client_id}.traefik")
        return str(seen["NetworkSettings"]["Networks"][self.internal(client_id).name]["IPAddress"])

    def own_log(self, client_id: str) -> list[dict[str, Any]]:
        """The access log of a client's own Traefik."""
        lines = self.engine.logs(f"{self.prefix}-{client_id}.traefik").decode().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    # ---- what is served

    def own_faults(self, routes: ClientRoutes) -> list[str]:
        """What a client's own Traefik serves against what it should."""
        address = self.addresses[routes.client_id, "traefik"]
        return faults_of_live(routes, *(by_name(address, _client_edge.API_PORT, f"http/{k}") for k in KINDS))

    def edge_faults(self, client_id: str, http_01: bool = False) -> list[str]:
        """What the shared edge serves for a hard client against what it should."""
        kinds = ("tcp/routers", "tcp/services", "http/routers")
        listed = [by_name("127.0.0.1", PORTS["api_port"], kind) for kind in kinds]
        return _client_edge.faults_of_passthrough(self.front_routes(client_id), *listed, http_01)

    def pass_through(self, client_id: str) -> None:
        """Put the client's passthrough into the shared edge and wait until it is served."""
        self.write_edge(client_id, _client_edge.passthrough(self.front_routes(client_id)))
        wait_for(lambda: self.edge_faults(client_id) == [])
        wait_for(lambda: visit(self.names(client_id)[0]).certificate == self.fingerprint(client_id))

    def build(self) -> None:
        """Bring everything up."""
        for directory in (*_edge.directories(self.layout), Directory(self.layout.base("www/cgi-bin"), 0o755, 0, 0)):
            os.makedirs(os.path.dirname(directory.path), mode=0o755, exist_ok=True)
            apply_directory(directory)
        os.chmod(self.layout.base("www"), 0o755)
        for name, text in (("cgi-bin/echo", ECHO), ("index.html", "welcome")):
            atomic_write(self.layout.base("www", name), text.encode(), 0o755)
        static = json.loads(_edge.static_config(self.config).removeprefix(_edge.HEADER))
        # As it is, the redirection to HTTPS goes before every route, that of ACME's challenges too.
        static["entryPoints"]["web"]["http"]["redirections"]["entryPoint"].setdefault("priority", 1)
        self.write(self.layout.base("traefik", "traefik.yml"), json.dumps(static), _edge.EDGE_ID)
        self.run(_edge.container(self.config, self.layout, 1024))
        for client_id, client in self.clients.items():
            self.make_network(self.front(client_id))
            serve = ("httpd", "-f", "-p", "8080", "-h", "/www")
            if client_id not in HARD:
                self.busybox(client_id, "site", self.front(client_id), *serve, port=8080)
                self.write_edge(client_id, render(self.routes(client_id)))
                continue
            self.make_network(self.internal(client_id))
            self.busybox(client_id, "site", self.internal(client_id), *serve, port=8080)
            self.busybox(client_id, "hostile", self.front(client_id), "sleep", "100000")
            tenant = _tenant.directories(client, self.config, self.layout)
            for directory in (*tenant, *_client_edge.directories(client, self.layout)):
                os.makedirs(os.path.dirname(directory.path), mode=0o755, exist_ok=True)
                apply_directory(directory)
            gid = client["gid"]
            self.write(self.own_file(client_id, "traefik.yml"), _client_edge.static_config(client, self.config), gid)
            platform = _client_edge.platform_config(client, self.config)
            self.write(self.own_file(client_id, "dynamic", "platform.yml"), platform, gid)
            self.write_own(client_id, self.routes(client_id))
            self.run(_client_edge.container(client, self.config, self.layout))
            wait_for(lambda name=client_id: self.own_faults(self.routes(name)) == [])
            self.pass_through(client_id)
        wait_for(lambda: visit("gamma.example.net").certificate == self.fingerprint("gamma"))

    def remove(self) -> None:
        """Take everything away."""
        label = {"label": f"{LABEL_PLATFORM}={self.prefix}"}
        for container in self.engine.containers(all=True, filters=label):
            self.engine.remove_container(container["Id"], force=True, v=True)
        for network in self.engine.networks(filters=label):
            self.engine.remove_network(network["Id"])


def reached(address: str, port: int) -> None:
    """Open a connection, or raise what hinders it."""
    socket.create_connection((address, port), timeout=1).close()


def may_read(path: Path, uid: int, how: str = "-r") -> bool:
    """Whether a user of this number may read a file."""
    return subprocess.run(["test", how, path], user=uid, group=uid, extra_groups=[], check=False).returncode == 0


def curl(name: str, host: str) -> tuple[str, str, str]:
    """A request over HTTP/2: version, status and body."""
    port = PORTS["https_port"]
    command = ["curl", "--silent", "--show-error", "--insecure", "--http2", "--noproxy", "*", "--max-time", "5"]
    command += ["--interface", VISITOR, "--resolve", f"{name}:{port}:127.0.0.1", "--header", f"Host: {host}"]
    command += ["--write-out", "%{stderr}%{http_version} %{http_code}", f"https://{name}:{port}/cgi-bin/echo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, status = done.stderr.split()
    return version, status, done.stdout


def greet_in_pieces(name: str, how: str) -> str:
    """A TLS handshake whose first message comes in several packets, or in several TLS records; the certificate."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    greeting = outgoing.read()
    # In the midst of the name.
    cut = greeting.index(name.encode()) + 3
    if how == "packets":
        pieces = [greeting[:1], greeting[1:5], greeting[5:cut], greeting[cut:]]
    else:
        head, bodies = greeting[:3], (greeting[5:cut], greeting[cut:])
        pieces = [head + struct.pack(">H", len(body)) + body for body in bodies]
    with socket.create_connection(("127.0.0.1", PORTS["https_port"]), timeout=5) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            raw.sendall(piece)
            wait_for(lambda: unsent(raw) == 0)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                received = raw.recv(65536)
                assert received, "the connection was closed"
                incoming.write(received)
    return hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()


def unsent(raw: socket.socket) -> int:
    """Bytes that the other side has not acknowledged: none, and the next ones travel in a packet of their own."""
    return int.from_bytes(fcntl.ioctl(raw, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def by_name(address: str, port: int, kind: str) -> dict[str, dict[str, Any]]:
    """Objects of one kind by name, as Traefik's API lists them."""
    status, body = plain(address, port, f"/api/{kind}?per_page=1000")
    if status != 200:
        raise http.client.HTTPException(f"{status} {body}")
    return {item["name"]: item for item in json.loads(body)}


def plain(address: str, port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """One request without TLS: status, and body or the address to which it is sent on."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        body = response.read().decode()
        return response.status, response.headers.get("Location") or body


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, str]]:
    """The built-in images under names of this test's own."""
    engine = docker.APIClient(version="auto")
    # Where the roles keep them too, so that nothing is built twice.
    built = run_module("image_archive", dest=str(Path.home() / ".cache/agency_stack/images"))["images"]
    given = [{**image, "image": f"agency_stack_test/{image['name']}:{os.getpid()}"} for image in built]
    try:
        imported = run_module("engine_image", images=given)
        assert imported.get("changed"), imported
        yield {image["name"]: image["image"] for image in given}
    finally:
        for image in given:
            with contextlib.suppress(docker.errors.ImageNotFound):
                engine.remove_image(image["image"])


@pytest.fixture(scope="module")
def shared_world(images: dict[str, str]) -> Iterator[World]:
    # Not below pytest's own directory, into which no other user can look: it would keep every key by itself.
    home = Path(tempfile.mkdtemp(prefix="agency-client-edge-", dir="/var/tmp"))
    home.chmod(0o755)
    world = World(docker.APIClient(version="auto"), home, images)
    try:
        world.build()
        yield world
    finally:
        world.remove()
        shutil.rmtree(home)


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """The world, put right again after a test that changed it."""
    yield shared_world
    kept = {f"{name}.yml" for name in shared_world.clients}
    for path in Path(shared_world.layout.base("traefik", "dynamic")).iterdir():
        if path.name not in kept:
            path.unlink()
    shared_world.write_edge("gamma", render(shared_world.routes("gamma")))
    for client_id in HARD:
        shared_world.write_own(client_id, shared_world.routes(client_id))
        shared_world.pass_through(client_id)
        wait_for(lambda name=client_id: shared_world.own_faults(shared_world.routes(name)) == [])


# ---------------------------------------------------------------- who the visitor is


# What Traefik itself says of a visitor, and what many programs take for the same.
SAID = ("X-Forwarded-For", "X-Real-Ip", "X-Forwarded-Proto", "X-Forwarded-Host")
LIES = {name.replace("-", dash): FORGED for name in SAID for dash in "-_."}


@pytest.mark.parametrize("client_id", HARD)
def test_the_visitors_real_address_arrives_and_no_forged_one_does(world: World, client_id: str) -> None:
    name = world.names(client_id)[0]
    sources = [VISITOR, "127.0.0.3", "::1"]
    for source in sources:
        loopback = "::1" if ":" in source else "127.0.0.1"
        answer = visit(name, source=source, address=loopback, headers=LIES)
        assert answer.service == client_id
        assert [answer.seen[f"HTTP_{said.upper().replace('-', '_')}"] for said in SAID] == [
            source,
            source,
            "https",
            name,
        ]
        assert FORGED not in answer.body
    wait_for(lambda: [line["ClientHost"] for line in world.own_log(client_id)[-3:]] == sources)


@pytest.mark.parametrize("alias", ["X-Forwarded-For", "X_Forwarded_For", "X.Forwarded.For"])
def test_the_service_would_believe_what_is_forged(world: World, alias: str) -> None:
    told = plain(world.addresses["alpha", "site"], 8080, "/cgi-bin/echo", {alias: FORGED})[1]
    assert f"HTTP_X_FORWARDED_FOR={FORGED}\n" in told


def test_only_the_hosts_own_address_may_name_the_visitor(world: World) -> None:
    address = world.addresses["alpha", "traefik"]

    def claim(at: str = address, version: int = 2) -> str:
        how = {"address": at, "port": _client_edge.HTTPS_PORT, "source": None, "first": proxied(CLAIMED, version)}
        return visit("alpha.example.com", **how).seen["HTTP_X_FORWARDED_FOR"]

    assert [claim(version=1), claim(version=2)] == [CLAIMED, CLAIMED]
    for version in (1, 2):
        hostile = in_namespace(world.pid("alpha", "hostile"), lambda: claim(version=version))  # noqa: B023
        assert hostile == world.addresses["alpha", "hostile"]
    inside = world.inside_address("alpha")
    assert in_namespace(world.pid("alpha", "site"), lambda: claim(inside)) == world.addresses["alpha", "site"]


def test_no_other_client_reaches_it(world: World) -> None:
    # Docker masquerades what it lets pass from one bridge to another: it would come from the trusted address.
    address = world.addresses["alpha", "traefik"]
    for port in (_client_edge.HTTPS_PORT, _client_edge.HTTP_PORT, _client_edge.API_PORT):
        in_namespace(world.pid("alpha", "hostile"), lambda: reached(address, port))  # noqa: B023
        with pytest.raises(TimeoutError):
            in_namespace(world.pid("beta", "hostile"), lambda: reached(address, port))  # noqa: B023


# ---------------------------------------------------------------- certificates and keys


def test_the_certificate_is_the_clients_own(world: World) -> None:
    for client_id in HARD:
        for name in world.names(client_id):
            answer = visit(name.replace("*", "any"))
            assert (answer.service, answer.certificate) == (client_id, world.fingerprint(client_id))


def test_the_shared_edge_never_holds_a_key_and_nobody_else_can_read_it(world: World) -> None:
    files = [path for path in Path(world.layout.base()).rglob("*") if path.is_file()]
    for client_id in HARD:
        pair = world.pairs[client_id]
        own = Path(world.own_file(client_id, "dynamic", "routes.yml"))
        for secret in (pair.key.splitlines()[1], pair.certificate.splitlines()[1]):
            assert secret in own.read_text()
            assert [path for path in files if secret in path.read_text()] == []
        client = world.clients[client_id]
        others = [other["uid"] for other in world.clients.values() if other is not client]
        assert {uid: may_read(own, uid) for uid in (client["uid"], _edge.EDGE_ID, 65534, *others)} == {
            client["uid"]: True,
            **dict.fromkeys((_edge.EDGE_ID, 65534, *others), False),
        }
        assert not may_read(own, client["uid"], "-w")
    secret = world.pairs["gamma"].key.splitlines()[1]
    assert [path.name for path in files if secret in path.read_text()] == ["gamma.yml"]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.parametrize(("version", "accepted"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
def test_old_tls_is_refused(world: World, version: str, accepted: bool) -> None:
    old = context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion[version]
    raw = socket.create_connection(("127.0.0.1", PORTS["https_port"]), timeout=5)
    if accepted:
        with old.wrap_socket(raw, server_hostname="alpha.example.com") as stream:
            assert ask(stream, "alpha.example.com").service == "alpha"
    else:
        # Refused by Traefik, and not by this machine's own library.
        with raw, pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            old.wrap_socket(raw, server_hostname="alpha.example.com")


# ---------------------------------------------------------------- whose Traefik a request comes to

# Name in the TLS greeting, host of the request -> status, and whose certificate is served.
DISAGREEING: dict[str, tuple[str | None, str, int, str | None]] = {
    "hard, other hard": ("alpha.example.com", "beta.example.com", 404, "alpha"),
    "hard, medium": ("alpha.example.com", "gamma.example.net", 404, "alpha"),
    "wildcard of hard, other hard": ("any.alpha.example.com", "beta.example.com", 404, "alpha"),
    "hard, nobody's": ("beta.example.com", "nobody.example.org", 404, "beta"),
    "medium, hard": ("gamma.example.net", "alpha.example.com", 421, "gamma"),
    "medium, wildcard of hard": ("gamma.example.net", "any.alpha.example.com", 421, "gamma"),
    "medium, nobody's": ("gamma.example.net", "nobody.example.org", 404, "gamma"),
    "none, hard": (None, "alpha.example.com", 421, None),
    "nobody's, hard": ("nobody.example.org", "beta.example.com", 421, None),
    "two below the wildcard": ("a.b.alpha.example.com", "a.b.alpha.example.com", 404, None),
    "hard": ("alpha.example.com", "alpha.example.com", 200, "alpha"),
    "wildcard of hard": ("any.alpha.example.com", "any.alpha.example.com", 200, "alpha"),
    "hard, its wildcard": ("alpha.example.com", "any.alpha.example.com", 200, "alpha"),
    "upper case": ("ALPHA.Example.COM", "Alpha.EXAMPLE.com", 200, "alpha"),
    "medium": ("gamma.example.net", "gamma.example.net", 200, "gamma"),
}


@pytest.mark.parametrize(("name", "host", "status", "owner"), DISAGREEING.values(), ids=DISAGREEING)
def test_name_and_host_that_disagree_reach_nobody_else(
    world: World, name: str | None, host: str, status: int, owner: str | None
) -> None:
    answer = visit(name, host)
    assert answer.status == status
    assert answer.service == (owner if status == 200 else f"none ({status})")
    known = {world.fingerprint(client_id): client_id for client_id in world.clients}
    assert known.get(answer.certificate) == owner
    if name is not None:
        assert curl(name, host)[:2] == ("2", str(status))


def test_http2_brings_the_visitors_address_too(world: World) -> None:
    version, status, body = curl("alpha.example.com", "alpha.example.com")
    assert (version, status) == ("2", "200")
    assert f"HTTP_X_FORWARDED_FOR={VISITOR}\n" in body


def test_a_wildcard_of_a_medium_client_takes_no_hard_name(world: World) -> None:
    # The registry refuses two such clients; were there any, the hard one would still keep its own.
    routes = world.routes("gamma", hostnames=["*.example.com", "gamma.example.net"])
    world.write_edge("gamma", render(routes))
    wait_for(lambda: visit("other.example.com").service == "gamma")
    assert visit("alpha.example.com").service == "alpha"
    assert visit("beta.example.com").service == "beta"
    assert visit("any.alpha.example.com").service == "alpha"
    assert visit("other.example.com", "beta.example.com").status == 421


@pytest.mark.parametrize("how", ["packets", "records"])
def test_a_greeting_in_pieces_is_understood(world: World, how: str) -> None:
    for client_id in world.clients:
        assert greet_in_pieces(world.names(client_id)[0], how) == world.fingerprint(client_id)


def test_a_connection_from_before_the_client_was_hard_is_sent_away(world: World) -> None:
    name = "alpha.example.com"
    earlier = Route("alpha", "site", world.names("alpha"), world.addresses["gamma", "site"], 8080)
    world.write_edge("alpha", render(replace(world.routes("alpha"), routes=[earlier])))
    wait_for(lambda: visit(name).service == "gamma")
    assert world.edge_faults("alpha") == ["the passthrough alpha.traefik is not there yet"]
    with contextlib.closing(connect(name)) as stream:
        assert ask(stream, name).service == "gamma"
        world.pass_through("alpha")
        assert ask(stream, name).status == 421
    assert visit(name).service == "alpha"


def test_a_route_that_is_left_goes_before_the_passthrough_and_is_noticed(world: World) -> None:
    left = Route("alpha", "site", ["alpha.example.com"], world.addresses["gamma", "site"], 8080)
    world.write_edge("left", render(replace(world.routes("gamma"), client_id="left", routes=[left])))
    wait_for(lambda: world.edge_faults("alpha") == ["the route alpha.site@file of an earlier level is still there"])
    # Nobody gets the other's pages all the same.
    wait_for(lambda: visit("alpha.example.com").status == 421)
    assert visit("any.alpha.example.com").service == "alpha"


# ---------------------------------------------------------------- the platform's own questions


def test_the_api_answers_the_host_alone_and_tells_no_key(world: World) -> None:
    address, gateway = world.addresses["alpha", "traefik"], world.front("alpha").gateway
    lies = {**dict.fromkeys(LIES, gateway), "Forwarded": f"for={gateway}"}

    def status(at: str, path: str) -> int:
        return plain(at, _client_edge.API_PORT, path, lies)[0]

    paths = ("/api/rawdata", "/api/http/routers", "/api/overview", "/api/http/services")
    assert [status(address, path) for path in paths] == [200] * 4
    for service, at in (("hostile", address), ("site", world.inside_address("alpha"))):
        seen = in_namespace(world.pid("alpha", service), lambda: [status(at, path) for path in paths])  # noqa: B023
        assert seen == [404] * 4
    told = "".join(plain(address, _client_edge.API_PORT, path)[1] for path in (*paths, "/api/certificates"))
    assert "alpha.example.com" in told
    assert "PRIVATE" not in told
    with pytest.raises(ConnectionRefusedError):
        reached(address, _client_edge.PING_PORT)
    # Nor is it a visitor's.
    assert visit("alpha.example.com", headers={"X-Real-Ip": gateway}, path="/api/rawdata").status == 404


def test_a_change_is_confirmed_when_it_is_served_and_not_before(world: World) -> None:
    changed = world.routes("alpha", hostnames=["alpha.example.com", "new.alpha.example.com"])
    assert world.own_faults(changed) != []
    world.write_own("alpha", changed)
    wait_for(lambda: world.own_faults(changed) == [])
    assert visit("new.alpha.example.com").service == "alpha"


def test_it_is_closed_like_every_container_of_a_client(world: World) -> None:
    client = world.clients["alpha"]
    seen = world.engine.inspect_container(f"{world.prefix}-alpha.traefik")
    pid = world.pid("alpha", "traefik")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert {status[name].strip("0\n") for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {""}
    assert status["Uid"].split() == [str(client["uid"])] * 4
    assert status["NoNewPrivs"] == "1"
    assert seen["HostConfig"]["ReadonlyRootfs"] is True
    assert [(mount["Destination"], mount["RW"]) for mount in seen["Mounts"]] == [(_edge.EDGE_HOME, False)]
    assert seen["HostConfig"]["Memory"] == 128 * 2**20
    # It leaves through the front network, the internal one leads nowhere.
    routes = [line.split() for line in Path(f"/proc/{pid}/net/route").read_text().splitlines()[1:]]
    [gateway] = [ipaddress.IPv4Address(bytes.fromhex(route[2])[::-1]) for route in routes if route[1] == "00000000"]
    assert str(gateway) == world.front("alpha").gateway


# ---------------------------------------------------------------- life


def test_a_suspended_client_is_paused_by_its_own_traefik(world: World) -> None:
    paused = world.routes("alpha", address=None)
    world.write_own("alpha", paused)
    wait_for(lambda: world.own_faults(paused) == [])
    answer = visit("alpha.example.com")
    assert (answer.status, answer.headers["Retry-After"]) == (503, str(RETRY_AFTER))
    assert answer.certificate == world.fingerprint("alpha")
    assert visit("beta.example.com").service == "beta"


def test_one_that_is_down_fails_alone(world: World) -> None:
    name = f"{world.prefix}-alpha.traefik"
    world.engine.stop(name)
    try:
        for client_id in ("beta", "gamma"):
            assert visit(world.names(client_id)[0]).service == client_id
        with pytest.raises((OSError, ssl.SSLError)):
            visit("alpha.example.com")
        assert visit("beta.example.com").service == "beta"
    finally:
        world.engine.start(name)
    wait_for(lambda: visit("alpha.example.com").service == "alpha")


def test_it_is_replaced_without_a_failed_request(world: World) -> None:
    spec = _client_edge.container(world.clients["alpha"], world.config, world.layout)
    outcomes: list[str] = []
    done = threading.Event()

    def keep_visiting() -> None:
        while not done.is_set():
            try:
                outcomes.append(visit("alpha.example.com").service)
            except (OSError, http.client.HTTPException) as exc:
                outcomes.append(repr(exc))

    visitor = threading.Thread(target=keep_visiting)
    visitor.start()
    before = world.addresses["alpha", "traefik"]
    try:
        removals = world.run(replace(spec, environment={**spec.environment, "GOGC": "100"}))
        assert world.addresses["alpha", "traefik"] != before
        world.pass_through("alpha")
        for change in removals:
            StackApplier(world.engine, 20).apply(change)
        seen = len(outcomes)
        wait_for(lambda: len(outcomes) > seen + 5)
    finally:
        done.set()
        visitor.join()
    assert set(outcomes) == {"alpha"}
    with pytest.raises(OSError, match=r"refused|timed out|No route"):
        reached(before, _client_edge.HTTPS_PORT)


def test_plain_http_is_sent_to_https(world: World) -> None:
    asked = plain("127.0.0.1", PORTS["http_port"], "/x", {"Host": "alpha.example.com"})
    assert asked == (301, f"https://alpha.example.com:{PORTS['https_port']}/x")


def test_challenges_of_acme_come_to_the_own_traefik_when_they_are_wanted(world: World) -> None:
    challenge = "/.well-known/acme-challenge/token"

    def answered(path: str, name: str = "alpha.example.com") -> int:
        return plain("127.0.0.1", PORTS["http_port"], path, {"Host": name})[0]

    assert answered(challenge) == 301
    world.write_edge("alpha", _client_edge.passthrough(world.front_routes("alpha"), http_01=True))
    wait_for(lambda: world.edge_faults("alpha", http_01=True) == [])
    wait_for(lambda: answered(challenge) == 404)
    wait_for(lambda: ("web", challenge) in [(x["entryPointName"], x["RequestPath"]) for x in world.own_log("alpha")])
    assert [answered("/x"), answered(challenge, "beta.example.com")] == [301, 301]
