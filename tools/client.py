# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What <root>/multi_tenancy/scripts/*.sh run: options become variables of a playbook, as tools/play.py takes them.

Exit codes: 0 done, 1 the input was refused or a client failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

# The folder that holds ansible_collections/, without the link that may lead elsewhere tomorrow; an isolated interpreter
# looks nowhere by itself.
TREE = Path(__file__).absolute().parents[4].resolve()
sys.path.insert(0, str(TREE))

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import (  # noqa: E402
    DEFAULT_LOG_DIR,
    DEFAULT_ROOT,
    Layout,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError  # noqa: E402
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry_store import load  # noqa: E402
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._status import client_table  # noqa: E402
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._toolbox import SCRIPTS  # noqa: E402
from ansible_collections.agency_stack.multi_tenancy.tools import play  # noqa: E402

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def text(value: str) -> str:
    """A value that is there; play.py takes an empty one for none."""
    if not value:
        raise argparse.ArgumentTypeError("it must not be empty")
    return value


def listed(value: str) -> str:
    """A list with commas; one without anything is a comma alone, as play.py takes an empty text for none."""
    return value or ","


def count(value: str) -> str:
    """A whole number above 0, as text."""
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise argparse.ArgumentTypeError(f"{value!r} is no whole number above 0")
    return value


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "client-id": {"metavar": "ID", "help": "the client"},
    "domain": {"metavar": "HOST", "help": "its main host name"},
    "aliases": {"type": listed, "metavar": "A,B", "help": "its further host names; '' for none"},
    "isolation-level": {"choices": ("soft", "medium", "hard"), "help": "how it is separated from the others"},
    "egress": {"choices": ("allow", "deny"), "help": "whether it may reach addresses outside the host"},
    "egress-allow": {"type": listed, "metavar": "A,B", "help": "what stays open with deny, as 203.0.113.0/24:443"},
    "rate-limit": {"metavar": "A:B", "help": "requests per second, and at once (soft, medium)"},
    "memory": {"metavar": "SIZE", "help": "of a hard client's containers together"},
    "cpus": {"metavar": "N", "help": "of a hard client's containers together"},
    "pids": {"metavar": "N", "help": "processes of a hard client's containers together"},
    "disk": {"metavar": "SIZE", "help": "of a hard client's volume"},
    "services": {"metavar": "A,B", "help": "its services, from the catalog"},
    "protected": {"choices": ("yes", "no"), "help": "whether its removal is refused"},
    "restore-data": {"metavar": "FOLDER", "help": "bring back kept data: latest, or a name below removed/"},
    "purge": {"action": "store_true", "help": "delete the client's data for good"},
    "yes": {"action": "store_true", "help": "do not ask before --purge"},
    "service": {"metavar": "NAME", "help": "this service alone"},
    "lines": {"type": count, "metavar": "N", "help": "how many lines of each log"},
    "default-client-id": {"metavar": "ID", "help": "the client that exists when none was named"},
    "root-domain": {"metavar": "HOST", "help": "the domain below which new clients get theirs"},
    "clients": {"metavar": "A,B", "help": "clients to add with the defaults"},
    "custom-config": {"metavar": "FILE", "help": "settings to merge into config.yaml"},
    "force": {"action": "store_true", "help": "make containers, networks and generated files anew; no data is lost"},
    "check": {"action": "store_true", "help": "show what would be done, and touch nothing"},
    "diff": {"action": "store_true", "help": "show differences"},
    "verbose": {"action": "store_true", "help": "show everything that Ansible says"},
    "wait": {"type": count, "default": "1800", "metavar": "SECONDS", "help": "for another run to end (default: 1800)"},
    "json": {"action": "store_true", "help": "print the registry's list as JSON"},
}
CHANGES = ("check", "diff", "verbose", "wait")
CLIENT = (
    *("client-id", "domain", "aliases", "isolation-level", "services", "protected"),
    *("egress", "egress-allow", "rate-limit", "memory", "cpus", "pids", "disk"),
)
USES: Mapping[str, Sequence[str]] = {
    "add_client": (*CLIENT, "restore-data", *CHANGES),
    "update_client": (*CLIENT, "force", *CHANGES),
    "suspend_client": ("client-id", *CHANGES),
    "resume_client": ("client-id", *CHANGES),
    "remove_client": ("client-id", "purge", "yes", *CHANGES),
    "list_clients": ("json",),
    "status": ("client-id", "verbose"),
    "logs": ("client-id", "service", "lines", "verbose"),
    "restart": ("client-id", *CHANGES),
    "multi_tenancy": (
        "default-client-id",
        "root-domain",
        "isolation-level",
        "clients",
        "custom-config",
        "force",
        *CHANGES,
    ),
}
# Not settings of a playbook.
OWN = {"wait", "json"}


