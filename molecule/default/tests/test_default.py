# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two medium clients on a machine that had neither engine nor firewall; the tests that disturb it come last."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scenario_fixtures import Recap
from tenancy import EDGE, ROOT, Tenancy, eventually
from testhost import Machine
from visitor import Visitor

CLIENT = "myagency"
NEIGHBOUR = "neighbour"
DOMAINS = {CLIENT: "example.com", NEIGHBOUR: "neighbour.example"}
SITES = {client_id: f"mt-{client_id}.site" for client_id in DOMAINS}
METADATA = "169.254.169.254"
ELSEWHERE = "198.51.100.10"


# -- What visitors see


@pytest.mark.parametrize("client_id", DOMAINS)
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_the_site_answers_over_https(outside: Visitor, inside: Visitor, place: str, client_id: str) -> None:
    visitor = {"outside": outside, "inside": inside}[place]
    answer = visitor.get(f"https://{DOMAINS[client_id]}/")
    assert answer.status == 200
    assert client_id in answer.body


def test_plain_http_redirects_to_the_same_page(outside: Visitor) -> None:
    answer = outside.get("http://example.com/some/page?q=1")
    assert answer.status in (301, 308)
    assert answer.headers["location"] == "https://example.com/some/page?q=1"


def test_a_file_is_served_at_once(outside: Visitor, machine: Machine, tenancy: Tenancy) -> None:
    machine.write(f"{ROOT}/clients/{CLIENT}/data/site/hello.txt", "fresh from the disk\n")
    answer = outside.get("https://example.com/hello.txt")
    assert (answer.status, answer.body) == (200, "fresh from the disk\n")
    assert outside.get("https://neighbour.example/hello.txt").status == 404


def test_an_unknown_host_is_nobodys(outside: Visitor) -> None:
    # There can be no certificate for it, so trust is not asked for.
    answer = outside.get("https://stranger.example/", insecure=True)
    assert answer.status == 404
    assert not any(client_id in answer.body for client_id in DOMAINS)


# -- What was made


@pytest.mark.parametrize("client_id", DOMAINS)
def test_the_network_is_the_one_of_the_registry(tenancy: Tenancy, client_id: str) -> None:
    entry = tenancy.client(client_id)
    network = tenancy.network(f"mt-{client_id}")
    assert [pool["Subnet"] for pool in network["IPAM"]["Config"]] == [entry["subnet"]]
    assert network["Options"]["com.docker.network.bridge.name"] == f"mt-{entry['index']}"
    address, dummy = tenancy.site(client_id)
    assert ipaddress.ip_address(address) in ipaddress.ip_network(entry["subnet"])
    assert list(tenancy.container(SITES[client_id])["NetworkSettings"]["Networks"]) == [f"mt-{client_id}"]


def test_clients_share_nothing(tenancy: Tenancy) -> None:
    mine, other = (tenancy.client(client_id) for client_id in DOMAINS)
    assert {mine["uid"], mine["gid"]}.isdisjoint({other["uid"], other["gid"]})
    assert not ipaddress.ip_network(mine["subnet"]).overlaps(ipaddress.ip_network(other["subnet"]))
    sources = [{mount["Source"] for mount in tenancy.container(SITES[client_id])["Mounts"]} for client_id in DOMAINS]
    assert sources[0].isdisjoint(sources[1])
    for client_id, mounted in zip(DOMAINS, sources, strict=True):
        assert all(source.startswith(f"{ROOT}/clients/{client_id}/") for source in mounted)


@pytest.mark.parametrize("client_id", DOMAINS)
def test_containers_can_be_found_by_their_labels(tenancy: Tenancy, client_id: str) -> None:
    entry = tenancy.client(client_id)
    labels = tenancy.container(SITES[client_id])["Config"]["Labels"]
    assert labels["agency_stack.client_id"] == client_id
    assert labels["agency_stack.service"] == "site"
    assert labels["agency_stack.isolation_level"] == entry["isolation_level"] == "medium"
    assert labels["agency_stack.spec_hash"]


