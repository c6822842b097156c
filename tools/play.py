# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a playbook for make: the variables come through the environment, and no shell ever sees them.

Usage: play.py PLAYBOOK. With TENANCY_PRINT_ARGV=1 the command is printed as JSON instead of being run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

EXTRA_VARS = (
    "CLIENT_ID",
    "DOMAIN",
    "ISOLATION_LEVEL",
    "DEFAULT_CLIENT_ID",
    "ROOT_DOMAIN",
    "CLIENTS",
    "AGENCY_ROOT",
    "ALIASES",
    "SERVICES",
    "PROTECTED",
    "RESTORE_DATA",
    "PURGE",
    "SERVICE",
    "LINES",
    "FORCE",
    "CUSTOM_CONFIG",
    "EGRESS",
    "EGRESS_ALLOW",
    "RATE_LIMIT",
    "MEMORY",
    "CPUS",
    "PIDS",
    "DISK",
)
# Before the name of a variable in a playbook, as an inventory may have a `domain` of its own.
PREFIX = "multi_tenancy_"
# They only look.
READERS = {"playbooks/status.yml", "playbooks/logs.yml", "playbooks/list_clients.yml"}
DEFAULT_ROOT = "/opt/agency_stack"
LOCK_SECONDS = 1800.0
TRUE = {"1", "true", "yes", "on"}
FALSE = {"", "0", "false", "no", "off"}


class UsageError(Exception):
    """A variable that cannot be used; its text is one clear sentence."""


class BusyError(OSError):
    """Another run does not end; its text is one clear sentence."""


def quoted(value: str) -> str:
    """The text as a double-quoted YAML scalar of plain ASCII."""
    return '"' + "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08x}" for c in value) + '"'


def extra_vars(env: Mapping[str, str]) -> str | None:
    """The variables that are set, as YAML in which each is marked unsafe, so that Ansible never templates it."""
    given = {name: env[name] for name in EXTRA_VARS if env.get(name)}
    if "FORCE" in given:
        given["FORCE"] = "true" if switch(env, "FORCE") else "false"
    if "CUSTOM_CONFIG" in given:
        given["CUSTOM_CONFIG"] = readable(given["CUSTOM_CONFIG"])
    for name, value in given.items():
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise UsageError(f"{name} is not UTF-8 text; type it again.")
    if not given:
        return None
    return unsafe({name.lower(): value for name, value in given.items()})


def unsafe(values: Mapping[str, str]) -> str:
    """Variables of a playbook, by their names without the prefix, that Ansible takes as they are."""
    return "{" + ", ".join(f"{quoted(PREFIX + name)}: !unsafe {quoted(value)}" for name, value in values.items()) + "}"


def readable(path: str) -> str:
    """The absolute path of a file of settings, which must be there: Ansible would look for it in other places too."""
    try:
        with open(path, encoding="utf-8") as handle:
            handle.read(1)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise UsageError(f"The settings {path!r} cannot be read ({why}); CUSTOM_CONFIG= takes a file of YAML.") from exc
    return os.path.abspath(path)


def switch(env: Mapping[str, str], name: str) -> bool:
    """A variable that is on or off."""
    value = env.get(name, "").lower()
    if value not in TRUE | FALSE:
        raise UsageError(f"{name} is {env[name]!r}; it takes 1 (on) or 0 (off).")
    return value in TRUE


def inventory(env: Mapping[str, str], root: Path) -> str:
    """The inventory: this machine unless one is named, which must exist (Ansible alone would go on with no hosts)."""
    named = env.get("INVENTORY", "")
    if not named:
        return str(root / "inventory" / "localhost.yml")
    if "," not in named and not (root / named).exists():
        raise UsageError(f"There is no inventory {named!r}; INVENTORY= takes a file, or hosts with a comma: host1,")
    return named


def free_arguments(env: Mapping[str, str]) -> list[str]:
    """The operator's own arguments, split as a shell would and otherwise left alone."""
    try:
        return shlex.split(env.get("ANSIBLE_ARGS", ""))
    except ValueError as exc:
        raise UsageError(f"ANSIBLE_ARGS cannot be split into words ({exc}); close its quotes.") from exc


