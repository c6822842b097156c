# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewall's edge to the host: nft, the default routes and the unit that loads the table at boot."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import atomic_write, read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._firewall import (
    Firewall,
    InitSystem,
    State,
    TableState,
    checked,
    compare,
    default_route_interfaces,
    unit_name,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError

# Where Debian installs it, for a plan that is made before it is installed.
DEFAULT_NFT = "/usr/sbin/nft"
STARTED = "started at boot\n"


def find_nft() -> str | None:
    """The path of nft, or None when it is not installed."""
    return shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def listing(table: str) -> str | None:
    """The table as the kernel has it now, or None when it is missing."""
    done = _run([_nft(), "-s", "list", "table", "inet", table])
    if done.returncode == 0:
        return done.stdout
    if "No such file or directory" in done.stderr:
        return None
    raise TenancyError(f"nft cannot list the table 'inet {table}': {_first_line(done.stderr)}.")


def canonical_listing(table: str, text: str) -> str:
    """The table as the kernel would list it after loading the text, found out in an empty network namespace.

    nft's text is compared, not its JSON: version 1.0.6 of Debian 12 prints no comments of tables in JSON and garbage
    for the flags, so that a table that somebody switched off ('flags dormant') could pass for a good one.
    """
    script = '"$0" -f - && exec "$0" -s list table inet "$1"'
    done = _run(["unshare", "--net", "sh", "-c", script, _nft(), table], text)
    if done.returncode != 0:
        raise TenancyError(
            f"This host cannot load the firewall table 'inet {table}' ({_first_line(done.stderr)}); "
            "it takes root, nftables 1.0 or newer and a kernel with nf_tables."
        )
    return done.stdout


def table_state(table: str, text: str) -> TableState:
    """Whether the kernel has exactly the table that the text of a rules file describes."""
    live = listing(table)
    return "missing" if live is None else compare(canonical_listing(table, text), live)


def load(path: str) -> None:
    """Load a rules file in one transaction."""
    _must([_nft(), "-f", path], f"The firewall in {path} could not be loaded")


def delete_table(table: str) -> None:
    """Remove the table from the kernel."""
    _must([_nft(), "delete", "table", "inet", table], f"The firewall table 'inet {table}' could not be removed")


