# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of clients on a real engine: runs killed at any moment, one broken client among many, hostile names.

TENANCY_FULL=1 runs the whole campaign; TENANCY_SEED and TENANCY_MOMENTS repeat or enlarge the one of kills.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from abrupt import EngineEvents, Kind, Moment, engine_events, orphans_adopted, run_until
from ansible.module_utils.testing import patch_module_args
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import SITE_SERVICE, effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._edge import static_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import reference
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import plan_registry
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load, save
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_registry, traefik_dynamic_config
from ansible_collections.agency_stack.multi_tenancy.tests.unit.hostile import DOMAINS, IDS, SERVICE_NAMES
from conftest import TEST_LABEL, Platform, docker
from test_scripts import script

FULL = bool(os.environ.get("TENANCY_FULL"))
SEED = int(os.environ.get("TENANCY_SEED") or 20260131)
MOMENTS = int(os.environ.get("TENANCY_MOMENTS") or (80 if FULL else 8))
CLIENTS = 20 if FULL else 6

PREFIX, POOL, PORT = "li", "10.233.0.0/20", 9743
# Of a Traefik of its own, for what must never reach the platform's.
OTHER_PORT = 9746

KEEPER = "keeper"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with its scripts, two clients that nothing may touch, and a second service in the catalog."""
    platform = Platform(tmp_path_factory.mktemp("agency"), PREFIX, POOL, PORT)
    platform.remove()
    platform.root.mkdir()
    shop = SITE_SERVICE | {"image": reference("site"), "volumes": ["shop:/srv/www:ro"], "subdomain": "shop"}
    platform.configure(services={"shop": shop})
    platform.run("install_scripts").ok()
    script(platform, "multi_tenancy").ok()
    script(platform, "multi_tenancy", "--clients", KEEPER).ok()
    yield platform
    platform.remove()


def api(port: int, kind: str) -> dict[str, dict[str, Any]]:
    """Traefik's objects of one kind by name, without its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", f"/api/http/{kind}?per_page=100000")
        found = json.loads(connection.getresponse().read())
    return {item["name"]: item for item in found if item["provider"] != "internal"}


