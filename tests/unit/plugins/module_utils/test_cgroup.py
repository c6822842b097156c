# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cgroup parents of hard clients, for both drivers of the engine and both versions of the kernel's interface.

The kernel here is a folder with its files in it. What the real one does is tested for version 1 and the driver cgroupfs
in tests/integration.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _cgroup
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._cgroup import (
    EngineCgroups,
    Folders,
    Kernel,
    Limits,
    Parent,
    ParentState,
    Slices,
    cgroup_host,
    engine_cgroups,
    limits_of,
    parent_name,
    parse_show,
    plan_parents,
    slice_text,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import MIB, Resources

NAME = "/agency_stack/mt-acme"
SLICE = "agency_stack-mt-7.slice"
SLICE_PATH = "/agency_stack.slice/agency_stack-mt.slice/agency_stack-mt-7.slice"
LIMITS = Limits(memory=64 * MIB, swap=0, cpu_quota=50000, pids=100)
# What the kernel shows in a cgroup that nobody has limited yet.
FILES = {
    1: {
        "memory": {
            "memory.limit_in_bytes": "9223372036854771712",
            "memory.memsw.limit_in_bytes": "9223372036854771712",
            "memory.stat": "cache 4096\nrss 0\ntotal_rss 0\ntotal_shmem 0\n",
        },
        "cpu": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
        "pids": {"pids.max": "max", "cgroup.procs": ""},
    },
    2: {
        "": {
            "cgroup.controllers": "cpuset cpu io memory pids",
            "cgroup.subtree_control": "",
            "cgroup.procs": "",
            "memory.max": "max",
            "memory.swap.max": "max",
            "memory.stat": "anon 0\nfile 4096\nshmem 0\n",
            "cpu.max": "max 100000",
            "pids.max": "max",
        }
    },
}


class FakeKernel(Kernel):
    """A kernel whose cgroups are folders of the file system."""

    def __init__(self, version: int, root: Path) -> None:
        super().__init__(version, str(root))
        root.mkdir()
        for controller in ("memory", "cpu", "pids", "blkio") if version == 1 else ():
            (root / controller).mkdir()
        if version == 1:
            (root / "cpuacct").symlink_to("cpu")
        else:
            self.fill(root)

    def fill(self, folder: Path) -> None:
        relative = folder.relative_to(self.root)
        controller = relative.parts[0] if self.version == 1 else ""
        for name, text in FILES[self.version].get(controller, {}).items():
            (folder / name).write_text(text, encoding="ascii")

    def make_folder(self, folder: str) -> None:
        if not Path(folder).exists():
            Path(folder).mkdir()
            self.fill(Path(folder))

    def remove_folder(self, folder: str) -> None:
        inside = list(Path(folder).iterdir())
        if any(path.is_dir() for path in inside) or any(
            path.name == "cgroup.procs" and path.read_text(encoding="ascii") for path in inside
        ):
            raise OSError(16, "Device or resource busy")
        shutil.rmtree(folder)


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> FakeKernel:
    return FakeKernel(request.param, tmp_path / "cgroup")


def put(kernel: Kernel, path: str, controller: str, name: str, text: str) -> None:
    Path(kernel.file(path, controller, name)).write_text(text, encoding="ascii")


# What engines say of themselves: 20.10 of Debian 12 without and with systemd, 26.1 of Debian 13, 19.03 (no versions).
@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"CgroupDriver": "cgroupfs", "CgroupVersion": "1"}, EngineCgroups("cgroupfs", 1)),
        ({"CgroupDriver": "systemd", "CgroupVersion": "2"}, EngineCgroups("systemd", 2)),
        ({"CgroupDriver": "cgroupfs", "CgroupVersion": "2"}, EngineCgroups("cgroupfs", 2)),
        ({"CgroupDriver": "systemd", "CgroupVersion": "1"}, EngineCgroups("systemd", 1)),
        ({"CgroupDriver": "cgroupfs"}, EngineCgroups("cgroupfs", 1)),
    ],
)
def test_how_the_engine_keeps_cgroups(info: dict[str, str], expected: EngineCgroups) -> None:
    assert engine_cgroups(info) == expected