def parser(script: str) -> argparse.ArgumentParser:
    """The command line of one script."""
    made = argparse.ArgumentParser(
        prog=f"{script}.sh",
        description=SCRIPTS[script],
        epilog="Exit codes: 0 done, 1 the input was refused or a client failed, 2 wrong usage.",
        allow_abbrev=False,
    )
    for name in USES[script]:
        settings = dict(OPTIONS[name])
        if not settings.keys() & {"action", "type", "choices"}:
            settings["type"] = text
        if name == "client-id" and script.endswith("_client"):
            settings["required"] = True
        made.add_argument(f"--{name}", **settings)
    return made


def variables(options: argparse.Namespace, root: str) -> dict[str, str]:
    """The options in the form in which make hands them to play.py."""
    given = {name: value for name, value in vars(options).items() if name not in OWN and value not in (None, False)}
    return {"AGENCY_ROOT": root} | {name.upper(): "1" if value is True else str(value) for name, value in given.items()}


def confirm(env: Mapping[str, str], ask: Callable[[str], str], terminal: bool) -> None:
    """Let the operator type the id of the client whose data is to be deleted."""
    if "PURGE" not in env or "YES" in env or "CHECK" in env:
        return
    if not terminal:
        raise play.UsageError("--purge deletes data for good; without a terminal to ask at, add --yes.")
    try:
        answer = ask(f"This deletes all data of client {env['CLIENT_ID']} for good. Type its id to go on: ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
    if answer != env["CLIENT_ID"]:
        raise play.UsageError("That was not the client's id; nothing was touched.")


def command(script: str, env: Mapping[str, str], log_dir: str) -> list[str]:
    """The whole ansible-playbook command."""
    # Not resolved: the interpreter of a virtualenv is a link out of it.
    *argv, playbook = play.command(f"playbooks/{script}.yml", env, play.ROOT, Path(sys.executable).parent)
    own = play.unsafe({"log_dir": log_dir, "from_script": f"{script}.sh"})
    return [*argv, f"--extra-vars={own}", playbook]


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The environment for Ansible, which may have been started from anywhere, cron included."""
    path = outer.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    return {
        **play.environment(outer, play.ROOT),
        "ANSIBLE_COLLECTIONS_PATH": str(TREE),
        "HOME": outer.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir,
        "PATH": f"{path}:/usr/local/sbin:/usr/sbin:/sbin",
    }


def keep_toolbox() -> None:
    """Keep what runs from being removed as an old version, for as long as it runs."""
    for folder in (TREE, Path(sys.prefix).resolve()):
        fd = os.open(folder, os.O_RDONLY)
        os.set_inheritable(fd, True)
        fcntl.flock(fd, fcntl.LOCK_SH)


def run(argv: Sequence[str]) -> int:
    """Run Ansible to its end, whatever signal comes, and translate its exit code."""
    child = subprocess.Popen(argv, cwd=play.ROOT, env=environment(os.environ), close_fds=False)

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGHUP, pass_on)
    # From a terminal it comes to Ansible as well, which ends by itself.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    code = child.wait()
    if code in (99, -signal.SIGINT):
        return INTERRUPTED
    return FAILED if code else 0


def show_list(layout: Layout, as_json: bool) -> int:
    """Print the registry; without Ansible, so that the answer is there at once."""
    document = load(layout.registry)
    clients = sorted(document["clients"], key=lambda client: str(client["client_id"]))
    if as_json:
        print(json.dumps({"version": document["version"], "clients": clients}, indent=2, ensure_ascii=False))
    else:
        print(client_table(clients), end="")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run one script: [--root PATH] [--log-dir PATH] SCRIPT [OPTION ...]."""
    outer = argparse.ArgumentParser(prog="client.py", add_help=False, allow_abbrev=False)
    outer.add_argument("--root", default=DEFAULT_ROOT)
    outer.add_argument("--log-dir", default=DEFAULT_LOG_DIR)
    outer.add_argument("script", choices=sorted(USES))
    outer.add_argument("rest", nargs=argparse.REMAINDER)
    place = outer.parse_args(arguments)
    options = parser(place.script).parse_args(place.rest)
    if os.geteuid() != 0:
        print(f"{place.script}.sh: Only root can do this; run it with sudo.", file=sys.stderr)
        return FAILED
    try:
        if place.script == "list_clients":
            return show_list(Layout(place.root, place.log_dir), options.json)
        env = variables(options, place.root)
        confirm(env, input, sys.stdin is not None and sys.stdin.isatty())
        argv = command(place.script, env, place.log_dir)
        keep_toolbox()
        if "wait" in options and not options.check:
            play.hold_lock(place.root, float(options.wait), f"{place.script}.sh")
        return run(argv)
    except play.UsageError as exc:
        print(f"{place.script}.sh: {exc}", file=sys.stderr)
        return USAGE
    except (TenancyError, OSError) as exc:
        print(f"{place.script}.sh: {exc}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