@contextlib.contextmanager
def connected(host: str, port: int = PORT) -> Iterator[http.client.HTTPConnection]:
    """A connection to the edge over TLS, by somebody who trusts every certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(raw, server_hostname=host) as tls:
        connection = http.client.HTTPConnection(host)
        connection.sock = tls
        yield connection


def ask(connection: http.client.HTTPConnection, host: str, path: str = "/") -> tuple[int, str | None]:
    """Ask for a page of a host: (status, Retry-After)."""
    connection.request("GET", path, headers={"Host": host})
    response = connection.getresponse()
    response.read()
    return response.status, response.headers["Retry-After"]


def status_of(host: str) -> int:
    """What the edge answers at a host name."""
    with connected(host) as connection:
        return ask(connection, host)[0]


def matchers(hostnames: Sequence[str]) -> set[str]:
    """What a rule for exactly these host names consists of."""
    return {
        "HostRegexp(`^[a-z0-9-]+" + re.escape(name[1:]).replace(r"\-", "-") + "$`)"
        if name.startswith("*.")
        else f"Host(`{name}`)"
        for name in hostnames
    }


# ---------------------------------------------------------------- the host beside its registry


def service_names(client: Mapping[str, Any], service: str) -> list[str]:
    """Where a service of the catalog of these tests answers."""
    return [("shop." if service == "shop" else "") + name for name in (client["domain"], *client["aliases"])]


def differences(platform: Platform) -> list[str]:
    """How the host differs from its registry, told by the engine, the kernel, Traefik and the files; empty if equal."""
    clients = platform.registry()
    there = {name: client for name, client in clients.items() if client["state"] != "absent"}
    label = f"label=agency_stack.platform={platform.prefix}"
    found: list[str] = []

    def compare(what: str, actual: Any, wanted: Any) -> None:
        if actual != wanted:
            found.append(f"{what}: {actual} instead of {wanted}")

    listed = docker("ps", "-a", "--filter", label, "--format", "{{.Names}} {{.State}} {{.Status}}").splitlines()
    sick = [line for line in listed if " running " not in line or "unhealthy" in line]
    compare("containers that do not run", sick, [])
    wanted = {
        f"{platform.prefix}-{name}.{service}"
        for name, client in there.items()
        if client["state"] == "present"
        for service in client["services"]
    }
    compare("containers", {line.split()[0] for line in listed}, wanted | {f"{platform.prefix}-edge"})
    networks = {f"{platform.prefix}-{name}" for name in there}
    compare("networks", set(docker("network", "ls", "--filter", label, "--format", "{{.Name}}").split()), networks)
    compare("volumes", docker("volume", "ls", "-q", "--filter", label).split(), [])
    bridges = {f"{platform.prefix}-{client['index']}" for client in there.values()}
    compare(
        "bridges", {name for name in os.listdir("/sys/class/net") if name.startswith(f"{platform.prefix}-")}, bridges
    )
    table = subprocess.run(["nft", "list", "table", "inet", platform.table], capture_output=True, text=True, check=True)
    compare("bridges in the firewall", set(re.findall(rf'"({platform.prefix}-\d+)"', table.stdout)), bridges)

    base = platform.root / "multi_tenancy"
    compare("clients on their way out", [name for name in clients if name not in there], [])
    compare("folders", set(os.listdir(platform.root / "clients")), set(there))
    compare("routes", set(os.listdir(base / "traefik" / "dynamic")), {f"{name}.yml" for name in there})
    compare("temporary files", temporary_files(platform), [])
    rules = {
        f"{name}.{service}@file": ("enabled", matchers(service_names(client, service)))
        for name, client in there.items()
        for service in client["services"]
    }
    routers = api(platform.port - 2, "routers")
    compare("routers", {name: (r["status"], set(r["rule"].split(" || "))) for name, r in routers.items()}, rules)
    compare("services", set(api(platform.port - 2, "services")), set(rules))
    return found


def temporary_files(platform: Platform) -> list[str]:
    """Files that somebody left half-written."""
    return [
        os.path.relpath(os.path.join(folder, name), platform.root)
        for folder, _inner, names in os.walk(platform.root)
        for name in names
        if (name.startswith(".") or folder.endswith("/staging")) and "/toolbox" not in folder
    ]


def answers(platform: Platform) -> dict[str, Any]:
    """What visitors of each client get, by host name."""
    found: dict[str, Any] = {}
    for name, client in platform.registry().items():
        for service in client["services"]:
            for host in service_names(client, service):
                status, body = platform.get(host)
                found[host] = (status, f"<strong>{name}</strong>" in body)
    return found


def wanted_answers(platform: Platform) -> dict[str, Any]:
    """What they should get: each its own page; the shop has none, which its server says."""
    kinds = {"site": (200, True), "shop": (403, False)}
    return {
        host: (503, False) if client["state"] == "suspended" else kinds[service]
        for client in platform.registry().values()
        for service in client["services"]
        for host in service_names(client, service)
    }


def assert_equal_to_registry(platform: Platform, once: Sequence[str], half_written: bool = False) -> None:
    """The host is what its registry says, and nothing more.

    Args:
        platform: Which.
        once: Host names that clients have, or had.
        half_written: Whether there may be half of a file that nobody has tried to write again yet.
    """

    def found() -> list[str]:
        return [line for line in differences(platform) if not (half_written and line.startswith("temporary files"))]

    deadline = time.monotonic() + 5
    # Traefik notices a file that went a moment later.
    while found() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found() == []
    wanted = wanted_answers(platform)
    assert answers(platform) == wanted
    assert {host: status_of(host) for host in once if host not in wanted} == {
        host: 404 for host in once if host not in wanted
    }


# ---------------------------------------------------------------- killed


@dataclass(frozen=True)
class Step:
    """One step in the life of a client.

    Args:
        script: Which script does it.
        options: Its options.
        taken: Whether the registry holds the edit.
        kept: How many folders of removed clients there are afterwards.
        before: What happens to the host beforehand.
    """

    script: str
    options: Sequence[str]
    taken: Callable[[Mapping[str, Any] | None], bool]
    kept: int = 0
    before: Callable[[Platform], None] = lambda platform: None


def gone(client: Mapping[str, Any] | None) -> bool:
    """Whether a client is on its way out, or was."""
    return client is None or client["state"] == "absent"


def is_in(state: str) -> Callable[[Mapping[str, Any] | None], bool]:
    """Whether a client is in a state."""
    return lambda client: client is not None and client["state"] == state


def damage(platform: Platform) -> None:
    """What a converge has to mend."""
    docker("rm", "-f", f"{PREFIX}-guest.site")
    (platform.root / "multi_tenancy" / "traefik" / "dynamic" / "guest.yml").unlink()


def drop_file(platform: Platform) -> None:
    """What must be there again when the client is."""
    (platform.site("guest") / "kept.txt").write_text("kept")


GUEST = ["--client-id", "guest"]
OLD, NEW, ALIAS = "guest.example.com", "renamed.example.com", "www.guest.example.org"
NAMES = [prefix + name for name in (OLD, NEW, ALIAS) for prefix in ("", "shop.")]

LIFE: dict[str, Step] = {
    "add": Step("add_client", [*GUEST, "--domain", OLD], is_in("present")),
    "update": Step(
        "update_client",
        [*GUEST, "--domain", NEW, "--aliases", ALIAS, "--services", "site,shop"],
        lambda client: client is not None and client["domain"] == NEW,
    ),
    "suspend": Step("suspend_client", GUEST, is_in("suspended")),
    "resume": Step("resume_client", GUEST, is_in("present")),
    "converge": Step("multi_tenancy", [], lambda client: True, before=damage),
    "remove": Step("remove_client", GUEST, gone, kept=1, before=drop_file),
    "restore": Step("add_client", [*GUEST, "--domain", OLD, "--restore-data", "latest"], is_in("present")),
    "purge": Step("remove_client", [*GUEST, "--purge", "--yes"], gone),
}


def command(platform: Platform, step: Step) -> list[str]:
    """The program of a step."""
    return [str(platform.root / "multi_tenancy" / "scripts" / f"{step.script}.sh"), *step.options]


def watched(platform: Platform) -> list[Path]:
    """The folders in which a run writes."""
    base = platform.root / "multi_tenancy"
    folders = [base, base / "generations", base / "traefik" / "staging", base / "traefik" / "dynamic"]
    folders += [platform.root / "clients", *(platform.root / "clients" / "guest").glob("*")]
    return [folder for folder in folders if folder.is_dir() and folder.name != "data"]


def moments(
    rounds: int, measured: Mapping[str, Mapping[str, float]], chance: random.Random
) -> Iterator[tuple[str, Moment]]:
    """The steps of as many lives, and when each is killed.

    The kinds of moments take turns. Over the lives, each step is killed after each of its effects on the engine, and
    at moments that are spread evenly over its time, and over what it does to files.
    """
    kinds: list[Kind] = ["engine", "time", "engine", "file"]
    first = chance.randrange(len(kinds))
    turns: dict[tuple[str, Kind], int] = {}
    starts: dict[tuple[str, Kind], float] = {}
    for number in range(rounds):
        for position, name in enumerate(LIFE):
            kind = kinds[(first + number + position) % len(kinds)]
            turn = turns[name, kind] = turns.get((name, kind), -1) + 1
            start = starts.setdefault((name, kind), chance.random())
            size = measured[name][kind]
            if kind == "engine":
                yield name, Moment(kind, 1 + (int(start * size) + turn) % size)
                continue
            # The golden ratio fills a range evenly, however often.
            part = (start + turn * 0.618034) % 1
            yield name, Moment(kind, part * size if kind == "time" else 1 + int(part * size))


class Visitor(threading.Thread):
    """Somebody who asks for a client's site all the time.

    Args:
        platform: Where.
        host: Whom.
    """

    def __init__(self, platform: Platform, host: str) -> None:
        super().__init__()
        self.platform, self.host = platform, host
        self.failures: list[str] = []
        self.count = 0
        self.over = threading.Event()

    def run(self) -> None:
        """Ask until it is over."""
        while not self.over.wait(0.1):
            self.count += 1
            try:
                status, _body = self.platform.get(self.host)
                if status != 200:
                    self.failures.append(str(status))
            except OSError as exc:
                self.failures.append(repr(exc))


@contextlib.contextmanager
def visited(platform: Platform, host: str) -> Iterator[Visitor]:
    """Have a site visited meanwhile."""
    visitor = Visitor(platform, host)
    visitor.start()
    try:
        yield visitor
    finally:
        visitor.over.set()
        visitor.join()


def live_once(platform: Platform, engine: EngineEvents) -> dict[str, dict[str, float]]:
    """Go through the life without any kill; how long each step takes, and how many events it makes."""
    measured: dict[str, dict[str, float]] = {}
    if len(LIFE) >= MOMENTS:
        # Too long for a sample: what these steps usually make, and the time of a run that changes nothing.
        begin = time.monotonic()
        script(platform, "multi_tenancy").ok()
        usual: dict[str, float] = {"time": time.monotonic() - begin, "engine": 2, "file": 16}
        return dict.fromkeys(LIFE, usual)
    for name, step in LIFE.items():
        step.before(platform)
        ending = run_until(command(platform, step), None, engine, watched(platform))
        assert ending.rc == 0, ending.text
        measured[name] = {"time": ending.seconds, **ending.counts}
        assert_equal_to_registry(platform, NAMES)
    return measured


def test_run_killed_at_any_moment_is_finished_by_the_next(platform: Platform) -> None:
    chance = random.Random(SEED)
    others = platform.containers()
    hit: list[str] = []
    half_done: list[str] = []
    tried = 0
    print(f"seed {SEED}, {MOMENTS} moments")
    with (
        orphans_adopted(),
        engine_events(f"{PREFIX}-") as engine,
        visited(platform, f"{KEEPER}.localhost") as visitor,
    ):
        measured = live_once(platform, engine)
        print(json.dumps(measured))
        for name, moment in moments(max(1, MOMENTS // len(LIFE)), measured, chance):
            step = LIFE[name]
            step.before(platform)
            before, begun = platform.registry().get("guest"), differences(platform)
            ending = run_until(command(platform, step), moment, engine, watched(platform))
            tried += 1
            # It can be read, and is valid.
            load(str(platform.root / "multi_tenancy" / "clients.json"))
            after = platform.registry().get("guest")
            found = differences(platform)
            how = "hit" if ending.killed else "over before"
            told = f"{tried}. {name} killed {moment}: {how}, {len(found)} differences"
            print(told, found if found else "", flush=True)
            if ending.killed:
                hit.append(told)
                if found not in ([], begun):
                    half_done.append(told)
            else:
                assert ending.rc == 0, ending.text
            taken = step.taken(after)
            assert taken or after == before, told
            settle(platform, step, taken, told)
            now = platform.containers()
            assert {who: now.get(who) for who in others} == others, told
    print(f"{tried} moments, {len(hit)} hit, {len(half_done)} half done, {visitor.count} visits")
    assert visitor.failures == []
    assert visitor.count > 10 * tried
    # Otherwise nothing was proven.
    assert len(hit) >= tried / 2
    assert len(half_done) >= tried / 8


def journal(platform: Platform) -> list[dict[str, Any]]:
    """What runs changed, as the component's log tells it."""
    path = platform.logs / "components" / "multi_tenancy.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def settle(platform: Platform, step: Step, taken: bool, told: str) -> None:
    """Run again what was killed, and look at what came of it."""
    # What is to be brought back stands in the command alone.
    first = step if "--restore-data" in step.options and taken else LIFE["converge"]
    runs = [first] if taken else [first, step]
    for run in runs:
        outcome = script(platform, run.script, *run.options)
        assert outcome.rc == 0, f"{told}\n{outcome.text}"
        try:
            assert_equal_to_registry(platform, NAMES, half_written=run is not runs[-1])
        except AssertionError as exc:
            raise AssertionError(f"{told}: {exc}") from exc
    assert step.taken(platform.registry().get("guest"))
    removed = platform.root / "multi_tenancy" / "removed"
    assert len(os.listdir(removed) if removed.is_dir() else []) == step.kept, told
    if "--restore-data" in step.options:
        assert platform.get(OLD, "/kept.txt") == (200, "kept"), told
    told_before = len(journal(platform))
    again = script(platform, "multi_tenancy")
    assert (again.rc, again.changed) == (0, 0), f"{told}: {journal(platform)[told_before:]}\n{again.text}"


