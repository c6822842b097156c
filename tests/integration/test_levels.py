# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of each isolation level, by real traffic: two clients of each beside each other on one platform.

Whatever must be closed is seen open from elsewhere, so that a probe that cannot work proves nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._certificates import read_certificate
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._edge import EDGE_ID
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import MIB
from conftest import CHECKOUT, TEST_LABEL, Platform, docker
from test_firewall import Namespace, Server, in_namespace
from test_images import wait_for

sys.path.insert(0, str(CHECKOUT / "tests" / "images"))
from testimage import image

PREFIX = "lv"
# Not below pytest's own directory, into which no other user can look: it would keep every secret by itself.
ROOT = Path("/var/tmp") / f"agency-levels-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]}"
SOFT, MEDIUM, HARD = ("s1", "s2"), ("m1", "m2"), ("h1", "h2")
VISITOR = "127.0.0.2"

# A machine beyond the host, at the other end of a cable, which answers at the addresses of cloud metadata as well.
HOST_END, OUTSIDE, ELSEWHERE = "203.0.113.129", "203.0.113.130", "203.0.113.131"
METADATA = ("100.100.100.200", "192.0.0.192")
ALLOWED = f"{OUTSIDE}:8443"
PORTS = (8080, 8443)

# Where each client's containers are.
SHARED = f"{PREFIX}-shared.site"
CLOSED = {
    "soft": [SHARED],
    "medium": [f"{PREFIX}-m1.site", f"{PREFIX}-m2.site"],
    "hard": [f"{PREFIX}-{name}.{service}" for name in HARD for service in ("traefik", "site")],
}
CONTAINERS = [name for names in CLOSED.values() for name in names]
# The programs of this machine, read-only, are image enough.
PROGRAMS = [f"--volume=/{name}:/{name}:ro" for name in ("usr", "bin", "lib", "lib64") if Path(f"/{name}").exists()]
ALLOCATE = "import sys, time; held = bytearray(int(sys.argv[1]) << 20); print('held', flush=True); time.sleep(60)"


@dataclass(frozen=True)
class Answer:
    """What a visitor got; the certificate is the SHA-256 of the one that was served."""

    status: int
    body: str
    certificate: str

    @property
    def owner(self) -> str | None:
        """Whose page it is."""
        found = re.search("page of ([a-z0-9]+)", self.body)
        return found and found[1]


@dataclass
class World:
    """The platform, and what is around it."""

    platform: Platform
    outside: Namespace
    foreign: str = ""
    published: int = 0
    listener: int = 0
    clients: dict[str, dict[str, Any]] = field(default_factory=dict)

    def pid(self, container: str) -> int:
        """The first process of a container."""
        return int(docker("inspect", "--format={{.State.Pid}}", container))

    def networks(self, container: str) -> dict[str, dict[str, Any]]:
        """Address and gateway of a container by network."""
        return dict(json.loads(docker("inspect", "--format={{json .NetworkSettings.Networks}}", container)))

    def address(self, container: str, network: str | None = None) -> str:
        """The address of a container, in its only network or a given one."""
        networks = self.networks(container)
        return str(networks[network or next(iter(networks))]["IPAddress"])

    def seen_from(self, place: str, targets: Mapping[str, tuple[str, int]]) -> dict[str, bool]:
        """Which TCP ports can be reached from a container, or from the host."""
        pid = os.getpid() if place == "host" else self.pid(place)

        def probe(target: tuple[str, int]) -> bool:
            return in_namespace(pid, lambda: reaches(*target))

        with ThreadPoolExecutor(max_workers=32) as pool:
            return dict(zip(targets, pool.map(probe, targets.values()), strict=True))

    def certificate(self, client_id: str) -> Path:
        return self.platform.root / "clients" / client_id / "certs" / "tls.crt"

    def fingerprint(self, client_id: str) -> str:
        """Of the certificate that was issued for a client."""
        return read_certificate(self.certificate(client_id).read_text()).fingerprint

    def ask(
        self,
        name: str,
        host: str | None = None,
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        source: str = "127.0.0.1",
        timeout: float = 10,
    ) -> Answer:
        """One request: the name in the TLS greeting is one thing, and the host that is asked for another."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        raw = socket.create_connection(("127.0.0.1", self.platform.port), timeout=timeout, source_address=(source, 0))
        with context.wrap_socket(raw, server_hostname=name) as tls:
            connection = http.client.HTTPConnection(host or name)
            connection.sock = tls
            connection.request("GET", path, headers={"Host": host or name, **(headers or {})})
            response = connection.getresponse()
            certificate = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
            return Answer(response.status, response.read().decode(), certificate)

    def act(self, client_id: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the host's as a client's uid, in the folder of its site."""
        client = self.clients[client_id]
        return subprocess.run(
            command,
            cwd=self.folder(client_id),
            user=client["uid"],
            group=client["gid"],
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )

    def folder(self, client_id: str) -> Path:
        """Where the pages of a client really are."""
        return self.platform.site(client_id).resolve()

    def started(self) -> dict[str, tuple[str, str]]:
        """Id and time of the last start of each running container by name."""
        names = sorted(self.platform.containers())
        told = docker("inspect", "--format={{.Name}} {{.Id}} {{.State.StartedAt}}", *names).splitlines()
        return {name[1:]: (container, at) for name, container, at in map(str.split, told)}

    def of(self, client_id: str) -> list[str]:
        """What there is of a client in the engine, stopped containers too."""
        label = f"label=agency_stack.client_id={client_id}"
        platform = f"label=agency_stack.platform={PREFIX}"
        names = "--format={{.Name}}"
        containers = docker("ps", "--all", "--format={{.Names}}", "--filter", label, "--filter", platform).split()
        networks = docker("network", "ls", names, "--filter", label, "--filter", platform).split()
        return sorted([*containers, *(f"network {network}" for network in networks)])

    def outside_engine(self, client_id: str) -> dict[str, list[str]]:
        """What a hard client has on the host beside its folder."""
        volumes = self.platform.root / "multi_tenancy" / "volumes"
        return {
            "files": sorted(path.name for path in volumes.glob(f"{client_id}.*")),
            "mounts": [point for point in self.platform.mount_points() if f"/clients/{client_id}/" in point],
            "loops": [Path(file).name for file in self.platform.loops() if Path(file).stem == client_id],
            "cgroups": sorted({path.name for path in self.platform.cgroups() if path.name == f"{PREFIX}-{client_id}"}),
        }


