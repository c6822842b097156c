# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The toolbox's edge on the host: folders, links, the virtualenv."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import zipfile
from collections.abc import Sequence

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    read_text,
    sync_directory,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._toolbox import COLLECTION, Installed, Toolbox

# The last file to be written in a virtualenv.
STAMP = "stamp"
# Not of a run: the lock of installations.
LOCK = ".lock"
_NEEDS = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"


def find_python() -> str:
    """The interpreter for the virtualenv; Debian's own comes first, as a version manager's shim may not run."""
    found = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else shutil.which("python3")
    if found is None:
        raise TenancyError("There is no python3 on the host; install it with: apt-get install python3")
    return os.path.realpath(found)


def read_toolbox(wanted: Toolbox) -> Installed:
    """What is there; folders that are in use by a running script count as not there to be removed."""
    place = wanted.place()
    names = set(os.listdir(place)) - {LOCK, "current"} if os.path.isdir(place) else set()
    complete = {name for name in names if _is_complete(os.path.join(place, name))}
    keep = {wanted.version, wanted.venv}
    used = {name for name in names - keep if _in_use(os.path.join(place, name))}
    links = {path: os.readlink(path) for path in wanted.links() if os.path.islink(path)}
    scripts = {path: text for path in wanted.scripts() if (text := _script(path)) is not None}
    return Installed(frozenset(complete - used), frozenset(names - complete - used), links, scripts)


def _script(path: str) -> str | None:
    return read_text(path) if os.access(path, os.X_OK) else None


def _is_complete(path: str) -> bool:
    name = os.path.basename(path)
    if name.startswith("venv-"):
        return os.path.exists(os.path.join(path, STAMP)) and os.access(os.path.join(path, "bin", "python"), os.X_OK)
    return not name.startswith(".") and os.path.isdir(path)


def _in_use(path: str) -> bool:
    """Whether a script that runs from this folder holds its lock."""
    if not os.path.isdir(path) or os.path.islink(path):
        return False
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class ToolboxApplier:
    """Makes the changes of a plan.

    Args:
        wanted: The toolbox.
        archive: The collection as a zip file; None when no version is to be unpacked.
    """

    def __init__(self, wanted: Toolbox, archive: str | None) -> None:
        self._wanted = wanted
        self._archive = archive

    def apply(self, change: Change) -> None:
        """Make one change."""
        if change.action == "delete":
            _remove(change.name)
        elif change.kind == "toolbox":
            self._unpack(change.name)
        elif change.kind == "virtualenv":
            self._make_venv(change.name)
        elif change.kind == "link":
            _link(change.name, change.after)
        else:
            os.makedirs(os.path.dirname(change.name), mode=0o755, exist_ok=True)
            atomic_write(change.name, change.after.encode(), 0o755)

    def _unpack(self, path: str) -> None:
        if self._archive is None:
            raise TenancyError("The archive of the collection did not arrive; run again.")
        # The lock of installations is held: what has this name is left over.
        temporary = os.path.join(os.path.dirname(path), ".new")
        _remove(temporary)
        os.mkdir(temporary, 0o755)
        with zipfile.ZipFile(self._archive) as archive:
            archive.extractall(os.path.join(temporary, COLLECTION))
        os.sync()
        os.rename(temporary, path)
        sync_directory(os.path.dirname(path))

    def _make_venv(self, path: str) -> None:
        python = self._wanted.python
        if _call([python, "-c", _NEEDS]).returncode != 0:
            _install_venv_package()
        _remove(path)
        done = _call([python, "-m", "venv", path])
        if done.returncode != 0:
            raise TenancyError(f"The virtualenv {path} cannot be made ({_reason(done)}); check the space on the disk.")
        requirements = self._wanted.place(self._wanted.version, COLLECTION, "requirements", "runtime.txt")
        pip = (os.path.join(path, "bin", "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
        done = _call([*pip, "--quiet", "--retries", "2", "--require-hashes", "-r", requirements])
        if done.returncode != 0:
            raise TenancyError(
                f"The scripts in {self._wanted.layout.base('scripts')} cannot be installed, as pip cannot get their "
                f"packages ({_reason(done)}); check the host's network, its /etc/pip.conf and its proxy, and run again."
            )
        os.sync()
        atomic_write(os.path.join(path, STAMP), f"{self._wanted.requirements}\n".encode(), 0o644)


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program; the virtualenv of Ansible itself must not show through."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    environment["PATH"] = environment.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        check=False,
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr + done.stdout).strip().splitlines()
    # pip repeats itself, and its first error says most.
    said = [line for line in lines if line.startswith(("ERROR:", "E:"))] or lines[-1:] or ["it gave no reason"]
    return said[0].removeprefix("ERROR:").strip().rstrip(".")


def _install_venv_package() -> None:
    install = ("apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "python3-venv")
    try:
        # The package lists of a bare machine may be empty or old.
        if _call(install).returncode == 0:
            return
        _call(["apt-get", "update"])
        done = _call(install)
    except FileNotFoundError as exc:
        raise TenancyError("The host's Python cannot make a virtualenv; install its module venv.") from exc
    if done.returncode != 0:
        raise TenancyError(
            f"python3-venv cannot be installed on the host ({_reason(done)}); check its network and its apt sources."
        )


def _link(path: str, target: str) -> None:
    """Make a link lead somewhere else, at once."""
    if os.path.isdir(path) and not os.path.islink(path):
        raise TenancyError(f"{path} must be a link of the toolbox and is a directory; move it away.")
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
