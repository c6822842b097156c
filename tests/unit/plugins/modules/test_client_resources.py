# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module client_resources on a host whose volumes, cgroups and boot units are kept in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._boot import BootState
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._cgroup import EngineCgroups, ParentState
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import LABEL_CLIENT, LABEL_PLATFORM
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import MIB
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._stack import ContainerState
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume import Task, VolumeState
from ansible_collections.agency_stack.multi_tenancy.plugins.modules import client_resources
from ansible_collections.agency_stack.multi_tenancy.tests.unit.fake_engine import FakeEngine
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import ladder, registered

Run = Callable[..., dict[str, Any]]
DEFAULTS = {"memory": "64m", "cpus": 1.0, "pids": 100, "disk": "32m"}


class FakeHost:
    """Volumes, cgroups and what is started at boot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.volumes: dict[str, VolumeState] = {}
        self.parents: dict[str, ParentState] = {}
        self.boot = BootState()
        self.log: list[str] = []
        self.broken: set[str] = set()
        self.stopped: Callable[[str, bool], Any] | None = None
        self.names = BootState("/script", "/unit", "unit")
        self.layout = Layout(str(root))
        self.engine: EngineCgroups | None = None
        self.containers: list[ContainerState] = []

    def note(self, what: str) -> None:
        if what in self.broken:
            raise TenancyError(f"{what} is broken.")
        self.log.append(what)

    def list_containers(self, _engine: FakeEngine, labels: Mapping[str, str]) -> list[ContainerState]:
        assert labels[LABEL_PLATFORM] == "mt"
        client_id = labels.get(LABEL_CLIENT)
        return [state for state in self.containers if client_id in (None, state.client_id)]

    # ---- as VolumeHost

    def image(self, client_id: str) -> str:
        return str(self.root / "multi_tenancy" / "volumes" / f"{client_id}.img")

    def read_volumes(self, client_ids: Iterable[str], folders: Mapping[str, str]) -> dict[str, VolumeState]:
        kept = VolumeState(kept=32 * MIB)
        moved = {client_id: kept for client_id, path in folders.items() if (Path(path) / "data.img").exists()}
        return {
            client_id: moved.get(client_id) or self.volumes.get(client_id, VolumeState()) for client_id in client_ids
        }

    def apply_volume(self, change: Change) -> None:
        task: Task = change.payload
        volume = task.volume
        self.note(f"{task.step} {volume.client_id}")
        if task.stops:
            assert self.stopped is not None
            with self.stopped(volume.client_id, task.step != "grow"):
                self.note(f"working on {volume.client_id}")
        gone = task.step in ("move out", "put away", "purge")
        size = None if gone else volume.size
        self.volumes[volume.client_id] = VolumeState(size, size, mounted=not gone, data="filled")

    # ---- as CgroupHost

    def read_parents(self, names: Sequence[str]) -> dict[str, ParentState]:
        return {name: self.parents.get(name, ParentState()) for name in names}

    def apply_parent(self, change: Change) -> None:
        parent = change.payload[0]
        self.note(f"{change.action} {parent.name}")
        state = self.parents.get(parent.name, ParentState(parent.name))
        if parent.limits is None and state.busy:
            raise TenancyError("something still runs in it")
        self.parents[parent.name] = ParentState() if parent.limits is None else replace(state, limits=parent.limits)

    # ---- as BootHost

    def apply_boot(self, change: Change) -> None:
        self.note(f"{change.action} {change.payload}")
        self.boot = replace(self.boot, **{change.payload: change.after})


class Part:
    """One face of the host."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> FakeHost:
    root = tmp_path / "root"
    for folder in ("multi_tenancy/volumes", "clients"):
        (root / folder).mkdir(parents=True)
    fake = FakeHost(root)

    def volumes(_layout: Layout, stopped: Callable[[str, bool], Any]) -> Part:
        fake.stopped = stopped
        return Part(image=fake.image, read=fake.read_volumes, apply=fake.apply_volume, layout=fake.layout)

    def cgroups(engine: EngineCgroups) -> Part:
        fake.engine = engine
        return Part(read=fake.read_parents, apply=fake.apply_parent)

    def boot(*_args: object) -> Part:
        wanted = BootState("script", "unit", "started\n")
        return Part(names=fake.names, wanted=lambda: wanted, state=lambda: fake.boot, apply=fake.apply_boot)

    monkeypatch.setattr(client_resources, "VolumeHost", volumes)
    monkeypatch.setattr(client_resources, "cgroup_host", cgroups)
    monkeypatch.setattr(client_resources, "BootHost", boot)
    monkeypatch.setattr(client_resources, "can_grow_mounted", lambda: False)
    monkeypatch.setattr(client_resources, "list_containers", fake.list_containers)
    monkeypatch.setattr(client_resources, "free_disk", lambda _path: 200 * MIB)
    monkeypatch.setattr(engine, "info", lambda: {"CgroupDriver": "cgroupfs", "CgroupVersion": "1"})
    return fake