NOTHING: dict[str, list[str]] = {"files": [], "mounts": [], "loops": [], "cgroups": []}


def domain(client_id: str) -> str:
    return f"{client_id}.example.com"


def reaches(address: str, port: int) -> bool:
    """Whether a TCP connection is accepted."""
    with socket.socket() as client:
        client.settimeout(1)
        try:
            client.connect((address, port))
        except OSError:
            return False
        return True


def may(how: str, path: Path, uid: int, gid: int) -> bool:
    """Whether a user of this number may read (-r) a file."""
    return subprocess.run(["test", how, path], user=uid, group=gid, extra_groups=[], check=False).returncode == 0


def snapshot(root: Path) -> dict[str, tuple[int, int, int, int]]:
    """Owner, mode and time of every file that is no folder."""
    return {
        str(path.relative_to(root)): (status.st_uid, status.st_gid, status.st_mode, status.st_mtime_ns)
        for path in sorted(root.rglob("*"))
        # What is in a volume is seen where it is mounted.
        if path.is_symlink() or not (path.is_dir() or path.suffix == ".img")
        for status in [path.lstat()]
    }


@pytest.fixture(scope="module")
def bare() -> Iterator[World]:
    """The platform before it has clients, a machine outside, and a container that is nobody's."""
    platform = Platform(ROOT, PREFIX, "10.236.0.0/20", 10743)
    platform.remove()
    with contextlib.ExitStack() as stack:
        ROOT.mkdir(mode=0o755)
        ROOT.chmod(0o755)
        stack.callback(platform.remove)
        outside = Namespace()
        stack.callback(outside.close)
        world = World(platform, outside)
        # With the namespace both ends of the cable go.
        cable = f"link add out-{PREFIX} type veth peer name uplink netns {outside.pid}\n"
        routes = "".join(f"route add {address}/32 via {OUTSIDE} dev out-{PREFIX}\n" for address in METADATA)
        ends = f"addr add {HOST_END}/28 dev out-{PREFIX}\nlink set out-{PREFIX} up\n"
        subprocess.run(["ip", "-batch", "-"], input=cable + ends + routes, text=True, check=True)
        own = "".join(f"addr add {address}/28 dev uplink\n" for address in (OUTSIDE, ELSEWHERE))
        own += "".join(f"addr add {address}/32 dev lo\n" for address in METADATA)
        outside.ip(f"{own}link set lo up\nlink set uplink up\nroute add default via {HOST_END}\n")
        stack.callback(Server(outside.pid, *PORTS).close)
        listening = Server(os.getpid(), 0)
        stack.callback(listening.close)
        world.listener = listening.sockets[0].getsockname()[1]
        world.foreign = f"{PREFIX}foreign"
        docker_image = f"{PREFIX}foreign:latest"
        empty = ROOT / "empty.tar"
        subprocess.run(["tar", "--create", "--file", empty, "--files-from", "/dev/null"], check=True)
        docker("import", "--change", f"LABEL {TEST_LABEL}", str(empty), docker_image)
        stack.callback(docker, "image", "rm", "--force", docker_image)
        left = docker("ps", "--all", "--quiet", "--filter", f"name=^{PREFIX}foreign").split()
        if left:
            docker("rm", "--force", *left)
        docker(
            *("run", "--detach", "--label", TEST_LABEL, "--name", world.foreign, "--publish", "80", *PROGRAMS),
            *(docker_image, "sleep", "3600"),
        )
        stack.callback(docker, "rm", "--force", world.foreign)
        stack.callback(Server(world.pid(world.foreign), 80).close)
        world.published = int(docker("port", world.foreign, "80/tcp").split()[0].rsplit(":", 1)[1])
        platform.configure(
            scripts=False,
            default_client_id="s1",
            health_timeout=60,
            hard={"memory": "256m", "cpus": 1.0, "pids": 200, "disk": "48m"},
            capacity={"cpu_overcommit": 8.0, "reserved_disk": "64m"},
        )
        yield world


@pytest.fixture(scope="module")
def world(bare: World) -> World:
    """Two clients of each level, each with a page of its own, all from one run."""
    settings: dict[str, dict[str, Any]] = {
        "m2": {"egress": "deny", "egress_allow": [ALLOWED]},
        "h1": {"resources": {"memory": "160m"}},
        "h2": {"egress_allow": [ALLOWED], "resources": {"disk": "96m"}},
    }
    levels = dict.fromkeys(SOFT, "soft") | dict.fromkeys(MEDIUM, "medium") | dict.fromkeys(HARD, "hard")
    clients = [
        {"client_id": name, "domain": domain(name), "isolation_level": level, **settings.get(name, {})}
        for name, level in levels.items()
    ]
    bare.platform.run(client_list=clients).ok()
    bare.clients = bare.platform.registry()
    for name in levels:
        (bare.platform.site(name) / "index.html").write_text(f"page of {name}")
    return bare


# ---------------------------------------------------------------- all levels


def test_every_client_has_its_own_page_behind_its_own_certificate(world: World) -> None:
    for name in world.clients:
        assert world.platform.get(domain(name)) == (200, f"page of {name}")
        assert world.ask(domain(name)).certificate == world.fingerprint(name)


