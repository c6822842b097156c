# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the main job on a bare machine, as ratios to an empty play: python tests/benchmarks/main_job.py [CLIENTS]

Prints the rows of docs/benchmarks.md. The machine should do nothing else meanwhile.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hosts"))

from testhost import Machine

DIRECTORY = "/srv/checkout"
EMPTY_PLAY = "- hosts: all\n  gather_facts: false\n"
REPEATS = 5


def main() -> None:
    """Measure with 1 and with several clients."""
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    machine = Machine("benchmark")
    machine.down()
    try:
        machine.up("bare")
        machine.put_checkout(DIRECTORY)
        environment = machine.lend_downloads()

        def timed(command: str) -> float:
            begin = time.monotonic()
            machine.run(f"cd {DIRECTORY} && {command}", env=environment)
            return time.monotonic() - begin

        def median(command: str) -> float:
            return statistics.median(timed(command) for _turn in range(REPEATS))

        first = timed("make multi_tenancy CLIENT_ID=c1")
        machine.write("/srv/empty.yml", EMPTY_PLAY)
        play = "ANSIBLE_CONFIG=ansible.cfg .venv/bin/ansible-playbook -i inventory/localhost.yml /srv/empty.yml"
        rows = []
        for count in (1, clients):
            for number in range(2, count + 1):
                timed(f"make multi_tenancy CLIENT_ID=c{number}")
            empty = median(play)
            again = median(
                "make multi_tenancy CLIENT_ID=c1" if count == 1 else "make multi_tenancy DEFAULT_CLIENT_ID=c1"
            )
            added = timed(f"make multi_tenancy CLIENT_ID=extra{count}")
            rows += [
                (f"empty play, {count} clients", empty, 1.0),
                (f"second run, {count} clients", again, again / empty),
                (f"one more client beside {count}", added, added / empty),
            ]
            if count == 1:
                rows.insert(0, ("first run from bare", first, first / empty))
        print("| what | seconds | ratio to an empty play |\n|---|---|---|")
        for what, seconds, ratio in rows:
            print(f"| {what} | {seconds:.1f} | {ratio:.1f} |")
    finally:
        machine.down()


if __name__ == "__main__":
    main()
