# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The effects of a volume plan: images made, mounted, enlarged and put away; see _volume for what lies where."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._boot import (
    IMAGE,
    MOUNT_OPTIONS,
    must_run,
    reason,
    run_program,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._copy import (
    ChangedError,
    copy_at_rest,
    copy_tree,
    marks,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    ensure_directory,
    names_in,
    read_text,
    sync_directory,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import size_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._shared_folder import (
    GONE,
    SharedFolder,
    set_aside,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._storage import Erase, hand_over
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume import (
    BLOCK,
    Leftover,
    Mount,
    Step,
    Task,
    Volume,
    VolumeState,
    file_system_size,
    read_mounts,
)

# Seconds for what takes the longer the more data there is.
LONG = 6 * 3600.0
# Seconds for another process to end its work on an image.
PATIENCE = 60.0
# Seconds for the kernel to let go of a device that was unmounted.
RELEASE = 10.0
# How often data is copied before it counts as never at rest.
TRIES = 3

_SUPERBLOCK = 1024
# linux/fs.h, on amd64 and arm64.
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10
_CAP_SYS_RESOURCE = 24
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def can_grow_mounted() -> bool:
    """Whether the kernel lets this process enlarge a mounted file system."""
    found = re.search(r"^CapEff:\s+([0-9a-f]+)$", read_text("/proc/self/status") or "", re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_SYS_RESOURCE & 1)


def read_loops() -> dict[str, str]:
    """The loop device of each file that has one, such as /dev/loop0."""
    loops = {}
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        # It may have been let go meanwhile.
        with contextlib.suppress(OSError):
            loops[(read_text(path) or "").rstrip("\n")] = f"/dev/{path.split('/')[3]}"
    return loops


class Stopped(Protocol):
    """Stops containers of a client, those that write alone or all, and starts them again on leaving."""

    def __call__(self, client_id: str, writers: bool = False) -> contextlib.AbstractContextManager[None]:
        """Do it."""


@dataclass(frozen=True)
class Places:
    """Where what belongs to the volume of one client lies; _volume says what each is for."""

    client_id: str
    image: str
    new: str
    old: str
    aside: str
    folder: str

    @property
    def data(self) -> str:
        """The client's data, where the volume is mounted."""
        return os.path.join(self.folder, "data")

    @property
    def before(self) -> str:
        """The data that was moved in."""
        return os.path.join(self.folder, "data.before")

    @property
    def after(self) -> str:
        """The data that is moved out."""
        return os.path.join(self.folder, "data.after")

    @property
    def gone(self) -> str:
        """Data that counts no more, and that containers of an earlier level may still serve."""
        return os.path.join(self.folder, GONE)

    @property
    def kept(self) -> str:
        """The volume of a client that was removed."""
        return os.path.join(self.folder, "data.img")


class VolumeHost:
    """The volumes on the real host.

    Args:
        layout: Where everything lies.
        stopped: Stops containers of a client, and starts them again on leaving.
    """

    def __init__(self, layout: Layout, stopped: Stopped) -> None:
        # The kernel tells paths without links in them.
        self.layout = Layout(os.path.realpath(layout.root), layout.log_dir)
        self.stopped = stopped
        self._locks: dict[str, int] = {}

    def image(self, client_id: str) -> str:
        """The path of a client's volume."""
        return self.places(client_id).image

    def places(self, client_id: str) -> Places:
        """Where what belongs to the volume of a client lies."""
        stem = self.layout.base("volumes", client_id)
        return Places(
            client_id,
            f"{stem}{IMAGE}",
            f"{stem}.new",
            f"{stem}.old",
            self.layout.base("volumes", ".mnt", client_id),
            self.layout.client(client_id),
        )

    # ---- reading

    def read(self, client_ids: Iterable[str], folders: Mapping[str, str] | None = None) -> dict[str, VolumeState]:
        """What there is of the volume of each client.

        Args:
            client_ids: The clients.
            folders: Of some of them, the folder that will be theirs, when it lies elsewhere yet.
        """
        mounts = read_mounts(read_text("/proc/self/mountinfo") or "")
        loops = read_loops()
        states = {}
        for client_id in client_ids:
            at = self.places(client_id)
            at = replace(at, folder=(folders or {}).get(client_id, at.folder))
            states[client_id] = _state(at, mounts, loops)
        return states

    # ---- doing

    def apply(self, change: Change) -> None:
        """Do one step."""
        task: Task = change.payload
        volume, at = task.volume, self.places(task.volume.client_id)
        for folder in (os.path.dirname(at.image), os.path.dirname(at.aside)):
            ensure_directory(folder, 0o700)
        if not os.path.lexists(at.folder):
            ensure_directory(at.folder, 0o750, 0, volume.uid)
        if task.step == "make":
            self._make(volume, at)
        elif task.step == "grow":
            self._grow(volume, at, online=not task.stops)
        elif task.step == "take back":
            self._take_back(volume, at)
        elif task.step == "erase":
            self._erase(volume, at)
        else:
            simple: dict[Step, Callable[[Places], None]] = {
                "roll back": self._roll_back,
                "roll forward": self._roll_forward,
                "tidy": self._tidy,
                "reserve": self._reserve,
                "mount": self._mount,
                "move out": self._move_out,
                "put away": self._put_away,
                "purge": self._purge,
            }
            simple[task.step](at)

    def _make(self, volume: Volume, at: Places) -> None:
        with self.stopped(at.client_id, True):
            self._repeat(at.data, lambda: self._fill(volume, at))
            self._mount(at)
        self._tidy(at)

    def _repeat(self, data: str, step: Callable[[], None]) -> None:
        """Copy data until nobody has changed it meanwhile."""
        for dummy in range(TRIES):
            with contextlib.suppress(ChangedError):
                step()
                return
        raise TenancyError(f"Files in {data} change all the time; run again when nobody works in there.")

    def _fill(self, volume: Volume, at: Places) -> None:
        """Make an image with what is in the data, and let it count."""
        size = volume.size or 0
        is_filled = bool(names_in(at.data))
        lent = [folder for folder in volume.shared if folder.waits()]
        sources = [folder.shared for folder in lent]
        where, seen = f"a volume of {size_text(size)}", ""
        try:
            with self._held(at.new, create=True) as fd:
                self._allocate(fd, size, 0)
                command = ["mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(BLOCK), "-i", "16384", "-L", volume.label]
                # Nothing is left to the kernel to fill later, nor given back to the host's disk.
                command += ["-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", at.new]
                must_run(command, "Its volume could not be made", LONG, [fd])
                self._allocate(fd, size, size)
                with self._aside(at, at.new):
                    if is_filled:
                        seen = copy_at_rest([at.data, *sources], lambda: self._copy_in(at, lent, where))
                    else:
                        ensure_directory(at.aside, 0o750, 0, volume.uid)
                os.fsync(fd)
            if is_filled:
                _rename(at.data, at.before)
                if marks([at.before, *sources]) != seen:
                    raise ChangedError
            self._make_bare(at)
            _rename(at.new, at.image)
        except BaseException:
            if not os.path.lexists(at.image):
                if os.path.lexists(at.before):
                    self._roll_back(at)
                self._tidy(at)
            raise

    def _copy_in(self, at: Places, lent: Sequence[SharedFolder], where: str) -> None:
        """Copy the data aside, and what lies with shared instances in place of the links that lead there."""
        copy_tree(at.data, at.aside, where)
        for folder in lent:
            source, target = folder.copies(at.aside)
            os.unlink(target)
            os.mkdir(target, 0o700)
            copy_tree(source, target, where)
            folder.copied(at.aside)

    def _move_out(self, at: Places) -> None:
        with self.stopped(at.client_id, True):
            self._repeat(at.data, lambda: self._copy_out(at))
            _rename(at.image, at.old)
            self._roll_forward(at)

    def _copy_out(self, at: Places) -> None:
        """Copy what is in the volume, and unmount it; containers may go on with it as it is."""
        ensure_directory(at.after, 0o700)
        _hide_lost_and_found(at.data)
        try:
            seen = copy_at_rest([at.data], lambda: copy_tree(at.data, at.after, "the host's disk"))
            must_run(["sync", "--file-system", at.after], "Its data could not be written to the disk", LONG)
            with self._aside(at, at.image, in_use=True):
                must_run(["umount", at.data], f"{at.data} could not be unmounted", LONG)
                try:
                    # Nobody comes into it any more but containers that cannot write.
                    if marks([at.aside]) != seen:
                        raise ChangedError
                except BaseException:
                    self._mount(at)
                    raise
        except BaseException:
            Erase(at.after).apply()
            raise

    def _erase(self, volume: Volume, at: Places) -> None:
        for folder in volume.shared:
            if folder.superseded() and os.path.lexists(folder.shared):
                Erase(folder.shared).apply()
        if os.path.lexists(at.gone):
            Erase(at.gone).apply()

    def _roll_forward(self, at: Places) -> None:
        if os.path.isdir(at.data):
            set_immutable(at.data, False)
        # Over the empty mount point.
        _rename(at.after, at.data)
        os.unlink(at.old)

    def _roll_back(self, at: Places) -> None:
        if os.path.isdir(at.data):
            set_immutable(at.data, False)
        _rename(at.before, at.data)

    def _tidy(self, at: Places) -> None:
        self._let_go(at.aside, at.new)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(at.aside)
        if os.path.lexists(at.before):
            _rename(at.before, set_aside(os.path.join(at.gone, "data")) if os.path.lexists(at.gone) else at.gone)
        if os.path.lexists(at.after):
            Erase(at.after).apply()
        if not os.path.lexists(at.image) and os.path.isdir(at.data):
            set_immutable(at.data, False)
        for file in (at.new, at.old):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)

    def _take_back(self, volume: Volume, at: Places) -> None:
        with self._held(at.kept) as fd:
            with self._aside(at, at.kept):
                # Its files may be of an earlier uid, which another client may have now.
                old = os.lstat(at.aside).st_gid
                if old == 0:
                    raise TenancyError(
                        f"The root of the file system in {at.kept} belongs to root's group, so it does not tell which "
                        "files in it are the client's; give it their group (chgrp) and run again."
                    )
                if old != volume.uid:
                    hand_over(at.aside, (old, old), (volume.uid, volume.uid))
                    # Its root comes last, so that a run that was killed is seen to be unfinished.
                    must_run(["sync", "--file-system", at.aside], "Its data could not be written to the disk", LONG)
                    os.chown(at.aside, 0, volume.uid)
            os.fsync(fd)
        _rename(at.kept, at.image)

    def _grow(self, volume: Volume, at: Places, online: bool) -> None:
        with self._held(at.image) as fd:
            old = os.fstat(fd).st_size
            size = max(volume.size or 0, old)
            self._allocate(fd, size, old)
            device = read_loops().get(at.image)
            if device is None:
                self._enlarge(at.image, fd)
            elif not (online and _enlarge_mounted(device)):
                with self.stopped(at.client_id):
                    self._unmount(at.data, at.image)
                    try:
                        self._enlarge(at.image, fd)
                    finally:
                        self._mount(at)
            # The kernel may have cut holes into it.
            self._allocate(fd, size, size)
            os.fsync(fd)

    def _enlarge(self, image: str, fd: int) -> None:
        _check(["-f", "-p"], image, fd)
        must_run(["resize2fs", image], f"The file system in {image} could not be enlarged", LONG, [fd])

    def _reserve(self, at: Places) -> None:
        with self._held(at.image) as fd:
            size = os.fstat(fd).st_size
            self._allocate(fd, size, size)

    def _mount(self, at: Places) -> None:
        self._make_bare(at)
        self._mount_at(at.image, at.data)

    def _put_away(self, at: Places) -> None:
        self._bare_again(at)
        _rename(at.image, at.kept)
        with contextlib.suppress(OSError):
            os.rmdir(at.data)

    def _purge(self, at: Places) -> None:
        self._bare_again(at)
        os.unlink(at.image)

    def _bare_again(self, at: Places) -> None:
        """Unmount, and leave an ordinary empty folder."""
        self._let_go(at.data, at.image)
        if os.path.isdir(at.data):
            set_immutable(at.data, False)

    # ---- parts of steps

    def _make_bare(self, at: Places) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(at.data, 0o700)
        set_immutable(at.data, True)
        sync_directory(at.folder)

    @contextlib.contextmanager
    def _held(self, image: str, create: bool = False) -> Iterator[int]:
        """Have an image for this process, and the programs that it runs, alone.

        A program of a run that was killed may still be at work on it; it holds the lock until it ends.
        """
        if image in self._locks:
            yield self._locks[image]
            return
        fd = os.open(image, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        try:
            if not _comes(lambda: _lock(fd), PATIENCE):
                raise TenancyError(f"{image} is still worked on by a program of an earlier run; wait for it to end.")
            self._locks[image] = fd
            yield fd
        finally:
            self._locks.pop(image, None)
            os.close(fd)

    def _allocate(self, fd: int, size: int, old: int) -> None:
        """Reserve all blocks of an image on the host's disk, and take back what is new of it when there are too few."""
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as exc:
            os.ftruncate(fd, old)
            raise TenancyError(
                f"The host's disk has no room for a volume of {size_text(size)} ({exc.strerror})."
            ) from exc
        if not _is_reserved(os.fstat(fd)):
            os.ftruncate(fd, old)
            raise TenancyError(
                f"The file system of {self.layout.root} cannot reserve disk, so there can be no hard clients on it; "
                "use one such as ext4 or xfs."
            )

    @contextlib.contextmanager
    def _aside(self, at: Places, image: str, in_use: bool = False) -> Iterator[None]:
        """Mount an image where none but root comes, and unmount it on leaving; others may have it mounted as well."""
        self._let_go(at.aside, image)
        with contextlib.suppress(FileExistsError):
            os.mkdir(at.aside, 0o700)
        self._mount_at(image, at.aside)
        try:
            yield
        finally:
            if in_use:
                must_run(["umount", at.aside], f"{at.aside} could not be unmounted", LONG)
            else:
                self._unmount(at.aside, image)
            os.rmdir(at.aside)

    def _mount_at(self, image: str, point: str) -> None:
        with self._held(image) as fd:
            # What has a device already is mounted elsewhere, and must not be checked.
            if image not in read_loops():
                _check(["-p"], image, fd)
            command = ["mount", "-t", "ext4", "-o", MOUNT_OPTIONS, image, point]
            must_run(command, f"{image} could not be mounted at {point}", LONG)
        _hide_lost_and_found(point)

    def _let_go(self, point: str, image: str) -> None:
        if any(mount.point == point for mount in read_mounts(read_text("/proc/self/mountinfo") or "")):
            self._unmount(point, image)

    def _unmount(self, point: str, image: str) -> None:
        """Unmount, and make sure that no container has the file system open behind our back."""
        device = read_loops().get(image)
        must_run(["umount", point], f"{point} could not be unmounted", LONG)
        if not _comes(lambda: image not in read_loops(), RELEASE):
            holder = _holder(device)
            self._mount_at(image, point)
            raise TenancyError(f"{point} is still in use by {holder}; stop it and run again.")


def _state(at: Places, mounts: Sequence[Mount], loops: Mapping[str, str]) -> VolumeState:
    device = loops.get(at.image)
    here = [mount.device for mount in mounts if mount.point == at.data]
    below = [mount.point for mount in mounts if mount.point.startswith(f"{at.data}/")]
    mounted = device is not None and here == [device]
    in_the_way = None
    if here and not mounted:
        in_the_way = f"The mount of {here[-1]} at {at.data}"
    elif below:
        in_the_way = f"The mount at {below[0]}"
    elif os.path.lexists(at.data) and not stat.S_ISDIR(os.lstat(at.data).st_mode):
        in_the_way = f"{at.data} is no folder and"
    image, kept = _regular(at.image), _regular(at.kept)
    paths: dict[Leftover, str] = {"new": at.new, "old": at.old}
    paths |= {"before": at.before, "after": at.after, "gone": at.gone}
    leftovers = {key for key, path in paths.items() if os.path.lexists(path)}
    if any(mount.point == at.aside for mount in mounts):
        leftovers.add("aside")
    return VolumeState(
        size=None if image is None else image.st_size,
        file_system=None if image is None else _read_file_system(device or at.image),
        reserved=image is None or _is_reserved(image),
        mounted=mounted,
        in_the_way=in_the_way,
        kept=None if kept is None else kept.st_size,
        leftovers=frozenset(leftovers),
        data="missing" if not os.path.lexists(at.data) else "filled" if names_in(at.data) else "empty",
    )


def _rename(source: str, target: str) -> None:
    """Rename something for good; over an empty folder, when it is a folder."""
    os.rename(source, target)
    for path in (source, target):
        sync_directory(os.path.dirname(path))


def _regular(path: str) -> os.stat_result | None:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_reserved(status: os.stat_result) -> bool:
    return status.st_blocks * 512 >= status.st_size


def _read_file_system(path: str) -> int | None:
    try:
        with open(path, "rb") as handle:
            handle.seek(_SUPERBLOCK)
            return file_system_size(handle.read(1024))
    except OSError:
        # In check mode somebody else than root may look.
        return None


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _comes(condition: Callable[[], bool], patience: float) -> bool:
    """Wait until something is so; False when it is not within that many seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _check(options: Sequence[str], image: str, fd: int | None = None) -> None:
    """Let e2fsck mend what it can by itself; it is done at once with a file system that was unmounted properly."""
    done = run_program(["e2fsck", *options, image], LONG, [] if fd is None else [fd])
    # 1: it mended something.
    if done.returncode > 1:
        raise TenancyError(f"The volume {image} is damaged ({reason(done)}); repair it with e2fsck {image}.")


def _hide_lost_and_found(point: str) -> None:
    """Remove the empty folder that e2fsck makes anew when it needs it, and that is nobody's data."""
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(point, "lost+found"))


def _enlarge_mounted(device: str) -> bool:
    """Try to enlarge a mounted file system to the size of its image."""
    must_run(["losetup", "--set-capacity", device], f"{device} does not take the new size of its image")
    return run_program(["resize2fs", device], LONG).returncode == 0


def _holder(device: str | None) -> str:
    """Who has a device mounted."""
    number = read_text(f"/sys/block/{os.path.basename(device or '?')}/dev")
    if number:
        for path in glob.iglob("/proc/[0-9]*/mountinfo"):
            try:
                found = f" {number.strip()} " in (read_text(path) or "")
            except OSError:
                continue
            if found:
                pid = path.split("/")[2]
                return f"process {pid} ({(read_text(f'/proc/{pid}/comm') or '?').strip()})"
    return "another process"


def set_immutable(path: str, on: bool) -> None:
    """Let nobody make anything in a folder, root included, or let them again; where the file system can do that.

    It is a second fence: without it, containers do not start either, as the folders that they bind are missing.
    """
    fd = os.open(path, _FOLDER)
    try:
        [flags] = struct.unpack_from("=I", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(8)))
        wanted = flags | _FS_IMMUTABLE_FL if on else flags & ~_FS_IMMUTABLE_FL
        if wanted != flags:
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=Q", wanted))
    except OSError as exc:
        if exc.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)
