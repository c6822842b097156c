# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root file systems: what goes in, and that the same content gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import platform
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils import _image_build
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._image_build import (
    Entry,
    build_archive,
    collect,
    debian_sources,
    elf_needs,
    machine_architecture,
    missing_tools,
    write_root,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import BUILT_IN, Packages
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

SHELL = Path("/bin/sh").resolve()


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    entries = {"/usr/bin/b": Entry.of(b"b", 0o755), "/etc/a": Entry.of(b"a")}
    first = write_root(str(tmp_path / "1"), entries, {"/tmp": 0o1777})
    streamed = {"/etc/a": Entry(0o644, io.BytesIO(b"a"), 1), "/usr/bin/b": Entry.of(b"b", 0o755)}
    second = write_root(str(tmp_path / "2"), streamed, {"/tmp": 0o1777})
    assert first == second == hashlib.sha256((tmp_path / "1").read_bytes()).hexdigest()


def test_a_root_has_all_its_folders_and_belongs_to_root(tmp_path: Path) -> None:
    write_root(str(tmp_path / "root.tar"), {"/usr/bin/b": Entry.of(b"b", 0o755)}, {"/tmp": 0o1777, "/srv/www": 0o755})
    with tarfile.open(tmp_path / "root.tar") as archive:
        members = {member.name: member for member in archive}
        assert list(members) == [".", "./srv", "./srv/www", "./tmp", "./usr", "./usr/bin", "./usr/bin/b"]
        assert (members["./tmp"].mode, members["./usr"].mode, members["./usr/bin/b"].mode) == (0o1777, 0o755, 0o755)
        assert {(m.uid, m.gid, m.mtime, m.uname) for m in members.values()} == {(0, 0, 0, "")}


def test_elf_needs_agrees_with_the_loader() -> None:
    loader, libraries = elf_needs(SHELL.read_bytes())
    listed = subprocess.run(["ldd", str(SHELL)], capture_output=True, text=True, check=True).stdout
    assert set(libraries) <= set(re.findall(r"^\s+(\S+)", listed, re.MULTILINE))
    assert "libc.so.6" in libraries
    assert loader is not None
    assert loader in listed


def test_elf_needs_refuses_what_is_no_program() -> None:
    with pytest.raises(TenancyError, match="not a 64-bit ELF file"):
        elf_needs(b"#!/bin/sh\n")


def packages_tar(path: Path, files: dict[str, bytes], links: dict[str, str]) -> tarfile.TarFile:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return tarfile.open(path)


@pytest.mark.parametrize("usr", ["./usr/", "./"], ids=["merged", "split"])
def test_collect_takes_the_programs_with_their_libraries_and_nothing_else(tmp_path: Path, usr: str) -> None:
    loader, _libraries = elf_needs(SHELL.read_bytes())
    libc = next(Path("/lib").glob("*-linux-gnu/libc.so.6")).read_bytes()
    files = {
        "./usr/sbin/server": SHELL.read_bytes(),
        f"{usr}lib/machine/libc-2.so": libc,
        f"{usr}lib/machine/ld.so": Path(str(loader)).read_bytes(),
        f"{usr}lib/machine/plugins/libc.so.6": b"another",
        "./etc/server/types": b"types",
        "./usr/share/doc/server/copyright": b"",
    }
    links = {f"{usr}lib/machine/libc.so.6": "libc-2.so", f".{loader}": "/lib/machine/ld.so"}
    source = Packages(names=("server",), programs=("/usr/sbin/server",), data=("/etc/server/types",))
    with packages_tar(tmp_path / "packages.tar", files, links) as archive:
        entries = collect(archive, source)
    assert set(entries) == {"/usr/sbin/server", "/lib/libc.so.6", loader, "/etc/server/types"}
    assert entries["/lib/libc.so.6"] == Entry.of(libc, 0o755)
    assert entries["/etc/server/types"] == Entry.of(b"types")


def test_collect_names_what_the_packages_lack(tmp_path: Path) -> None:
    source = Packages(names=("server", "tool"), programs=("/usr/sbin/server",))
    with packages_tar(tmp_path / "a.tar", {}, {}) as archive, pytest.raises(TenancyError) as caught:
        collect(archive, source)
    assert str(caught.value) == "the packages server, tool hold no /usr/sbin/server"
    files = {"./usr/sbin/server": SHELL.read_bytes()}
    with packages_tar(tmp_path / "b.tar", files, {}) as archive, pytest.raises(TenancyError, match="hold no "):
        collect(archive, source)


ARCHITECTURES = [("x86_64", "amd64"), ("aarch64", "arm64"), ("amd64", "amd64"), ("arm64", "arm64")]


@pytest.mark.parametrize(("given", "expected"), ARCHITECTURES)
def test_architectures_are_known_by_both_names(given: str, expected: str) -> None:
    assert machine_architecture(given) == expected


def test_another_architecture_is_refused() -> None:
    with pytest.raises(TenancyError, match=r"no built-in images for the architecture riscv64; set edge\.image"):
        machine_architecture("riscv64")


DEB822 = """\
Types: deb
URIs: http://mirror.example.com/bookworm /srv/bookworm
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/bookworm.gpg

Types: deb
URIs: http://security.example.com
Suites: bookworm-security
Components: main
"""
MIRRORS = [
    ({"debian.sources": DEB822}, DEB822.replace(" bookworm", " trixie")),
    (
        {"debian.sources": "# moved\n", "sources.list": "deb http://a/bookworm bookworm main bookworm.1\n"},
        "deb http://a/bookworm trixie main bookworm.1\n",
    ),
    ({"debian.sources": "URIs: http://a\n", "sources.list": "deb http://b bookworm main\n"}, "URIs: http://a\n"),
    ({"sources.list": "deb http://a trixie main\n"}, "deb http://a trixie main\n"),
    ({"sources.list": "# deb http://b bookworm main\n"}, ""),
    ({}, ""),
]


@pytest.mark.parametrize(("files", "expected"), MIRRORS)
def test_a_debian_uses_its_own_mirrors_for_another_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(
        _image_build, "_DEBIAN_SOURCES", tuple(str(tmp_path / n) for n in ("debian.sources", "sources.list"))
    )
    release = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert debian_sources("trixie") == expected
    release["ID"] = "ubuntu"
    assert debian_sources("trixie") == ""


def test_missing_tools_are_listed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_tools([]) == []
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    missing = missing_tools(BUILT_IN.values())
    assert [text.split()[0] for text in missing] == ["pip", "mmdebstrap"]
    assert len(missing_tools([BUILT_IN["site"]])) == 1


FAILURES = [
    (
        "I: x\nE: Failed to fetch http://m\nE: mmdebstrap failed to run\n",
        "mmdebstrap failed (E: Failed to fetch http://m)",
    ),
    ("something odd\n", "mmdebstrap failed (something odd)"),
    ("", "mmdebstrap failed (it does not say why)"),
    ("WARNING: after connection broken by 'X'\nERROR: none\n", "mmdebstrap failed (the package index does not answer)"),
]


@pytest.mark.parametrize(("stderr", "expected"), FAILURES)
def test_a_failed_build_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, expected: str
) -> None:
    programs, archives = tmp_path / "bin", tmp_path / "archives"
    programs.mkdir()
    archives.mkdir()
    (programs / "told").write_text(stderr)
    (programs / "mmdebstrap").write_text(f"#!/bin/sh\n/bin/cat {programs}/told >&2\nexit 1\n")
    (programs / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(TenancyError) as caught:
        build_archive(BUILT_IN["site"], "amd64", str(archives))
    assert expected in str(caught.value)
    assert "set services.site.image in config.yaml to a registry image" in str(caught.value)
    assert list(archives.iterdir()) == []