@pytest.mark.parametrize("info", [{"CgroupDriver": "none", "CgroupVersion": "1"}, {}])
def test_engine_without_cgroups(info: dict[str, str]) -> None:
    with pytest.raises(TenancyError, match="there can be no hard clients on this host"):
        engine_cgroups(info)


def test_names_of_parents(client: dict[str, Any], config: dict[str, Any]) -> None:
    client["index"] = 7
    cgroupfs, systemd = EngineCgroups("cgroupfs", 1), EngineCgroups("systemd", 2)
    assert parent_name(client, config, cgroupfs) == NAME
    assert parent_name(client, config, systemd) == SLICE
    other = {**config, "name_prefix": "it"}
    assert parent_name(client, other, cgroupfs) != NAME
    assert parent_name(client, other, systemd) != SLICE
    # A client may be called like one of the kernel's own files.
    client["client_id"] = "tasks"
    assert not parent_name(client, config, cgroupfs).endswith("/tasks")


@pytest.mark.parametrize(
    ("cpus", "quota", "percent"),
    [(0.01, 1000, "1%"), (0.333, 33300, "33.3%"), (1.5, 150000, "150%"), (0.29, 29000, "29%")],
)
def test_limits(cpus: float, quota: int, percent: str) -> None:
    limits = limits_of(Resources(64 * MIB + 5000, cpus, 100, 0))
    assert limits == Limits(64 * MIB, 0, quota, 100)
    assert f"CPUQuota={percent}\n" in slice_text(limits, 2)


def test_unit_files() -> None:
    assert slice_text(LIMITS, 2) == (
        "# Written by agency_stack.multi_tenancy.client_resources; edits are overwritten.\n"
        "[Unit]\nDescription=All containers of one hard client of AgencyStack\n\n"
        "[Slice]\nMemoryAccounting=yes\nCPUAccounting=yes\nTasksAccounting=yes\n"
        "MemoryMax=67108864\nMemorySwapMax=0\nCPUQuota=50%\nTasksMax=100\n"
    )
    assert "MemoryLimit=67108864\n" in slice_text(LIMITS, 1)
    assert "MemoryMax" not in slice_text(LIMITS, 1)


LESS = Limits(32 * MIB, 0, 50000, 100)


@pytest.mark.parametrize(
    ("limits", "state", "wait", "actions", "staying"),
    [
        (LIMITS, ParentState(), True, ["create"], []),
        (LIMITS, ParentState(NAME, LIMITS), True, [], []),
        (LIMITS, ParentState(NAME, LIMITS, busy=True), True, [], []),
        (LIMITS, ParentState(NAME, LESS), True, ["update"], []),
        # Only some hierarchies have it.
        (LIMITS, ParentState(NAME, None), True, ["update"], []),
        (None, ParentState(), True, [], []),
        (None, ParentState(NAME, LIMITS), True, ["delete"], []),
        (None, ParentState(NAME, LIMITS, busy=True), True, [], ["acme"]),
        (None, ParentState(NAME, LIMITS, busy=True), False, ["delete"], []),
    ],
)
def test_plan(limits: Limits | None, state: ParentState, wait: bool, actions: list[str], staying: list[str]) -> None:
    engine = EngineCgroups("cgroupfs", 1)
    changes, stay = plan_parents([Parent(NAME, "acme", limits)], {NAME: state}, engine, wait)
    assert ([change.action for change in changes], stay) == (actions, staying)
    for change in changes:
        assert (change.kind, change.name, change.client_id) == ("cgroup", NAME, "acme")
        assert change.before != change.after


def one_change(host: Any, parent: Parent, engine: EngineCgroups) -> Change:
    changes, stay = plan_parents([parent], host.read([parent.name]), engine, wait=False)
    assert stay == []
    [change] = changes
    return change


def unchanged(host: Any, parent: Parent, engine: EngineCgroups) -> bool:
    return plan_parents([parent], host.read([parent.name]), engine, wait=False) == ([], [])


