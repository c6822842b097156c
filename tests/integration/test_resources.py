# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dedicated resources with real file systems, a real kernel and containers of this machine's own engine.

What must be refused to one client is first, or beside it, seen to work for another.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _copy, _volume_apply
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._boot import MOUNT_OPTIONS
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._cgroup import (
    Limits,
    cgroup_host,
    engine_cgroups,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._config import effective_config
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import MIB
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._shared_folder import SharedFolder
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume import (
    Fate,
    Volume,
    image_size,
    plan_volumes,
    read_mounts,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume_apply import VolumeHost, read_loops
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import tree
from conftest import TEST_LABEL, docker

PREFIX = "itr"
MODULE = """
import importlib, json, sys
sys.path[:0] = json.loads(sys.argv[1])
from ansible.module_utils.testing import patch_module_args
module = importlib.import_module(f"ansible_collections.agency_stack.multi_tenancy.plugins.modules.{sys.argv[2]}")
with patch_module_args(json.loads(sys.argv[3])):
    module.main()
"""
# The programs of this machine, read-only, are image enough.
PROGRAMS = [f"--volume=/{name}:/{name}:ro" for name in ("usr", "bin", "lib", "lib64") if Path(f"/{name}").exists()]
DEFAULTS = {"memory": "64m", "cpus": 1.0, "pids": 100, "disk": "32m"}


class Host:
    """Hard clients below a root of their own.

    Args:
        root: The AgencyStack root.
    """

    def __init__(self, root: Path) -> None:
        # As the kernel tells it.
        self.root = root.resolve()
        config = effective_config([("test", {"name_prefix": PREFIX})])
        capacity = {"reserved_memory": "0", "reserved_cpus": 0.0, "reserved_disk": "64m", "cpu_overcommit": 1.0}
        self.config = config | {"capacity": capacity, "levels": {"hard": {"resources": DEFAULTS}}}
        self.image = f"{PREFIX}-resources:latest"
        self.info = json.loads(docker("info", "--format", "json"))
        for folder in ("multi_tenancy", "clients"):
            (self.root / folder).mkdir()
        empty = self.root / "empty.tar"
        subprocess.run(["tar", "--create", "--file", empty, "--files-from", "/dev/null"], check=True)
        docker("import", "--change", f"LABEL {TEST_LABEL}", str(empty), self.image)

    # ---- the module

    def module(self, name: str, clients: Sequence[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Run a module as Ansible does, and return its result."""
        places = {"root": str(self.root), "log_dir": str(self.root / "log")}
        args = {"config": self.config, "clients": list(clients), "_ansible_diff": True, **places, **options}
        command = [sys.executable, "-c", MODULE, json.dumps(sys.path), name, json.dumps(args)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def run(self, *clients: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Run client_resources, which must succeed."""
        result = self.module("client_resources", clients, **options)
        assert not result.get("failed"), result["msg"]
        return result

    def refused(self, *clients: dict[str, Any], **options: Any) -> str:
        """Run client_resources, which must fail; the reason."""
        result = self.module("client_resources", clients, **options)
        assert result.get("failed"), result
        return str(result["msg"])

    # ---- clients

    def data(self, client_id: str, *path: str) -> Path:
        return self.root.joinpath("clients", client_id, "data", *path)

    def volume(self, name: str) -> Path:
        return self.root / "multi_tenancy" / "volumes" / name

    def fill(self, client: dict[str, Any]) -> None:
        """Data as a client has it before it becomes hard."""
        site = self.data(client["client_id"], "site")
        site.mkdir(parents=True)
        (site / "page").write_text(f"the page of {client['client_id']}", encoding="ascii")
        (site / "out").symlink_to("/etc/passwd")
        os.link(site / "page", site / "same")
        for path in (site, site / "page", site / "out"):
            os.chown(path, client["uid"], client["uid"], follow_symlinks=False)
        for path in (site.parent, site.parent.parent):
            os.chown(path, 0, client["uid"])

    def is_mounted(self, client_id: str) -> bool:
        return str(self.data(client_id)) in mount_points()

    # ---- containers

    def start(self, client_id: str, name: str, *command: str, options: Sequence[str] = ()) -> str:
        """Start a container that has the client's site at /data; its name."""
        full = f"{PREFIX}-{client_id}.{name}"
        labels = [TEST_LABEL, f"agency_stack.platform={PREFIX}", f"agency_stack.client_id={client_id}"]
        docker(
            *("run", "--detach", "--name", full, "--network", "none", "--stop-timeout", "0", *PROGRAMS),
            *(f"--label={label}" for label in labels),
            *("--mount", f"type=bind,source={self.data(client_id, 'site')},target=/data"),
            *(*options, self.image, *command),
        )
        return full

    def write(self, container: str, mebibytes: int) -> tuple[int, str]:
        """Write a file in a container: (exit code, what was said)."""
        script = f"dd if=/dev/zero of=/data/big bs=1M count={mebibytes} conv=fsync"
        done = subprocess.run(
            ["docker", "exec", container, "sh", "-c", script], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    # ---- tidying

    def tidy(self) -> None:
        """Take away all that tests made, whatever state they left it in."""
        ids = docker("ps", "--all", "--quiet", "--filter", f"label=agency_stack.platform={PREFIX}").split()
        if ids:
            docker("rm", "--force", "--volumes", *ids)
        for point in sorted(mount_points(), reverse=True):
            if point.startswith(f"{self.root}/"):
                subprocess.run(["umount", point], check=True)
        for file, device in read_loops().items():
            if file.startswith(f"{self.root}/"):
                subprocess.run(["losetup", "--detach", device], check=True)
        for folder in self.root.glob("clients/*/data"):
            _volume_apply.set_immutable(str(folder), False)
        shutil.rmtree(self.root / "clients")
        shutil.rmtree(self.root / "multi_tenancy")
        for folder in ("multi_tenancy", "clients"):
            (self.root / folder).mkdir()
        for parent in Path("/sys/fs/cgroup").glob(f"**/agency_stack/{PREFIX}-*"):
            for below in sorted(parent.glob("**/"), reverse=True):
                below.rmdir()
            with contextlib.suppress(OSError):
                parent.parent.rmdir()
        # Without clients the boot unit goes.
        self.run({"client_id": "nobody", "index": 1, "uid": 1, "isolation_level": "soft", "state": "present"})


def mount_points() -> list[str]:
    return [mount.point for mount in read_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))]


def client(client_id: str, index: int = 1, **resources: Any) -> dict[str, Any]:
    """A hard client's registry entry."""
    entry: dict[str, Any] = {"client_id": client_id, "index": index, "uid": 1900000000 + index, "state": "present"}
    return entry | {"gid": entry["uid"], "isolation_level": "hard", "resources": resources}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("resources"))
    yield host
    docker("image", "rm", "--force", host.image)


@pytest.fixture
def host(machine: Host) -> Iterator[Host]:
    machine.tidy()
    yield machine
    machine.tidy()


# ---- volumes


def test_a_full_volume_is_full_for_that_client_alone(host: Host) -> None:
    small, large = client("small", 1, disk="32m"), client("large", 2, disk="64m")
    for each in (small, large):
        host.fill(each)
    first = host.run(small, large)
    assert first["changed"] is True
    assert host.run(small, large)["changed"] is False
    options = MOUNT_OPTIONS.split(",")
    flags = subprocess.run(
        ["findmnt", "--noheadings", "--output=OPTIONS", host.data("small")], capture_output=True, text=True, check=True
    ).stdout
    assert {"nodev", "nosuid"} <= set(options) & set(flags.strip().split(","))
    containers = [host.start(each["client_id"], "site", "sleep", "600") for each in (small, large)]
    refused, said = host.write(containers[0], 40)
    assert refused != 0
    assert "No space left on device" in said
    assert host.write(containers[1], 40)[0] == 0
    # What they had is there, and reads the same in the container.
    for each, container in zip((small, large), containers, strict=True):
        assert docker("exec", container, "cat", "/data/same") == f"the page of {each['client_id']}"
        assert sorted(os.listdir(host.data(each["client_id"]))) == ["site"]
    # The host's disk has it all reserved.
    for name, size in (("small.img", 32), ("large.img", 64)):
        status = host.volume(name).stat()
        assert status.st_size == size * MIB <= status.st_blocks * 512
        assert status.st_mode & 0o777 == 0o600


def test_check_mode_touches_nothing(host: Host) -> None:
    acme = client("acme")
    host.fill(acme)
    before = tree(host.root)
    result = host.run(acme, _ansible_check_mode=True)
    assert result["changed"] is True
    assert tree(host.root) == before
    assert host.run(acme)["diff"] == result["diff"]


def test_a_volume_grows_under_a_running_container_and_never_shrinks(host: Host) -> None:
    acme = client("acme", disk="32m")
    host.fill(acme)
    host.run(acme)
    container = host.start("acme", "site", "sleep", "600")
    assert host.write(container, 40)[0] != 0
    acme["resources"]["disk"] = "64m"
    planned = host.run(acme, _ansible_check_mode=True)
    result = host.run(acme)
    assert [change["kind"] for change in result["changes"]] == ["volume"]
    # Where the kernel does not let us enlarge what is mounted, the container is stopped and started again.
    assert planned["interrupted"] == result["interrupted"] == ([] if _volume_apply.can_grow_mounted() else ["acme"])
    assert host.run(acme)["changed"] is False
    assert docker("inspect", "--format", "{{.State.Running}}", container).strip() == "true"
    assert host.write(container, 40)[0] == 0
    assert docker("exec", container, "cat", "/data/page") == "the page of acme"
    status = host.volume("acme.img").stat()
    assert status.st_size == 64 * MIB <= status.st_blocks * 512
    acme["resources"]["disk"] = "48m"
    assert host.refused(acme) == (
        "Client acme: Its volume of 64 MiB cannot be made smaller; let resources.disk be 64m or more."
    )
    assert docker("exec", container, "cat", "/data/page") == "the page of acme"


def test_growing_that_was_interrupted_goes_on(host: Host) -> None:
    acme = client("acme", disk="32m")
    host.run(acme)
    # As a run that was killed between the image and its file system leaves it.
    with open(host.volume("acme.img"), "r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, 48 * MIB)
    acme["resources"]["disk"] = "48m"
    assert host.run(acme)["changed"] is True
    assert host.run(acme)["changed"] is False
    usable = os.statvfs(host.data("acme"))
    assert usable.f_blocks * usable.f_frsize > 40 * MIB


def test_twenty_one_volumes_at_once(host: Host) -> None:
    clients = [client(f"client-{number}", number, disk="16m") for number in range(1, 22)]
    for each in clients:
        host.fill(each)
    host.run(*clients)
    assert host.run(*clients)["changed"] is False
    devices = set()
    for each in clients:
        site = host.data(each["client_id"], "site")
        assert (site / "page").read_text(encoding="ascii") == f"the page of {each['client_id']}"
        devices.add(site.stat().st_dev)
        with open(site / "big", "wb") as handle, pytest.raises(OSError, match="No space left on device"):
            handle.write(bytes(16 * MIB))
            os.fsync(handle.fileno())
    assert len(devices) == len(clients)


def test_a_trimmed_image_is_reserved_again(host: Host) -> None:
    acme = client("acme")
    host.run(acme)
    image = host.volume("acme.img")
    subprocess.run(["fstrim", host.data("acme")], check=True)
    assert image.stat().st_blocks * 512 < image.stat().st_size
    [change] = host.run(acme)["changes"]
    assert (change["kind"], change["action"]) == ("volume", "update")
    assert image.stat().st_blocks * 512 >= image.stat().st_size
    assert host.run(acme)["changed"] is False


def test_a_container_does_not_start_on_an_unmounted_volume(host: Host) -> None:
    acme = client("acme")
    host.fill(acme)
    host.run(acme)
    container = host.start("acme", "site", "sleep", "600")
    docker("stop", container)
    docker("start", container)
    docker("stop", container)
    subprocess.run(["umount", host.data("acme")], check=True)
    done = subprocess.run(["docker", "start", container], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "site" in done.stderr
    # Nothing was written to the host's disk, nor can it be.
    assert os.listdir(host.data("acme")) == []
    with pytest.raises(PermissionError):
        host.data("acme", "site").mkdir()
    assert host.run(acme)["changed"] is True
    docker("start", container)
    assert docker("exec", container, "cat", "/data/page") == "the page of acme"


def test_a_volume_that_was_not_unmounted_is_checked_first(host: Host) -> None:
    acme = client("acme")
    host.fill(acme)
    host.run(acme)
    subprocess.run(["umount", host.data("acme")], check=True)
    image = host.volume("acme.img")
    # The free blocks are counted wrongly, and the state says that it was in use.
    for request in ("set_super_value free_blocks_count 7", "set_super_value state 0"):
        subprocess.run(["debugfs", "-w", "-R", request, image], capture_output=True, check=True)
    assert host.run(acme)["changed"] is True
    assert host.data("acme", "site", "page").read_text(encoding="ascii") == "the page of acme"
    subprocess.run(["umount", host.data("acme")], check=True)
    with open(image, "r+b") as handle:
        handle.write(os.urandom(64) * 16384)
    assert "Its volume holds no file system; put a copy in its place." in host.refused(acme)


def test_a_volume_that_a_container_holds_is_not_let_go(host: Host) -> None:
    acme = client("acme")
    host.fill(acme)
    host.run(acme)
    container = host.start("acme", "site", "sleep", "600")
    pid = docker("inspect", "--format", "{{.State.Pid}}", container).strip()
    leaving = acme | {"state": "absent", "removal": "keep"}
    # It runs in a cgroup of its own, and its mounts are not those of the host.
    assert f"is still in use by process {pid} (sleep); stop it and run again." in host.refused(leaving, state="absent")
    assert host.is_mounted("acme")
    assert docker("exec", container, "cat", "/data/page") == "the page of acme"
    docker("rm", "--force", container)
    host.run(leaving, state="absent")
    assert not host.is_mounted("acme")


def test_a_client_that_is_hard_no_more_has_its_data_in_a_folder_again(host: Host) -> None:
    acme, other = client("acme", 1), client("other", 2)
    host.fill(acme)
    before = tree(host.data("acme"))
    result = host.run(acme, other)
    container = host.start(
        "acme", "site", "sleep", "600", options=["--cgroup-parent", result["cgroup_parents"]["acme"]]
    )
    acme["isolation_level"] = "medium"
    left = host.run(acme, other)
    assert (left["interrupted"], left["pending"]) == (["acme"], ["acme"])
    assert not host.is_mounted("acme")
    assert tree(host.data("acme")) == before
    assert docker("exec", container, "cat", "/data/page") == "the page of acme"
    assert sorted(path.name for path in host.volume("").iterdir()) == [".mnt", "other.img", "other.limits"]
    docker("rm", "--force", container)
    last = host.run(acme, other)
    assert ([change["kind"] for change in last["changes"]], last["pending"]) == (["cgroup"], [])
    assert host.run(acme, other)["changed"] is False


def test_a_removed_client_gets_its_volume_back_with_another_uid(host: Host) -> None:
    acme = client("acme", 1)
    host.fill(acme)
    host.run(acme)
    (host.data("acme", "site") / "later").write_text("later", encoding="ascii")
    leaving = acme | {"state": "absent", "removal": "keep", "removed_at": "2026-01-31T12:00:00+00:00"}
    assert host.run(leaving, state="absent")["changed"] is True
    assert host.run(leaving, state="absent")["changed"] is False
    kept = host.root / "multi_tenancy" / "removed"
    kept.mkdir()
    assert host.module("client_storage", [leaving], state="absent")["changed"] is True
    assert [path.name for path in kept.glob("*/*")] == ["data.img"]
    again = client("acme", 9)
    host.run(again, restore={"acme": "latest"})
    assert host.run(again, restore={"acme": "latest"})["changed"] is False
    site = host.data("acme", "site")
    assert (site / "later").read_text(encoding="ascii") == "later"
    owners = {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in (site, site / "page", site / "later")}
    assert owners == {"site": (1900000009, 1900000009), "page": (1900000009, 1900000009), "later": (0, 0)}
    assert list(kept.iterdir()) == []
    # Deleted for good, nothing is left of it.
    gone = again | {"state": "absent", "removal": "purge"}
    host.run(gone, state="absent")
    assert not list(host.root.rglob("*.img"))
    assert host.run(gone, state="absent")["changed"] is False


# ---- kills


class Disk:
    """One client's volume, driven without the module.

    Args:
        host: Where it lies.
        client_id: Whose it is.
    """

    def __init__(self, host: Host, client_id: str = "acme") -> None:
        self.host = host
        self.client = client(client_id)
        self.volumes = VolumeHost(Layout(str(host.root)), lambda client_id, writers=False: contextlib.nullcontext())
        self.volume = Volume(client_id, self.client["uid"], "itr-1", 16 * MIB)

    def converge(self, size: int | None, fate: Fate | None = None) -> bool:
        """Do all steps; whether there were any."""
        volume = replace(self.volume, size=size)
        state = self.volumes.read([volume.client_id])
        images = {volume.client_id: self.volumes.image(volume.client_id)}
        changes, faults = plan_volumes([(volume, fate)], state, images, 2**40, online=False)
        assert faults == []
        for change in changes:
            self.volumes.apply(change)
        return bool(changes)

    def names(self) -> list[str]:
        """What there is beside the data and the volume: nothing but what a finished step leaves."""
        folders = [self.host.volume(""), self.host.volume(".mnt"), self.host.root / "clients" / self.volume.client_id]
        return sorted(path.name for folder in folders if folder.is_dir() for path in folder.iterdir())

    def killed_at(self, number: int, size: int | None, fate: Fate | None = None) -> bool:
        """Converge in a process that is killed at its n-th effect; whether it got there."""
        pid = os.fork()
        if pid == 0:
            try:
                kill_at(number)
                self.converge(size, fate)
            except BaseException:
                os._exit(9)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)


def kill_at(number: int) -> None:
    """Let this process be killed at its n-th effect, before it or, for programs, also after it."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            step()
            result = function(*args, **kwargs)
            if after:
                step()
            return result

        return call

    for name in ("rename", "mkdir", "rmdir", "unlink", "fsync", "posix_fallocate", "sendfile", "symlink", "chown"):
        setattr(os, name, watched(getattr(os, name)))
    for name in ("must_run", "run_program", "set_immutable"):
        setattr(_volume_apply, name, watched(getattr(_volume_apply, name), after=True))
    assert _copy.os is os


def until_not_killed(disk: Disk, size: int | None, prepare: Callable[[], None], check: Callable[[], None]) -> int:
    """Kill at each effect in turn, let the next run finish, and check; the number of kills."""
    number = 0
    while True:
        prepare()
        number += 1
        killed = disk.killed_at(number, size)
        disk.converge(size)
        assert disk.converge(size) is False
        check()
        if not killed:
            return number - 1


def test_killed_at_every_moment_while_data_moves_in(host: Host) -> None:
    disk = Disk(host)
    host.fill(disk.client)
    before = tree(host.data("acme"))

    def check() -> None:
        assert host.is_mounted("acme")
        assert tree(host.data("acme")) == before
        assert disk.names() == [".mnt", "acme.img", "data"]

    kills = until_not_killed(disk, 16 * MIB, lambda: disk.converge(None) and None, check)
    assert kills > 25


def test_killed_at_every_moment_while_shared_data_moves_in(host: Host) -> None:
    disk = Disk(host)
    host.fill(disk.client)
    own, shared = host.data("acme", "site"), host.root / "multi_tenancy" / "shared" / "site" / "acme"
    shared.parent.mkdir(parents=True)
    uid = disk.client["uid"]
    folder = SharedFolder("acme", str(own), str(shared), True, uid, uid, 1900000099)
    lent = replace(folder, to_shared=False)
    folder.apply()
    lent.apply()
    before = tree(own)

    def prepare() -> None:
        disk.volume = replace(disk.volume, shared=())
        disk.converge(None)
        folder.apply()
        disk.volume = replace(disk.volume, shared=(lent,))

    def check() -> None:
        assert host.is_mounted("acme")
        assert tree(own) == before
        assert not shared.exists()
        assert disk.names() == [".mnt", "acme.img", "data"]

    assert until_not_killed(disk, 16 * MIB, prepare, check) > 30


def test_killed_at_every_moment_while_data_moves_out(host: Host) -> None:
    disk = Disk(host)
    host.fill(disk.client)
    before = tree(host.data("acme"))

    def check() -> None:
        assert not host.is_mounted("acme")
        assert tree(host.data("acme")) == before
        assert disk.names() == [".mnt", "data"]
        # It is an ordinary folder again.
        (host.data("acme") / "new").mkdir()
        (host.data("acme") / "new").rmdir()
        os.utime(host.data("acme"), ns=(before_times, before_times))

    before_times = 10**18
    os.utime(host.data("acme"), ns=(before_times, before_times))
    kills = until_not_killed(disk, None, lambda: disk.converge(16 * MIB) and None, check)
    assert kills > 15


def test_killed_at_every_moment_and_then_not_wanted_any_more(host: Host) -> None:
    disk = Disk(host)
    number = 0
    killed = True
    while killed:
        number += 1
        killed = disk.killed_at(number, 16 * MIB)
        disk.converge(None)
        assert disk.converge(None) is False
        # What it left is no trap for others: an ordinary folder, if any.
        host.data("acme").mkdir(parents=True, exist_ok=True)
        (host.data("acme") / "site").mkdir()
        (host.data("acme") / "site").rmdir()
        host.data("acme").rmdir()
        assert disk.names() in ([], [".mnt"])
    assert number > 15


def test_killed_at_every_moment_while_it_grows(host: Host) -> None:
    disk = Disk(host)
    host.fill(disk.client)
    before = tree(host.data("acme"))
    sizes = iter(range(16 * MIB, 200 * MIB, MIB))
    size = next(sizes)
    number = 0
    killed = True
    disk.converge(size)
    while killed:
        number, size = number + 1, next(sizes)
        killed = disk.killed_at(number, size)
        disk.converge(size)
        assert disk.converge(size) is False
        after = tree(host.data("acme"))
        # Killed before it was hidden.
        after.pop("lost+found", None)
        assert after == before
        state = disk.volumes.read(["acme"])["acme"]
        assert (state.size, state.file_system, state.reserved, state.mounted) == (size, size, True, True)
    assert number > 10


def test_killed_at_every_moment_while_it_is_put_away(host: Host) -> None:
    disk = Disk(host)
    host.fill(disk.client)
    before = tree(host.data("acme"))
    number = 0
    killed = True
    while killed:
        disk.converge(16 * MIB)
        assert tree(host.data("acme")) == before
        number += 1
        killed = disk.killed_at(number, None, "keep")
        disk.converge(None, "keep")
        assert disk.converge(None, "keep") is False
        assert [name for name in disk.names() if name != "data"] == [".mnt", "data.img"]
        assert not host.is_mounted("acme")
    assert number > 5


def test_the_module_is_killed_while_it_copies(host: Host) -> None:
    acme = client("acme", disk="128m")
    host.fill(acme)
    for number in range(90):
        (host.data("acme", "site") / f"{number}").write_bytes(os.urandom(MIB))
    before = tree(host.data("acme"))
    args = {"root": str(host.root), "log_dir": str(host.root / "log"), "config": host.config, "clients": [acme]}
    command = [sys.executable, "-c", MODULE, json.dumps(sys.path), "client_resources", json.dumps(args)]
    aside = host.volume(".mnt") / "acme"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not (aside / "site" / "5").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.kill()
    assert not host.volume("acme.img").exists()
    assert str(aside) in mount_points()
    assert tree(host.data("acme")) == before
    host.run(acme)
    assert tree(host.data("acme")) == before
    assert str(aside) not in mount_points()
    assert host.run(acme)["changed"] is False


def test_an_image_that_another_program_is_at_work_on_is_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(host)
    disk.converge(16 * MIB)
    monkeypatch.setattr(_volume_apply, "PATIENCE", 0.1)
    with open(host.volume("acme.img"), "rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(TenancyError, match="is still worked on by a program of an earlier run"):
            disk.converge(24 * MIB)
    assert disk.converge(24 * MIB) is True


def test_a_program_that_outlives_its_killed_run_is_waited_for(host: Host) -> None:
    """Two programs at work on one image would destroy it."""
    disk = Disk(host)
    disk.converge(16 * MIB)
    image = str(host.volume("acme.img"))
    pid = os.fork()
    if pid == 0:
        with disk.volumes._held(image) as fd:
            _volume_apply.run_program(["sleep", "1.5"], 10, [fd])
        os._exit(0)
    with open(image, "rb") as handle:

        def is_held() -> bool:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(handle, fcntl.LOCK_UN)
            return False

        wait_for(lambda: is_held() and b"sleep" in children_of(pid))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert is_held()
        assert disk.converge(24 * MIB) is True
        assert not is_held()


def children_of(pid: int) -> bytes:
    """The commands of a process's children."""
    done = subprocess.run(["ps", "--ppid", str(pid), "-o", "comm="], capture_output=True, check=False)
    return done.stdout


def test_data_that_does_not_fit_stays_where_it_is(host: Host) -> None:
    acme = client("acme", disk="16m")
    host.fill(acme)
    (host.data("acme", "site") / "big").write_bytes(bytes(20 * MIB))
    before = tree(host.data("acme"))
    container = host.start("acme", "site", "sleep", "600")
    assert host.refused(acme) == "Client acme: The data of the client does not fit into a volume of 16 MiB."
    assert tree(host.data("acme")) == before
    assert list(host.volume("").iterdir()) == [host.volume(".mnt")]
    assert docker("inspect", "--format", "{{.State.Running}}", container).strip() == "true"
    acme["resources"]["disk"] = "64m"
    assert host.run(acme)["interrupted"] == ["acme"]
    assert tree(host.data("acme")) == before
    assert docker("exec", container, "cat", "/data/page") == "the page of acme"


@pytest.mark.parametrize("disk", [130 * MIB, 257 * MIB, 512 * MIB + 1])
def test_file_systems_are_as_large_as_their_images(host: Host, disk: int) -> None:
    drive = Disk(host)
    drive.converge(16 * MIB)
    drive.converge(image_size(disk))
    state = drive.volumes.read(["acme"])["acme"]
    assert state.size == state.file_system == image_size(disk)
    assert drive.converge(image_size(disk)) is False


# ---- cgroups

ALLOCATE = "import sys, time; held = bytearray(int(sys.argv[1]) << 20); print('held', flush=True); time.sleep(60)"
SPIN = """
import time
end = time.monotonic() + 3
while time.monotonic() < end:
    pass
print(time.process_time())
"""
FORK = "for number in $(seq 24); do sleep 60 & done; echo all; wait"


def ended(container: str) -> int | None:
    """The exit code of a container, or None while it runs."""
    state = json.loads(docker("inspect", "--format", "{{json .State}}", container))
    return None if state["Running"] else int(state["ExitCode"])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.05)


@pytest.fixture
def pair(host: Host) -> dict[str, list[str]]:
    """Two clients, of which one has little; the options of their containers."""
    little = client("little", 1, memory="64m", cpus=0.5, pids=40)
    much = client("much", 2, memory="256m", cpus=2.0, pids=200)
    for each in (little, much):
        host.fill(each)
    parents = host.run(little, much)["cgroup_parents"]
    return {name: ["--cgroup-parent", parent, "--memory=60m", "--memory-swap=60m"] for name, parent in parents.items()}


def test_memory_of_all_containers_together(host: Host, pair: dict[str, list[str]]) -> None:
    containers = {}
    for name, options in pair.items():
        one = host.start(name, "one", "python3", "-c", ALLOCATE, "40", options=options)
        wait_for(lambda one=one: docker("logs", one) == "held\n")  # type: ignore[misc]
        containers[name] = [one, host.start(name, "two", "python3", "-c", ALLOCATE, "40", options=options)]
    wait_for(lambda: any(ended(each) is not None for each in containers["little"]))
    wait_for(lambda: docker("logs", containers["much"][1]) == "held\n")
    assert 137 in [ended(each) for each in containers["little"]]
    assert [ended(each) for each in containers["much"]] == [None, None]


def test_processes_of_all_containers_together(host: Host, pair: dict[str, list[str]]) -> None:
    said = {}
    for name, options in pair.items():
        for number in ("one", "two"):
            container = host.start(name, number, "sh", "-c", FORK, options=options)
            wait_for(lambda container=container: docker("logs", container) != "" or ended(container) is not None)  # type: ignore[misc]
            said[f"{name} {number}"] = docker("logs", container).strip()
    assert said == {"little one": "all", "little two": "", "much one": "all", "much two": "all"}


def test_cpu_time_of_all_containers_together(host: Host, pair: dict[str, list[str]]) -> None:
    used = {}
    for name, options in pair.items():
        both = [host.start(name, number, "python3", "-c", SPIN, options=options) for number in ("one", "two")]
        wait_for(lambda both=both: all(ended(each) is not None for each in both))  # type: ignore[misc]
        used[name] = sum(float(docker("logs", each)) for each in both) / 3
    # Starting up is counted too.
    assert used["little"] < 0.65
    assert used["much"] > 0.8


def test_limits_change_while_containers_run(host: Host) -> None:
    acme = client("acme", memory="96m", cpus=1.0, pids=100)
    host.fill(acme)
    name = host.run(acme)["cgroup_parents"]["acme"]
    options = ["--cgroup-parent", name, "--memory=90m", "--memory-swap=90m", "--cpus=1"]
    container = host.start("acme", "one", "python3", "-c", ALLOCATE, "50", options=options)
    wait_for(lambda: docker("logs", container) == "held\n")
    cgroups = cgroup_host(engine_cgroups(host.info))
    for memory, cpus, pids in (("128m", 2.0, 200), ("64m", 0.5, 50)):
        acme["resources"] = {"memory": memory, "cpus": cpus, "pids": pids}
        result = host.run(acme)
        assert ([change["kind"] for change in result["changes"]], result["interrupted"]) == (
            ["cgroup", "boot limits"],
            [],
        )
        wanted = Limits(int(memory[:-1]) * MIB, 0, int(cpus * 100000), pids)
        assert cgroups.read([name])[name].limits == wanted
        assert host.run(acme)["changed"] is False
    acme["resources"]["memory"] = "32m"
    assert "Its memory cannot be limited to 32 MiB while its containers use" in host.refused(acme)
    assert ended(container) is None
    assert cgroups.read([name])[name].limits == wanted


def test_a_cgroup_in_which_something_runs_is_not_removed(host: Host) -> None:
    acme = client("acme")
    host.fill(acme)
    name = host.run(acme)["cgroup_parents"]["acme"]
    container = host.start("acme", "one", "sleep", "600", options=["--cgroup-parent", name])
    leaving = acme | {"state": "absent", "removal": "purge"}
    message = host.refused(leaving, state="absent")
    assert f"The cgroup {name} cannot be removed because something still runs in it" in message
    assert docker("exec", container, "cat", "/data/page") == "the page of acme"
    docker("rm", "--force", container)
    # The engine leaves the parent.
    assert cgroup_host(engine_cgroups(host.info)).read([name])[name].limits is not None
    host.run(leaving, state="absent")
    assert list(Path("/sys/fs/cgroup").glob(f"**/{PREFIX}-acme")) == []


def test_what_is_run_at_boot_gives_everything_back(host: Host) -> None:
    clients = [client("acme", 1, memory="96m"), client("beta", 2, disk="16m"), client("gone", 3)]
    for each in clients:
        host.fill(each)
    result = host.run(*clients)
    names = list(result["cgroup_parents"].values())
    cgroups = cgroup_host(engine_cgroups(host.info))
    limits = {name: cgroups.read([name])[name].limits for name in names}
    # As after a power cut.
    for each in clients:
        subprocess.run(["umount", host.data(each["client_id"])], check=True)
    for parent in Path("/sys/fs/cgroup").glob(f"**/agency_stack/{PREFIX}-*"):
        parent.rmdir()
    host.volume("gone.img").write_bytes(bytes(MIB))
    script = host.root / "multi_tenancy" / "resources.sh"
    done = subprocess.run([script, "start"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"the volume {host.volume('gone.img')} is damaged" in done.stderr
    assert [host.is_mounted(each["client_id"]) for each in clients] == [True, True, False]
    assert {name: cgroups.read([name])[name].limits for name in names} == limits
    assert host.run(*clients[:2])["changed"] is False
    assert host.data("acme", "site", "page").read_text(encoding="ascii") == "the page of acme"