class Host:
    """The real host; unit tests put a fake one in its place."""

    def __init__(self, table: str, path: str) -> None:
        self.table = table
        self.path = path
        self.unit = unit_name(table)
        self.init: InitSystem = "systemd" if os.path.isdir("/run/systemd/system") else "sysv"
        self.unit_path = (
            f"/etc/systemd/system/{self.unit}.service" if self.init == "systemd" else f"/etc/init.d/{self.unit}"
        )
        self.hook_path = f"/etc/systemd/system/nftables.service.d/{self.unit}.conf"

    @property
    def nft(self) -> str | None:
        """The path of nft, or None when it is not installed."""
        return find_nft()

    def default_routes(self) -> list[str]:
        """The interfaces that carry a default route of the main table."""
        # The kernel's own files, because a bare Debian has no iproute2; IPv6 may be switched off.
        return default_route_interfaces(read_text("/proc/net/route") or "", read_text("/proc/net/ipv6_route") or "")

    def is_bridge(self, interface: str) -> bool:
        """Whether an interface is a bridge."""
        return os.path.isdir(f"/sys/class/net/{interface}/bridge")

    def canonical(self, text: str) -> str:
        """The table as the kernel would list it after loading the text."""
        return canonical_listing(self.table, text)

    def state(self) -> State:
        """What exists now."""
        return State(
            file=read_text(self.path),
            table=listing(self.table) if self.nft else None,
            unit=read_text(self.unit_path),
            hook=read_text(self.hook_path) if self.init == "systemd" else None,
            start=self._start(),
        )

    def apply(self, change: Change) -> None:
        """Do one change of the plan; its payload names the part."""
        part, text = change.payload, change.after
        if part == "file":
            self._put(self.path, text, 0o640)
        elif part == "table":
            if text is None:
                delete_table(self.table)
            else:
                load(self.path)
        elif part == "unit":
            self._put(self.unit_path, text, 0o644 if self.init == "systemd" else 0o755)
            self._read_units()
        elif part == "hook":
            os.makedirs(os.path.dirname(self.hook_path), mode=0o755, exist_ok=True)
            self._put(self.hook_path, text, 0o644)
            self._read_units()
        else:
            self._switch(on=text is not None)

    def _put(self, path: str, text: str | None, mode: int) -> None:
        if text is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        if not os.path.isdir(os.path.dirname(path)):
            raise TenancyError(f"{path} cannot be written: its directory does not exist; create it first.")
        atomic_write(path, text.encode(), mode)

    def _read_units(self) -> None:
        if self.init == "systemd":
            _must(["systemctl", "daemon-reload"], "systemd could not read its units again")

    def _start(self) -> str | None:
        if self.init == "sysv":
            return STARTED if glob.glob(f"/etc/rc[2-5].d/S[0-9][0-9]{self.unit}") else None
        done = _run(["systemctl", "show", "--property=UnitFileState,ActiveState", f"{self.unit}.service"])
        values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        if values.get("UnitFileState") != "enabled":
            return None
        # A unit that failed is told and started again.
        active = values.get("ActiveState")
        return STARTED if active == "active" else f"started at boot, but {active} now\n"

    def _switch(self, on: bool) -> None:
        fault = f"{self.unit} could not be {'enabled' if on else 'disabled'}"
        if self.init == "systemd":
            _must(["systemctl", "enable" if on else "disable", f"{self.unit}.service"], fault)
            _must(["systemctl", "restart" if on else "stop", f"{self.unit}.service"], fault)
        elif on:
            _must(["update-rc.d", self.unit, "defaults"], fault)
            # 'defaults' leaves the links of a script that was disabled by hand.
            _must(["update-rc.d", self.unit, "enable"], fault)
        else:
            _must(["update-rc.d", "-f", self.unit, "remove"], fault)


def wanted_firewall(
    host: Host,
    bridge_prefix: str,
    networks: Sequence[Mapping[str, Any]],
    edge_ports: Sequence[int],
    uplinks: Sequence[str] | None = None,
) -> Firewall:
    """The firewall that a host must have; its own default routes say which bridges lead out, unless they are named.

    Args:
        host: The host, for its default routes.
        bridge_prefix: What the name of every client bridge begins with.
        networks: The clients' networks, as firewall_networks() gives them.
        edge_ports: Ports of the host that containers may reach.
        uplinks: Bridges that lead out of the host.

    Raises:
        InvalidInput: A name or path cannot be used, all faults at once.
    """
    leading_out = host.default_routes()
    if uplinks is None:
        uplinks = [interface for interface in leading_out if host.is_bridge(interface)]
    return checked(
        table=host.table,
        bridge_prefix=bridge_prefix,
        networks=networks,
        uplinks=uplinks,
        edge_ports=edge_ports,
        path=host.path,
        default_route_interfaces=leading_out,
    )


def _nft() -> str:
    nft = find_nft()
    if nft is None:
        raise TenancyError("nft is not installed, so the firewall cannot be loaded; install the package nftables.")
    return nft


def _run(command: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    # LC_ALL=C: the words of an error are looked at.
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        return subprocess.run(
            command, input=text or "", capture_output=True, text=True, env=environment, timeout=120, check=False
        )
    except FileNotFoundError as exc:
        raise TenancyError(f"{command[0]} is not installed on this host; install it and run again.") from exc
    except subprocess.TimeoutExpired as exc:
        raise TenancyError(f"'{' '.join(command)}' did not end within 120 s; see what holds it and run again.") from exc


def _must(command: Sequence[str], fault: str) -> None:
    done = _run(command)
    if done.returncode != 0:
        raise TenancyError(f"{fault}: {_first_line(done.stderr)}.")


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[0].rstrip(".")
