#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_archive
short_description: Builds the built-in images without an image registry
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Builds the root file systems of the built-in images as tar archives, for M(agency_stack.multi_tenancy.engine_image)
    to import.
  - The image C(edge) holds Traefik out of a wheel of the Python package index, pinned by version and SHA-256.
  - The image C(site) holds nginx with the libraries that it needs, and busybox for the health check, out of Debian
    packages. They come from the mirrors that this machine uses when it is a Debian, else from Debian's own.
  - The name of an archive carries the hash of its recipe, so an archive that is there is never built again.
  - Runs on the control machine. It needs no Docker engine and can build for the other architecture.
requirements:
  - pip in the Python that runs the module, for C(edge)
  - mmdebstrap, for C(site)
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: O(force=true) builds every time.
options:
  names:
    description: The images to build.
    type: list
    elements: str
    choices: [edge, site]
    default: [edge, site]
  dest:
    description: Directory of the archives. It is made when missing.
    type: path
    required: true
  architecture:
    description:
      - Architecture of the images; the kernel's names are understood too.
      - That of the machine on which the module runs when left out.
    type: str
    choices: [amd64, arm64, x86_64, aarch64]
  force:
    description:
      - Build also what is there already.
      - The archive of C(site) then holds the newest packages, but its image keeps its name, so an engine that has the
        image does not import it again.
    type: bool
    default: false
seealso:
  - module: agency_stack.multi_tenancy.engine_image
"""

EXAMPLES = r"""
- name: Build the built-in images on the control machine for the host's architecture
  agency_stack.multi_tenancy.image_archive:
    dest: /var/cache/agency_stack/images
    architecture: "{{ ansible_facts['architecture'] }}"
  delegate_to: localhost
  register: __archives

- name: Build the image of the edge alone, for a host with another architecture
  agency_stack.multi_tenancy.image_archive:
    names: [edge]
    dest: /var/cache/agency_stack/images
    architecture: arm64
  delegate_to: localhost
"""

RETURN = r"""
images:
  description: The images, in the order of O(names); also in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Short name.
      type: str
      sample: site
    image:
      description: The name under which the engine shall know the image.
      type: str
      sample: agency_stack/site:3a356a6833eb
    archive:
      description: Path of the archive.
      type: str
      sample: /var/cache/agency_stack/images/site-3a356a6833eb-amd64.tar
    changes:
      description: Dockerfile instructions for the import.
      type: list
      elements: str
      sample: ["EXPOSE 8080"]
    sha256:
      description: SHA-256 of the archive; null when it is not built yet (check mode).
      type: str
      sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
changes:
  description: The archives that were built, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    action:
      description: C(create) or C(recreate).
      type: str
    kind:
      description: Always C(image archive).
      type: str
    name:
      description: File name of the archive.
      type: str
    client_id:
      description: Always null; the images belong to the platform.
      type: str
failures:
  description: What could not be built, and why.
  returned: always
  type: list
  elements: dict
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._files import locked, read_text
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._image_build import (
    build_archive,
    machine_architecture,
    missing_tools,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import (
    archive_name,
    built_in,
    plan_archives,
    reference,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded

# Longer than a build on a slow machine with a slow mirror.
BUILD_SECONDS = 1800.0


@contextlib.contextmanager
def building(dest: str, check_mode: bool) -> Iterator[None]:
    """Keep a second run from building the same archives; check mode needs no lock and makes no directory."""
    if check_mode:
        yield
        return
    os.makedirs(dest, mode=0o755, exist_ok=True)
    with locked(os.path.join(dest, ".lock"), timeout=BUILD_SECONDS):
        for name in os.listdir(dest):
            if name.startswith(".build-"):  # left by a run that was killed
                shutil.rmtree(os.path.join(dest, name))
        yield


def complete_archives(dest: str) -> set[str]:
    """The archives that have their digest beside them."""
    names = set(os.listdir(dest)) if os.path.isdir(dest) else set()
    return {name for name in names if f"{name}.sha256" in names}


def run(module: AnsibleModule) -> None:
    """Build what is missing."""
    names, dest = module.params["names"], module.params["dest"]
    architecture = machine_architecture(module.params["architecture"])
    with building(dest, module.check_mode):
        changes = plan_archives(names, architecture, complete_archives(dest), module.params["force"])
        missing = missing_tools(change.payload for change in changes) if not module.check_mode else []
        if missing:
            raise TenancyError(
                f"The built-in images cannot be built without {' and '.join(missing)}; install that first."
            )
        result = converge(module, changes, lambda change: build_archive(change.payload, architecture, dest))

    def described(name: str) -> dict[str, Any]:
        archive = os.path.join(dest, archive_name(name, architecture))
        digest = read_text(f"{archive}.sha256")
        return {
            "name": name,
            "image": reference(name),
            "archive": archive,
            "changes": list(built_in(name).changes),
            "sha256": digest.strip() if digest else None,
        }

    finish(module, {**result, "images": [described(name) for name in names]})


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "choices": ["edge", "site"], "default": ["edge", "site"]},
            "dest": {"type": "path", "required": True},
            "architecture": {"type": "str", "choices": ["amd64", "arm64", "x86_64", "aarch64"]},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
