#!/usr/bin/python
# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_image
short_description: Makes sure that a Docker engine has the images that it needs
author:
  - The AgencyStack developers (@agency-stack)
description:
  - Imports images from archives that M(agency_stack.multi_tenancy.image_archive) built, and pulls the others from
    their registries, with what C(docker login) stored for the user on the host.
  - An image that the engine has is left alone, whether or not its registry has a newer one under the same tag.
  - When one image cannot be had, the others are still fetched, and the task fails at its end.
  - Never removes an image.
requirements:
  - Python library C(docker) 5.0 or newer (Debian package C(python3-docker))
extends_documentation_fragment:
  - agency_stack.multi_tenancy.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  docker_host:
    description: URL of the engine's socket.
    type: str
    default: unix:///var/run/docker.sock
  images:
    description: The images.
    type: list
    elements: dict
    required: true
    suboptions:
      image:
        description:
          - Name of the image, such as V(nginx:1.27) or V(registry.example.com/app@sha256:…).
          - With a digest, exactly that image is fetched, and a tag beside it says nothing.
        type: str
        required: true
      archive:
        description:
          - Path, on this host, of a root file system to import when the engine lacks the image.
          - It is not looked at when the engine has the image.
        type: path
      sha256:
        description: SHA-256 of O(images[].archive); when given, another file is refused.
        type: str
      changes:
        description: Dockerfile instructions for the import, such as V(USER 65534).
        type: list
        elements: str
        default: []
      pull:
        description:
          - V(missing) pulls an image without O(images[].archive) when the engine lacks it.
          - V(never) fails instead.
        type: str
        choices: [missing, never]
        default: missing
      name:
        description:
          - Accepted so that RV(agency_stack.multi_tenancy.image_archive#module:images) fits as it is. It has no effect.
        type: str
seealso:
  - module: agency_stack.multi_tenancy.image_archive
"""

EXAMPLES = r"""
- name: Import the built-in images
  agency_stack.multi_tenancy.engine_image:
    images: "{{ __archives.images }}"

- name: Have one image imported and another one pulled, pinned by its digest
  agency_stack.multi_tenancy.engine_image:
    images:
      - image: agency_stack/site:3a356a6833eb
        archive: /var/cache/agency_stack/images/site-3a356a6833eb-amd64.tar
        changes:
          - ENTRYPOINT ["/usr/sbin/nginx", "-e", "stderr", "-c", "/etc/nginx/nginx.conf"]
          - USER 65534:65534
      - image: registry.example.com/shop@sha256:0d17b565c37bcbd895e9d92315a05c1c3c9a29f762b011a10c54a66cd53c9b31
"""

RETURN = r"""
changes:
  description: The images that were fetched, or would be in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    action:
      description: Always C(create).
      type: str
    kind:
      description: Always C(image).
      type: str
    name:
      description: Name of the image.
      type: str
    client_id:
      description: Always null; images belong to the engine.
      type: str
failures:
  description: The images that cannot be had, each with the reason.
  returned: always
  type: list
  elements: dict
"""

import hashlib
import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._engine import (
    check_stream,
    connect_for,
    engine_errors,
    image_fault,
    pull_image,
)
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import Image, familiar, plan_images
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import DEFAULT_DOCKER_HOST
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, TenancyError
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._runner import converge, finish, guarded


class EngineImages:
    """The images of one engine; None stands for the engine of a host that has none yet (check mode)."""

    def __init__(self, client: Any | None) -> None:
        self.client: Any = client

    def present(self) -> set[str]:
        """Every name under which the engine knows an image: tags, digests and ids."""
        if self.client is None:
            return set()
        with engine_errors("Listing the images"):
            listed = self.client.images()
        return {name for image in listed for name in [image["Id"], *_names(image)]}

    def fetch(self, change: Change) -> None:
        """Import or pull one image."""
        image: Image = change.payload
        try:
            with engine_errors("the engine"):
                if image.archive is not None:
                    self._import(image, image.archive)
                else:
                    pull_image(self.client, familiar(image.reference))
        except (TenancyError, OSError) as exc:
            raise image_fault(image.reference, exc, None if image.archive is None else "build it again") from exc

    def _import(self, image: Image, archive: str) -> None:
        if not os.path.isfile(archive):
            raise TenancyError(f"its archive {archive} is missing")
        with open(archive, "rb") as handle:
            if image.sha256 not in (None, hashlib.file_digest(handle, "sha256").hexdigest()):
                raise TenancyError(f"the SHA-256 of {archive} is not that of the file that was built")
        repository, dummy, tag = familiar(image.reference).rpartition(":")
        told: str = self.client.import_image_from_file(
            archive, repository=repository, tag=tag, changes=list(image.changes)
        )
        check_stream(json.loads(line) for line in told.splitlines() if line.strip())


def _names(image: dict[str, Any]) -> list[str]:
    return [*(image.get("RepoTags") or []), *(image.get("RepoDigests") or [])]


def run(module: AnsibleModule) -> None:
    """Fetch what the engine lacks; one image that cannot be had does not keep the others from being fetched."""
    engine = EngineImages(connect_for(module, module.params["docker_host"]))
    wanted = [
        Image(item["image"], item["archive"], tuple(item["changes"]), item["pull"], item["sha256"])
        for item in module.params["images"]
    ]
    results = [converge(module, [change], engine.fetch) for change in plan_images(wanted, engine.present())]
    finish(
        module,
        {
            "changed": any(result["changed"] for result in results),
            **{key: [entry for result in results for entry in result[key]] for key in ("changes", "diff", "failures")},
        },
    )


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
            "images": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "image": {"type": "str", "required": True},
                    "archive": {"type": "path"},
                    "sha256": {"type": "str"},
                    "changes": {"type": "list", "elements": "str", "default": []},
                    "pull": {"type": "str", "choices": ["missing", "never"], "default": "missing"},
                    "name": {"type": "str"},
                },
            },
        },
        supports_check_mode=True,
    )
    guarded(module, lambda: run(module))


if __name__ == "__main__":
    main()
