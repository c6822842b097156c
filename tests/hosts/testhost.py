# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare Debian machines for tests: containers of the local engine with an init, addresses and an engine of their own.

    python tests/hosts/testhost.py image bare          build (or find) the image of a flavour
    python tests/hosts/testhost.py up web1             start a machine, wait until it is up, print how to reach it
    python tests/hosts/testhost.py restart web1        switch it off and on
    python tests/hosts/testhost.py down web1           remove it with its volume
    python tests/hosts/testhost.py down --all          remove every machine of this checkout

Flavours: bare (systemd, git, make and nothing else), ssh (systemd, sshd, Python and iproute2, to be managed from here),
sysv (sysvinit, git, make). The images are kept in .cache/hosts, so that a second start takes seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache" / "hosts"
SUITE = "bookworm"
# Several checkouts may share one engine: names and clean-up keep to what this one made.
TREE = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]
LABEL = f"agency_stack.test={TREE}"
KEY = CACHE / "id_ed25519"
KNOWN_HOSTS = CACHE / "known_hosts"
START_SECONDS = 90

# All that an init and a nested engine need. --privileged would ask for more than a confined engine may give.
CAPABILITIES = (
    *("AUDIT_WRITE", "DAC_OVERRIDE", "DAC_READ_SEARCH", "IPC_LOCK", "LINUX_IMMUTABLE", "MKNOD", "NET_ADMIN"),
    *("NET_BROADCAST", "NET_RAW", "SETFCAP", "SETPCAP", "SYSLOG", "SYS_ADMIN", "SYS_CHROOT", "SYS_MODULE"),
    *("SYS_NICE", "SYS_PTRACE"),
)
# The kernel's own defaults, as on a machine that was just installed; an engine gives containers laxer ones, with which
# a host that was never prepared would pass for one that was.
SYSCTLS = ("net.ipv4.ip_unprivileged_port_start=1024", "net.ipv4.ip_forward=0")

# A machine that is managed over SSH makes its own host keys at its first start, as the installer of Debian would.
SSH_DROP_IN = """\
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
"""


@dataclass(frozen=True)
class Flavour:
    """What a kind of machine is made of, and how to see that it is up."""

    packages: tuple[str, ...]
    ready: str
    stop_signal: str
    files: Mapping[str, str]
    hooks: tuple[str, ...] = ()


SYSTEMD_READY = 'case "$(systemctl is-system-running)" in running|degraded) ;; *) exit 1 ;; esac'
BARE = ("systemd", "systemd-sysv", "dbus", "git", "make")
FLAVOURS = {
    "bare": Flavour(BARE, SYSTEMD_READY, "SIGRTMIN+3", {}),
    "ssh": Flavour(
        (*BARE, "openssh-server", "python3", "iproute2"),
        f"{SYSTEMD_READY}; systemctl is-active --quiet ssh",
        "SIGRTMIN+3",
        {"/etc/systemd/system/ssh.service.d/host-keys.conf": SSH_DROP_IN},
        ('rm -f "$1"/etc/ssh/ssh_host_*',),
    ),
    "sysv": Flavour(
        ("sysvinit-core", "git", "make"),
        'test "$(runlevel)" = "N 2" && ! pidof -x rc >/dev/null',
        "SIGKILL",
        {},
        # There are no consoles to log in from.
        ('sed -i /getty/d "$1"/etc/inittab',),
    ),
}


class TestHostError(Exception):
    """A machine could not be made, reached or used; the text says why."""

    __test__ = False