@pytest.fixture
def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The platform's settings, with small defaults for hard clients."""
    capacity = {"reserved_memory": "0", "reserved_cpus": 0.0, "reserved_disk": "100m", "cpu_overcommit": 1.0}
    return {**config, "hard": config["hard"] | DEFAULTS, "capacity": capacity}


@pytest.fixture
def clients(config: dict[str, Any]) -> list[dict[str, Any]]:
    """acme and beta are hard, common is not."""
    found = registered(config, {"client_id": "acme"}, {"client_id": "beta"}, {"client_id": "common"})
    for client in found[:2]:
        client["isolation_level"] = "hard"
    return found


def container(
    client_id: str, name: str, state: str = "running", service: str = "site", writes: bool = True
) -> ContainerState:
    """A container of a client."""
    return ContainerState(name, name, client_id, service, "", "image", state, "", {}, writes)


def test_hard_clients_get_resources(
    run_module: Run,
    tmp_path: Path,
    engine: FakeEngine,
    host: FakeHost,
    settings: dict[str, Any],
    clients: list[dict[str, Any]],
) -> None:
    result = ladder(run_module, client_resources, tmp_path, engine, config=settings, clients=clients)
    assert result["cgroup_parents"] == {"acme": "/agency_stack/mt-acme", "beta": "/agency_stack/mt-beta"}
    assert (result["interrupted"], result["pending"], result["failures"]) == ([], [], [])
    assert host.log == [
        "make acme",
        "create /agency_stack/mt-acme",
        "make beta",
        "create /agency_stack/mt-beta",
        "create script",
        "create unit",
        "create start",
    ]
    assert {client_id: state.size for client_id, state in host.volumes.items()} == {"acme": 32 * MIB, "beta": 32 * MIB}
    limits = tmp_path / "root" / "multi_tenancy" / "volumes" / "acme.limits"
    assert limits.read_text(encoding="ascii") == f"{64 * MIB} 100000 100\n"
    assert limits.stat().st_mode & 0o777 == 0o600


