# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine edge: one connection, and engine errors turned into sentences."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._labels import DEFAULT_DOCKER_HOST
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

try:
    import docker
    from docker.errors import APIError, DockerException, ImageNotFound

    HAS_DOCKER = True
    DOCKER_IMPORT_ERROR = None
except ImportError:
    HAS_DOCKER = False
    DOCKER_IMPORT_ERROR = traceback.format_exc()
    APIError = DockerException = ImageNotFound = TenancyError  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def connect(docker_host: str = DEFAULT_DOCKER_HOST, timeout: int = 60) -> Any:
    """A docker.APIClient that has spoken with the engine once.

    Args:
        docker_host: URL of the engine's socket.
        timeout: Seconds for each call.

    Raises:
        TenancyError: No engine answers.
    """
    try:
        client = docker.APIClient(base_url=docker_host, version="auto", timeout=timeout)
    except DockerException as exc:
        raise TenancyError(f"No Docker engine answers at {docker_host} ({exc}); start it and run again.") from exc
    return client


def connect_for(module: AnsibleModule, docker_host: str) -> Any | None:
    """The engine for a module; None in check mode on a host that has no engine yet (nothing of ours exists there)."""
    if not HAS_DOCKER:
        if module.check_mode and not _socket_exists(docker_host):
            return None
        module.fail_json(msg=missing_required_lib("docker"), exception=DOCKER_IMPORT_ERROR)
    try:
        return connect(docker_host)
    except TenancyError:
        if module.check_mode:
            return None
        raise


def _socket_exists(docker_host: str) -> bool:
    return docker_host.startswith("unix://") and os.path.exists(docker_host.removeprefix("unix://"))


@contextlib.contextmanager
def engine_errors(what: str, gone_ok: bool = False) -> Iterator[None]:
    """Turn a refusal of the engine into one sentence that begins with what was tried.

    Args:
        what: What was tried.
        gone_ok: Whether it is fine that the object is not there.
    """
    try:
        yield
    except APIError as exc:
        if gone_ok and exc.status_code == HTTPStatus.NOT_FOUND:
            return
        reason = str(exc.explanation or exc).strip().rstrip(".")
        raise TenancyError(f"{what} failed: {reason}.") from exc
    except (DockerException, OSError) as exc:
        # The latter: the connection broke, or the engine took too long.
        raise TenancyError(f"{what} failed: {exc}.") from exc


def pull_image(client: Any, reference: str) -> None:
    """Fetch an image from its registry.

    Args:
        client: A docker.APIClient.
        reference: Name with a tag or a digest, as the engine lists it.

    Raises:
        TenancyError: The registry or the engine refuses; also when the refusal comes after an answer of 200.
    """
    with engine_errors("the engine"):
        check_stream(client.pull(reference, stream=True, decode=True))


def is_missing_image(exc: Exception) -> bool:
    """Whether the engine refused to make a container because it lacks the image."""
    return HAS_DOCKER and isinstance(exc, ImageNotFound)


def check_stream(events: Iterable[Mapping[str, Any]]) -> None:
    """Read the engine's progress to its end; it reports a failure there, after an answer of 200."""
    for event in events:
        if "error" in event:
            raise TenancyError(f"the engine failed: {event['error']}")


def image_fault(reference: str, why: Exception, cure: str | None = None) -> TenancyError:
    """The sentence for an image that cannot be had."""
    cure = cure or "check its name, the way to its registry and, for a private one, 'docker login' on this host"
    return TenancyError(f"Image {reference} cannot be had: {str(why).rstrip('.')}; {cure}.")
