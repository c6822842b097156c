# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done for hard clients at boot: the script is run, with programs of the test in the place of the host's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _boot
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._boot import (
    STARTED,
    BootHost,
    BootState,
    boot_script,
    boot_unit,
    limits_text,
    must_run,
    plan_boot,
    run_program,
    unit_name,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

PARENTS = "/agency_stack/mt-"
# Note what they are asked, and fail where the test says so.
MOUNTPOINT = '#!/bin/sh\ngrep -qxF "$2" "$CALLS/mounted"\n'
MOUNT = """#!/bin/sh
for last; do :; done
echo "mount $*" >>"$CALLS/log"
case $* in *"$REFUSED"*) exit 32 ;; esac
echo "$last" >>"$CALLS/mounted"
"""
E2FSCK = '#!/bin/sh\necho "e2fsck $*" >>"$CALLS/log"\ncase $2 in *mended*) exit 1 ;; *damaged*) exit 4 ;; esac\n'
V1_FILES = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us", "pids.max")
V2_FILES = ("memory.max", "memory.swap.max", "cpu.max", "pids.max")


@dataclass
class Machine:
    """A host in a folder.

    Args:
        root: The AgencyStack root.
        calls: Where the programs note what they are asked.
        cgroups: Where cgroups are mounted.
    """

    root: Path
    calls: Path
    cgroups: Path

    def client(self, client_id: str, limits: str | None = None, image: bool = True) -> None:
        volumes = self.root / "multi_tenancy" / "volumes"
        if image:
            (volumes / f"{client_id}.img").write_bytes(b"")
        if limits is not None:
            (volumes / f"{client_id}.limits").write_text(limits, encoding="ascii")

    def group(self, version: int, client_id: str) -> None:
        """A cgroup with the kernel's files in it."""
        name = f"agency_stack/mt-{client_id}"
        for file in V1_FILES if version == 1 else V2_FILES:
            folder = self.cgroups / (file.partition(".")[0] if version == 1 else "") / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("", encoding="ascii")

    def read(self, *path: str) -> str:
        return self.cgroups.joinpath(*path).read_text(encoding="ascii").strip()

    def mounted(self) -> list[str]:
        clients = f"{self.root}/clients/"
        lines = (self.calls / "mounted").read_text(encoding="ascii").splitlines()
        return [line.removeprefix(clients).removesuffix("/data") for line in lines if line.startswith(clients)]

    def log(self) -> list[str]:
        return (self.calls / "log").read_text(encoding="ascii").splitlines()

    def boot(self, refused: str = "nothing-is-refused") -> tuple[int, list[str]]:
        text = boot_script(Layout(str(self.root)), PARENTS)
        script = self.root / "multi_tenancy" / "resources.sh"
        script.write_text(
            text.replace("PATH=/usr/sbin", f"PATH={self.calls}:/usr/sbin").replace(
                "cgroups=/sys/fs/cgroup", f"cgroups={self.cgroups}"
            ),
            encoding="ascii",
        )
        assert script.read_text(encoding="ascii").count(str(self.calls)) == 1
        assert script.read_text(encoding="ascii").count(f"cgroups={self.cgroups}\n") == 1
        done = subprocess.run(
            ["sh", script, "start"],
            env={"CALLS": str(self.calls), "REFUSED": refused},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, [line.removeprefix(f"{script}: ") for line in done.stderr.splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "root", tmp_path / "calls", tmp_path / "cgroup")
    (machine.root / "multi_tenancy" / "volumes").mkdir(parents=True)
    for folder in (machine.calls, machine.cgroups):
        folder.mkdir()
    for name, text in (("mountpoint", MOUNTPOINT), ("mount", MOUNT), ("e2fsck", E2FSCK)):
        (machine.calls / name).write_text(text, encoding="ascii")
        (machine.calls / name).chmod(0o755)
    for name in ("log", "mounted"):
        (machine.calls / name).write_text("", encoding="ascii")
    return machine


def test_a_host_without_hard_clients(machine: Machine) -> None:
    assert machine.boot() == (0, [])
    assert machine.log() == []


def test_volumes_are_checked_and_mounted_once(machine: Machine) -> None:
    for client_id in ("acme", "beta_2", "mended"):
        machine.client(client_id)
    (machine.root / "multi_tenancy" / "volumes" / "half.new").write_bytes(b"")
    (machine.root / "multi_tenancy" / "volumes" / "out.old").write_bytes(b"")
    assert machine.boot() == (0, [])
    assert machine.mounted() == ["acme", "beta_2", "mended"]
    image = machine.root / "multi_tenancy" / "volumes" / "acme.img"
    assert machine.log()[:2] == [
        f"e2fsck -p {image}",
        f"mount -t ext4 -o {_boot.MOUNT_OPTIONS} {image} {machine.root}/clients/acme/data",
    ]
    calls = len(machine.log())
    assert machine.boot() == (0, [])
    assert len(machine.log()) == calls


def test_one_client_s_fault_never_stops_the_others(machine: Machine) -> None:
    for client_id in ("a-damaged", "b-refused", "c"):
        machine.client(client_id)
    code, told = machine.boot(refused="b-refused.img")
    volumes = machine.root / "multi_tenancy" / "volumes"
    assert (code, machine.mounted()) == (1, ["c"])
    assert told == [
        f"the volume {volumes}/a-damaged.img is damaged: repair it with e2fsck {volumes}/a-damaged.img",
        f"the volume {volumes}/b-refused.img cannot be mounted at {machine.root}/clients/b-refused/data",
    ]


@pytest.mark.parametrize("name", ["$(touch x)", "..", "A", "a b", "a;b", "a\nb", ""])
def test_files_that_are_not_ours_are_passed_over(machine: Machine, name: str) -> None:
    machine.client(name, "1 1 1\n")
    machine.client("z")
    before = sorted(machine.root.rglob("*"))
    assert machine.boot() == (0, [])
    assert machine.mounted() == ["z"]
    assert sorted(path for path in machine.root.rglob("*") if path.name != "resources.sh") == before


def test_limits_of_version_1(machine: Machine) -> None:
    machine.client("acme", limits_text(67108864, 50000, 100))
    machine.group(1, "acme")
    assert machine.boot() == (0, [])
    group = "agency_stack/mt-acme"
    assert [machine.read(file.partition(".")[0], group, file) for file in V1_FILES] == [
        "67108864",
        "67108864",
        "100000",
        "50000",
        "100",
    ]
    # As the engine's own script does it on hosts without systemd.
    mounts = [line for line in machine.log() if "cgroup" in line.split()[2:4] or line.startswith("mount -t tmpfs")]
    assert [line.split()[-1].removeprefix(str(machine.cgroups)) for line in mounts] == ["", "/memory", "/cpu", "/pids"]


def test_limits_of_version_2(machine: Machine) -> None:
    (machine.cgroups / "cgroup.controllers").write_text("cpu memory pids", encoding="ascii")
    machine.client("acme", limits_text(67108864, 50000, 100))
    machine.group(2, "acme")
    assert machine.boot() == (0, [])
    group = "agency_stack/mt-acme"
    assert [machine.read(group, file) for file in V2_FILES] == ["67108864", "0", "50000 100000", "100"]
    for above in (machine.cgroups, machine.cgroups / "agency_stack"):
        assert (above / "cgroup.subtree_control").read_text(encoding="ascii") == "+pids\n"  # the last of three
    assert not any(line.startswith("mount -t tmpfs") for line in machine.log())


@pytest.mark.parametrize(
    "text", ["", "\n", "1 2\n", "1 2 3 4\n", "1 2 x\n", "-1 2 3\n", "$(id) 2 3\n", "1 2 3; touch x\n", "1 * 3\n"]
)
def test_limits_that_are_none_are_told(machine: Machine, text: str) -> None:
    machine.client("acme", text)
    machine.client("beta", "67108864 50000 100\n")
    for client_id in ("acme", "beta"):
        machine.group(1, client_id)
    code, told = machine.boot()
    volumes = machine.root / "multi_tenancy" / "volumes"
    assert (code, told) == (1, [f"{volumes}/acme.limits must hold three numbers and does not"])
    assert machine.read("pids", "agency_stack/mt-acme", "pids.max") == ""
    assert machine.read("pids", "agency_stack/mt-beta", "pids.max") == "100"


def test_kernel_that_takes_no_limits(machine: Machine) -> None:
    machine.client("acme", "67108864 50000 100\n")
    code, told = machine.boot()
    assert code == 1
    assert told[-1] == "the limits of client acme cannot be set"


def test_the_script_is_posix(tmp_path: Path) -> None:
    checker = shutil.which("shellcheck")
    assert checker is not None, "shellcheck is missing; requirements/dev.txt pins it"
    script = tmp_path / "resources.sh"
    script.write_text(boot_script(Layout("/opt/agency_stack"), PARENTS), encoding="ascii")
    done = subprocess.run([checker, "--shell=sh", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("root", ["/srv/a b", "/srv/$(id)", "relative", "/srv/a'b"])
def test_a_root_that_a_shell_would_take_apart_is_refused(root: str) -> None:
    with pytest.raises(TenancyError, match="is not allowed: use an absolute path"):
        boot_script(Layout(root), PARENTS)


def test_units_come_before_the_engine() -> None:
    systemd = boot_unit("systemd", unit_name("mt"), "/opt/agency_stack/multi_tenancy/resources.sh")
    assert "Before=docker.service\n" in systemd
    assert "ExecStart=/opt/agency_stack/multi_tenancy/resources.sh start\n" in systemd
    assert "RequiresMountsFor=/opt/agency_stack/multi_tenancy\n" in systemd
    sysv = boot_unit("sysv", unit_name("it"), "/opt/x/resources.sh")
    assert "# X-Start-Before:    docker\n" in sysv
    assert "# Provides:          agency-stack-it-resources\n" in sysv
    assert "exec /opt/x/resources.sh start ;;" in sysv
    assert unit_name("mt") != unit_name("it")


ALL = BootState("script", "unit", STARTED)


@pytest.mark.parametrize(
    ("wanted", "actual", "expected"),
    [
        (ALL, ALL, []),
        (ALL, BootState(), ["create script", "create unit", "create start"]),
        (BootState(), ALL, ["delete start", "delete unit", "delete script"]),
        (ALL, replace(ALL, script="old", start="started at boot, but failed now\n"), ["update script", "update start"]),
    ],
)
def test_plan(wanted: BootState, actual: BootState, expected: list[str]) -> None:
    changes = plan_boot(wanted, actual, BootState("/s", "/u", "name"))
    assert [f"{change.action} {change.payload}" for change in changes] == expected
    assert all(change.client_id is None for change in changes)


class Commands:
    """Programs that always do what they are asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.says = ""

    def __call__(self, command: Sequence[str], *_rest: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(" ".join(command))
        return subprocess.CompletedProcess(command, 0, self.says, "")


@pytest.mark.parametrize("init", ["systemd", "sysv"])
def test_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str) -> None:
    commands = Commands()
    monkeypatch.setattr(_boot, "run_program", commands)
    volumes = tmp_path / "multi_tenancy" / "volumes"
    volumes.mkdir(parents=True)
    host = BootHost(Layout(str(tmp_path)), "zz", PARENTS)
    host.init = "systemd" if init == "systemd" else "sysv"
    host.names = replace(host.names, unit=str(tmp_path / "unit"))
    assert host.state() == BootState()
    for change in plan_boot(host.wanted(), host.state(), host.names):
        host.apply(change)
    assert os.access(tmp_path / "multi_tenancy" / "resources.sh", os.X_OK)
    assert os.access(tmp_path / "unit", os.X_OK) is (init == "sysv")
    if init == "systemd":
        assert [call for call in commands.calls if " show " not in call] == [
            "systemctl daemon-reload",
            "systemctl enable agency-stack-zz-resources.service",
            "systemctl restart agency-stack-zz-resources.service",
        ]
        commands.says = "UnitFileState=enabled\nActiveState=active\n"
        assert host.state() == host.wanted()
        commands.says = "UnitFileState=enabled\nActiveState=failed\n"
        assert host.state().start == "started at boot, but failed now\n"
    else:
        assert commands.calls == [
            "update-rc.d agency-stack-zz-resources defaults",
            "update-rc.d agency-stack-zz-resources enable",
        ]
    (volumes / "acme.img").write_bytes(b"")
    removals = plan_boot(BootState(), host.wanted(), host.names)
    for change in removals:
        with pytest.raises(TenancyError, match="is kept, because there are still resources of clients"):
            host.apply(change)
    (volumes / "acme.img").unlink()
    for change in removals:
        host.apply(change)
    assert not (tmp_path / "unit").exists()
    assert not (tmp_path / "multi_tenancy" / "resources.sh").exists()


def test_programs() -> None:
    assert run_program(["sh", "-c", "echo $LC_ALL; exit 3"]).returncode == 3
    assert must_run(["sh", "-c", "echo yes"], "It failed") == "yes\n"
    for command, fault in (
        (["sh", "-c", "echo version 1 >&2; echo 'it is full.' >&2; exit 1"], "It failed: it is full."),
        (["sh", "-c", "exit 7"], "It failed: it ended with code 7 and gave no reason."),
        (["no-such-program"], "no-such-program is not installed on this host; install it and run again."),
    ):
        with pytest.raises(TenancyError) as caught:
            must_run(command, "It failed")
        assert str(caught.value) == fault
    with pytest.raises(TenancyError, match="did not end within"):
        run_program(["sleep", "60"], timeout=0.05)