def test_nothing_is_made_for_others(
    run_module: Run, engine: FakeEngine, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    for client in clients:
        client["isolation_level"] = "medium"
    result = run_module(client_resources, config=settings, clients=clients)
    assert (result["changed"], result["cgroup_parents"]) == (False, {})
    assert host.log == []


def test_what_an_entry_names_goes_over_the_defaults(
    run_module: Run, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_resources, config=settings, clients=clients)
    host.log.clear()
    clients[1]["resources"] = {"disk": "40m", "memory": "96m"}
    result = run_module(client_resources, config=settings, clients=clients)
    assert host.log == ["grow beta", "working on beta", "update /agency_stack/mt-beta"]
    assert [change["kind"] for change in result["changes"]] == ["volume", "cgroup", "boot limits"]


def test_a_client_whose_resources_cannot_be_understood_is_left_as_it_is(
    run_module: Run, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_resources, config=settings, clients=clients)
    host.log.clear()
    clients[0]["resources"] = {"disk": "huge"}
    result = run_module(client_resources, config=settings, clients=clients, defer_failures=True)
    assert result["failures"] == [
        {
            "client_id": "acme",
            "msg": "Client acme: resources.disk: 'huge' is no size such as 256m or 2g; use 16m or more.",
        }
    ]
    assert host.log == []
    assert list(result["cgroup_parents"]) == ["beta"]
    assert host.volumes["acme"].mounted


def test_one_client_s_fault_does_not_stop_the_other(
    run_module: Run, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    host.broken.add("make acme")
    result = run_module(client_resources, config=settings, clients=clients)
    assert result["failed"] is True
    assert result["msg"] == "Client acme: make acme is broken."
    assert "create /agency_stack/mt-acme" not in host.log
    assert "create /agency_stack/mt-beta" in host.log
    assert "create start" in host.log


def test_a_volume_that_does_not_fit_the_disk_is_refused(
    run_module: Run, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    # 200 MiB are free, 100 of them kept for the host.
    clients[0]["resources"] = {"disk": "101m"}
    result = run_module(client_resources, config=settings, clients=clients, defer_failures=True)
    assert [failure["msg"] for failure in result["failures"]] == [
        "Client acme: Its volume takes 101 MiB of disk, and 100 MiB are left."
    ]
    assert "make beta" in host.log
    assert "make acme" not in host.log


def test_containers_are_stopped_and_started_again(
    run_module: Run, engine: FakeEngine, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    host.volumes["acme"] = VolumeState(data="filled")
    for name, state in (("one", "running"), ("two", "exited"), ("three", "paused")):
        host.containers.append(container("acme", name, state))
    for client_id in ("acme", "beta"):
        host.containers.append(container(client_id, "four", writes=False))
    host.containers.append(container("common", "other"))
    calls: list[tuple[str, str]] = []
    engine.stop = lambda name: calls.append(("stop", name))  # type: ignore[method-assign]
    engine.start = lambda name: calls.append(("start", name))  # type: ignore[method-assign]
    checked = run_module(client_resources, check=True, config=settings, clients=clients)
    assert (checked["interrupted"], calls, host.log) == (["acme"], [], [])
    result = run_module(client_resources, config=settings, clients=clients)
    assert result["interrupted"] == ["acme"]
    assert sorted(calls[:2]) == [("stop", "one"), ("stop", "three")]
    assert sorted(calls[2:]) == [("start", "one"), ("start", "three")]
    # Also when the work fails.
    calls.clear()
    host.volumes["acme"] = VolumeState(data="filled")
    host.broken.add("working on acme")
    result = run_module(client_resources, config=settings, clients=clients)
    assert result["msg"] == "Client acme: working on acme is broken."
    assert len(calls) == 4


def test_its_own_traefik_stops_first_and_starts_last(
    run_module: Run, engine: FakeEngine, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    host.volumes["acme"] = VolumeState(data="filled")
    for name in ("db", "traefik", "web"):
        host.containers.append(container("acme", name, service=name))
    calls: list[tuple[str, str]] = []
    engine.stop = lambda name: calls.append(("stop", name))  # type: ignore[method-assign]
    engine.start = lambda name: calls.append(("start", name))  # type: ignore[method-assign]
    run_module(client_resources, config=settings, clients=clients)
    assert (len(calls), calls[0], calls[-1]) == (6, ("stop", "traefik"), ("start", "traefik"))


def test_a_container_that_does_not_start_again_is_told(
    run_module: Run, engine: FakeEngine, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    host.volumes["acme"] = VolumeState(data="filled")
    host.broken.add("working on acme")
    host.containers.append(container("acme", "one"))
    engine.stop = lambda name: None  # type: ignore[method-assign]

    def start(_name: str) -> None:
        raise OSError("no")

    engine.start = start  # type: ignore[method-assign]
    result = run_module(client_resources, config=settings, clients=clients)
    assert result["msg"] == "Client acme: working on acme is broken. Starting container one again failed: no."


def test_a_client_that_is_hard_no_more_gives_back(
    run_module: Run, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]], tmp_path: Path
) -> None:
    run_module(client_resources, config=settings, clients=clients)
    host.log.clear()
    clients[0]["isolation_level"] = "medium"
    name = "/agency_stack/mt-acme"
    host.parents[name] = replace(host.parents[name], busy=True)
    result = run_module(client_resources, config=settings, clients=clients)
    # Its containers of that time still run in its cgroup.
    assert (result["pending"], host.log) == (["acme"], ["move out acme", "working on acme"])
    assert list(result["cgroup_parents"]) == ["beta"]
    assert run_module(client_resources, config=settings, clients=clients)["changed"] is False
    host.parents[name] = replace(host.parents[name], busy=False)
    result = run_module(client_resources, config=settings, clients=clients)
    assert (result["pending"], host.log[2:]) == ([], [f"delete {name}"])
    volumes = tmp_path / "root" / "multi_tenancy" / "volumes"
    assert [path.name for path in volumes.iterdir()] == ["beta.limits"]


def test_the_last_one_takes_the_boot_unit_away(
    run_module: Run, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_resources, config=settings, clients=clients)
    host.log.clear()
    for client in clients:
        client["isolation_level"] = "medium"
    # One client's run leaves it for the other.
    run_module(client_resources, config=settings, clients=clients[:1])
    assert host.log == ["move out acme", "working on acme", "delete /agency_stack/mt-acme"]
    run_module(client_resources, config=settings, clients=clients)
    assert host.log[-3:] == ["delete start", "delete unit", "delete script"]
    assert host.boot == BootState()


@pytest.mark.parametrize(("removal", "step"), [("keep", "put away"), ("purge", "purge")])
def test_removal(
    run_module: Run,
    host: FakeHost,
    settings: dict[str, Any],
    clients: list[dict[str, Any]],
    removal: str,
    step: str,
) -> None:
    run_module(client_resources, config=settings, clients=clients)
    host.log.clear()
    leaving = {**clients[0], "state": "absent", "removal": removal}
    # With the others it is left alone: its containers are not gone yet.
    assert run_module(client_resources, config=settings, clients=[leaving, clients[1]])["changed"] is False
    result = run_module(client_resources, config=settings, clients=[leaving], state="absent")
    assert host.log == ["delete /agency_stack/mt-acme", f"{step} acme"]
    assert result["cgroup_parents"] == {}
    assert run_module(client_resources, config=settings, clients=[leaving], state="absent")["changed"] is False


def test_removal_stops_before_the_data_when_something_still_runs(
    run_module: Run, host: FakeHost, settings: dict[str, Any], clients: list[dict[str, Any]]
) -> None:
    run_module(client_resources, config=settings, clients=clients)
    host.log.clear()
    name = "/agency_stack/mt-acme"
    host.parents[name] = replace(host.parents[name], busy=True)
    result = run_module(client_resources, config=settings, clients=[{**clients[0], "state": "absent"}], state="absent")
    assert result["msg"] == "Client acme: something still runs in it"
    assert host.log == [f"delete {name}"]
    assert host.volumes["acme"].mounted


@pytest.mark.parametrize("level", ["hard", "medium"])
@pytest.mark.parametrize("with_volume", [True, False])
def test_restoring(
    run_module: Run,
    host: FakeHost,
    settings: dict[str, Any],
    clients: list[dict[str, Any]],
    tmp_path: Path,
    level: str,
    with_volume: bool,
) -> None:
    clients[0]["isolation_level"] = level
    kept = tmp_path / "root" / "multi_tenancy" / "removed" / "acme-20260131T120000"
    kept.mkdir(parents=True)
    os.chown(kept, 0, 4711)
    if with_volume:
        (kept / "data.img").write_bytes(b"")
    result = run_module(client_resources, config=settings, clients=clients[:1], restore={"acme": "latest"})
    adopted = (tmp_path / "root" / "clients" / "acme").exists()
    # What has neither a volume nor needs one is client_storage's to get back.
    assert adopted is (with_volume or level == "hard")
    first = {"hard": ["take back acme", "mount acme"], "medium": ["take back acme", "mount acme", "move out acme"]}
    expected = first[level] if with_volume else ["make acme"] if level == "hard" else []
    assert host.log[: len(expected)] == expected
    assert result["changed"] is bool(expected)


def test_with_systemd_slices_need_nothing_at_boot(
    run_module: Run,
    engine: FakeEngine,
    host: FakeHost,
    settings: dict[str, Any],
    clients: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(engine, "info", lambda: {"CgroupDriver": "systemd", "CgroupVersion": "2"})
    result = run_module(client_resources, check=True, config=settings, clients=clients)
    index = clients[0]["index"]
    assert result["cgroup_parents"]["acme"] == f"agency_stack-mt-{index}.slice"
    assert host.engine == EngineCgroups("systemd", 2)
    assert "boot limits" not in {change["kind"] for change in result["changes"]}


def test_an_engine_that_limits_nothing_is_told(
    run_module: Run,
    engine: FakeEngine,
    host: FakeHost,
    settings: dict[str, Any],
    clients: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "info", lambda: {"CgroupDriver": "none", "CgroupVersion": "1"})
    result = run_module(client_resources, config=settings, clients=clients)
    assert "so there can be no hard clients on this host" in result["msg"]
    assert host.log == []


@pytest.mark.parametrize("client_id", ["..", "a/b", "removed", None, "A"])
def test_hostile_ids(run_module: Run, host: FakeHost, settings: dict[str, Any], client_id: Any) -> None:
    client = {"client_id": client_id, "isolation_level": "hard", "state": "present", "index": 1, "uid": 1}
    result = run_module(client_resources, config=settings, clients=[client])
    assert "client_id" in result["msg"]
    assert host.log == []
