# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data of a hard client in a file system of its own, whose size is reserved and is its limit.

The file system lies in an image file, `multi_tenancy/volumes/<id>.img`, and is mounted at `clients/<id>/data`. All
blocks of the image are allocated, so that the host's disk cannot run out below it. The bare mount point is immutable
and empty: containers bind folders in data/, which are missing when the volume is not mounted, and then do not start.

Where the data of a client is can be told from files alone, at every moment, so that a run that was killed anywhere is
finished or taken back by the next one:

- `volumes/<id>.img` is there: in it. All else of the names below is left over and may go.
- otherwise `volumes/<id>.old` and `clients/<id>/data.after` are there: in data.after, which becomes data.
- otherwise `clients/<id>/data.before` is there: in data.before, which becomes data again.
- otherwise `clients/<id>/data.img` is there: in it. (A volume that was kept when its client was removed.)
- otherwise: in data.

Containers serve from the folders that they once mounted, wherever these are named by now, so only those that may write
are stopped while data moves. What the others serve counts no more, and is left until the routes lead elsewhere: in
`clients/<id>/data.gone`, erased by the step `erase`; or in a volume that is unmounted and deleted, which the kernel
keeps until its last container is gone. A link in data.gone to the folder of a shared instance says the same of that.

Moving in (step `make`), with the containers that write stopped: allocate `volumes/<id>.new`, make the file system,
mount it at `volumes/.mnt/<id>`, copy data into it, and what lies with shared instances, unmount it and write it to the
disk; rename data to data.before, and begin again if somebody has changed anything meanwhile; make the bare mount point;
rename .new to .img, and from this moment the image counts; mount it; rename data.before to data.gone.

Moving out (`move out`), with the containers that write stopped: copy data to data.after and write it to the disk;
unmount, and begin again if somebody has changed anything meanwhile; rename .img to .old, and from this moment
data.after counts; rename data.after to data over the bare mount point; delete .old.

Removal with the data kept (`put away`): unmount; rename .img to clients/<id>/data.img, so that it goes where the folder
goes; remove the bare mount point. Restoring (`take back`): mount data.img aside, hand its files over to the client's
present uid, unmount, rename it to .img; then it is mounted like any other.

Growing: allocate more of the image, then enlarge the file system; mounted where the kernel lets this process do so
(CAP_SYS_RESOURCE), else with the containers stopped and the volume unmounted.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._resources import MIB, size_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._shared_folder import SharedFolder

Step = Literal[
    "roll back",
    "roll forward",
    "tidy",
    "make",
    "take back",
    "grow",
    "reserve",
    "mount",
    "move out",
    "put away",
    "purge",
    "erase",
]
Fate = Literal["keep", "purge"]
# What may be left over by a run that was killed; `aside` is a mount at volumes/.mnt/<id>.
Leftover = Literal["new", "old", "before", "after", "aside", "gone"]

BLOCK = 4096
# A group of blocks of ext4; a last one that is too small to hold its own tables is left out by mkfs and resize2fs.
_GROUP = 32768 * BLOCK
_LEAST_GROUP = 16 * MIB
_MAGIC = 0xEF53
_INCOMPAT_64BIT = 0x80


@dataclass(frozen=True)
class Volume:
    """The volume of one client.

    Args:
        client_id: Whose it is.
        uid: The client's uid, which is its gid too.
        label: Name of the file system, at most 16 characters.
        size: Bytes; None when the client is to have none.
        shared: Its folders that shared instances may serve.
    """

    client_id: str
    uid: int
    label: str
    size: int | None
    shared: Sequence[SharedFolder] = ()


@dataclass(frozen=True)
class VolumeState:
    """What there is of one client's volume.

    Args:
        size: Bytes of the image; None when there is none.
        file_system: Bytes of the file system in it; None when it holds none.
        reserved: Whether all of the image's blocks are allocated.
        mounted: Whether it is mounted at the client's data.
        in_the_way: What else is mounted there or below.
        kept: Bytes of the image that was kept in the client's folder; None when there is none.
        leftovers: What a run that was killed left.
        data: What stands at the client's data while no volume is mounted there.
    """

    size: int | None = None
    file_system: int | None = None
    reserved: bool = True
    mounted: bool = False
    in_the_way: str | None = None
    kept: int | None = None
    leftovers: frozenset[Leftover] = field(default_factory=frozenset)
    data: Literal["missing", "empty", "filled"] = "missing"


