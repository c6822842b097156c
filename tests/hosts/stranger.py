# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody who has a checkout on a machine and nothing else."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field

from testhost import Machine


@dataclass(frozen=True)
class Done:
    """What a command said and how it ended."""

    status: int
    output: str

    @property
    def changed(self) -> int:
        """How many tasks changed something, as Ansible's recap counts them."""
        counts = re.findall(r"\bchanged=(\d+)", self.output.rpartition("PLAY RECAP")[2])
        assert counts, self.output
        return sum(map(int, counts))


@dataclass
class Stranger:
    """Somebody who copied the checkout to a machine and types commands in it."""

    machine: Machine
    wall_times: list[tuple[float, str, str]]
    directory: str = "/srv/any-folder-name"
    environment: dict[str, str] = field(default_factory=dict)

    def make(self, arguments: str = "", *, target: str = "multi_tenancy", user: str = "root") -> Done:
        """Run a target of make as the stranger would, and note how long it took."""
        command = f"make {target} {arguments}".strip()
        before = time.monotonic()
        done = self.machine.run(f"cd {self.directory} && {command}", check=False, env=self.environment, user=user)
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].partition(" ")[0]
        self.wall_times.append((round(time.monotonic() - before, 1), test, command))
        return Done(done.returncode, done.stdout)