def run(
    command: Sequence[str], *, check: bool = True, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine; its output is kept, and shown when it fails."""
    done = subprocess.run(command, check=False, text=True, capture_output=True, timeout=timeout)
    if check and done.returncode != 0:
        raise TestHostError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Let one process at a time build an image or make a key."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _wait(what: str, ready: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TestHostError(f"{what} did not happen within {seconds:.0f} seconds.")
        time.sleep(0.3)


def _apt_options() -> str:
    """How this machine's apt reaches its packages (proxy, retries, checks), for the apt inside the machines."""
    wanted = re.compile(r"Acquire::(https?::.*|Check-.*|Retries|ForceIPv[46]) ")
    lines = run(["apt-config", "dump"]).stdout.splitlines()
    return "".join(f"{line}\n" for line in lines if wanted.match(line) and not line.endswith('"";'))


def image(flavour: str) -> str:
    """The image of the flavour, built when it is not there; its tag is the hash of all that it is made of."""
    kind = FLAVOURS[flavour]
    apt_options = _apt_options()
    recipe = [SUITE, kind.packages, sorted(kind.files.items()), kind.hooks, apt_options]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    tag = f"agency-stack-test-{flavour}:{digest}"
    with _locked(f"image-{flavour}"):
        if run(["docker", "image", "inspect", tag], check=False).returncode == 0:
            return tag
        root = CACHE / f"{flavour}-{digest}.tar"
        if not root.exists():
            for old in CACHE.glob(f"{flavour}-*.tar"):
                old.unlink()
            _build(root, kind, apt_options)
        # Images of earlier recipes go, unless a machine still runs on one.
        known = run(["docker", "images", "--quiet", f"agency-stack-test-{flavour}"]).stdout.split()
        run(["docker", "image", "rm", *known], check=False)
        run(["docker", "import", "--change", f"LABEL {LABEL.replace('=', ' ')}", str(root), tag])
    return tag


def _build(root: Path, kind: Flavour, apt_options: str) -> None:
    extras = root.with_suffix(".extras")
    extras.mkdir(exist_ok=True)
    # The package manager asks before it overwrites a file that it does not know, so these come last.
    hooks = []
    for number, (path, text) in enumerate(kind.files.items()):
        source = extras / str(number)
        source.write_text(text)
        source.chmod(0o644)
        hooks.append(f'mkdir -p "$1"{Path(path).parent} && cp "{source}" "$1"{path}')
    apt_conf = extras / "apt.conf"
    apt_conf.write_text(apt_options)
    half = root.with_suffix(".part")
    try:
        run(
            [
                *("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", f"--aptopt={apt_conf}"),
                f"--include={','.join(kind.packages)}",
                *(f"--customize-hook={hook}" for hook in (*hooks, *kind.hooks)),
                *(SUITE, str(half)),
            ]
        )
        half.rename(root)
    except FileNotFoundError as exc:
        raise TestHostError("mmdebstrap is not installed: apt-get install mmdebstrap.") from exc
    finally:
        half.unlink(missing_ok=True)
        shutil.rmtree(extras)


@dataclass(frozen=True)
class Machine:
    """One machine of this checkout, by its short name."""

    name: str

    @property
    def container(self) -> str:
        """What the engine around the machine calls it."""
        return f"agency-stack-test-{TREE}-{self.name}"

    @property
    def exists(self) -> bool:
        """Whether there is such a machine, switched on or off."""
        return run(["docker", "container", "inspect", self.container], check=False).returncode == 0

    @property
    def address(self) -> str:
        """The address at which this machine (and other machines) reach it."""
        return self._inspect("{{.NetworkSettings.IPAddress}}")

    @property
    def flavour(self) -> str:
        """The kind of machine that it is."""
        return self._inspect('{{index .Config.Labels "agency_stack.test.flavour"}}')

    def up(self, flavour: str = "bare") -> Machine:
        """Make the machine, or switch it on, and wait until it is up."""
        if not self.exists:
            self._create(flavour, image(flavour))
        elif self._inspect("{{.State.Running}}") != "true":
            run(["docker", "start", self.container])
        return self._await()

    def restart(self) -> Machine:
        """Switch the machine off and on, and wait until it is up; its address may be another one afterwards."""
        run(["docker", "restart", self.container])
        return self._await()

    def unplug(self) -> None:
        """Cut the machine off every network."""
        run(["docker", "network", "disconnect", "bridge", self.container])

    def plug(self) -> None:
        """Connect an unplugged machine again; its address may be another one afterwards."""
        run(["docker", "network", "connect", "bridge", self.container])

    def down(self) -> None:
        """Remove the machine and what its engine stored."""
        run(["docker", "rm", "--force", "--volumes", self.container], check=False)
        run(["docker", "volume", "rm", "--force", self.container])

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        user: str = "root",
        timeout: float = 1800,
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of shell inside the machine; its standard error goes where its output goes."""
        settings = [f"--env={name}={value}" for name, value in (env or {}).items()]
        return run(
            ["docker", "exec", f"--user={user}", *settings, self.container, "sh", "-c", f"exec 2>&1; {command}"],
            check=check,
            timeout=timeout,
        )

    def write(self, path: str, text: str | bytes, mode: str = "0644") -> None:
        """Put a file into the machine."""
        content = text.encode() if isinstance(text, str) else text
        script = 'mkdir -p "$(dirname "$0")" && cat > "$0" && chmod "$1" "$0"'
        command = ["docker", "exec", "--interactive", self.container, "sh", "-c", script, path, mode]
        subprocess.run(command, input=content, check=True)

    def read(self, path: str) -> str:
        """The text of a file in the machine."""
        return run(["docker", "exec", self.container, "cat", path]).stdout

    def from_inside(self, command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine in the network of the other: a visitor there who needs no package there."""
        return run(["nsenter", f"--net=/proc/{self._inspect('{{.State.Pid}}')}/ns/net", *command], check=check)

    def put_checkout(self, directory: str) -> None:
        """Copy the checkout, as it would be committed now, into the machine and make it a git checkout there."""
        selection = ("--cached", "--others", "--exclude-standard")
        listed = run(["git", "-C", str(CHECKOUT), "ls-files", "-z", *selection]).stdout
        files = "\0".join(path for path in listed.split("\0") if path and os.path.lexists(CHECKOUT / path))
        packed = subprocess.run(
            ["tar", "-C", str(CHECKOUT), "--null", "--files-from=-", "--owner=0", "--group=0", "-c"],
            input=files.encode(),
            capture_output=True,
            check=True,
        ).stdout
        commit = "git init -q && git add -A && git -c user.name=test -c user.email=test@localhost commit -qm checkout"
        script = f'mkdir -p "$0" && cd "$0" && tar -x && {commit}'
        command = ["docker", "exec", "--interactive", self.container, "sh", "-c", script, directory]
        subprocess.run(command, input=packed, check=True)

    def lend_downloads(self) -> dict[str, str]:
        """Let programs in the machine download as those here do: trust the same authorities, return the environment."""
        names = re.compile(r"(PIP_.*|.*_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE)", re.IGNORECASE)
        lent = {}
        for name, value in os.environ.items():
            if not names.fullmatch(name):
                continue
            if value.startswith("/"):
                if not value.endswith((".crt", ".pem")):
                    continue  # a folder of this machine
                self.write(value, Path(value).read_bytes())
            lent[name] = value
        # ca-certificates, once installed there, makes its bundle anew from these.
        for authority in Path("/usr/local/share/ca-certificates").glob("*.crt"):
            self.write(str(authority), authority.read_bytes())
        return lent

    def access(self) -> dict[str, object]:
        """How to reach the machine, as Molecule's instance config says it."""
        reach: dict[str, object] = {"instance": self.name, "container": self.container, "address": self.address}
        if self.flavour == "ssh":
            reach |= {"user": "root", "port": 22, "identity_file": str(KEY), "known_hosts": str(KNOWN_HOSTS)}
        return reach

    def _inspect(self, template: str) -> str:
        return run(["docker", "container", "inspect", "--format", template, self.container]).stdout.strip()

    def _create(self, flavour: str, tag: str) -> None:
        labels = ["--label", LABEL]
        run(["docker", "volume", "create", *labels, self.container])
        run(
            [
                *("docker", "run", "--detach", "--name", self.container, "--hostname", self.name, *labels),
                *("--label", f"agency_stack.test.flavour={flavour}", "--env", "container=docker"),
                *(argument for name in CAPABILITIES for argument in ("--cap-add", name)),
                *(argument for setting in SYSCTLS for argument in ("--sysctl", setting)),
                *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
                *("--security-opt", "systempaths=unconfined", "--device-cgroup-rule", "a *:* rwm"),
                *("--cgroupns=host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
                *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"),
                *("--volume", f"{self.container}:/var/lib/docker"),
                *("--stop-signal", FLAVOURS[flavour].stop_signal, tag, "/sbin/init"),
            ]
        )

    def _await(self) -> Machine:
        ready = FLAVOURS[self.flavour].ready
        _wait(f"The start of {self.name}", lambda: self.run(ready, check=False).returncode == 0)
        failed = self.run("command -v systemctl >/dev/null && systemctl --failed --plain --no-legend; true").stdout
        if failed:
            print(f"{self.name} is up, but these units failed:\n{failed}", file=sys.stderr)
        if self.flavour == "ssh":
            self._open_door()
        return self

    def _open_door(self) -> None:
        """Give the machine our key, and note its host keys, read from its own disk."""
        with _locked("key"):
            if not KEY.exists():
                run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "agency_stack tests", "-f", str(KEY)])
        self.run("mkdir -p -m 0700 /root/.ssh")
        self.write("/root/.ssh/authorized_keys", KEY.with_suffix(".pub").read_text(), "0600")
        # Who comes in through this door brings no environment along, and the host needs packages of its own.
        lent = self.lend_downloads()
        self.write("/etc/environment", "".join(f"{name}={value}\n" for name, value in lent.items()))
        host_keys = self.run("cat /etc/ssh/ssh_host_*_key.pub").stdout.splitlines()
        address = self.address
        # Addresses are used again by later machines, whose keys replace the earlier ones.
        with _locked("known_hosts"):
            known = KNOWN_HOSTS.read_text().splitlines() if KNOWN_HOSTS.exists() else []
            known = [line for line in known if not line.startswith(f"{address} ")]
            known += [f"{address} {' '.join(key.split()[:2])}" for key in host_keys]
            KNOWN_HOSTS.write_text("".join(f"{line}\n" for line in known))


