# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file for logrotate, read and obeyed by the real one on logs of its own. Needs root."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).resolve().parents[2] / "roles" / "host" / "templates" / "logrotate.conf.j2"
GROUP = 61234


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Logs of the platform and of one client, with the owners and modes that the platform gives them."""
    folder = tmp_path / "log"
    (folder / "components").mkdir(parents=True)
    (folder / "clients" / "acme").mkdir(parents=True)
    (folder / "clients").chmod(0o711)
    (folder / "clients" / "acme").chmod(0o750)
    os.chown(folder / "clients" / "acme", 0, GROUP)
    write(folder / "components" / "multi_tenancy.log", "one\n")
    write(folder / "clients" / "acme" / "app.log", "one\n")
    return folder


def write(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as handle:
        handle.write(text)
    log.chmod(0o640)
    os.chown(log, 0, GROUP)


def rotate(logs: Path, *options: str, files: int = 1) -> subprocess.CompletedProcess[str]:
    """Run logrotate with our file, as many of the same text as are asked for, and with a state of its own."""
    text = TEMPLATE.read_text(encoding="utf-8").replace("{{ host_log_dir }}", str(logs))
    assert "{{" not in text
    names = []
    for number in range(files):
        names.append(str(logs.parent / f"agency-stack-{number}"))
        Path(names[-1]).write_text(text, encoding="utf-8")
    return subprocess.run(
        ["/usr/sbin/logrotate", "--verbose", "--state", str(logs.parent / "state"), *options, *names],
        capture_output=True,
        text=True,
        check=False,
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_logrotate_reads_the_file_and_finds_every_log(logs: Path) -> None:
    done = rotate(logs, "--debug")
    assert done.returncode == 0
    assert "error" not in done.stderr
    for log in (logs / "components" / "multi_tenancy.log", logs / "clients" / "acme" / "app.log"):
        assert f"considering log {log}\n" in done.stderr
        assert log.read_text(encoding="utf-8") == "one\n"


@pytest.mark.parametrize("log", ["components/multi_tenancy.log", "clients/acme/app.log"])
def test_a_log_is_rotated_compressed_and_begun_anew_with_its_owner_and_mode(logs: Path, log: str) -> None:
    path = logs / log
    for number in range(10):
        assert rotate(logs, "--force").returncode == 0
        status = path.stat()
        assert (status.st_size, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0, 0o640, 0, GROUP)
        assert path.with_name(f"{path.name}.1").read_text(encoding="utf-8") == ("one\n" if number == 0 else "more\n")
        write(path, "more\n")
    assert names(path.parent) == sorted(
        [path.name, f"{path.name}.1", *(f"{path.name}.{number}.gz" for number in range(2, 9))]
    )


def test_a_log_that_grew_large_does_not_wait_for_its_week(logs: Path) -> None:
    small, large = logs / "clients" / "acme" / "app.log", logs / "components" / "multi_tenancy.log"
    os.truncate(large, 51 * 1024**2)
    assert rotate(logs).returncode == 0
    assert (large.stat().st_size, small.read_text(encoding="utf-8")) == (0, "one\n")


def test_without_any_log_nothing_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    for folder in ("", "clients", "clients/acme", "components"):
        (tmp_path / "log" / folder).mkdir(exist_ok=True)
        done = rotate(tmp_path / "log", "--force")
        assert (done.returncode, "error" in done.stderr) == (0, False)


def test_two_files_that_name_the_same_logs_rotate_them_once(logs: Path) -> None:
    done = rotate(logs, "--force", files=2)
    assert (done.returncode, "error" in done.stderr) == (0, False)
    assert names(logs / "clients" / "acme") == ["app.log", "app.log.1"]


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, victim: path.symlink_to(victim),
    "hard link": lambda path, victim: path.hardlink_to(victim),
    "FIFO": lambda path, _victim: os.mkfifo(path),
    "folder": lambda path, _victim: path.mkdir(),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_what_is_no_plain_file_is_left_and_the_others_are_rotated(
    logs: Path, plant: Callable[[Path, Path], object]
) -> None:
    victim, planted = logs.parent / "victim", logs / "clients" / "acme" / "planted.log"
    victim.write_text("not yours\n", encoding="utf-8")
    plant(planted, victim)
    before = planted.lstat()
    rotate(logs, "--force")
    assert victim.read_text(encoding="utf-8") == "not yours\n"
    assert planted.lstat() == before
    assert names(planted.parent) == ["app.log", "app.log.1", "planted.log"]


@pytest.mark.parametrize("mode", [0o770, 0o757], ids=["the client", "everybody"])
def test_a_folder_that_others_can_write_is_refused_and_the_others_are_rotated(logs: Path, mode: int) -> None:
    """The modes that the platform gives do not come to this; it is why there is no "su" in the file."""
    (logs / "clients" / "acme").chmod(mode)
    done = rotate(logs, "--force")
    assert done.returncode == 1
    assert "insecure permissions" in done.stderr
    assert names(logs / "clients" / "acme") == ["app.log"]
    assert names(logs / "components") == ["multi_tenancy.log", "multi_tenancy.log.1"]
