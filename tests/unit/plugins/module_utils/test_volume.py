# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes of hard clients: what is to be done in each state, and the copying of data.

Real file systems, kills at every moment and full disks are in tests/integration. Owners need root.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _volume_apply
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._boot import MOUNT_OPTIONS
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._copy import (
    ChangedError,
    copy_at_rest,
    copy_tree,
    marks,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import GIB, MIB
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Erase, default_acl
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume import (
    Fate,
    Leftover,
    Mount,
    Step,
    Task,
    Volume,
    VolumeState,
    file_system_size,
    image_size,
    plan_volume,
    plan_volumes,
    read_mounts,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume_apply import (
    VolumeHost,
    can_grow_mounted,
)
from ansible_collections.agency_stack.multi_tenancy.tests.unit.helpers import tree
from hypothesis import given
from hypothesis import strategies as st

SIZE = 64 * MIB
WANTED = Volume("acme", 1900000001, "mt-7", SIZE)
UNWANTED = Volume("acme", 1900000001, "mt-7", None)
MOUNTED = VolumeState(SIZE, SIZE, mounted=True, data="filled")


def state(*left: Leftover, **parts: Any) -> VolumeState:
    return VolumeState(leftovers=frozenset(left), **parts)


def image(*left: Leftover, size: int = SIZE, **parts: Any) -> VolumeState:
    return state(*left, size=size, **({"file_system": size} | parts))


# ---- the client stays, and is hard
@pytest.mark.parametrize(
    ("there", "steps"),
    [
        (state(), ["make"]),
        (state(data="empty"), ["make"]),
        (state(data="filled"), ["make", "erase"]),
        (MOUNTED, []),
        (image(data="empty"), ["mount"]),
        (image(), ["mount"]),
        (image(size=SIZE // 2, mounted=True, data="filled"), ["grow"]),
        (image(size=SIZE // 2), ["grow", "mount"]),
        # Killed between the image and the file system in it.
        (image(file_system=SIZE // 2, mounted=True, data="filled"), ["grow"]),
        # Somebody trimmed it.
        (image(reserved=False, mounted=True, data="filled"), ["reserve"]),
        # Killed while data was moved in, before and after it counted.
        (state("new", data="filled"), ["tidy", "make", "erase"]),
        (state("new", "aside", data="filled"), ["tidy", "make", "erase"]),
        (state("new", "before"), ["roll back", "tidy", "make", "erase"]),
        (state("new", "before", data="empty"), ["roll back", "tidy", "make", "erase"]),
        (image("before", data="empty"), ["mount", "tidy", "erase"]),
        (image("gone", data="empty"), ["mount", "erase"]),
        (image("before", mounted=True, data="filled"), ["tidy", "erase"]),
        (image("gone", mounted=True, data="filled"), ["erase"]),
        # Killed while data was moved out, before and after it counted; now it is to be in a volume again.
        (image("after", mounted=True, data="filled"), ["tidy"]),
        (state("after", "old", data="empty"), ["roll forward", "make", "erase"]),
        (state("old", data="filled"), ["tidy", "make", "erase"]),
        # Restored.
        (state(kept=SIZE), ["take back", "mount"]),
        (state(kept=SIZE // 2, data="empty"), ["take back", "grow", "mount"]),
        (state("aside", kept=SIZE), ["tidy", "take back", "mount"]),
    ],
)
def test_steps_of_a_hard_client(there: VolumeState, steps: list[Step]) -> None:
    assert plan_volume(WANTED, there) == (steps, None)
    assert plan_volume(WANTED, there, settle=False) == ([step for step in steps if step != "erase"], None)


# ---- the client stays, and is hard no more
@pytest.mark.parametrize(
    ("there", "steps"),
    [
        (state(), []),
        (state(data="filled"), []),
        (MOUNTED, ["move out"]),
        (image(data="empty"), ["mount", "move out"]),
        (image("after", mounted=True, data="filled"), ["tidy", "move out"]),
        (state("after", "old", data="empty"), ["roll forward"]),
        (state("after", "old"), ["roll forward"]),
        (state("old", data="filled"), ["tidy"]),
        (state("new", data="filled"), ["tidy"]),
        (state("new", "before", data="empty"), ["roll back", "tidy"]),
        (image("before", data="empty"), ["tidy", "mount", "move out", "erase"]),
        (state("gone", data="filled"), ["erase"]),
        (state(kept=SIZE), ["take back", "mount", "move out"]),
    ],
)
def test_steps_of_a_client_that_is_not_hard(there: VolumeState, steps: list[Step]) -> None:
    assert plan_volume(UNWANTED, there) == (steps, None)


# ---- the client goes
@pytest.mark.parametrize(
    ("there", "keep", "purge"),
    [
        (state(), [], []),
        (state(data="filled"), [], []),
        (MOUNTED, ["put away"], ["purge"]),
        (image(data="empty"), ["put away"], ["purge"]),
        (image("before", data="empty"), ["put away", "tidy", "erase"], ["purge", "tidy", "erase"]),
        (state("after", "old", data="empty"), ["roll forward"], ["roll forward"]),
        (state("before"), ["roll back"], ["roll back"]),
        # Done already, the folder not yet moved.
        (state(kept=SIZE), [], []),
        (state(kept=SIZE, data="empty"), [], []),
    ],
)
def test_steps_of_a_client_that_goes(there: VolumeState, keep: list[Step], purge: list[Step]) -> None:
    assert plan_volume(UNWANTED, there, "keep") == (keep, None)
    assert plan_volume(UNWANTED, there, "purge") == (purge, None)


@pytest.mark.parametrize(
    ("there", "fault"),
    [
        (state(in_the_way="The mount of /dev/sdb1 at x"), "The mount of /dev/sdb1 at x is in the way"),
        (image(kept=SIZE), "It has two volumes, one of them kept in its folder as data.img"),
        (image("old"), "It has two volumes, one of them left as .old"),
        (image(file_system=None), "holds no file system"),
        (image(data="filled"), "There are files in data although its volume is not mounted there"),
        (state("after"), "data.after was copied out of a volume that is no longer there"),
        (state("after", "old", data="filled"), "both data and data.after"),
        (state("before", data="filled"), "both data and data.before"),
        (state(kept=SIZE, data="filled"), "both data and a volume kept as data.img"),
    ],
)
@pytest.mark.parametrize("volume", [WANTED, UNWANTED], ids=["wanted", "unwanted"])
def test_what_a_person_must_decide_is_told_and_nothing_is_done(there: VolumeState, fault: str, volume: Volume) -> None:
    steps, told = plan_volume(volume, there)
    assert steps == []
    assert told is not None
    assert fault in told


def test_a_volume_is_never_made_smaller_and_is_mounted_all_the_same() -> None:
    steps, fault = plan_volume(WANTED, image(size=2 * GIB))
    assert steps == ["mount"]
    assert fault == "Its volume of 2.0 GiB cannot be made smaller; let resources.disk be 2048m or more."


LEFT: list[Leftover] = ["new", "old", "before", "after", "aside", "gone"]


@given(
    there=st.builds(
        VolumeState,
        size=st.sampled_from([None, SIZE]),
        file_system=st.just(SIZE),
        kept=st.sampled_from([None, SIZE]),
        mounted=st.booleans(),
        leftovers=st.frozensets(st.sampled_from(LEFT)),
        data=st.sampled_from(["missing", "empty", "filled"]),
    ),
    volume=st.sampled_from([WANTED, UNWANTED]),
    fate=st.sampled_from([None, "keep", "purge"]),
)
def test_the_only_copy_is_never_erased(there: VolumeState, volume: Volume, fate: Fate | None) -> None:
    """Leftovers are erased only once it is clear that the data is elsewhere."""
    steps, fault = plan_volume(volume, there, fate)
    if "tidy" in steps and there.size is None:
        done = steps[: steps.index("tidy")]
        assert "before" not in there.leftovers or "roll back" in done or "roll forward" in done
        assert "after" not in there.leftovers or "roll forward" in done
    if fault is not None and there.size is None:
        assert "make" not in steps
    if "erase" in steps:
        assert (steps[-1], fault) == ("erase", None)


def changes_of(
    *wanted: tuple[Volume, VolumeState], free: int = GIB, online: bool = False
) -> tuple[list[tuple[str, str, bool]], list[tuple[str, str]]]:
    changes, faults = plan_volumes(
        [(volume, None) for volume, dummy in wanted],
        {volume.client_id: there for volume, there in wanted},
        {volume.client_id: f"/{volume.client_id}.img" for volume, dummy in wanted},
        free,
        online,
    )
    tasks: list[Task] = [change.payload for change in changes]
    return [(task.volume.client_id, task.step, task.stops) for task in tasks], faults


def of(client_id: str, size: int | None) -> Volume:
    return Volume(client_id, 1900000001, "mt-7", size)


def test_what_does_not_fit_the_disk_is_refused_for_that_client_alone() -> None:
    steps, faults = changes_of(
        (of("a", GIB // 2), state()),
        (of("b", GIB), state()),
        (of("c", GIB // 2), state()),
        (of("d", GIB), image(size=GIB // 2)),
        (of("e", SIZE), image()),
    )
    assert [(client_id, step) for client_id, step, dummy in steps] == [
        ("a", "make"),
        ("c", "make"),
        ("d", "mount"),
        ("e", "mount"),
    ]
    assert faults == [
        ("b", "Its volume takes 1.0 GiB of disk, and 512 MiB are left."),
        ("d", "Its volume takes 512 MiB of disk, and 0 MiB are left."),
    ]


@pytest.mark.parametrize(
    ("volume", "there", "online", "stops"),
    [
        (WANTED, state(), False, [("make", False)]),
        (WANTED, state(data="filled"), False, [("make", True), ("erase", False)]),
        (WANTED, state("before"), False, [("roll back", False), ("make", True), ("erase", False)]),
        (UNWANTED, MOUNTED, False, [("move out", True)]),
        (WANTED, image(size=MIB, mounted=True), True, [("grow", False)]),
        (WANTED, image(size=MIB, mounted=True), False, [("grow", True)]),
        (WANTED, image(size=MIB), False, [("grow", False), ("mount", False)]),
    ],
)
def test_when_containers_are_stopped(
    volume: Volume, there: VolumeState, online: bool, stops: list[tuple[str, bool]]
) -> None:
    steps, dummy = changes_of((volume, there), online=online)
    assert [(step, stop) for dummy, step, stop in steps] == stops


def test_changes_say_what_they_do() -> None:
    [change] = plan_volumes([(WANTED, None)], {"acme": image(size=MIB, mounted=True)}, {"acme": "/x.img"}, GIB, False)[
        0
    ]
    assert (change.action, change.kind, change.name, change.client_id) == ("update", "volume", "/x.img", "acme")
    assert (change.before, change.after) == ({"size": "1 MiB"}, {"size": "64 MiB", "containers": "stopped meanwhile"})


@pytest.mark.parametrize(
    ("disk", "size"),
    [
        (16 * MIB, 16 * MIB),
        (16 * MIB + 1, 17 * MIB),
        (GIB, GIB),
        (129 * MIB, 144 * MIB),
        (128 * MIB + 1, 144 * MIB),
        (144 * MIB, 144 * MIB),
        (145 * MIB, 145 * MIB),
    ],
)
def test_images_are_as_large_as_ext4_uses_them(disk: int, size: int) -> None:
    assert image_size(disk) == size
    assert image_size(size) == size


def test_size_of_a_file_system() -> None:
    block = bytearray(1024)
    struct.pack_into("<I", block, 0x4, 16384)
    struct.pack_into("<I", block, 0x18, 2)
    struct.pack_into("<H", block, 0x38, 0xEF53)
    # Only with the feature 64bit does the upper half count.
    struct.pack_into("<I", block, 0x150, 1)
    assert file_system_size(bytes(block)) == 64 * MIB
    struct.pack_into("<I", block, 0x60, 0x80)
    assert file_system_size(bytes(block)) == 64 * MIB + 2**44
    assert file_system_size(bytes(1024)) is None
    assert file_system_size(bytes(block[:500])) is None


def test_mounts_are_read() -> None:
    text = (
        "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "122 27 7:0 / /srv/a\\040b/data rw,nosuid,nodev master:3 propagate_from:2 - ext4 /dev/loop0 rw,noinit_itable\n"
    )
    assert read_mounts(text) == [Mount("/", "/dev/vda"), Mount("/srv/a b/data", "/dev/loop0")]


@pytest.mark.parametrize(("mask", "expected"), [("000001ffffffffff", True), ("000001fffeffffff", False), ("", False)])
def test_right_to_grow_what_is_mounted(monkeypatch: pytest.MonkeyPatch, mask: str, expected: bool) -> None:
    monkeypatch.setattr(_volume_apply, "read_text", lambda dummy: f"Name:\tx\nCapEff:\t{mask}\nCapBnd:\t{mask}\n")
    assert can_grow_mounted() is expected


class Programs:
    """Programs, mounts and loop devices that are only noted."""

    def __init__(self, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.image = str(image)
        self.calls: list[str] = []
        self.attached = True
        self.codes: dict[str, int] = {}
        for name in ("must_run", "run_program"):
            monkeypatch.setattr(_volume_apply, name, self)
        monkeypatch.setattr(_volume_apply, "read_loops", lambda: {self.image: "/dev/loop9"} if self.attached else {})

    def __call__(self, command: Sequence[str], *_rest: object) -> subprocess.CompletedProcess[str]:
        program = command[0]
        self.calls.append(" ".join(command).replace(self.image, "IMAGE"))
        self.attached = {"umount": False, "mount": True}.get(program, self.attached)
        code = self.codes.get(self.calls[-1], 0)
        return subprocess.CompletedProcess(command, code, "", "it cannot be done")


def grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: bool, codes: Mapping[str, int], fault: str | None = None
) -> list[str]:
    """Let a mounted volume grow from 1 to 2 MiB: the programs that ran, and when containers were stopped.

    Args:
        tmp_path: Where everything lies.
        monkeypatch: Undone by the caller.
        online: Whether the kernel lets us enlarge what is mounted.
        codes: Exit code of commands that fail.
        fault: What the failure must say.
    """
    file, data = (tmp_path / part for part in ("multi_tenancy/volumes/acme.img", "clients/acme/data"))
    file.parent.mkdir(parents=True)
    file.parent.chmod(0o700)
    data.mkdir(parents=True)
    with open(file, "wb") as handle:
        os.posix_fallocate(handle.fileno(), 0, MIB)
    programs = Programs(file, monkeypatch)
    programs.codes = dict(codes)
    monkeypatch.setattr(_volume_apply, "set_immutable", lambda *_args: None)

    @contextlib.contextmanager
    def stopped(client_id: str, writers: bool = False) -> Iterator[None]:
        assert not writers
        programs.calls.append(f"stop {client_id}")
        try:
            yield
        finally:
            programs.calls.append(f"start {client_id}")

    volumes = VolumeHost(Layout(str(tmp_path)), stopped)
    there = image(size=MIB, mounted=True, data="filled")
    [change] = plan_volumes([(of("acme", 2 * MIB), None)], {"acme": there}, {"acme": str(file)}, GIB, online)[0]
    with pytest.raises(TenancyError, match=fault) if fault else contextlib.nullcontext():
        volumes.apply(change)
    assert file.stat().st_size == 2 * MIB <= file.stat().st_blocks * 512
    return [call.replace(str(data), "DATA") for call in programs.calls]


ONLINE = ["losetup --set-capacity /dev/loop9", "resize2fs /dev/loop9"]
OFFLINE = [
    "stop acme",
    "umount DATA",
    "e2fsck -f -p IMAGE",
    "resize2fs IMAGE",
    "e2fsck -p IMAGE",
    f"mount -t ext4 -o {MOUNT_OPTIONS} IMAGE DATA",
    "start acme",
]


@pytest.mark.parametrize(
    ("online", "codes", "calls"),
    [
        (True, {}, ONLINE),
        (False, {}, OFFLINE),
        # It may refuse all the same.
        (True, {"resize2fs /dev/loop9": 1}, [*ONLINE, *OFFLINE]),
    ],
)
def test_growing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: bool, codes: Mapping[str, int], calls: list[str]
) -> None:
    assert grow(tmp_path, monkeypatch, online, codes) == calls


def test_a_volume_that_cannot_be_enlarged_is_mounted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = r"is damaged \(it cannot be done\); repair it with e2fsck"
    calls = grow(tmp_path, monkeypatch, False, {"e2fsck -f -p IMAGE": 4}, fault)
    assert calls == [call for call in OFFLINE if call != "resize2fs IMAGE"]


# ---- copying


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Whatever a client may have."""
    folder = tmp_path / "source"
    (folder / "site" / "below").mkdir(parents=True)
    (folder / "site" / "page").write_text("hello", encoding="ascii")
    os.link(folder / "site" / "page", folder / "site" / "below" / "same")
    (folder / "site" / "program").write_bytes(b"\x7fELF")
    (folder / "site" / "out").symlink_to("/etc/passwd")
    os.link(folder / "site" / "out", folder / "site" / "below" / "out too", follow_symlinks=False)
    (folder / "site" / "folder out").symlink_to("/etc")
    (folder / "site" / "loop").symlink_to("../site")
    (folder / "-rf").write_bytes(b"")
    (folder / "a\nb\udcff").write_bytes(b"x")
    os.mkfifo(folder / "pipe", 0o622)
    with socket.socket(socket.AF_UNIX) as server:
        # The path of a socket is short.
        at = os.open(folder, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{at}/sock")
        os.close(at)
    with open(folder / "holes", "wb") as handle:
        handle.seek(8 * MIB)
        handle.write(b"end")
        handle.truncate(16 * MIB)
    for number, path in enumerate(sorted(folder.rglob("*"))):
        os.chown(path, 1900000001, 1900000000 + number, follow_symlinks=False)
        os.utime(path, ns=(10**18 + number, 10**18 + number), follow_symlinks=False)
    os.setxattr(folder / "site", "system.posix_acl_default", default_acl(1900000001))
    os.setxattr(folder / "site" / "page", "user.note", b"mine")
    (folder / "site" / "program").chmod(0o6755)
    (folder / "site").chmod(0o2750)
    os.chown(folder, 0, 1900000001)
    folder.chmod(0o750)
    os.utime(folder, ns=(10**18, 10**18))
    return folder


def test_a_copy_is_like_its_source(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    copy_tree(str(source), str(target), "there")
    assert tree(target) == tree(source)
    for path in (source, source / "site", source / "site" / "page"):
        copy = target / path.relative_to(source)
        now, then = copy.stat(), path.stat()
        assert (now.st_mode, now.st_uid, now.st_gid, now.st_mtime_ns) == (
            then.st_mode,
            then.st_uid,
            then.st_gid,
            then.st_mtime_ns,
        )
        assert {name: os.getxattr(copy, name) for name in os.listxattr(copy)} == {
            name: os.getxattr(path, name) for name in os.listxattr(path)
        }
    same = [target / "site" / "page", target / "site" / "below" / "same"]
    assert same[0].samefile(same[1])
    assert same[0].stat().st_nlink == 2
    links = [target / "site" / "out", target / "site" / "below" / "out too"]
    assert links[0].lstat().st_ino == links[1].lstat().st_ino
    assert (target / "holes").stat().st_blocks * 512 < MIB
    assert stat.S_ISSOCK((target / "sock").lstat().st_mode)


def test_folders_however_deep_are_copied(tmp_path: Path) -> None:
    """cp and tar give up where a path gets longer than 4096 bytes."""
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    home = os.open(".", os.O_RDONLY)
    depth = 1500
    try:
        os.chdir(tmp_path / "source")
        for number in range(depth):
            os.mkdir("folder")
            os.chdir("folder")
            os.chown(".", 1900000001, number)
        Path("file").write_text("deep", encoding="ascii")
        os.fchdir(home)
        copy_tree(str(tmp_path / "source"), str(tmp_path / "target"), "there")
        os.chdir(tmp_path / "target")
        for number in range(depth):
            os.chdir("folder")
            assert os.stat(".").st_gid == number
        assert Path("file").read_text(encoding="ascii") == "deep"
    finally:
        os.fchdir(home)
        os.close(home)
        for name in ("source", "target"):
            Erase(str(tmp_path / name)).apply()


def test_a_full_disk_is_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    (tmp_path / "target").mkdir()
    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(TenancyError, match="does not fit into a volume of 64 MiB"):
        copy_tree(str(source), str(tmp_path / "target"), "a volume of 64 MiB")


@pytest.mark.parametrize("what", ["source", "target"])
def test_a_link_in_the_place_of_a_folder_is_not_followed(source: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "target"
    if what == "target":
        target.symlink_to("real")
    else:
        target.mkdir()
        source.rename(tmp_path / "elsewhere")
        source.symlink_to("elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        copy_tree(str(source), str(target), "there")
    assert list((tmp_path / "real").iterdir()) == []


# What somebody does to the files, and whether that can be told afterwards.
DONE: dict[str, tuple[Callable[[Path], object], bool]] = {
    "nothing": (lambda folder: None, False),
    "read": (lambda folder: (folder / "site" / "page").read_text(), False),
    "written": (lambda folder: (folder / "site" / "page").write_text("HELLO"), True),
    "with other times": (lambda folder: os.utime(folder / "-rf", (0, 0)), True),
    "made": (lambda folder: (folder / "site" / "below" / "new").touch(), True),
    "removed": (lambda folder: (folder / "pipe").unlink(), True),
    "mode": (lambda folder: (folder / "site").chmod(0o700), True),
    "renamed as a whole": (lambda folder: folder.rename(folder.with_name("other")), False),
}


@pytest.mark.parametrize(("do", "told"), DONE.values(), ids=DONE)
def test_what_was_changed_while_it_was_copied_is_noticed(
    source: Path, do: Callable[[Path], object], told: bool
) -> None:
    seen = marks([str(source)])
    do(source)
    [after] = (path for path in (source, source.with_name("other")) if path.exists())
    assert (marks([str(after)]) != seen) is told


def test_a_copy_of_what_changes_is_none(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"

    def copy() -> None:
        target.mkdir()
        copy_tree(str(source), str(target), "the target")

    def copy_late() -> None:
        (source / "late").touch()
        raise FileNotFoundError

    assert copy_at_rest([str(source)], copy) == marks([str(source)])
    for broken in ((source / "new").touch, copy_late):
        with pytest.raises(ChangedError):
            copy_at_rest([str(source)], broken)
    # What has another cause is told as it is.
    with pytest.raises(FileExistsError):
        copy_at_rest([str(source)], target.mkdir)