def test_cgroupfs_from_nothing_to_nothing(kernel: FakeKernel) -> None:
    engine, host = EngineCgroups("cgroupfs", kernel.version), Folders(kernel)
    wanted, gone = Parent(NAME, "acme", LIMITS), Parent(NAME, "acme")
    assert unchanged(host, gone, engine)
    change = one_change(host, wanted, engine)
    assert change.before is None
    host.apply(change)
    assert kernel.limits(NAME) == LIMITS
    assert unchanged(host, wanted, engine)
    if kernel.version == 1:
        # The engine makes its cgroups in every hierarchy.
        (Path(kernel.root) / "blkio" / "agency_stack" / "mt-acme" / "container").mkdir(parents=True)
    else:
        for above in ("", "/agency_stack"):
            assert kernel._given(above) == ["+pids"]  # the last of three that were written
    host.apply(one_change(host, gone, engine))
    assert unchanged(host, gone, engine)
    assert list(Path(kernel.root).rglob("*agency_stack*")) == []


def test_the_parents_of_others_stay(kernel: FakeKernel) -> None:
    engine, host = EngineCgroups("cgroupfs", kernel.version), Folders(kernel)
    other = Parent("/agency_stack/it-acme", "acme", LIMITS)
    for parent in (Parent(NAME, "acme", LIMITS), other):
        host.apply(one_change(host, parent, engine))
    host.apply(one_change(host, Parent(NAME, "acme"), engine))
    assert unchanged(host, other, engine)


