# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gives hard clients their resources again at boot, before the engine starts their containers.

One unit for all clients. What it works on are files: a volume `<id>.img` is mounted, and `<id>.limits` holds the limits
of a cgroup parent, which the kernel forgets when it stops. (With the engine's systemd driver the parents are slices,
which systemd makes by itself, and there are no such files.)
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    names_in,
    read_text,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._firewall import InitSystem
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError

# How every volume is mounted. Sites may run programs of their own, so not noexec. The kernel would fill the tables of
# inodes in the background, and so cut holes into the image: noinit_itable.
MOUNT_OPTIONS = "loop,nodev,nosuid,errors=remount-ro,noinit_itable"
IMAGE, LIMITS = ".img", ".limits"
CGROUP_ROOT = "/sys/fs/cgroup"
CPU_PERIOD = 100000
STARTED = "started at boot\n"
_PATH = re.compile(r"/[A-Za-z0-9._/-]+")


def run_program(
    command: Sequence[str], timeout: float = 120, pass_fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program of the host, without a shell, and return what it said in plain English.

    Args:
        command: Program and arguments.
        timeout: Seconds.
        pass_fds: Open files that stay open as long as the program runs.

    Raises:
        TenancyError: It is not installed, or takes too long.
    """
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=timeout,
            pass_fds=pass_fds,
            check=False,
        )
    except FileNotFoundError as exc:
        raise TenancyError(f"{command[0]} is not installed on this host; install it and run again.") from exc
    except subprocess.TimeoutExpired as exc:
        raise TenancyError(
            f"'{' '.join(command)}' did not end within {timeout:g} s; see what holds it and run again."
        ) from exc


def must_run(command: Sequence[str], fault: str, timeout: float = 120, pass_fds: Sequence[int] = ()) -> str:
    """Run a program that must succeed, and return what it printed; its failure is a sentence that begins with fault."""
    done = run_program(command, timeout, pass_fds)
    if done.returncode != 0:
        raise TenancyError(f"{fault}: {reason(done)}.")
    return done.stdout


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a program failed: the last line of what it said, as several print their version first."""
    lines = [line.strip() for line in (done.stderr.strip() or done.stdout.strip()).splitlines() if line.strip()]
    return (lines or [f"it ended with code {done.returncode} and gave no reason"])[-1].rstrip(".")


@dataclass(frozen=True)
class BootState:
    """What exists or is wanted, each part as the text that a diff shows; None is absent.

    Args:
        script: The script that does the work.
        unit: The systemd unit or init script that runs it.
        start: Whether that is started at boot.
    """

    script: str | None = None
    unit: str | None = None
    start: str | None = None


_KINDS = {"script": "boot script", "unit": "boot unit", "start": "start at boot"}


def plan_boot(wanted: BootState, actual: BootState, names: BootState) -> list[Change]:
    """What must change; what is run before the unit that runs it, removals in reverse.

    Args:
        wanted: As it shall be.
        actual: As it is.
        names: The name of each part, for the report.
    """
    changes: list[Change] = []
    removals: list[Change] = []
    for part in (field.name for field in fields(BootState)):
        before, after, name = (getattr(state, part) for state in (actual, wanted, names))
        if before == after:
            continue
        if after is None:
            removals.insert(0, Change("delete", _KINDS[part], name, before, None, payload=part))
        else:
            action: Any = "create" if before is None else "update"
            changes.append(Change(action, _KINDS[part], name, before, after, payload=part))
    return changes + removals


def unit_name(prefix: str) -> str:
    """The name of a platform's unit, without the ending that systemd adds."""
    return "agency-stack-resources" if prefix == "mt" else f"agency-stack-{prefix}-resources"


def limits_text(memory: int, cpu_quota: int, pids: int) -> str:
    """The line that the script reads: bytes, microseconds of each CPU_PERIOD, number of processes."""
    return f"{memory} {cpu_quota} {pids}\n"


def boot_script(layout: Layout, parents: str) -> str:
    """The script that mounts every volume and makes every cgroup parent.

    Args:
        layout: Where everything lies.
        parents: What the path of each cgroup parent begins with, before the client's id, such as /agency_stack/mt-.

    Raises:
        TenancyError: The root is a path that the shell or systemd would take apart.
    """
    if _PATH.fullmatch(layout.root) is None:
        raise TenancyError(
            f"root {layout.root!a} is not allowed: use an absolute path of letters, digits, '.', '_', '-' and '/'."
        )
    above, dummy, first = parents.rpartition("/")
    return (
        _SCRIPT.replace("@VOLUMES@", layout.base("volumes"))
        .replace("@CLIENTS@", os.path.dirname(layout.client("x")))
        .replace("@ABOVE@", above)
        .replace("@FIRST@", first)
        .replace("@CGROUPS@", CGROUP_ROOT)
        .replace("@OPTIONS@", MOUNT_OPTIONS)
        .replace("@PERIOD@", str(CPU_PERIOD))
    )


def boot_unit(init: InitSystem, name: str, script: str) -> str:
    """The text of the systemd unit or init script that runs the script before the engine starts."""
    return (_SYSTEMD if init == "systemd" else _SYSV).format(name=name, script=script, folder=os.path.dirname(script))


# One client's fault never stops the others; the exit code tells that there was one. What a client's file is called and
# holds is looked at before it is used, although none but root can write there.
_SCRIPT = """\
#!/bin/sh
# Written by agency_stack.multi_tenancy.client_resources; edits are overwritten.
# Gives hard clients their resources before the engine starts: volumes, and cgroup parents with their limits.
set -u
PATH=/usr/sbin:/usr/bin:/sbin:/bin
volumes=@VOLUMES@
clients=@CLIENTS@
cgroups=@CGROUPS@
code=0

fail() {
    echo "$0: $1" >&2
    code=1
}

# The client's id in the name of a file, or nothing.
id_of() {
    id=${1##*/}
    id=${id%.*}
    case $id in
        *[!a-z0-9_-]* | '') return 1 ;;
    esac
}

is_number() {
    case $1 in
        *[!0-9]* | '') return 1 ;;
    esac
}

mount_volume() {
    data=$clients/$id/data
    if mountpoint -q "$data"; then return; fi
    e2fsck -p "$1" >/dev/null
    # 1 says that it mended something.
    if [ $? -gt 1 ]; then
        fail "the volume $1 is damaged: repair it with e2fsck $1"
        return
    fi
    mount -t ext4 -o @OPTIONS@ "$1" "$data" || fail "the volume $1 cannot be mounted at $data"
}

put() {
    [ -e "$2" ] && echo "$1" >"$2"
}

# The engine mounts these when nothing else did (a host without systemd), but only once it starts.
ready_v1() {
    mountpoint -q "$cgroups" || mount -t tmpfs -o mode=0755 cgroup "$cgroups"
    for controller in memory cpu pids; do
        mkdir -p "$cgroups/$controller"
        mountpoint -q "$cgroups/$controller" || mount -t cgroup -o "$controller" cgroup "$cgroups/$controller"
    done
}

ready_v2() {
    mkdir -p "$cgroups@ABOVE@"
    for above in "$cgroups" "$cgroups@ABOVE@"; do
        for controller in memory cpu pids; do
            echo "+$controller" >"$above/cgroup.subtree_control"
        done
    done
}

limit_v1() {
    group=@ABOVE@/@FIRST@$id
    for controller in memory cpu pids; do
        mkdir -p "$cgroups/$controller$group" || return 1
    done
    # The limit with swap may not be the lower one at any moment.
    swap=$cgroups/memory$group/memory.memsw.limit_in_bytes
    if [ -e "$swap" ]; then echo "$1" 2>/dev/null >"$swap"; fi
    put "$1" "$cgroups/memory$group/memory.limit_in_bytes" || return 1
    if [ -e "$swap" ]; then echo "$1" >"$swap" || return 1; fi
    put @PERIOD@ "$cgroups/cpu$group/cpu.cfs_period_us" &&
        put "$2" "$cgroups/cpu$group/cpu.cfs_quota_us" &&
        put "$3" "$cgroups/pids$group/pids.max"
}

limit_v2() {
    group=$cgroups@ABOVE@/@FIRST@$id
    mkdir -p "$group" || return 1
    if [ -e "$group/memory.swap.max" ]; then echo 0 >"$group/memory.swap.max" || return 1; fi
    put "$1" "$group/memory.max" && put "$2 @PERIOD@" "$group/cpu.max" && put "$3" "$group/pids.max"
}

is_v2() {
    [ -e "$cgroups/cgroup.controllers" ]
}

ready() {
    if is_v2; then ready_v2; else ready_v1; fi
}

limit() {
    if is_v2; then limit_v2 "$@"; else limit_v1 "$@"; fi
}

start() {
    for image in "$volumes"/*.img; do
        if [ -f "$image" ] && id_of "$image"; then mount_volume "$image"; fi
    done
    is_ready=''
    for limits in "$volumes"/*.limits; do
        if [ ! -f "$limits" ] || ! id_of "$limits"; then continue; fi
        if [ -z "$is_ready" ]; then
            is_ready=yes
            ready || fail "the controllers memory, cpu and pids cannot be had below $cgroups"
        fi
        memory='' quota='' pids='' more=''
        read -r memory quota pids more <"$limits"
        if ! is_number "$memory" || ! is_number "$quota" || ! is_number "$pids" || [ -n "$more" ]; then
            fail "$limits must hold three numbers and does not"
        else
            limit "$memory" "$quota" "$pids" || fail "the limits of client $id cannot be set"
        fi
    done
}

case ${1:-start} in
    start) start ;;
    *)
        echo "Usage: $0 [start]" >&2
        exit 2
        ;;
esac
exit "$code"
"""

# There is no ExecStop: a stopped unit leaves volumes and limits in place.
_SYSTEMD = """\
# Written by agency_stack.multi_tenancy.client_resources; edits are overwritten.
[Unit]
Description=Resources of the hard clients of AgencyStack (volumes and limits)
RequiresMountsFor={folder}
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={script} start

[Install]
WantedBy=multi-user.target
"""

_SYSV = """\
#!/bin/sh
# Written by agency_stack.multi_tenancy.client_resources; edits are overwritten.
### BEGIN INIT INFO
# Provides:          {name}
# Required-Start:    $local_fs
# Required-Stop:
# Should-Start:      cgroupfs-mount
# X-Start-Before:    docker
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: Resources of the hard clients of AgencyStack
# Description:       Mounts their volumes and sets their limits
### END INIT INFO
case "$1" in
    start | restart | reload | force-reload) exec {script} start ;;
    # A stopped script leaves volumes and limits in place.
    stop) ;;
    *)
        echo "Usage: $0 {{start|stop|restart|reload|force-reload}}" >&2
        exit 2
        ;;
esac
"""


class BootHost:
    """The parts on the real host; unit tests put a fake one in its place.

    Args:
        layout: Where everything lies.
        prefix: The platform's name_prefix.
        parents: What the path of each cgroup parent begins with.
    """

    def __init__(self, layout: Layout, prefix: str, parents: str) -> None:
        self.layout = layout
        self.parents = parents
        self.unit = unit_name(prefix)
        self.init: InitSystem = "systemd" if os.path.isdir("/run/systemd/system") else "sysv"
        unit_path = f"/etc/systemd/system/{self.unit}.service" if self.init == "systemd" else f"/etc/init.d/{self.unit}"
        self.names = BootState(script=layout.base("resources.sh"), unit=unit_path, start=self.unit)

    def wanted(self) -> BootState:
        """All parts."""
        script = str(self.names.script)
        return BootState(boot_script(self.layout, self.parents), boot_unit(self.init, self.unit, script), STARTED)

    def state(self) -> BootState:
        """What exists now."""
        return BootState(read_text(str(self.names.script)), read_text(str(self.names.unit)), self._start())

    def apply(self, change: Change) -> None:
        """Do one change of the plan; its payload names the part."""
        part, text = change.payload, change.after
        if text is None and any(name.endswith((IMAGE, LIMITS)) for name in names_in(self.layout.base("volumes"))):
            raise TenancyError(f"{change.name} is kept, because there are still resources of clients.")
        if part == "start":
            self._switch(on=text is not None)
            return
        if text is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(change.name)
        else:
            is_program = part == "script" or self.init == "sysv"
            atomic_write(change.name, text.encode(), 0o755 if is_program else 0o644)
        if part == "unit" and self.init == "systemd":
            must_run(["systemctl", "daemon-reload"], "systemd could not read its units again")

    def _start(self) -> str | None:
        if self.init == "sysv":
            return STARTED if glob.glob(f"/etc/rc[2-5].d/S[0-9][0-9]{self.unit}") else None
        done = run_program(["systemctl", "show", "--property=UnitFileState,ActiveState", f"{self.unit}.service"])
        values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        if values.get("UnitFileState") != "enabled":
            return None
        # A unit that failed is told and started again.
        active = values.get("ActiveState")
        return STARTED if active == "active" else f"started at boot, but {active} now\n"

    def _switch(self, on: bool) -> None:
        fault = f"{self.unit} could not be {'enabled' if on else 'disabled'}"
        if self.init == "systemd":
            must_run(["systemctl", "enable" if on else "disable", f"{self.unit}.service"], fault)
            must_run(["systemctl", "restart" if on else "stop", f"{self.unit}.service"], fault)
        elif on:
            must_run(["update-rc.d", self.unit, "defaults"], fault)
            # 'defaults' leaves the links of a script that was disabled by hand.
            must_run(["update-rc.d", self.unit, "enable"], fault)
        else:
            must_run(["update-rc.d", "-f", self.unit, "remove"], fault)
