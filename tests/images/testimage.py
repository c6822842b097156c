# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images for tests that need real programs of a client's: a database, and a page that keeps its data there.

    python tests/images/testimage.py database visits   build (or find) images and print their names

Both are made of Debian's packages alone, and run as any uid, without a capability, on a read-only root. They understand
what docs/examples/webapp.yaml says to their counterparts from a registry. The roots are kept in .cache/images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hosts"))
from testhost import CHECKOUT, LABEL, SUITE, TestHostError, _apt_options, _locked, run

CACHE = CHECKOUT / ".cache" / "images"


@dataclass(frozen=True)
class Recipe:
    """What an image is made of: packages with all that they depend on, programs of the checkout, and a last touch."""

    packages: tuple[str, ...]
    programs: Mapping[str, str]
    hook: str
    changes: tuple[str, ...]


POSTGRESQL = "/usr/lib/postgresql/15/bin"
RECIPES = {
    "database": Recipe(
        ("postgresql-15", "dash", "coreutils", "libc-bin"),
        {"/usr/local/bin/database": "tests/images/database.sh"},
        # What compiles queries weighs more than all the rest, and PostgreSQL goes without it.
        'rm -rf "$1"/usr/lib/*/libLLVM* "$1"/usr/lib/*/libz3* "$1"/usr/lib/postgresql/15/lib/bitcode; '
        # A tmpfs takes the mode of what it covers, when a container is started again.
        'install -d -m 1777 "$1"/var/run/postgresql; ln -s /tmp/passwd "$1"/etc/passwd',
        (
            'ENTRYPOINT ["/usr/local/bin/database"]',
            'CMD ["postgres", "-c", "listen_addresses=*"]',
            f"ENV PATH={POSTGRESQL}:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data",
            "EXPOSE 5432",
        ),
    ),
    "visits": Recipe(
        ("python3-psycopg2", "libc-bin"),
        {"/usr/local/bin/visits.py": "docs/examples/visits.py"},
        "",
        ('ENTRYPOINT ["/usr/bin/python3", "-B", "/usr/local/bin/visits.py"]', "EXPOSE 8080"),
    ),
}


def image(name: str) -> str:
    """An image of RECIPES, built when it is not there; its tag is the hash of all that it is made of."""
    recipe, apt_options = RECIPES[name], _apt_options()
    programs = {source: (CHECKOUT / source).read_text() for source in recipe.programs.values()}
    text = json.dumps([SUITE, asdict(recipe), programs, apt_options])
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    tag = f"agency-stack-test-{name}:{digest}"
    with _locked(f"image-{name}"):
        if run(["docker", "image", "inspect", tag], check=False).returncode == 0:
            return tag
        CACHE.mkdir(parents=True, exist_ok=True)
        root = CACHE / f"{name}-{digest}.tar"
        if not root.exists():
            for old in CACHE.glob(f"{name}-*"):
                old.unlink()
            _build(root, recipe, apt_options)
        # Images of earlier recipes go, unless a container still runs on one.
        known = run(["docker", "images", "--quiet", f"agency-stack-test-{name}"]).stdout.split()
        run(["docker", "image", "rm", *known], check=False)
        changes = (*recipe.changes, "USER 65534:65534", f"LABEL {LABEL.replace('=', ' ')}")
        run(["docker", "import", *(word for change in changes for word in ("--change", change)), str(root), tag])
    return tag


def _build(root: Path, recipe: Recipe, apt_options: str) -> None:
    apt_conf = root.with_suffix(".conf")
    apt_conf.write_text(apt_options)
    copies = [
        f'install -D -m 0755 {shlex.quote(str(CHECKOUT / source))} "$1"{target}'
        for target, source in recipe.programs.items()
    ]
    # Nobody reads it in a container.
    tidy = 'rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale "$1"/usr/share/i18n'
    half = root.with_suffix(".part")
    # Nothing of the packages is run; with a fixed time the same packages give the same archive.
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    try:
        run(
            [
                *("mmdebstrap", "--quiet", "--variant=extract", "--format=tar", f"--aptopt={apt_conf}"),
                f"--include={','.join(recipe.packages)}",
                *(f"--extract-hook={hook}" for hook in (*copies, tidy, recipe.hook) if hook),
                *(SUITE, str(half)),
            ]
        )
        half.rename(root)
    except FileNotFoundError as exc:
        raise TestHostError("mmdebstrap is not installed: apt-get install mmdebstrap.") from exc
    finally:
        half.unlink(missing_ok=True)
        apt_conf.unlink()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES))
    try:
        for name in parser.parse_args().names:
            print(image(name))
    except TestHostError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