def test_second_run_changes_nothing(world: World) -> None:
    before = world.started()
    assert world.platform.run().ok().changed == 0
    assert world.started() == before


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_is_closed_to_itself(world: World, container: str) -> None:
    details = world.platform.inspect(container)
    host = details["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert (host["ReadonlyRootfs"], host["PortBindings"] or {}) == (True, {})
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert min(host["Memory"], host["PidsLimit"], host["NanoCpus"] or host["CpuQuota"] or 0) > 0 or (
        # The total of a hard client is capped besides.
        host["Memory"] > 0 and host["PidsLimit"] > 0 and host["CgroupParent"]
    )
    assert not any("docker.sock" in mount["Source"] for mount in details["Mounts"])
    user = details["Config"]["User"]
    owners = {entry["client_id"]: f"{entry['uid']}:{entry['gid']}" for entry in world.clients.values()}
    client_id = container.removeprefix(f"{PREFIX}-").partition(".")[0]
    assert user == owners.get(client_id, user) and user not in {owners[name] for name in owners if name != client_id}

    seccomp = "2" if "name=seccomp,profile=default" in docker("info", "--format={{.SecurityOptions}}") else "0"
    pids = docker("top", container, "-eo", "pid").split()[1:]
    assert len(pids) > 1
    for pid in pids:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", seccomp)
        assert (set(status["Uid"].split()), set(status["Gid"].split())) == ({user.split(":")[0]}, {user.split(":")[1]})
        assert status["Groups"].strip() in ("", user.split(":")[1])
    # Root itself, through the container's own view of its files.
    inside = Path(f"/proc/{pids[0]}/root")
    for folder in ("", "etc", *(mount["Destination"].strip("/") for mount in details["Mounts"])):
        with pytest.raises(OSError, match="Read-only file system"):
            (inside / folder / "planted").touch()
    (inside / "dev/shm/planted").touch()
    (inside / "dev/shm/planted").unlink()


def networks_of(world: World) -> dict[str, list[str]]:
    """The networks of each container."""
    return {container: sorted(world.networks(container)) for container in CONTAINERS}


def test_bridges_belong_to_one_client_each(world: World) -> None:
    inner = {f"{PREFIX}-{name}.site": [f"{PREFIX}-{name}.internal"] for name in ("h1",)}
    # What it may reach outside is on the bridge that leads there.
    both = {f"{PREFIX}-{name}.traefik": [f"{PREFIX}-{name}", f"{PREFIX}-{name}.internal"] for name in HARD}
    both[f"{PREFIX}-h2.site"] = [f"{PREFIX}-h2", f"{PREFIX}-h2.internal"]
    own = {f"{PREFIX}-{name}.site": [f"{PREFIX}-{name}"] for name in MEDIUM}
    assert networks_of(world) == {SHARED: [SHARED], **own, **inner, **both}
    internal = {
        name: docker("network", "inspect", "--format={{.Internal}}", name).strip() == "true"
        for names in networks_of(world).values()
        for name in names
    }
    assert {name for name, closed in internal.items() if closed} == {f"{PREFIX}-{name}.internal" for name in HARD}
    assert sorted(world.platform.containers()) == sorted([*CONTAINERS, f"{PREFIX}-edge"])


def neighbours(world: World, container: str) -> dict[str, tuple[str, int]]:
    """What a container must not reach: other clients, the host by all its addresses, and what others publish."""
    ports = {"site": 8080, "traefik": 8443}
    own = container.rpartition(".")[0]
    targets = {}
    for other in CONTAINERS:
        for network, endpoint in world.networks(other).items():
            if other.rpartition(".")[0] != own:
                targets[f"{other} in {network}"] = (endpoint["IPAddress"], ports[other.rpartition(".")[2]])
    [bridge] = world.networks(world.foreign).values()
    gateways = {
        network: docker("network", "inspect", "--format={{(index .IPAM.Config 0).Gateway}}", network).strip()
        for network in {name for names in networks_of(world).values() for name in names}
    }
    gateways |= {"docker0": bridge["Gateway"], "cable": HOST_END}
    for name, address in gateways.items():
        targets[f"host at {name}"] = (address, world.listener)
        targets[f"published at {name}"] = (address, world.published)
        targets[f"edge at {name}"] = (address, world.platform.port)
    return targets | {"foreign container": (bridge["IPAddress"], 80)}


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_container_reaches_another_client_or_the_host(world: World, container: str) -> None:
    targets = neighbours(world, container)
    assert len(targets) > 30
    # The edge is the host: it reaches every client, and every other port answers it.
    assert [name for name, is_open in world.seen_from("host", targets).items() if not is_open] == []
    own = {f"own in {name}": (end["IPAddress"], 8080) for name, end in world.networks(container).items()}
    seen = world.seen_from(container, targets | own)
    assert {name for name, is_open in seen.items() if is_open} == set(own)


def test_nobody_reaches_the_clouds_metadata(world: World) -> None:
    targets = {address: (address, PORTS[0]) for address in METADATA}
    for place in ("host", world.foreign):
        assert world.seen_from(place, targets) == dict.fromkeys(METADATA, True)
    for container in CONTAINERS:
        assert world.seen_from(container, targets) == dict.fromkeys(METADATA, False)


def test_what_leads_outside_is_what_the_contract_says(world: World) -> None:
    targets = {
        "allowed": (OUTSIDE, 8443),
        "other port": (OUTSIDE, 8080),
        "other machine": (ELSEWHERE, 8443),
    }
    all_open, one_open, none_open = (
        dict(zip(targets, states, strict=True)) for states in ((True,) * 3, (True, False, False), (False,) * 3)
    )
    assert world.seen_from("host", targets) == all_open
    assert {container: world.seen_from(container, targets) for container in CONTAINERS} == {
        SHARED: all_open,
        f"{PREFIX}-m1.site": all_open,
        f"{PREFIX}-m2.site": one_open,
        f"{PREFIX}-h1.traefik": none_open,
        f"{PREFIX}-h1.site": none_open,
        f"{PREFIX}-h2.traefik": one_open,
        f"{PREFIX}-h2.site": one_open,
    }


def lookup(name: str) -> list[str]:
    """Ask the engine's name server, which is in every container's namespace, for an IPv4 address."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    query = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + question + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(("127.0.0.11", 53))
        client.send(query)
        answer = client.recv(512)
    # Each answer is an address, after type, class, four bytes of lifetime and its length.
    found = re.findall(rb"\x00\x01\x00\x01.{4}\x00\x04(.{4})", answer[len(query) :], re.DOTALL)
    return [socket.inet_ntoa(address) for address in found]


@pytest.mark.parametrize("client_id", [*MEDIUM, *HARD])
def test_names_of_the_own_services_are_resolved(world: World, client_id: str) -> None:
    container = f"{PREFIX}-{client_id}.site"
    addresses = {end["IPAddress"] for end in world.networks(container).values()}
    assert set(in_namespace(world.pid(container), lambda: lookup("site"))) <= addresses
    assert in_namespace(world.pid(container), lambda: lookup(container)) != []


# ---------------------------------------------------------------- soft


def test_soft_clients_share_one_container(world: World) -> None:
    assert {name: world.of(name) for name in SOFT} == {name: [] for name in SOFT}
    [mount] = world.platform.inspect(SHARED)["Mounts"]
    # The folder of all of them, so that a new client does not touch the container.
    assert Path(mount["Source"]) == ROOT / "multi_tenancy" / "shared" / "site"
    assert [world.folder(name).parent for name in SOFT] == [Path(mount["Source"])] * 2


@pytest.mark.parametrize("name", ["X-Client-Id", "x-client-id", "X_Client_Id", "X.Client.Id", "X-Client_Id"])
def test_no_visitor_says_whose_page_it_is(world: World, name: str) -> None:
    address = world.address(SHARED)
    for own, other in (SOFT, SOFT[::-1]):
        answer = world.ask(domain(own), headers={name: other})
        assert (answer.status, answer.owner) == (200, own)
        # The server itself would believe it, if it came to it.
        connection = http.client.HTTPConnection(address, 8080, timeout=5)
        connection.request("GET", "/", headers={"X-Client-Id": other})
        assert connection.getresponse().read().decode() == f"page of {other}"
        connection.close()


def test_a_link_to_a_neighbours_folder_is_not_served(world: World) -> None:
    own, other = SOFT
    secret = world.folder(other) / "secret.txt"
    secret.write_text(f"page of {other}")
    link = world.folder(own) / "planted.txt"
    try:
        assert world.ask(domain(other), path="/secret.txt").status == 200
        for target in (str(secret), f"../{other}/secret.txt", f"/srv/www/{other}/secret.txt"):
            assert world.act(own, "ln", "-s", target, link.name).returncode == 0
            answer = world.ask(domain(own), path="/planted.txt")
            assert (answer.status, answer.owner) == (403, None)
            link.unlink()
        assert world.act(own, "sh", "-c", f"echo page of {own} > {link.name}").returncode == 0
        assert world.ask(domain(own), path="/planted.txt").owner == own
    finally:
        link.unlink(missing_ok=True)
        secret.unlink()


def test_a_soft_clients_uid_reads_its_own_folder_alone(world: World) -> None:
    for own, other in (SOFT, SOFT[::-1]):
        client = world.clients[own]
        for path in (world.folder(own), world.folder(own) / "index.html", world.platform.site(own) / "index.html"):
            assert may("-r", path, client["uid"], client["gid"])
        for name in (other, *MEDIUM, *HARD):
            for path in (world.folder(name), world.folder(name) / "index.html", world.platform.site(name)):
                assert not may("-r", path, client["uid"], client["gid"])
        # It cannot even see whose folders there are.
        assert "Permission denied" in world.act(own, "ls", "..").stderr
        refused = world.act(own, "sh", "-c", f"echo planted > ../{other}/planted")
        assert "Permission denied" in refused.stderr
        assert world.act(own, "sh", "-c", "echo mine > mine && cat mine && rm mine").stdout == "mine\n"


@pytest.fixture(scope="module")
def third(world: World) -> Iterator[dict[str, Any]]:
    """A third soft client, which its visitors may ask 5 times at once and then once a second; what was before it."""
    before = world.started(), snapshot(ROOT)
    added = {"client_id": "s3", "domain": domain("s3"), "isolation_level": "soft"}
    world.platform.run(client_list=[added | {"rate_limit": {"average": 1, "burst": 5}}]).ok()
    after = world.started(), snapshot(ROOT)
    yield {"before": before, "after": after}


def test_a_new_soft_client_touches_nothing_of_the_others(world: World, third: dict[str, Any]) -> None:
    (started, files), (started_after, files_after) = third["before"], third["after"]
    assert started_after == started
    changed = {path for path in files.keys() | files_after.keys() if files.get(path) != files_after.get(path)}
    own = {path for path in changed if "s3" in path}
    assert {"multi_tenancy/traefik/dynamic/s3.yml", "multi_tenancy/shared/site/s3/index.html"} <= own
    # The lists in which every client stands.
    lists = (
        "multi_tenancy/clients.json",
        "multi_tenancy/generations/",
        "multi_tenancy/firewall.nft",
        "log/components/",
    )
    assert [path for path in changed - own if not path.startswith(lists)] == []
    assert "s3" in world.platform.get(domain("s3"))[1]


def test_a_clients_visitors_are_slowed_down_and_the_others_are_not(world: World, third: dict[str, Any]) -> None:
    assert third
    asked = {name: [world.ask(domain(name)).status for dummy in range(15)] for name in ("s3", "s1", "m1", "h1")}
    assert {name: set(asked[name]) for name in ("s1", "m1", "h1")} == {"s1": {200}, "m1": {200}, "h1": {200}}
    assert set(asked["s3"]) == {200, 429}
    assert 5 <= asked["s3"].count(200) <= 10
    # After a while one more is answered.
    wait_for(lambda: world.ask(domain("s3")).status == 200)


# ---------------------------------------------------------------- hard


@pytest.mark.parametrize("client_id", HARD)
def test_a_hard_clients_key_is_its_own_traefiks_alone(world: World, client_id: str) -> None:
    client = world.clients[client_id]
    key = world.certificate(client_id).with_name("tls.key")
    line = key.read_text().splitlines()[1]
    files = [path for top in ("multi_tenancy", "clients", "log") for path in (ROOT / top).rglob("*") if path.is_file()]
    holders = [path for path in files if line.encode() in path.read_bytes()]
    routes = ROOT / "clients" / client_id / "traefik" / "dynamic" / "routes.yml"
    assert sorted(holders) == sorted([key, routes])
    # Of a medium client the shared edge does hold it.
    medium = world.certificate("m1").with_name("tls.key").read_text().splitlines()[1]
    assert medium in (ROOT / "multi_tenancy/traefik/dynamic/m1.yml").read_text()
    others = [(entry["uid"], entry["gid"]) for name, entry in world.clients.items() if name != client_id]
    for uid, gid in (*others, (EDGE_ID, EDGE_ID), (65534, 65534)):
        assert not any(may("-r", path, uid, gid) for path in holders)
    assert may("-r", routes, client["uid"], client["gid"])
    assert not may("-w", routes, client["uid"], client["gid"])
    mounted = [mount["Source"] for mount in world.platform.inspect(f"{PREFIX}-edge")["Mounts"]]
    assert [source for source in mounted if "clients" in Path(source).parts] == []


def own_log(container: str) -> list[dict[str, Any]]:
    """The access log of a Traefik."""
    return [json.loads(line) for line in docker("logs", container).splitlines() if line.startswith("{")]


@pytest.mark.parametrize("client_id", HARD)
def test_a_hard_clients_traefik_knows_the_visitor(world: World, client_id: str) -> None:
    path = f"/asked-{time.monotonic_ns()}"
    lie = {"X-Forwarded-For": "192.0.2.9"}
    assert world.ask(domain(client_id), path=path, source=VISITOR, headers=lie).status == 404

    def seen() -> list[str]:
        return [line["ClientHost"] for line in own_log(f"{PREFIX}-{client_id}.traefik") if line["RequestPath"] == path]

    wait_for(lambda: seen() == [VISITOR])
    assert path not in docker("logs", f"{PREFIX}-{HARD[HARD[0] == client_id]}.traefik")


# Name in the TLS greeting, host of the request -> status, and whose page it is.
DISAGREEING = {
    ("h1", "h2"): (404, None),
    ("h1", "m1"): (404, None),
    ("h1", "s1"): (404, None),
    ("h2", "h1"): (404, None),
    ("m1", "h1"): (421, None),
    ("s1", "h1"): (421, None),
    ("nobody", "h1"): (421, None),
    ("h1", "h1"): (200, "h1"),
    ("h2", "h2"): (200, "h2"),
    ("m1", "m1"): (200, "m1"),
}


def test_name_and_host_that_disagree_lead_to_nobody_else(world: World) -> None:
    asked = {(name, host): world.ask(domain(name), domain(host)) for name, host in DISAGREEING}
    assert {pair: (answer.status, answer.owner) for pair, answer in asked.items()} == DISAGREEING
    assert {asked[pair].certificate == world.fingerprint(pair[0]) for pair in asked if pair[0] != "nobody"} == {True}


def api_status(address: str, gateway: str) -> int:
    """How a Traefik's API answers somebody who says that he is the host."""
    connection = http.client.HTTPConnection(address, 8081, timeout=2)
    with contextlib.closing(connection):
        connection.request("GET", "/api/rawdata", headers={"X-Forwarded-For": gateway, "X-Real-Ip": gateway})
        return connection.getresponse().status


@pytest.mark.parametrize("client_id", HARD)
def test_a_hard_clients_services_are_reached_by_its_traefik_and_reach_no_api(world: World, client_id: str) -> None:
    site, traefik = (f"{PREFIX}-{client_id}.{service}" for service in ("site", "traefik"))
    inside = f"{PREFIX}-{client_id}.internal"
    assert world.seen_from(traefik, {"site": (world.address(site, inside), 8080)}) == {"site": True}
    front = world.networks(traefik)[f"{PREFIX}-{client_id}"]
    assert api_status(front["IPAddress"], front["Gateway"]) == 200
    ends = [end["IPAddress"] for name, end in world.networks(traefik).items() if name in world.networks(site)]
    for address in ends:
        assert in_namespace(world.pid(site), lambda: api_status(address, front["Gateway"])) == 404  # noqa: B023


def test_a_full_volume_is_full_for_its_client_alone(world: World) -> None:
    command = ("dd", "if=/dev/zero", "of=big", "bs=1M", "count=60", "conv=fsync")
    try:
        said = {name: world.act(name, *command) for name in ("h1", "h2", "m1", "s1")}
        assert {name: done.returncode == 0 for name, done in said.items()} == {
            "h1": False,
            "h2": True,
            "m1": True,
            "s1": True,
        }
        assert "No space left on device" in said["h1"].stderr
        # It is still served, and can be tidied up.
        assert world.ask(domain("h1")).owner == "h1"
    finally:
        for name in said:
            (world.folder(name) / "big").unlink(missing_ok=True)
    assert world.act("h1", "sh", "-c", "echo more > more && rm more").returncode == 0


def cap(world: World, client_id: str) -> dict[str, int]:
    """What the kernel says of the cgroup of a client's containers."""
    parent = world.platform.inspect(f"{PREFIX}-{client_id}.site")["HostConfig"]["CgroupParent"]
    groups = {path for path in world.platform.cgroups() if path.name == Path(parent).name}
    # By the names of the kernel's two interfaces.
    names: dict[str, tuple[str, ...]] = {
        "memory": ("memory.max", "memory.limit_in_bytes"),
        "cpu": ("cpu.max", "cpu.cfs_quota_us"),
    }
    names["pids"] = ("pids.max",)
    files = {what: [group / name for group in groups for name in given] for what, given in names.items()}
    return {
        what: int(next(path for path in paths if path.exists()).read_text().split()[0]) for what, paths in files.items()
    }


def test_the_memory_of_all_containers_together_is_capped(world: World) -> None:
    assert cap(world, "h1") == {"memory": 160 * MIB, "cpu": 100000, "pids": 200}
    assert cap(world, "h2") == {"memory": 256 * MIB, "cpu": 100000, "pids": 200}
    before = world.started()
    ended = {}
    # More than one client has for all, and less than the other one has.
    for client_id, size in (("h1", 60), ("h1", 180), ("h2", 180)):
        parent = world.platform.inspect(f"{PREFIX}-{client_id}.site")["HostConfig"]["CgroupParent"]
        name = f"{PREFIX}foreign-{client_id}-{size}"
        options = ["--detach", "--label", TEST_LABEL, "--name", name, "--network", "none", "--cgroup-parent", parent]
        program = ["python3", "-c", ALLOCATE, str(size)]
        docker("run", *options, "--stop-timeout=0", *PROGRAMS, f"{PREFIX}foreign:latest", *program)
        try:

            def state(name: str = name) -> tuple[bool, int, str]:
                told = json.loads(docker("inspect", "--format={{json .State}}", name))
                return told["Running"], told["ExitCode"], docker("logs", name)

            wait_for(lambda: state()[2] or not state()[0])
            ended[client_id, size] = state()
        finally:
            docker("rm", "--force", name)
    assert ended == {("h1", 60): (True, 0, "held\n"), ("h1", 180): (False, 137, ""), ("h2", 180): (True, 0, "held\n")}
    assert world.started() == before
    assert world.ask(domain("h1")).owner == "h1"


def test_more_than_the_host_has_is_refused_with_numbers(world: World) -> None:
    before = world.started(), snapshot(ROOT)
    greedy = {"memory": "900g", "cpus": 999.0, "disk": "90000g"}
    outcome = world.platform.run(client_list=[{"client_id": "h1", "resources": greedy}])
    assert outcome.rc != 0
    for words in (
        r"Client 'h1' asks for 900.0 GiB of memory; [0-9.]+ GiB of [0-9.]+ GiB are left after what 1 other hard client",
        r"Client 'h1' asks for 999 CPUs; [0-9.]+ of [0-9.]+ CPUs are left after what 1 other hard client reserves",
        r"Client 'h1' asks for 90000.0 GiB of disk; [0-9.]+ GiB of [0-9.]+ GiB are left after",
    ):
        assert re.search(words, outcome.text), outcome.text
    assert (world.started(), snapshot(ROOT)) == before


def test_a_volume_grows_in_place(world: World) -> None:
    (world.folder("h1") / "kept").write_text("kept")
    ids = world.platform.containers()
    others = {name: state for name, state in world.started().items() if not name.startswith(f"{PREFIX}-h1.")}
    outcome = world.platform.run(client_list=[{"client_id": "h1", "resources": {"disk": "80m"}}]).ok()
    assert outcome.changed > 0
    assert world.platform.containers() == ids
    assert {name: state for name, state in world.started().items() if name in others} == others
    big = world.folder("h1") / "big"
    assert world.act("h1", "dd", "if=/dev/zero", "of=big", "bs=1M", "count=60", "conv=fsync").returncode == 0
    big.unlink()
    assert (world.folder("h1") / "kept").read_text() == "kept"
    assert world.ask(domain("h1"), path="/kept").body == "kept"


# ---------------------------------------------------------------- changes


class Visitor(threading.Thread):
    """Visits a client again and again, and does not wait long.

    Args:
        world: The platform.
        client_id: Whose page it must be.
    """

    def __init__(self, world: World, client_id: str) -> None:
        super().__init__()
        self.world, self.client_id = world, client_id
        self.wanted = Answer(200, f"page of {client_id}", world.fingerprint(client_id))
        self.outcomes: list[tuple[float, str]] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            try:
                answer = self.world.ask(domain(self.client_id), timeout=2)
                said = "served" if answer == self.wanted else f"{answer.status} {answer.body[:60]}"
            except (OSError, http.client.HTTPException) as exc:
                said = repr(exc)
            self.outcomes.append((time.monotonic(), said))
            self.done.wait(0.01)

    @property
    def failures(self) -> set[str]:
        """What was answered that should not have been."""
        return {said for dummy, said in self.outcomes if said != "served"}

    @property
    def gap(self) -> float:
        """Seconds from the last answer before a failure to the first one after it, at most."""
        longest, last = 0.0, self.outcomes[0][0]
        failed = False
        for at, said in self.outcomes:
            if said == "served":
                longest, last, failed = max(longest, at - last if failed else 0), at, False
            else:
                failed = True
        return longest


@contextlib.contextmanager
def visited(world: World, *names: str) -> Iterator[dict[str, Visitor]]:
    """Visitors of some clients, until after the last change."""
    visitors = {name: Visitor(world, name) for name in names}
    for visitor in visitors.values():
        visitor.start()
    try:
        for visitor in visitors.values():
            wait_for(lambda: len(visitor.outcomes) > 5)  # noqa: B023
        yield visitors
        counts = {name: len(visitor.outcomes) for name, visitor in visitors.items()}
        for name, visitor in visitors.items():
            wait_for(lambda: len(visitor.outcomes) > counts[name] + 5)  # noqa: B023
    finally:
        for visitor in visitors.values():
            visitor.done.set()
            visitor.join()
    for name, visitor in visitors.items():
        print(f"{name}: {len(visitor.outcomes)} visits, failures {visitor.failures}, gap {visitor.gap:.1f} s")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
def test_levels_change_in_place(world: World) -> None:
    """A soft client becomes medium and a medium one hard, and both come back."""
    platform = world.platform
    for name in ("s2", "m2"):
        assert world.act(name, "sh", "-c", "mkdir -p deep/er && echo own words > deep/er/file").returncode == 0
    before, started = {name: contents(world.folder(name)) for name in ("s2", "m2")}, world.started()
    moving = (f"{PREFIX}-s2.", f"{PREFIX}-m2.")
    others = {name: state for name, state in started.items() if not name.startswith(moving)}
    for s2, m2 in (("medium", "hard"), ("soft", "medium")):
        with visited(world, "s2", "m2", "s1", "h1") as visitors:
            changes = {"s2": s2, "m2": m2}
            platform.run(
                client_list=[{"client_id": name, "isolation_level": level} for name, level in changes.items()]
            ).ok()
        assert [visitors[name].failures for name in ("s2", "s1", "h1")] == [set()] * 3
        # While its data moves, and while its network is made anew.
        assert visitors["m2"].gap < 10
        assert {name: contents(world.folder(name)) for name in before} == before
        now = world.started()
        assert {name: now.get(name) for name in others} == others
        assert platform.run().ok().changed == 0
        assert world.started() == now
        clients = platform.registry()
        assert {name: clients[name]["isolation_level"] for name in changes} == changes
        for name in changes:
            assert world.ask(domain(name)).certificate == world.fingerprint(name)
            assert world.act(name, "sh", "-c", "echo more > more && rm more").returncode == 0
        shared = ROOT / "multi_tenancy" / "shared" / "site"
        if s2 == "medium":
            assert world.of("s2") == [f"{PREFIX}-s2.site", f"network {PREFIX}-s2"]
            assert (sorted(path.name for path in shared.glob("s2*")), platform.site("s2").is_symlink()) == ([], False)
            own = f"{PREFIX}-m2"
            assert world.of("m2") == [f"{own}.site", f"{own}.traefik", f"network {own}", f"network {own}.internal"]
            assert world.outside_engine("m2") == {
                "files": ["m2.img", "m2.limits"],
                "mounts": [str(ROOT / "clients" / "m2" / "data")],
                "loops": ["m2.img"],
                "cgroups": [f"{PREFIX}-m2"],
            }
            assert (ROOT / "clients" / "m2" / "traefik").is_dir()
        else:
            assert world.of("s2") == []
            assert platform.site("s2").readlink() == shared / "s2"
            assert world.of("m2") == [f"{PREFIX}-m2.site", f"network {PREFIX}-m2"]
            assert world.outside_engine("m2") == NOTHING
            assert not (ROOT / "clients" / "m2" / "traefik").exists()


@pytest.mark.long
def test_suspended_removed_restored_and_deleted_for_good(world: World, third: dict[str, Any]) -> None:
    """A soft and a hard client on their ways, and what stands beside them."""
    assert third
    platform = world.platform
    stay = ("s1", "m1", "h2")
    marker = world.folder("h1") / "marker"
    marker.write_text("of h1")
    started = {name: state for name, state in world.started().items() if not name.startswith(f"{PREFIX}-h1.")}

    def others_stand() -> None:
        now = world.started()
        assert {name: now.get(name) for name in started} == started
        assert [world.ask(domain(name)).owner for name in stay] == list(stay)

    platform.run(client_list=[{"client_id": name, "state": "suspended"} for name in ("h1", "s3")]).ok()
    for name in ("h1", "s3"):
        answer = world.ask(domain(name))
        assert (answer.status, answer.owner, answer.certificate) == (503, None, world.fingerprint(name))
    # Its own Traefik is what asks visitors to come again; what it has for itself stays its own.
    assert f"{PREFIX}-h1.site" not in platform.containers() and f"{PREFIX}-h1.traefik" in platform.containers()
    others_stand()
    platform.run("resume_client", client_id="h1").ok()
    assert (world.ask(domain("h1")).owner, world.ask(domain("s3")).status) == ("h1", 503)
    assert world.ask(domain("h1"), path="/marker").body == "of h1"
    others_stand()

    platform.run("remove_client", client_id="h1").ok()
    assert (world.of("h1"), world.outside_engine("h1")) == ([], NOTHING)
    assert not (ROOT / "clients" / "h1").exists()
    [kept] = (ROOT / "multi_tenancy" / "removed").glob("h1*")
    assert (kept / "data.img").is_file()
    assert kept.stat().st_mode & 0o077 == 0 or kept.parent.stat().st_mode & 0o077 == 0
    others_stand()

    back = {"domain": domain("h1"), "isolation_level": "hard", "memory": "160m", "disk": "80m"}
    platform.run("add_client", client_id="h1", restore_data="latest", **back).ok()
    world.clients = platform.registry()
    assert world.ask(domain("h1"), path="/marker").body == "of h1"
    assert marker.stat().st_uid in (0, world.clients["h1"]["uid"])
    assert not kept.exists()
    others_stand()

    platform.run("remove_client", client_id="h1", purge="yes").ok()
    assert (world.of("h1"), world.outside_engine("h1")) == ([], NOTHING)
    assert not (ROOT / "clients" / "h1").exists()
    assert list((ROOT / "multi_tenancy" / "removed").glob("h1*")) == []
    assert [path for path in (ROOT / "multi_tenancy").rglob("*") if path.name.startswith("h1")] == []
    assert world.outside_engine("h2")["files"] == ["h2.img", "h2.limits"]
    others_stand()
    del world.clients["h1"]


# ---------------------------------------------------------------- a service with a database of its own

APPS = {"w1": "medium", "w2": "hard"}


@pytest.fixture(scope="module")
def apps(world: World) -> Iterator[World]:
    """A medium and a hard client with the two services of docs/examples/webapp.yaml, of images of our own."""
    catalog = yaml.safe_load((CHECKOUT / "docs/examples/webapp.yaml").read_text())["services"]
    for name, recipe in {"db": "database", "web": "visits"}.items():
        catalog[name]["image"] = image(recipe)
    world.platform.configure(services=catalog)
    services: dict[str, Any] = {"db": {}, "web": {}}
    clients = [
        {"client_id": name, "domain": domain(name), "isolation_level": level, "services": services}
        for name, level in APPS.items()
    ]
    # Both services and Traefik together, and what a new database takes.
    clients[1]["resources"] = {"memory": "640m", "disk": "128m"}
    before = world.started()
    world.platform.run(client_list=clients).ok()
    assert {name: world.started().get(name) for name in before} == before
    world.clients |= {name: world.platform.registry()[name] for name in APPS}
    yield world
    leaving = [{"client_id": name, "state": "absent", "data": "purge"} for name in APPS]
    world.platform.run(client_list=leaving).ok()
    world.platform.configure(services={})
    for name in APPS:
        assert (world.of(name), world.outside_engine(name)) == ([], NOTHING)
        del world.clients[name]


def count(world: World, client_id: str) -> int:
    """Visit a client's page, and the number of the visit that it shows."""
    status, body = world.platform.get(f"app.{domain(client_id)}")
    found = re.search(r"<h1>Visit (\d+)</h1>", body)
    if status != 200 or found is None:
        raise http.client.HTTPException(f"{status} {body}")
    return int(found[1])


@pytest.mark.long
def test_a_page_counts_its_visits_in_the_clients_own_database(apps: World) -> None:
    assert {name: [count(apps, name) for dummy in range(number)] for name, number in (("w1", 3), ("w2", 2))} == {
        "w1": [1, 2, 3],
        "w2": [1, 2],
    }
    for name in APPS:
        for service in ("db", "web"):
            docker("restart", f"{PREFIX}-{name}.{service}")
    assert {name: wait_for(lambda: count(apps, name), 60) for name in APPS} == {"w1": 4, "w2": 3}  # noqa: B023
    assert apps.platform.run().ok().changed == 0


@pytest.mark.long
def test_a_database_is_its_clients_alone(apps: World) -> None:
    passwords = {}
    for name in APPS:
        client, folder = apps.clients[name], ROOT / "clients" / name
        secret = folder / "secrets" / "db_password"
        passwords[name] = secret.read_text().strip()
        assert len(passwords[name]) > 20
        status = secret.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, client["gid"], 0o440)
        cluster = folder / "data" / "db" / "cluster"
        assert {path.lstat().st_uid for path in [cluster, *cluster.rglob("*")]} == {client["uid"]}
        for service in ("db", "web"):
            container = f"{PREFIX}-{name}.{service}"
            told = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
            assert passwords[name] not in f"{docker('inspect', container)}{told.stdout}{told.stderr}"
    assert passwords["w1"] != passwords["w2"]
    assert list(apps.networks(f"{PREFIX}-w2.db")) == [f"{PREFIX}-w2.internal"]
    assert str(ROOT / "clients" / "w2" / "data") in apps.platform.mount_points()

    targets = {name: (apps.address(f"{PREFIX}-{name}.db"), 5432) for name in APPS}
    both, none = dict.fromkeys(APPS, True), dict.fromkeys(APPS, False)
    assert apps.seen_from("host", targets) == both
    for name in APPS:
        assert apps.seen_from(f"{PREFIX}-{name}.web", targets) == none | {name: True}
    for container in (SHARED, f"{PREFIX}-m1.site", f"{PREFIX}-h2.site", f"{PREFIX}-h2.traefik"):
        assert apps.seen_from(container, targets) == none