def confirm_purge(env: Mapping[str, str], ask: Callable[[str], str], terminal: bool) -> None:
    """Let the operator type the id of the client whose data is to be deleted, unless YES=1 says it already."""
    if not switch(env, "PURGE") or switch(env, "YES") or switch(env, "CHECK"):
        return
    client_id = env.get("CLIENT_ID", "")
    if not client_id:
        raise UsageError("PURGE=1 deletes data for good; name the client with CLIENT_ID=.")
    if not terminal:
        raise UsageError("PURGE=1 deletes data for good; without a terminal to ask at, add YES=1.")
    try:
        answer = ask(f"This deletes all data of client {client_id} for good. Type its id to go on: ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
    if answer != client_id:
        raise UsageError("That was not the client's id; nothing was touched.")


def command(playbook: str, env: Mapping[str, str], root: Path, bin_dir: Path) -> list[str]:
    """The whole ansible-playbook command; every value is bound to its option, so that none can pass for another."""
    argv = [str(bin_dir / "ansible-playbook"), f"--inventory={inventory(env, root)}"]
    if env.get("LIMIT"):
        argv.append(f"--limit={env['LIMIT']}")
    if switch(env, "CHECK"):
        argv += ["--check", "--diff"]
    elif switch(env, "DIFF"):
        argv.append("--diff")
    if switch(env, "VERBOSE"):
        argv.append("-v")
    variables = extra_vars(env)
    if variables is not None:
        argv.append(f"--extra-vars={variables}")
    return [*argv, *free_arguments(env), str(root / playbook)]


def environment(env: Mapping[str, str], root: Path) -> dict[str, str]:
    """The environment for Ansible.

    The checkout's ansible.cfg is named, as Ansible ignores the one in a world-writable folder; the locale is one that
    every machine has, as Ansible refuses to start with one that was handed over but never generated.
    """
    return {**env, "ANSIBLE_CONFIG": str(root / "ansible.cfg"), "LC_ALL": "C.UTF-8"}


def hold_lock(root: str, seconds: float, what: str, lock_dir: str = "/run") -> int:
    """Wait until no other run changes this machine below this root, and let this one, with all it starts, be the one.

    A run reads, plans and applies; another one in between would apply what is outdated by then, such as a firewall
    without the newest client. The kernel lets go of the lock when the last process of the run has ended, however it
    ended.

    Args:
        root: The AgencyStack root.
        seconds: How long to wait.
        what: What this run is, for those who wait for it.
        lock_dir: Where locks lie; nobody but root may write there.
    """
    name = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:12]
    fd = os.open(os.path.join(lock_dir, f"agency_stack-{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + seconds
    waiting = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode(errors="replace") or "another run"
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"{holder} is still at work after {seconds:g} s; run again when it has ended."
                ) from None
            if not waiting:
                print(f"Waiting for {holder} to end ...", file=sys.stderr, flush=True)
            waiting = True
            time.sleep(0.1)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{what} (process {os.getpid()}, since {time.strftime('%H:%M:%S')})".encode(), 0)
    os.set_inheritable(fd, True)
    return fd


def main() -> int:
    """Build the command and become it."""
    try:
        # Not resolved: the interpreter of a virtualenv is a link out of it.
        confirm_purge(os.environ, input, sys.stdin.isatty())
        argv = command(sys.argv[1], os.environ, ROOT, Path(sys.executable).parent)
    except UsageError as exc:
        print(f"multi_tenancy: {exc}", file=sys.stderr)
        return 1
    if os.environ.get("TENANCY_PRINT_ARGV") == "1":
        print(json.dumps(argv))
        return 0
    if not os.environ.get("INVENTORY") and sys.argv[1] not in READERS and not switch(os.environ, "CHECK"):
        try:
            hold_lock(os.environ.get("AGENCY_ROOT") or DEFAULT_ROOT, LOCK_SECONDS, f"make {Path(sys.argv[1]).stem}")
        except OSError as exc:
            print(f"multi_tenancy: {exc}", file=sys.stderr)
            return 1
    os.chdir(ROOT)
    return os.execve(argv[0], argv, environment(os.environ, ROOT))


if __name__ == "__main__":
    sys.exit(main())
