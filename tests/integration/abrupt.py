# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are killed, with everything they started, at a chosen moment."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["time", "engine", "file"]

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_CHILD_SUBREAPER = 36
# IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
_CHANGES = 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
_IN_NONBLOCK = os.O_NONBLOCK

# What a call of the engine's API ends in.
EFFECTS = {
    *(("container", action) for action in ("create", "start", "stop", "restart", "rename", "destroy")),
    *(("network", action) for action in ("create", "destroy")),
}


@dataclass(frozen=True)
class Moment:
    """When a program is killed.

    Args:
        kind: What is waited for: time, or effects on the engine, or changes of watched folders.
        value: Seconds, or how many effects or changes.
    """

    kind: Kind
    value: float

    def __str__(self) -> str:
        return (
            f"after {self.value:.3f} s" if self.kind == "time" else f"right after {self.kind} effect {self.value:.0f}"
        )


@dataclass(frozen=True)
class Ending:
    """How a program ended.

    Args:
        killed: Whether it still ran at its moment, and was killed.
        rc: Its exit code otherwise.
        text: What it said.
        seconds: How long it ran.
        counts: How many effects on the engine and changes of watched folders were seen.
    """

    killed: bool
    rc: int
    text: str
    seconds: float
    counts: Mapping[str, int]


@contextlib.contextmanager
def orphans_adopted() -> Iterator[None]:
    """Be the parent of all that lose theirs below this process, so that nothing gets out of sight."""

    def adopt(whether: bool) -> None:
        if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")

    adopt(True)
    try:
        yield
    finally:
        adopt(False)


def descendants(pid: int) -> list[int]:
    """All that live below a process, parents first."""
    children: dict[int, list[int]] = {}
    dead = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # It may end while it is looked at.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, parent = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:2]
                children.setdefault(int(parent), []).append(int(entry))
                if state in "ZX":
                    # Its threads may still end, and its children still be its own.
                    dead.add(int(entry))
    found = [pid]
    for parent_pid in found:
        found += children.get(parent_pid, [])
    return [child for child in found[1:] if child not in dead]


def kill_all(spared: Iterable[int]) -> set[int]:
    """Kill everything below this process but the spared, until nothing is left; who that was."""
    spared = set(spared)
    victims: set[int] = set()
    while found := [pid for pid in descendants(os.getpid()) if pid not in spared]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        victims.update(found)
    return victims


class EngineEvents:
    """What the engine does to one platform's objects, as it happens.

    Args:
        prefix: What the names of its containers and networks begin with.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        filters = ["--filter=type=container", "--filter=type=network", "--since=0s"]
        self._process = subprocess.Popen(
            ["docker", "events", *filters, "--format={{json .}}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._rest = b""
        self.pid = self._process.pid

    def fileno(self) -> int:
        """For select()."""
        return self._stdout.fileno()

    def read(self) -> list[str]:
        """What happened since the last time."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fileno(), 65536):
                self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        seen = [json.loads(line) for line in lines]
        return [
            event["Action"]
            for event in seen
            if (event["Type"], event["Action"]) in EFFECTS
            and event["Actor"]["Attributes"].get("name", "").startswith(self._prefix)
        ]

    def close(self) -> None:
        """Listen no more."""
        self._process.kill()
        self._process.wait()
        self._stdout.close()


class FileEvents:
    """Names that come, go and change in folders, as it happens.

    Args:
        folders: Which; those below are not looked at.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._fd = _LIBC.inotify_init1(_IN_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        for folder in folders:
            if _LIBC.inotify_add_watch(self._fd, os.fsencode(folder), _CHANGES) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))

    def fileno(self) -> int:
        """For select()."""
        return self._fd

    def read(self) -> list[str]:
        """The names of what changed since the last time."""
        names = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 65536):
                while data:
                    size = int.from_bytes(data[12:16], "little")
                    names.append(os.fsdecode(data[16 : 16 + size].rstrip(b"\0")))
                    data = data[16 + size :]
        # A lock changes nothing.
        return [name for name in names if not name.endswith(".lock")]

    def close(self) -> None:
        """Look no more."""
        os.close(self._fd)


@contextlib.contextmanager
def engine_events(prefix: str) -> Iterator[EngineEvents]:
    """Listen to the engine for a while."""
    events = EngineEvents(prefix)
    try:
        yield events
    finally:
        events.close()


def run_until(command: Sequence[str], moment: Moment | None, engine: EngineEvents, folders: Iterable[Path]) -> Ending:
    """Run a program to its end, or until its moment.

    Args:
        command: The program; it gets no input and a bare environment.
        moment: When it is killed; None lets it end by itself.
        engine: What is counted.
        folders: What is watched.
    """
    spared = descendants(os.getpid())
    # What was done before is told a moment later.
    deadline = time.monotonic() + 0.2
    while (left := deadline - time.monotonic()) > 0:
        select.select([engine], [], [], left)
        engine.read()
    files = FileEvents(folders)
    counts = {"engine": 0, "file": 0}
    killed = False
    try:
        with tempfile.TemporaryFile() as output:
            begin = time.monotonic()
            process = subprocess.Popen(
                command, cwd="/", env={}, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            while process.poll() is None and not killed:
                left = moment.value - (time.monotonic() - begin) if moment and moment.kind == "time" else 1.0
                select.select([engine, files], [], [], min(max(left, 0), 0.02))
                counts["engine"] += len(engine.read())
                counts["file"] += len(files.read())
                if moment is None:
                    continue
                if left <= 0 if moment.kind == "time" else counts[moment.kind] >= moment.value:
                    victims = kill_all(spared)
                    killed = bool(victims)
                    for pid in victims - {process.pid}:
                        # Orphans are this process's to bury.
                        with contextlib.suppress(ChildProcessError):
                            os.waitpid(pid, os.WNOHANG)
            process.wait()
            seconds = time.monotonic() - begin
            left_over = [pid for pid in descendants(os.getpid()) if pid not in spared]
            assert left_over == [], "what it started outlived it"
            output.seek(0)
            text = output.read().decode(errors="replace")
    finally:
        files.close()
    return Ending(killed, process.returncode, text, seconds, counts)