@pytest.mark.long
def test_databases_come_along_when_levels_change(apps: World) -> None:
    before = {name: count(apps, name) for name in APPS}
    resources = {"memory": "640m", "disk": "128m"}
    for number, (hard, medium) in enumerate((("w1", "w2"), ("w2", "w1")), 1):
        edit = [
            {"client_id": hard, "isolation_level": "hard", "resources": resources},
            {"client_id": medium, "isolation_level": "medium"},
        ]
        apps.platform.run(client_list=edit).ok()
        assert {name: count(apps, name) - before[name] for name in APPS} == dict.fromkeys(APPS, number)
        assert (apps.outside_engine(medium), apps.outside_engine(hard)["files"]) == (
            NOTHING,
            [f"{hard}.img", f"{hard}.limits"],
        )


# ---------------------------------------------------------------- the end


@pytest.mark.long
def test_the_shared_container_goes_with_the_last_soft_client(world: World) -> None:
    started = world.started()
    known = [name for name, entry in world.platform.registry().items() if entry["isolation_level"] == "soft"]
    last = known.pop()
    world.platform.run(client_list=[{"client_id": name, "state": "absent"} for name in known]).ok()
    assert world.started() == started
    assert world.ask(domain(last)).status in (200, 503)
    world.platform.run(client_list=[{"client_id": last, "state": "absent"}]).ok()
    assert world.started() == {name: state for name, state in started.items() if name != SHARED}
    assert list((ROOT / "multi_tenancy" / "shared").glob("*/*")) == []
    kept = {path.name.partition("-")[0] for path in (ROOT / "multi_tenancy" / "removed").iterdir()}
    assert {*SOFT} <= kept
    for name in ("m1", "h2"):
        assert world.ask(domain(name)).owner == name
    for name in (*known, last):
        world.clients.pop(name, None)
