# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole platform on this machine's own engine, under its own root, names, subnets and ports."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._boot import BootHost, BootState, plan_boot
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._cgroup import parents_of
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._layout import Layout
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume import read_mounts
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._volume_apply import (
    read_loops,
    set_immutable,
)

CHECKOUT = Path(__file__).resolve().parents[2]
# What tools/test_machine.sh removes at the end; other checkouts may use the same engine.
TEST_LABEL = f"agency_stack.test={hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]}"
BIN = Path(sys.executable).parent


class Platform:
    """One platform, driven through its playbooks and looked at from outside.

    Args:
        root: Its AGENCY_ROOT.
        prefix: Its name_prefix.
        pool: Its network_pool.
        port: Its HTTPS port; the two below are its HTTP and API ports.
    """

    def __init__(self, root: Path, prefix: str, pool: str, port: int) -> None:
        self.root = root
        self.logs = root / "log"
        self.prefix = prefix
        self.port = port
        self.table = f"agency_stack_{prefix}"
        self.settings: dict[str, Any] = {
            "name_prefix": prefix,
            "network_pool": pool,
            "health_timeout": 8,
            "edge": {"https_port": port, "http_port": port - 1, "api_port": port - 2},
        }

    def configure(self, **settings: Any) -> None:
        """Write config.yaml as an operator would."""
        self.settings |= settings
        path = self.root / "multi_tenancy" / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self.settings))

    def run(self, playbook: str = "multi_tenancy", *arguments: str, **extra: Any) -> Outcome:
        """Run a playbook with extra-vars."""
        extra = {f"multi_tenancy_{name}": value for name, value in extra.items()}
        extra |= {"multi_tenancy_agency_root": str(self.root), "multi_tenancy_log_dir": str(self.logs)}
        command = [str(BIN / "ansible-playbook"), f"playbooks/{playbook}.yml", "-i", "inventory/localhost.yml"]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(
            [*command, "-e", unsafe(extra), *arguments],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout + done.stderr)

    def registry(self) -> dict[str, Any]:
        """The registry by client id."""
        document = json.loads((self.root / "multi_tenancy" / "clients.json").read_text())
        return {client["client_id"]: client for client in document["clients"]}

    def containers(self) -> dict[str, str]:
        """Ids of the running containers by name."""
        listed = docker(
            "ps", "--no-trunc", "--filter", f"label=agency_stack.platform={self.prefix}", "--format", "json"
        )
        rows = [json.loads(line) for line in listed.splitlines()]
        return {row["Names"]: row["ID"] for row in rows}

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine says of a container."""
        return dict(json.loads(docker("inspect", name))[0])

    def get(self, host: str, path: str = "/", headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Ask the edge over TLS as a visitor who trusts the authority would: (status, body)."""
        context = ssl.create_default_context(cafile=str(self.root / "multi_tenancy" / "ca" / "ca.crt"))
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        with context.wrap_socket(raw, server_hostname=host) as tls:
            connection = http.client.HTTPConnection(host)
            connection.sock = tls
            connection.request("GET", path, headers={"Host": host, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def site(self, client_id: str) -> Path:
        """The folder that a client's site serves."""
        return self.root / "clients" / client_id / "data" / "site"

    def mount_points(self) -> list[str]:
        """Where file systems are mounted below the root, the innermost first."""
        mounts = read_mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        return sorted((mount.point for mount in mounts if Path(mount.point).is_relative_to(self.root)), reverse=True)

    def loops(self) -> dict[str, str]:
        """The loop device of each file below the root that has one."""
        return {file: device for file, device in read_loops().items() if Path(file).is_relative_to(self.root)}

    def cgroups(self) -> list[Path]:
        """The cgroups of hard clients, of every hierarchy, by the one name that is no link."""
        tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
        groups = [top / "agency_stack" for top in tops if not top.is_symlink()]
        return sorted(path for group in groups for path in group.glob(f"{self.prefix}-*") if path.is_dir())

    def release_resources(self) -> None:
        """Take away what hard clients have outside the engine, as much of it as there is."""
        for point in self.mount_points():
            subprocess.run(["umount", point], check=True)
        for device in self.loops().values():
            # What is unmounted may let its device go at any moment.
            subprocess.run(["losetup", "--detach", device], capture_output=True, check=False)
        for folder in self.root.glob("clients/*/data"):
            set_immutable(str(folder), False)
        shutil.rmtree(self.root / "multi_tenancy" / "volumes", ignore_errors=True)
        for group in self.cgroups():
            for below in sorted(group.glob("**/"), reverse=True):
                below.rmdir()
            with contextlib.suppress(OSError):
                group.parent.rmdir()
        boot = BootHost(Layout(str(self.root)), self.prefix, parents_of({"name_prefix": self.prefix}))
        for change in plan_boot(BootState(), boot.state(), boot.names):
            boot.apply(change)

    def remove(self) -> None:
        """Take everything of this platform away, also what a killed test has left of it."""
        label = f"label=agency_stack.platform={self.prefix}"
        for kind, listing in (("container", ["ps", "-aq"]), ("network", ["network", "ls", "-q"])):
            ids = docker(*listing, "--filter", label).split()
            if ids:
                docker(kind, "rm", *(["-f"] if kind == "container" else []), *ids)
        self.release_resources()
        table = subprocess.run(["nft", "list", "table", "inet", self.table], capture_output=True, check=False)
        if (self.root / "multi_tenancy").is_dir() or table.returncode == 0:
            (self.root / "multi_tenancy").mkdir(parents=True, exist_ok=True)
            options = {"table": self.table, "bridge_prefix": f"{self.prefix}-", "state": "absent"}
            options["path"] = str(self.root / "multi_tenancy" / "firewall.nft")
            module = ["-m", "agency_stack.multi_tenancy.host_firewall", "-a", json.dumps(options)]
            subprocess.run(
                [BIN / "ansible", "localhost", "-i", "inventory/localhost.yml", *module],
                cwd=CHECKOUT,
                env={**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
                capture_output=True,
                check=True,
            )
        Path(f"/etc/logrotate.d/agency-stack-{self.prefix}").unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)


class Outcome:
    """What a run of a playbook said.

    Args:
        rc: Exit code.
        text: All output.
    """

    def __init__(self, rc: int, text: str) -> None:
        self.rc = rc
        self.text = text

    @property
    def changed(self) -> int:
        """The number of changed tasks in the recap."""
        return int(self.text.rpartition("changed=")[2].split()[0])

    def ok(self) -> Outcome:
        """This outcome, when the run succeeded."""
        assert self.rc == 0, self.text
        return self


def unsafe(extra: dict[str, Any]) -> str:
    """Extra-vars as tools/play.py hands them over: marked, so that Ansible never takes one for a template."""
    return "{" + ", ".join(f"{json.dumps(name)}: !unsafe {json.dumps(value)}" for name, value in extra.items()) + "}"


def docker(*arguments: str) -> str:
    """Run the engine's command and return what it printed."""
    arguments = tuple("{{json .}}" if a == "json" else a for a in arguments)
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long campaigns to `make test-full`, which sets TENANCY_FULL."""
    if os.environ.get("TENANCY_FULL"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """An empty platform with its own settings."""
    platform = Platform(tmp_path_factory.mktemp("agency"), "it", "10.214.0.0/16", 9443)
    platform.remove()
    platform.root.mkdir()
    platform.configure()
    yield platform
    platform.remove()