def image_size(disk: int) -> int:
    """The size of the image for a volume of so many bytes: at least that, and one that ext4 uses as a whole."""
    size = -(-disk // MIB) * MIB
    rest = size % _GROUP
    return size + _LEAST_GROUP - rest if size > _GROUP and 0 < rest < _LEAST_GROUP else size


def plan_volume(
    volume: Volume, state: VolumeState, fate: Fate | None = None, settle: bool = True
) -> tuple[list[Step], str | None]:
    """The steps from what there is to what is wanted, and what keeps the rest from being done.

    Args:
        volume: What is wanted.
        state: What there is.
        fate: What becomes of the volume of a client that is removed; None for one that stays.
        settle: Whether what earlier containers may still serve is erased.

    Returns:
        The steps in order, and a fault: one sentence.
    """
    left = state.leftovers - {"gone"}
    steps, fault = _plan_data(volume, replace(state, leftovers=left), fate)
    if settle and fault is None and leaves(state, steps):
        steps.append("erase")
    return steps, fault


def leaves(state: VolumeState, steps: Sequence[Step]) -> bool:
    """Whether there is, or will be, data that counts no more and that earlier containers may still serve."""
    moved = "make" in steps and (state.data == "filled" or steps[0].startswith("roll"))
    return moved or "gone" in state.leftovers or ("before" in state.leftovers and "roll back" not in steps)


def _plan_data(volume: Volume, state: VolumeState, fate: Fate | None) -> tuple[list[Step], str | None]:
    """The steps but for what is to be erased at the end."""
    if state.in_the_way is not None:
        return [], f"{state.in_the_way} is in the way of its volume; take it away and run again."
    if state.size is not None:
        return _plan_image(volume, state, fate)
    steps: list[Step] = []
    left, data = state.leftovers, state.data
    if "after" in left and "old" not in left:
        return [], "Its data.after was copied out of a volume that is no longer there; move it away, or to data."
    for copy in ("after", "before"):
        if copy in left and data == "filled":
            return [], f"There are both data and data.{copy}; move one of them away."
    if "after" in left:
        steps.append("roll forward")
        left, data = left - {"old", "after"}, "filled"
    elif "before" in left:
        steps.append("roll back")
        left, data = left - {"before"}, "filled"
    if left:
        steps.append("tidy")
    if state.kept is not None and data == "filled":
        return steps, "There are both data and a volume kept as data.img; move one of them away."
    if fate is not None:
        return steps, None
    if state.kept is not None:
        if volume.size is None:
            return [*steps, "take back", "mount", "move out"], None
        grow: list[Step] = ["grow"] if volume.size > state.kept else []
        return [*steps, "take back", *grow, "mount"], _shrinking(volume.size, state.kept)
    return steps if volume.size is None else [*steps, "make"], None


def _plan_image(volume: Volume, state: VolumeState, fate: Fate | None) -> tuple[list[Step], str | None]:
    """The steps where the data is in the image."""
    size, left = state.size or 0, state.leftovers
    tidy: list[Step] = ["tidy"] if left else []
    if state.kept is not None or "old" in left:
        other = "left as .old" if state.kept is None else "kept in its folder as data.img"
        return [], f"It has two volumes, one of them {other}; move one of them away."
    if fate is not None:
        return ["put away" if fate == "keep" else "purge", *tidy], None
    if state.file_system is None:
        return [], "Its volume holds no file system; put a copy in its place."
    if not state.mounted and state.data == "filled":
        return [], "There are files in data although its volume is not mounted there; move them away."
    mount: list[Step] = [] if state.mounted else ["mount"]
    if volume.size is None:
        return [*tidy, *mount, "move out"], None
    room: list[Step] = []
    if volume.size > size or state.file_system < size:
        room = ["grow"]
    elif not state.reserved:
        room = ["reserve"]
    return [*room, *mount, *tidy], _shrinking(volume.size, size)


def _shrinking(wanted: int, size: int) -> str | None:
    if wanted >= size:
        return None
    return f"Its volume of {size_text(size)} cannot be made smaller; let resources.disk be {size // MIB}m or more."


def plan_volumes(
    wanted: Iterable[tuple[Volume, Fate | None]],
    actual: Mapping[str, VolumeState],
    images: Mapping[str, str],
    free: int,
    online: bool,
    settle: bool = True,
) -> tuple[list[Change], list[tuple[str, str]]]:
    """Compare wanted volumes with those that are there.

    Args:
        wanted: The volumes of the clients in question, each with its fate when its client is removed.
        actual: What VolumeHost.read() saw, by client id.
        images: The path of each image, by client id.
        free: Bytes that volumes may still take from the host's disk.
        online: Whether a mounted file system can be enlarged.
        settle: As for plan_volume().

    Returns:
        The changes, whose payload is a Task, and (client id, fault) of what cannot be done.
    """
    changes: list[Change] = []
    faults = []
    for volume, fate in wanted:
        state = actual[volume.client_id]
        steps, fault = plan_volume(volume, state, fate, settle)
        taken = 0
        if volume.size is not None:
            taken = volume.size if "make" in steps else volume.size - (state.size or state.kept or 0)
        if {"make", "grow"} & set(steps) and taken > free:
            faults.append(
                (
                    volume.client_id,
                    f"Its volume takes {size_text(taken, up=True)} of disk, and {size_text(max(0, free))} are left.",
                )
            )
            # A volume that is there is mounted all the same.
            steps = [step for step in steps if step not in ("make", "grow")]
        elif {"make", "grow"} & set(steps):
            free -= taken
        if fault is not None:
            faults.append((volume.client_id, fault))
        for step in steps:
            stops = step == "move out" or (step == "grow" and state.mounted and not online)
            # Where there is no data yet, there are no containers that work on it.
            stops |= step == "make" and leaves(replace(state, leftovers=frozenset()), steps)
            changes.append(_change(step, volume, state, images[volume.client_id], stops))
    return changes, faults


@dataclass(frozen=True)
class Task:
    """What the applier needs for one step.

    Args:
        step: What is to be done.
        volume: What is wanted.
        stops: Whether containers of the client are stopped meanwhile; all of them to `grow`, else those that write.
    """

    step: Step
    volume: Volume
    stops: bool


def _change(step: Step, volume: Volume, state: VolumeState, image: str, stops: bool) -> Change:
    size = None if volume.size is None else size_text(volume.size)
    now = state.size if state.size is not None else state.kept
    shown: dict[Step, tuple[Any, Any]] = {
        "roll back": ({"data in": "data.before"}, {"data in": "data"}),
        "roll forward": ({"data in": "data.after"}, {"data in": "data"}),
        "tidy": ({"left over": sorted(state.leftovers)}, {"left over": []}),
        "make": (None, {"size": size}),
        "take back": ({"kept in": "data.img"}, {"kept in": None}),
        "grow": ({"size": size_text(now or 0)}, {"size": size}),
        "reserve": ({"reserved": False}, {"reserved": True}),
        "mount": ({"mounted": False}, {"mounted": True}),
        "move out": ({"data in": "the volume"}, None),
        "put away": ({"mounted": state.mounted}, {"kept in": "data.img"}),
        "purge": ({"size": size_text(now or 0)}, None),
        "erase": ({"served until now": "data.gone"}, None),
    }
    before, after = shown[step]
    action: Any = "create" if before is None else "delete" if after is None else "update"
    if stops and after is not None:
        after = {**after, "containers": "stopped meanwhile"}
    return Change(action, "volume", image, before, after, volume.client_id, Task(step, volume, stops))


def file_system_size(superblock: bytes) -> int | None:
    """Bytes of an ext4 file system, from the 1024 bytes of its superblock; None when it is none."""
    if len(superblock) < 1024 or struct.unpack_from("<H", superblock, 0x38)[0] != _MAGIC:
        return None
    low, shift, incompat, high = (
        struct.unpack_from("<I", superblock, offset)[0] for offset in (0x4, 0x18, 0x60, 0x150)
    )
    blocks = low + (high << 32 if incompat & _INCOMPAT_64BIT else 0)
    return int(blocks * (1024 << shift))


@dataclass(frozen=True)
class Mount:
    """One line of the table of mounts."""

    point: str
    device: str


def read_mounts(text: str) -> list[Mount]:
    """The mounts in the text of /proc/self/mountinfo, later ones on top of earlier ones."""

    def plain(path: str) -> str:
        return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)

    mounts = []
    for line in text.splitlines():
        before, dummy, after = line.partition(" - ")
        mounts.append(Mount(plain(before.split()[4]), plain(after.split()[1])))
    return mounts
