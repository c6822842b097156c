# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lets an operator work on the host without the checkout: the collection, its virtualenv, and scripts."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change

# Where the collection lies in a version of the toolbox, so that its full name resolves.
COLLECTION = "ansible_collections/agency_stack/multi_tenancy"

# What a version of the toolbox consists of: folders as a whole, and files.
CONTENT = (
    *("plugins", "roles", "playbooks", "meta", "inventory/localhost.yml", "requirements/runtime.txt"),
    *("tools/play.py", "tools/client.py", "ansible.cfg", "LICENSE"),
)

SCRIPTS: Mapping[str, str] = {
    "add_client": "Add a client and bring it online.",
    "update_client": "Change what is named of a client.",
    "suspend_client": "Stop a client's services and answer its visitors with 503.",
    "resume_client": "Bring a suspended client back.",
    "remove_client": "Remove a client; its data is kept unless --purge deletes it.",
    "list_clients": "List the clients of the registry.",
    "status": "Show clients, their levels, domains and health; fails when something is wrong.",
    "logs": "Show the logs of the platform and of clients.",
    "restart": "Restart the platform and clients, and wait until they are healthy.",
    "multi_tenancy": "Make the host equal to its registry and settings.",
}


@dataclass(frozen=True)
class Toolbox:
    """What the host is to have.

    Args:
        layout: Where the platform lies.
        version: Hash of the collection's files.
        requirements: Hash of the pinned packages.
        python: The interpreter that the virtualenv is made from, all links resolved.
    """

    layout: Layout
    version: str
    requirements: str
    python: str

    @property
    def venv(self) -> str:
        """The virtualenv's folder; its scripts name their place and interpreter, so both are part of the name."""
        made_from = "\n".join((self.requirements, self.python, self.place()))
        return "venv-" + hashlib.sha256(made_from.encode()).hexdigest()[:16]

    def place(self, *parts: str) -> str:
        """A path of the toolbox."""
        return self.layout.base("toolbox", *parts)

    def links(self) -> dict[str, str]:
        """Links by path, and where they lead; each is switched at once."""
        return {self.layout.base("venv"): f"toolbox/{self.venv}", self.place("current"): self.version}

    def scripts(self) -> dict[str, str]:
        """Scripts by path.

        They name the root as the installer did: the place that a link leads to would be another root to Ansible.
        """
        python = self.layout.base("venv", "bin", "python")
        client = self.place("current", COLLECTION, "tools", "client.py")
        options = ("--root", self.layout.root, "--log-dir", self.layout.log_dir)
        return {
            self.layout.base("scripts", f"{name}.sh"): (
                f"#!/bin/sh\n# {text} See --help. Made by AgencyStack; changes are overwritten.\n"
                f'exec {shlex.join((python, "-I", client, *options, name))} "$@"\n'
            )
            for name, text in SCRIPTS.items()
        }


@dataclass(frozen=True)
class Installed:
    """What the host has.

    Args:
        complete: Versions and virtualenvs that are whole.
        rest: Everything else in the toolbox, and nothing that a running script still needs.
        links: Where links lead, by path.
        scripts: Texts of the scripts, by path.
    """

    complete: frozenset[str] = frozenset()
    rest: frozenset[str] = frozenset()
    links: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)


def plan_toolbox(wanted: Toolbox, actual: Installed) -> list[Change]:
    """What to do, in this order: links are switched when what they lead to is whole, old versions go last."""
    changes = [
        Change("create", kind, wanted.place(name), None, text)
        for kind, name, text in (
            ("toolbox", wanted.version, f"collection {wanted.version}"),
            ("virtualenv", wanted.venv, f"packages {wanted.requirements}"),
        )
        if name not in actual.complete
    ]
    for kind, paths, present in (
        ("script", wanted.scripts(), actual.scripts),
        ("link", wanted.links(), actual.links),
    ):
        changes += [
            Change("update" if path in present else "create", kind, path, present.get(path), text)
            for path, text in paths.items()
            if present.get(path) != text
        ]
    old = (actual.complete | actual.rest) - {wanted.version, wanted.venv}
    return changes + [Change("delete", "toolbox", wanted.place(name), f"{name}\n", None) for name in sorted(old)]