# ---------------------------------------------------------------- one of many is broken


def register(platform: Platform, *edits: Mapping[str, Any]) -> None:
    """Edit the registry as another tool would, with what it allocates."""
    path = str(platform.root / "multi_tenancy" / "clients.json")
    config = effective_config([("config.yaml", platform.settings)])
    save(path, plan_registry(load(path), edits, config, now="2026-01-31T12:00:00+00:00")[0])


def test_client_whose_image_does_not_exist_stops_itself_alone(platform: Platform) -> None:
    names = [f"many{number:02}" for number in range(CLIENTS)]
    broken = names[CLIENTS // 2]
    image = "registry.invalid/nothing:1"
    overrides = {broken: {"site": {"image": image}}}
    register(platform, *({"client_id": name, "services": overrides.get(name)} for name in names))
    served = {f"{name}.localhost": (200, True) for name in names if name != broken}

    def visits() -> dict[str, tuple[int, bool]]:
        found = {}
        for name in names:
            if name != broken:
                status, body = platform.get(f"{name}.localhost")
                found[f"{name}.localhost"] = (status, f"<strong>{name}</strong>" in body)
        return found

    first = script(platform, "multi_tenancy")
    assert first.rc == 1
    assert visits() == served
    assert status_of(f"{broken}.localhost") == 404
    containers = platform.containers()
    assert {f"{PREFIX}-{name}.site" for name in names if name != broken} <= set(containers)
    for outcome in (first, script(platform, "multi_tenancy")):
        # It alone is named, in one sentence, once.
        [line] = [line for line in outcome.text.splitlines() if line.startswith("ERROR:")]
        assert f"Client {broken}: Image {image} cannot be had" in line
        assert [name for name in names if f"Client {name}:" in outcome.text] == [broken]
    assert outcome.rc == 1

    # The second run touched nobody else.
    before = len(journal(platform))
    assert script(platform, "multi_tenancy").rc == 1
    assert {entry["client_id"] for entry in journal(platform)[before:]} == {broken}
    assert platform.containers() == containers
    assert visits() == served

    register(platform, {"client_id": broken, "services": {"site": {}}})
    before = len(journal(platform))
    script(platform, "multi_tenancy").ok()
    assert {entry["client_id"] for entry in journal(platform)[before:]} == {broken}
    after = platform.containers()
    assert after.items() >= containers.items()
    assert set(after) - set(containers) == {f"{PREFIX}-{broken}.site"}
    assert platform.get(f"{broken}.localhost")[0] == 200
    assert script(platform, "multi_tenancy").changed == 0
    assert_equal_to_registry(platform, NAMES)


# ---------------------------------------------------------------- hostile names, read back from Traefik


def offered(module: ModuleType, **args: Any) -> dict[str, Any]:
    """What a module says to these arguments."""
    output = io.StringIO()
    with patch_module_args(args), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        module.main()
    result: dict[str, Any] = json.loads(output.getvalue())
    return result


def names_of(client: Mapping[str, Any]) -> list[str]:
    """Where a client of the corpus is to answer."""
    subdomain = client["services"]["site"].get("subdomain")
    bases = [client["domain"], *client["aliases"]]
    if not subdomain:
        return sorted(set(bases))
    return sorted({f"{subdomain}.{base}" for base in bases})


def owner_of(host: str, owners: Mapping[str, str]) -> str | None:
    """Who answers at a host: who has the name itself, or else the wildcard above it."""
    first, _dot, rest = host.lower().partition(".")
    wildcard = owners.get(f"*.{rest}") if re.fullmatch("[a-z0-9-]+", first) else None
    return owners.get(host.lower(), wildcard)


def strays(port: int, wanted: Mapping[str, set[str]]) -> list[str]:
    """How Traefik's routers differ from the wanted ones, each of which is a set of matchers."""
    routers = api(port, "routers")
    found = [f"{name} is missing" for name in wanted if name not in routers]
    for name, router in routers.items():
        if name not in wanted:
            found.append(f"{name} is nobody's: {router['rule']}")
        elif set(router["rule"].split(" || ")) != wanted[name]:
            found.append(f"{name} has the rule {router['rule']}")
        elif router["status"] != "enabled" or router["service"] != name.removesuffix("@file"):
            found.append(f"{name} is {router['status']} and leads to {router['service']}")
    services = set(api(port, "services"))
    return found + [f"service {name}" for name in services ^ set(wanted)]


def close_to(name: str) -> list[str]:
    """Hosts that resemble a name, some of which are the same to Traefik."""
    own = name.replace("*", "x", 1)
    close = [
        own.upper(),
        f"x{own}",
        f"{own}.x",
        f"x.{own}",
        name.partition(".")[2],
        f"-{own[1:]}",
        own.replace(".", "x"),
    ]
    return [host for host in dict.fromkeys(close) if host not in (own, "")]


def served_by(platform: Platform, since: float) -> dict[str, str | None]:
    """Which router took the request for each path, as the edge's access log tells it."""
    log = subprocess.run(
        ["docker", "logs", f"--since={since}", f"{PREFIX}-edge"], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in log.stdout.splitlines() if line.startswith("{")]
    return {line["RequestPath"]: line.get("RouterName") for line in lines if "RequestPath" in line}


# What is tried -> the corpus, and the edit that is made of each.
CORPORA: dict[str, tuple[list[Any], Callable[[int, Any], dict[str, Any]]]] = {
    "ids": (IDS, lambda number, value: {"client_id": value}),
    "domains": (DOMAINS, lambda number, value: {"client_id": f"h{number}", "domain": value}),
    "aliases": (
        DOMAINS,
        lambda number, value: {"client_id": f"h{number}", "domain": f"h{number}.test", "aliases": [value]},
    ),
    "subdomains": (
        SERVICE_NAMES,
        lambda number, value: {
            "client_id": f"h{number}",
            "domain": f"h{number}.test",
            "services": {"site": {"subdomain": value}},
        },
    ),
}


@pytest.mark.parametrize(("corpus", "edit"), CORPORA.values(), ids=CORPORA)
def test_hostile_name_is_refused_or_one_clients_route_alone(
    platform: Platform, tmp_path: Path, corpus: list[Any], edit: Callable[[int, Any], dict[str, Any]]
) -> None:
    config = effective_config([("config.yaml", platform.settings)])
    place = {"root": str(tmp_path), "log_dir": str(tmp_path / "log"), "config": config}
    path = tmp_path / "multi_tenancy" / "clients.json"
    offered(client_registry, clients=[{"client_id": "first", "domain": "first.test"}], **place)
    owners = {"first.test": "first"}
    refused = contested = 0
    # Bytes cannot be handed to a module, and the platform's own clients have their routes already.
    own_ids = platform.registry().keys()
    values = [
        value
        for value in {repr(value): value for value in corpus}.values()
        if not isinstance(value, bytes) and repr(value) not in map(repr, own_ids)
    ]
    if not FULL:
        values = random.Random(SEED).sample(values, 250)
    # A wildcard that comes first would leave nothing to the names below it.
    values.sort(key=lambda value: "*" in repr(value))
    for number, value in enumerate(values):
        before = path.read_bytes(), sorted(os.listdir(path.parent))
        result = offered(client_registry, clients=[edit(number, value) | {"state": "suspended"}], **place)
        if result.get("failed"):
            assert_told_well(result)
            assert (path.read_bytes(), sorted(os.listdir(path.parent))) == before
            refused += 1
            contested += "belongs to client" in result["msg"]
            continue
        for change in result["changes"]:
            [client] = [client for client in result["clients"] if client["client_id"] == change["name"]]
            taken = {owner_of(name.replace("*", "x", 1), owners) for name in names_of(client)}
            assert taken <= {None, client["client_id"]}, (value, client, taken)
            owners |= dict.fromkeys(names_of(client), client["client_id"])
    clients = load(str(path))["clients"]
    print(f"{len(values)} offered, {refused} refused, {contested} of them as another client's, {len(clients)} clients")
    assert refused > len(values) / 2
    assert len(clients) > len(values) / 20

    own = api(PORT - 2, "routers")
    routes = place | {"root": str(platform.root), "backends": {}}
    wanted = {name: set(router["rule"].split(" || ")) for name, router in own.items()}
    wanted |= {
        f"{client['client_id']}.site@file": matchers(names_of(client))
        for client in clients
        if client["state"] == "suspended"
    }
    assert len(wanted) == len(own) + len(clients) - 1
    try:
        assert offered(traefik_dynamic_config, clients=clients, **routes)["failures"] == []
        assert strays(PORT - 2, wanted) == []
        visit_all(platform, {name: who for name, who in owners.items() if who != "first"})
    finally:
        offered(traefik_dynamic_config, clients=[client | {"state": "absent"} for client in clients], **routes)
    deadline = time.monotonic() + 5
    while api(PORT - 2, "routers") != own and time.monotonic() < deadline:
        time.sleep(0.1)
    assert api(PORT - 2, "routers") == own


def visit_all(platform: Platform, owners: Mapping[str, str]) -> None:
    """Ask for every name and for names close to it; each is answered for its owner, or is nobody's."""
    since = time.time()
    platform_names = {host: name for name, client in platform.registry().items() for host in [client["domain"]]}
    expected: dict[str, str | None] = {}
    faults = []

    def visit(connection: http.client.HTTPConnection, host: str) -> None:
        who = owner_of(host, owners | platform_names)
        path = f"/visit/{len(expected)}"
        expected[path] = None if who is None else f"{who}.site@file"
        answer = ask(connection, host, path)
        if who not in platform_names.values() and answer != ((404, None) if who is None else (503, "3600")):
            faults.append(f"{host}: {answer}, and it is {who}'s")

    with connected("visitor.test") as close:
        for name in owners:
            own = name.replace("*", "x", 1)
            with connected(own) as connection:
                visit(connection, own)
            for host in close_to(name):
                visit(close, host)
    assert faults == []
    deadline = time.monotonic() + 5
    while (seen := served_by(platform, since)).keys() < expected.keys() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {visit: seen[visit] for visit in expected} == expected
    assert None in expected.values()


def assert_told_well(result: Mapping[str, Any]) -> None:
    """Each fault is one printable sentence; nothing came out as a traceback."""
    assert "exception" not in result, result
    for fault in result.get("faults") or [result["msg"]]:
        assert fault.isprintable(), fault
        assert len(fault) < 500, fault
        assert fault.endswith("."), fault


# What somebody could write into a file by hand -> what the check must say.
VIOLATIONS: dict[str, tuple[str, str]] = {
    "everything": ("HostRegexp(`.*`)", "is nobody's: HostRegexp(`.*`)"),
    "everything after a name": ("Host(`one.test`) || HostRegexp(`.*`)", "is nobody's"),
    "no rule at all": ("Host(`", "is nobody's"),
}


@pytest.mark.parametrize(("rule", "said"), VIOLATIONS.values(), ids=VIOLATIONS)
@pytest.mark.parametrize("name", ["stray.site", "one.site"])
def test_check_sees_a_rule_that_is_not_escaped(
    platform: Platform, tmp_path: Path, rule: str, said: str, name: str
) -> None:
    """Otherwise it could say of anything that it is well."""
    edge = platform.inspect(f"{PREFIX}-edge")["Config"]["Image"]
    ports = {"https_port": OTHER_PORT, "http_port": OTHER_PORT - 1, "api_port": OTHER_PORT - 2}
    (tmp_path / "traefik.yml").write_text(static_config({"edge": ports}))
    dynamic = tmp_path / "dynamic"
    dynamic.mkdir()
    document = {
        "http": {
            "routers": {
                "one.site": {"rule": "Host(`one.test`)", "service": "one.site", "tls": {}},
                name: {"rule": rule, "service": "one.site", "tls": {}},
            },
            "services": {"one.site": {"loadBalancer": {"servers": []}}},
        }
    }
    (dynamic / "one.yml").write_text(json.dumps(document))
    label = f"agency_stack.platform={PREFIX}"
    mount = f"{tmp_path}:/etc/traefik:ro"
    options = ["--network=host", f"--label={label}", f"--label={TEST_LABEL}", f"--volume={mount}", "--user=0:0"]
    container = docker("run", "-d", *options, edge, "--configFile=/etc/traefik/traefik.yml").strip()
    try:
        deadline = time.monotonic() + 10
        loaded: set[str] = set()
        while f"{name}@file" not in loaded:
            assert time.monotonic() < deadline, docker("logs", container)
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                loaded = set(api(OTHER_PORT - 2, "routers"))
            time.sleep(0.05)
        found = strays(OTHER_PORT - 2, {"one.site@file": {"Host(`one.test`)"}})
        said = said if name == "stray.site" else "one.site@file has the rule"
        assert [line for line in found if said in line], found
    finally:
        docker("rm", "-f", container)
