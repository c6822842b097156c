# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings this very collection to the host, when the host says that it has another one."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import DEFAULT_ROOT, Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._toolbox import CONTENT

MODULE = "agency_stack.multi_tenancy.toolbox"
SOURCE = Path(__file__).parents[2]


def collect(source: Path) -> dict[str, bytes]:
    """The files of the collection that make a toolbox, by their names in it."""
    found: dict[str, bytes] = {}
    for name in CONTENT:
        top = source / name
        for directory, folders, files in os.walk(top):
            folders[:] = [folder for folder in folders if folder != "__pycache__"]
            paths = (Path(directory, file) for file in files if not file.startswith("."))
            found |= {str(path.relative_to(source)): path.read_bytes() for path in paths}
        if top.is_file():
            found[name] = top.read_bytes()
    return dict(sorted(found.items()))


def digest(files: dict[str, bytes]) -> str:
    """The version that these files make."""
    total = hashlib.sha256()
    for name, content in files.items():
        total.update(f"{name}\n{len(content)}\n".encode() + content)
    return total.hexdigest()[:16]


def pack(files: dict[str, bytes], path: str) -> None:
    """Write the files as a zip file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


class ActionModule(ActionBase):  # type: ignore[misc]
    """The control side of the module of the same name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Let the host compare, and send the archive only when it asks for it."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        toolbox = os.path.realpath(Layout(arguments.get("root", DEFAULT_ROOT)).base("toolbox"))
        if self._connection.transport == "local" and SOURCE.resolve().is_relative_to(toolbox):
            # A script of the toolbox runs this: there is nothing newer to install than what runs.
            return {"changed": False, "changes": [], "failures": []}
        files = collect(SOURCE)
        arguments["version"] = digest(files)
        arguments["requirements"] = hashlib.sha256(files["requirements/runtime.txt"]).hexdigest()[:16]
        result = self._ask(arguments, task_vars)
        if result.pop("needs_archive", False):
            with tempfile.NamedTemporaryFile(suffix=".zip") as local:
                pack(files, local.name)
                folder = self._make_tmp_path()
                remote = self._connection._shell.join_path(folder, "toolbox.zip")
                self._transfer_file(local.name, remote)
                self._fixup_perms2((folder, remote))
            result = self._ask({**arguments, "archive": remote}, task_vars)
        return result

    def _ask(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return dict(self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars))
