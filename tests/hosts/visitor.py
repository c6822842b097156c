# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A person with curl who visits the sites of a test machine, from outside or sitting at the machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from testhost import Machine, TestHostError, run

CA = "/opt/agency_stack/multi_tenancy/ca/ca.crt"


@dataclass(frozen=True)
class Answer:
    """What came back: the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True)
class Visitor:
    """Visits a machine and trusts its certificate authority alone."""

    machine: Machine
    ca: Path
    inside: bool = False

    def get(self, url: str, *, insecure: bool = False) -> Answer:
        """Fetch a page; TestHostError says why when there is none, a certificate that is not trusted included."""
        name = urlsplit(url).hostname
        address = "127.0.0.1" if self.inside else self.machine.address
        trust = ["--insecure"] if insecure else ["--cacert", str(self.ca)]
        command = [
            *("curl", "--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "10", *trust),
            *("--resolve", f"{name}:443:{address}", "--resolve", f"{name}:80:{address}", url),
        ]
        done = self.machine.from_inside(command) if self.inside else run(command)
        # run() reads line ends of any kind as newlines.
        head, dummy, body = done.stdout.partition("\n\n")
        first, *rest = head.splitlines()
        headers = {key.strip().lower(): value.strip() for key, dummy, value in (line.partition(":") for line in rest)}
        return Answer(int(first.split()[1]), headers, body)

    def wait_for(self, url: str, seconds: float = 60) -> Answer:
        """Fetch a page as soon as it is there with status 200."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = self.get(url)
            except TestHostError:
                if time.monotonic() > deadline:
                    raise
            else:
                if answer.status == 200 or time.monotonic() > deadline:
                    return answer
            time.sleep(0.3)


def trusted(machine: Machine, directory: Path, *, inside: bool = False) -> Visitor:
    """A visitor who was given the machine's certificate authority."""
    ca = directory / f"{machine.name}-ca.crt"
    ca.write_text(machine.read(CA))
    return Visitor(machine, ca, inside)