@pytest.mark.parametrize("limits", [LESS, Limits(128 * MIB, 0, 200000, 50)], ids=["less", "more"])
def test_limits_change_in_place(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    engine, host = EngineCgroups("cgroupfs", kernel.version), Folders(kernel)
    host.apply(one_change(host, Parent(NAME, "acme", LIMITS), engine))
    put(kernel, NAME, "pids", "cgroup.procs", "4711\n")
    written = []
    real = Kernel._put

    def watched(self: Kernel, path: str, controller: str, name: str, value: object) -> None:
        real(self, path, controller, name, value)
        written.append(name)
        now = self.limits(path)
        # The kernel refuses a limit with swap that is the lower one.
        assert now is not None
        if self.version == 1:
            both = int(Path(self.file(path, "memory", "memory.memsw.limit_in_bytes")).read_text(encoding="ascii"))
            assert both >= (now.memory or 0)

    monkeypatch.setattr(Kernel, "_put", watched)
    host.apply(one_change(host, Parent(NAME, "acme", limits), engine))
    assert "pids.max" in written
    assert kernel.limits(NAME) == limits


@pytest.mark.parametrize(
    ("name", "controller", "text"),
    [
        ("memory", "memory", "33554432"),
        ("pids.max", "pids", "max"),
        ("cpu", "cpu", "-1"),
    ],
)
def test_what_somebody_altered_is_put_right(kernel: FakeKernel, name: str, controller: str, text: str) -> None:
    engine, host = EngineCgroups("cgroupfs", kernel.version), Folders(kernel)
    wanted = Parent(NAME, "acme", LIMITS)
    host.apply(one_change(host, wanted, engine))
    names = {
        "memory": {1: "memory.limit_in_bytes", 2: "memory.max"},
        "cpu": {1: "cpu.cfs_quota_us", 2: "cpu.max"},
    }.get(name, {1: name, 2: name})
    put(
        kernel, NAME, controller, names[kernel.version], "max 100000" if name == "cpu" and kernel.version == 2 else text
    )
    assert one_change(host, wanted, engine).action == "update"


def test_memory_in_use_is_told_and_nothing_is_changed(kernel: FakeKernel) -> None:
    engine, host = EngineCgroups("cgroupfs", kernel.version), Folders(kernel)
    host.apply(one_change(host, Parent(NAME, "acme", LIMITS), engine))
    used = {1: f"rss 1\ntotal_rss {40 * MIB}\ntotal_shmem {MIB}\n", 2: f"anon {40 * MIB}\nfile 9\nshmem {MIB}\n"}
    put(kernel, NAME, "memory", "memory.stat", used[kernel.version])
    with pytest.raises(TenancyError) as caught:
        host.apply(one_change(host, Parent(NAME, "acme", LESS), engine))
    assert str(caught.value) == (
        "Its memory cannot be limited to 32 MiB while its containers use 41 MiB: stop some of them, or let "
        "resources.memory be more."
    )
    assert kernel.limits(NAME) == LIMITS
    # What fits is done all the same.
    host.apply(one_change(host, Parent(NAME, "acme", Limits(48 * MIB, 0, 50000, 100)), engine))


def test_containers_give_way_to_a_lower_share_of_cpus(tmp_path: Path) -> None:
    """With version 1 the kernel refuses to limit a cgroup to less than one below it has."""
    kernel = FakeKernel(1, tmp_path / "cgroup")
    host, engine = Folders(kernel), EngineCgroups("cgroupfs", 1)
    host.apply(one_change(host, Parent(NAME, "acme", Limits(64 * MIB, 0, 200000, 100)), engine))
    for container, quota, period in (("big", "100000", "50000"), ("small", "1000", "100000"), ("free", "-1", "100000")):
        kernel.make_folder(kernel.folder(f"{NAME}/{container}", "cpu"))
        put(kernel, f"{NAME}/{container}", "cpu", "cpu.cfs_quota_us", quota)
        put(kernel, f"{NAME}/{container}", "cpu", "cpu.cfs_period_us", period)
    host.apply(one_change(host, Parent(NAME, "acme", LIMITS), engine))
    left = {
        name: Path(kernel.file(f"{NAME}/{name}", "cpu", "cpu.cfs_quota_us")).read_text(encoding="ascii")
        for name in ("big", "small", "free")
    }
    # Half a CPU of each period; the others have less, or follow the parent.
    assert left == {"big": "25000", "small": "1000", "free": "-1"}


def test_something_that_still_runs_keeps_its_parent(kernel: FakeKernel) -> None:
    engine, host = EngineCgroups("cgroupfs", kernel.version), Folders(kernel)
    host.apply(one_change(host, Parent(NAME, "acme", LIMITS), engine))
    kernel.make_folder(kernel.folder(f"{NAME}/container", "pids"))
    put(kernel, f"{NAME}/container", "pids", "cgroup.procs", "4711\n")
    assert host.read([NAME])[NAME].busy
    with pytest.raises(TenancyError, match="something still runs in it"):
        host.apply(one_change(host, Parent(NAME, "acme"), engine))
    assert kernel.limits(NAME) == LIMITS


def test_kernel_without_a_controller(tmp_path: Path) -> None:
    kernel = FakeKernel(1, tmp_path / "cgroup")
    (tmp_path / "cgroup" / "memory").rmdir()
    host, engine = Folders(kernel), EngineCgroups("cgroupfs", 1)
    with pytest.raises(TenancyError, match="controller memory cannot be had"):
        host.apply(one_change(host, Parent(NAME, "acme", LIMITS), engine))


class FakeSystemd:
    """systemctl, as version 252 of Debian 12 behaves: units are read by daemon-reload, which running slices feel."""

    def __init__(self, kernel: FakeKernel, units: Path) -> None:
        self.kernel, self.units = kernel, units
        self.active: set[str] = set()
        self.calls: list[str] = []
        self.deaf = False

    def __call__(self, command: Sequence[str], fault: str) -> str:
        verb, *names = [word for word in command[1:] if not word.startswith("--")]
        self.calls.append(verb)
        if verb == "show":
            return "\n".join(self.shown(name) for name in names)
        for name in names if verb != "daemon-reload" else sorted(self.active):
            if verb == "stop":
                self.active.discard(name)
                self.kernel.remove(SLICE_PATH)
            else:
                self.active.add(name)
                self.realise(name)
        return ""

    def shown(self, name: str) -> str:
        path, state = (SLICE_PATH, "active") if name in self.active else ("", "inactive")
        return f"ControlGroup={path}\nId={name}\nActiveState={state}\n"

    def realise(self, name: str) -> None:
        if self.deaf:
            return
        text = (self.units / name).read_text(encoding="ascii")
        unit = dict(line.split("=") for line in text.splitlines() if "=" in line)
        memory = int(unit.get("MemoryMax") or unit["MemoryLimit"])
        quota = round(float(unit["CPUQuota"].rstrip("%")) * 1000)
        self.kernel.set_limits(SLICE_PATH, Limits(memory, 0, quota, int(unit["TasksMax"])))
        if self.kernel.version == 1:
            put(self.kernel, SLICE_PATH, "memory", "memory.memsw.limit_in_bytes", "9223372036854771712")


@pytest.fixture
def systemd(kernel: FakeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    (tmp_path / "units").mkdir()
    fake = FakeSystemd(kernel, tmp_path / "units")
    monkeypatch.setattr(_cgroup, "must_run", fake)
    return fake


def test_systemd_from_nothing_to_nothing(kernel: FakeKernel, systemd: FakeSystemd, tmp_path: Path) -> None:
    engine, host = EngineCgroups("systemd", kernel.version), Slices(kernel, str(tmp_path / "units"))
    wanted, gone = Parent(SLICE, "acme", LIMITS), Parent(SLICE, "acme")
    assert unchanged(host, gone, engine)
    change = one_change(host, wanted, engine)
    assert (change.before, change.action) == (None, "create")
    host.apply(change)
    assert (tmp_path / "units" / SLICE).read_text(encoding="ascii") == slice_text(LIMITS, kernel.version)
    assert unchanged(host, wanted, engine)
    less = Parent(SLICE, "acme", LESS)
    host.apply(one_change(host, less, engine))
    assert unchanged(host, less, engine)
    limits = kernel.limits(SLICE_PATH)
    assert limits is not None
    assert limits.memory == LESS.memory
    host.apply(one_change(host, gone, engine))
    assert unchanged(host, gone, engine)
    assert list((tmp_path / "units").iterdir()) == []


def test_systemd_is_asked_once_for_all(kernel: FakeKernel, systemd: FakeSystemd, tmp_path: Path) -> None:
    host = Slices(kernel, str(tmp_path / "units"))
    assert host.read([]) == {}
    assert systemd.calls == []
    names = [f"agency_stack-mt-{index}.slice" for index in range(200)]
    assert set(host.read(names)) == set(names)
    assert systemd.calls == ["show"]


def test_a_slice_that_stopped_is_started_again(kernel: FakeKernel, systemd: FakeSystemd, tmp_path: Path) -> None:
    engine, host = EngineCgroups("systemd", kernel.version), Slices(kernel, str(tmp_path / "units"))
    wanted = Parent(SLICE, "acme", LIMITS)
    host.apply(one_change(host, wanted, engine))
    systemd.active.clear()
    change = one_change(host, wanted, engine)
    assert change.action == "update"
    host.apply(change)
    assert unchanged(host, wanted, engine)


def test_a_slice_in_which_something_runs_is_not_stopped(
    kernel: FakeKernel, systemd: FakeSystemd, tmp_path: Path
) -> None:
    """systemd would end it."""
    engine, host = EngineCgroups("systemd", kernel.version), Slices(kernel, str(tmp_path / "units"))
    host.apply(one_change(host, Parent(SLICE, "acme", LIMITS), engine))
    put(kernel, SLICE_PATH, "pids", "cgroup.procs", "4711\n")
    with pytest.raises(TenancyError, match="something still runs in it"):
        host.apply(one_change(host, Parent(SLICE, "acme"), engine))
    assert "stop" not in systemd.calls
    assert (tmp_path / "units" / SLICE).exists()


def test_limits_that_systemd_did_not_set_are_told(kernel: FakeKernel, systemd: FakeSystemd, tmp_path: Path) -> None:
    engine, host = EngineCgroups("systemd", kernel.version), Slices(kernel, str(tmp_path / "units"))
    host.apply(one_change(host, Parent(SLICE, "acme", LIMITS), engine))
    systemd.deaf = True
    with pytest.raises(TenancyError, match=re.escape(f"The cgroup {SLICE} limits")):
        host.apply(one_change(host, Parent(SLICE, "acme", LESS), engine))


def test_what_systemctl_shows() -> None:
    # Recorded with systemd 252: one slice that runs, one that nobody has heard of.
    text = (
        f"ControlGroup={SLICE_PATH}\nId={SLICE}\nActiveState=active\n"
        "\n"
        "ControlGroup=\nId=nope-3.slice\nActiveState=inactive\n"
    )
    assert parse_show(text) == {SLICE: SLICE_PATH}


def test_each_driver_has_its_host() -> None:
    assert isinstance(cgroup_host(EngineCgroups("cgroupfs", 2)), Folders)
    assert isinstance(cgroup_host(EngineCgroups("systemd", 1)), Slices)