@pytest.mark.parametrize("client_id", DOMAINS)
def test_the_site_has_no_privileges(tenancy: Tenancy, client_id: str) -> None:
    entry = tenancy.client(client_id)
    container = tenancy.container(SITES[client_id])
    settings = container["HostConfig"]
    assert [name.removeprefix("CAP_") for name in settings["CapDrop"]] == ["ALL"]
    assert not settings["CapAdd"]
    assert settings["ReadonlyRootfs"] is True
    assert settings["PidsLimit"] > 0
    assert settings["Memory"] > 0
    assert not settings["Privileged"]
    assert container["Config"]["User"].partition(":")[0] == str(entry["uid"])
    # The kernel's word, beside the engine's.
    process = tenancy.process(container["State"]["Pid"])
    assert {int(process[name], 16) for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    assert process["NoNewPrivs"] == "1"
    assert set(process["Uid"].split()) == {str(entry["uid"])}


def test_the_edge_has_no_more_than_its_ports_need(tenancy: Tenancy) -> None:
    container = tenancy.container(EDGE)
    settings = container["HostConfig"]
    assert settings["NetworkMode"] == "host"
    assert settings["ReadonlyRootfs"] is True
    assert [name.removeprefix("CAP_") for name in settings["CapDrop"]] == ["ALL"]
    process = tenancy.process(container["State"]["Pid"])
    assert process["NoNewPrivs"] == "1"
    net_bind_service = 1 << 10
    assert int(process["CapBnd"], 16) in (0, net_bind_service)
    if int(process["CapBnd"], 16):
        assert process["Uid"].split()[0] == "0"


@pytest.mark.parametrize("name", [*SITES.values(), EDGE])
def test_no_container_gets_the_engine_or_fills_the_disk(tenancy: Tenancy, name: str) -> None:
    container = tenancy.container(name)
    assert not any("docker.sock" in mount["Source"] for mount in container["Mounts"])
    assert int(container["HostConfig"]["LogConfig"]["Config"]["max-file"]) > 0
    assert container["HostConfig"]["LogConfig"]["Config"]["max-size"]
    # The first check of health comes some time after the start.
    assert eventually(lambda: tenancy.health(name) == "healthy")


def test_files_are_closed_to_others(host: Any, tenancy: Tenancy) -> None:
    registry = host.file(f"{ROOT}/multi_tenancy/clients.json")
    assert (registry.mode, registry.user) == (0o640, "root")
    keys = [path for path in host.file(f"{ROOT}/multi_tenancy/ca").listdir() if path.endswith(".key")]
    assert keys
    for name in keys:
        key = host.file(f"{ROOT}/multi_tenancy/ca/{name}")
        assert (key.mode, key.user) == (0o600, "root")
    for client_id in DOMAINS:
        entry = tenancy.client(client_id)
        assert host.file(f"{ROOT}/clients/{client_id}").mode & 0o007 == 0
        site = host.file(f"{ROOT}/clients/{client_id}/data/site")
        assert (site.uid, site.mode & 0o007) == (entry["uid"], 0)


def test_a_client_cannot_read_the_files_of_another(host: Any, tenancy: Tenancy) -> None:
    entry = tenancy.client(CLIENT)
    read = f"setpriv --reuid={entry['uid']} --regid={entry['gid']} --clear-groups ls {ROOT}/clients"
    assert host.run(f"{read}/{CLIENT}/data/site").rc == 0
    assert host.run(f"{read}/{NEIGHBOUR}/data/site").rc != 0


# -- What the firewall stops


@pytest.fixture(scope="class")
def host_listener(machine: Machine) -> Iterator[int]:
    """A service of the machine itself, open on all its addresses."""
    machine.run("systemd-run --unit=test-listener python3 -m http.server 5999")
    yield 5999
    machine.run("systemctl stop test-listener")


@pytest.fixture(scope="class")
def next_door(machine: Machine) -> Iterator[int]:
    """Another machine behind this one, which answers at an ordinary address and at the clouds' metadata address."""
    server = "import http.server as s; s.test(s.SimpleHTTPRequestHandler, s.ThreadingHTTPServer, port=80)"
    machine.run(
        "set -e; ip netns add next-door; ip link add test-out type veth peer name eth0 netns next-door;"
        "ip address add 198.51.100.1/24 dev test-out; ip link set test-out up;"
        f"ip route add {METADATA} dev test-out;"
        f"ip -n next-door address add {ELSEWHERE}/24 dev eth0; ip -n next-door address add {METADATA}/32 dev eth0;"
        "ip -n next-door link set eth0 up; ip -n next-door route add default via 198.51.100.1;"
        f'systemd-run --unit=test-next-door ip netns exec next-door python3 -c "{server}"'
    )
    yield 80
    machine.run("systemctl stop test-next-door; ip link delete test-out; ip netns delete next-door")


@pytest.fixture(scope="class")
def published(machine: Machine) -> Iterator[tuple[str, int]]:
    """A container of somebody else with a port published on all addresses: its own address and its port."""
    run_it = "docker run --detach --publish 5998:5998 --name test-foreign test-foreign python3 -m http.server 5998"
    python = "usr/bin/python3* usr/lib/python3* usr/lib/*-linux-gnu* usr/lib64 lib lib64"
    machine.run(f"set -e; cd /; tar -c {python} | docker import - test-foreign; {run_it}")
    yield machine.run("docker inspect --format '{{.NetworkSettings.IPAddress}}' test-foreign").stdout.strip(), 5998
    machine.run("docker rm --force test-foreign; docker image rm test-foreign")


class TestFirewall:
    """Each refusal stands beside a connection of the same kind that must work."""

    @pytest.mark.parametrize(("origin", "target"), itertools.permutations(DOMAINS))
    def test_a_client_cannot_reach_another(self, tenancy: Tenancy, origin: str, target: str) -> None:
        own, theirs = tenancy.site(origin), tenancy.site(target)
        assert tenancy.connects(*own, SITES[origin])
        assert tenancy.connects(*theirs)
        assert not tenancy.connects(*theirs, SITES[origin])

    def test_a_client_cannot_reach_the_host(self, machine: Machine, tenancy: Tenancy, host_listener: int) -> None:
        listed = machine.run("ip -o -4 address show scope global").stdout
        addresses = [line.split()[3].partition("/")[0] for line in listed.splitlines()]
        gateways = {tenancy.network(f"mt-{client_id}")["IPAM"]["Config"][0]["Gateway"] for client_id in DOMAINS}
        assert gateways | {machine.address} <= set(addresses)
        assert eventually(lambda: tenancy.connects(machine.address, host_listener))
        assert [address for address in addresses if not tenancy.connects(address, host_listener)] == []
        assert [address for address in addresses if tenancy.connects(address, host_listener, SITES[CLIENT])] == []

    def test_a_client_cannot_reach_what_others_publish(
        self, machine: Machine, tenancy: Tenancy, published: tuple[str, int]
    ) -> None:
        address, port = published
        own_gateway = tenancy.network(f"mt-{CLIENT}")["IPAM"]["Config"][0]["Gateway"]
        ways_there = [address, machine.address, own_gateway]
        assert eventually(lambda: tenancy.connects(address, port))
        assert [way for way in ways_there if not tenancy.connects(way, port)] == []
        assert [way for way in ways_there if tenancy.connects(way, port, SITES[CLIENT])] == []

    def test_a_client_reaches_the_world_but_no_metadata(self, tenancy: Tenancy, next_door: int) -> None:
        assert eventually(lambda: tenancy.connects(METADATA, next_door))
        assert tenancy.connects(ELSEWHERE, next_door, SITES[CLIENT])
        assert not tenancy.connects(METADATA, next_door, SITES[CLIENT])

    def test_a_client_cannot_reach_metadata_on_the_host_itself(
        self, machine: Machine, tenancy: Tenancy, host_listener: int
    ) -> None:
        machine.run("ip address add 169.254.170.2/32 dev lo")
        assert eventually(lambda: tenancy.connects("169.254.170.2", host_listener))
        assert not tenancy.connects("169.254.170.2", host_listener, SITES[CLIENT])
        machine.run("ip address delete 169.254.170.2/32 dev lo")


# -- What lasts


def test_another_run_changes_nothing(tenancy: Tenancy, converge: Callable[[], Recap]) -> None:
    before = tenancy.container_ids()
    assert converge().changed == 0
    assert tenancy.container_ids() == before


def test_a_lost_firewall_comes_back_with_the_next_run(
    machine: Machine, tenancy: Tenancy, converge: Callable[[], Recap]
) -> None:
    before = tenancy.container_ids()
    machine.run("nft delete table inet agency_stack")
    assert not tenancy.firewall_is_loaded()
    assert converge().changed > 0
    assert tenancy.firewall_is_loaded()
    assert not tenancy.connects(*tenancy.site(NEIGHBOUR), SITES[CLIENT])
    assert tenancy.container_ids() == before


def test_a_reboot_brings_firewall_and_sites_back(machine: Machine, tenancy: Tenancy, outside: Visitor) -> None:
    before = tenancy.container_ids()
    machine.restart()
    assert tenancy.firewall_is_loaded()
    for client_id, domain in DOMAINS.items():
        assert outside.wait_for(f"https://{domain}/").status == 200
        assert tenancy.connects(*tenancy.site(client_id), SITES[client_id])
    assert not tenancy.connects(*tenancy.site(NEIGHBOUR), SITES[CLIENT])
    ids = {name: line.partition(" ")[0] for name, line in before.items()}
    assert {name: line.partition(" ")[0] for name, line in tenancy.container_ids().items()} == ids
