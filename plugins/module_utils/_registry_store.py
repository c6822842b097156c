# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's file edge: read, lock, write as a whole."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import json
import math
import os
import re
import shlex
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import (
    atomic_write,
    read_text,
    sync_directory,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._legacy import (
    BEFORE_UPGRADE,
    complete_ids,
    is_old_list,
    old_clients,
    parse_list,
    plan_upgrade,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import shown
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._registry import (
    NewerVersion,
    check_document,
    empty_document,
)

# How many earlier generations of the registry are kept beside it.
GENERATIONS = 10
# In bytes; what an earlier installer wrote of a client is a few lines.
OLD_FILE_LIMIT = 64 * 1024
_GENERATION = re.compile(r"clients-(\d{8})\.json")


def load(path: str) -> dict[str, Any]:
    """The registry; an empty one when there is no file.

    Raises:
        TenancyError: The file is damaged, no registry, of another version or of an earlier installer; it is left as it
            is.
    """
    text = read_text(path)
    if text is None:
        return empty_document()
    if is_old_list(text):
        names = ", ".join(dict.fromkeys(str(entry.get("client_id")) for entry in _old_entries(text, path)))
        raise TenancyError(
            f"{path} is that of an earlier installer, with the clients {shown(names)[1:-1] or 'nobody'}: run "
            "make multi_tenancy, which upgrades it and keeps the original beside it."
        )
    with _restore_told(path):
        return _parse(text, path)


def load_for_edit(
    layout: Layout,
    config: Mapping[str, Any],
    occupied: Sequence[tuple[str, str]] = (),
    now: str = "",
    edit: Sequence[Mapping[str, Any]] = (),
) -> tuple[dict[str, Any], list[Change]]:
    """The registry that an edit starts from, and what changed already because an earlier installer's was upgraded.

    The changes are there only until the registry is written with save().

    Args:
        layout: Where the files lie.
        config: The platform's effective settings.
        occupied: As for plan_registry().
        now: As for plan_registry().
        edit: The clients that plan_registry() is going to add or change.

    Raises:
        InvalidInput: A client of an earlier installer cannot be taken over.
        TenancyError: As of load(), or a client's own file cannot be trusted.
    """
    path = layout.registry
    text = read_text(path)
    if text is None or not is_old_list(text):
        return load(path), []
    entries = _old_entries(text, path)
    files = read_old_files(os.path.join(layout.root, "clients"), complete_ids(entries))
    return plan_upgrade(old_clients(entries, path, files), path, text, config, occupied, now, edit)


def _old_entries(text: str, path: str) -> list[dict[str, Any]]:
    with _restore_told(path), _damage_told(path):
        return parse_list(text, DECODER)


def read_old_files(directory: str, needless: Collection[str] = ()) -> dict[str, tuple[str, str]]:
    """(path, text) of the files that an earlier installer made of its variables, by the client's folder.

    Args:
        directory: Where the clients' folders lie; nobody but root can write it. Below it no link is followed, since the
            client may have planted it.
        needless: Folders to leave out.

    Raises:
        TenancyError: One is no regular file of at most 64 KiB, or no text.
    """
    found: dict[str, tuple[str, str]] = {}
    try:
        above = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return found
    try:
        with os.scandir(above) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for name in names:
            path = os.path.join(directory, name, "config", ".env")
            text = None if name in needless else _read_inside(above, name, path)
            if text is not None:
                found[name] = path, text
    finally:
        os.close(above)
    return found


def _read_inside(above: int, folder: str, path: str) -> str | None:
    """The text of `folder`/config/.env, looked up part by part."""
    inside = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.ExitStack() as opened:
        try:
            for part, flags in ((folder, os.O_DIRECTORY), ("config", os.O_DIRECTORY), (".env", 0)):
                above = os.open(part, inside | flags, dir_fd=above)
                opened.callback(os.close, above)
        except FileNotFoundError:
            return None
        except OSError as exc:
            # A link, or no folder, or a socket.
            if exc.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise
            regular = False
        else:
            regular = stat.S_ISREG(os.fstat(above).st_mode)
        data = _read_up_to(above, OLD_FILE_LIMIT + 1) if regular else b""
    try:
        if regular and len(data) <= OLD_FILE_LIMIT:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise TenancyError(
        f"{path} must be a regular file of at most {OLD_FILE_LIMIT // 1024} KiB with UTF-8 text, reached over no link; "
        "correct it or move it away."
    )


def _read_up_to(fd: int, limit: int) -> bytes:
    data = b""
    while part := os.read(fd, limit - len(data)):
        data += part
    return data


@contextlib.contextmanager
def _restore_told(path: str) -> Iterator[None]:
    """Add to the fault of a registry's file how to get a good one back."""
    try:
        yield
    except NewerVersion:
        raise
    except TenancyError as exc:
        raise TenancyError(f"{exc} {_how_to_restore(path)}".rstrip()) from exc


@contextlib.contextmanager
def _damage_told(path: str) -> Iterator[None]:
    """Say in one sentence that a file is damaged, and where."""
    try:
        yield
    except (ValueError, RecursionError) as exc:
        at = f" at line {exc.lineno}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
        why = f" ({exc})" if isinstance(exc, ValueError) and not at else ""
        raise TenancyError(f"{path} is damaged{at}{why}; it was left as it is: restore it from a copy.") from exc


def _parse(text: str, path: str) -> dict[str, Any]:
    with _damage_told(path):
        return check_document(DECODER.decode(text), path)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands in one object twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _no_infinity(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number in it is too large")
    return number


# JSON as the standard has it: what Python reads beyond it, or reads as something else, is damage.
DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_no_infinity)


def generations(path: str) -> list[str]:
    """The earlier generations of a registry, the oldest first."""
    directory = os.path.join(os.path.dirname(path), "generations")
    try:
        names = sorted(name for name in os.listdir(directory) if _GENERATION.fullmatch(name))
    except FileNotFoundError:
        return []
    return [os.path.join(directory, name) for name in names]


def _how_to_restore(path: str) -> str:
    """The sentence that names the newest generation that can be used."""
    for candidate in reversed(generations(path)):
        try:
            _parse(read_text(candidate) or "", candidate)
        except TenancyError:
            continue
        return (
            f"The newest good generation is {candidate}; restore it with: {shlex.join(['cp', '-p', candidate, path])}"
        )
    return ""


def _keep_generation(path: str) -> None:
    """Give the present file a second name, before another takes its place."""
    kept = generations(path)
    directory = os.path.join(os.path.dirname(path), "generations")
    os.makedirs(directory, mode=0o750, exist_ok=True)
    try:
        # A run that was killed here got as far as this.
        if not kept or not os.path.samefile(kept[-1], path):
            number = int(_GENERATION.fullmatch(os.path.basename(kept[-1]))[1]) + 1 if kept else 1  # type: ignore[index]
            kept.append(os.path.join(directory, f"clients-{number:08d}.json"))
            os.link(path, kept[-1])
    except FileNotFoundError:
        return  # the first write of all
    for old in kept[:-GENERATIONS]:
        os.unlink(old)
    sync_directory(directory)


def _keep_original(path: str) -> bool:
    """Give what an earlier installer wrote a second name, if the present file is that; False when it needs another."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            old = is_old_list(handle.read(4096))
    except FileNotFoundError:
        return False
    if not old:
        return False
    original = path + BEFORE_UPGRADE
    try:
        os.link(path, original)
    except FileExistsError:
        # An upgrade that was interrupted got as far as this; anything else of that name stays, too.
        return filecmp.cmp(path, original, shallow=False)
    sync_directory(os.path.dirname(path))
    return True


def as_json(document: Mapping[str, Any]) -> str:
    """The registry as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def save(path: str, document: Mapping[str, Any]) -> None:
    """Write the registry as a whole; its lock must be held.

    Raises:
        TenancyError: It could not be read again; nothing is written then.
    """
    try:
        data = as_json(document).encode()
    except (ValueError, TypeError, RecursionError) as exc:
        raise TenancyError(f"The new registry cannot be written as JSON ({ascii(str(exc))[1:-1]}).") from exc
    _parse(data.decode(), path)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if not _keep_original(path):
        _keep_generation(path)
    atomic_write(path, data, mode=0o640)