def machines() -> list[Machine]:
    """All machines of this checkout."""
    prefix = Machine("").container
    names = run(["docker", "ps", "--all", "--filter", f"label={LABEL}", "--format", "{{.Names}}"]).stdout.split()
    return [Machine(name.removeprefix(prefix)) for name in sorted(names)]


def down_all() -> None:
    """Remove every machine of this checkout, and volumes that an interrupted start left."""
    for machine in machines():
        machine.down()
    left = run(["docker", "volume", "ls", "--quiet", "--filter", f"label={LABEL}"]).stdout.split()
    if left:
        run(["docker", "volume", "rm", *left])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("image", help="build the image of a flavour")
    build.add_argument("flavour", choices=sorted(FLAVOURS))
    start = commands.add_parser("up", help="start machines")
    start.add_argument("names", nargs="+")
    start.add_argument("--flavour", choices=sorted(FLAVOURS), default="bare")
    commands.add_parser("restart", help="switch machines off and on").add_argument("names", nargs="+")
    stop = commands.add_parser("down", help="remove machines")
    stop.add_argument("names", nargs="*")
    stop.add_argument("--all", action="store_true", help="every machine of this checkout")
    commands.add_parser("list", help="list the machines of this checkout")
    options = parser.parse_args(arguments)
    try:
        if options.command == "image":
            print(image(options.flavour))
        elif options.command == "up":
            print(json.dumps([Machine(name).up(options.flavour).access() for name in options.names], indent=2))
        elif options.command == "restart":
            print(json.dumps([Machine(name).restart().access() for name in options.names], indent=2))
        elif options.command == "list":
            print(json.dumps([asdict(machine) for machine in machines()], indent=2))
        elif options.all:
            down_all()
        else:
            for name in options.names:
                Machine(name).down()
    except TestHostError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
