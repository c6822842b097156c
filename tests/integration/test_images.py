# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The built-in images, really built, imported into the machine's engine, and run as hardened as clients' are."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._images import reference
from conftest import TEST_LABEL
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

RUN_ID = os.getpid()
LABELS = dict([TEST_LABEL.split("=")])
CLIENT_UID = 1900000001
HEALTH_CHECK = ["/bin/busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8081/healthz"]
MODULE = """
import json, runpy, sys
sys.path[:0] = json.loads(sys.argv[1])
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.loads(sys.argv[3])):
    runpy.run_module(sys.argv[2], run_name="__main__")
"""


def run_module(name: str, **arguments: Any) -> dict[str, Any]:
    module = f"ansible_collections.agency_stack.multi_tenancy.plugins.modules.{name}"
    command = [sys.executable, "-c", MODULE, json.dumps(sys.path), module, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = None
        with contextlib.suppress(OSError, ssl.SSLError, http.client.HTTPException):
            value = condition()
        if value or time.monotonic() > deadline:
            assert value, f"did not happen within {seconds} s"
            return value
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def engine() -> docker.APIClient:
    return docker.APIClient(version="auto")


@pytest.fixture(scope="module")
def archives(engine: docker.APIClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Both images, built from cold and imported; the second run of each module changes nothing.

    They are imported under names of the test's own, which no other user of this engine can have made before.
    """
    dest = str(tmp_path_factory.mktemp("archives"))
    first = run_module("image_archive", dest=dest)
    assert first.get("changed"), first
    assert len(first["changes"]) == 2
    second = run_module("image_archive", dest=dest)
    assert (second["changed"], second["images"]) == (False, first["images"])
    images = [{**image, "image": f"agency_stack_test/{image['name']}:{RUN_ID}"} for image in first["images"]]
    try:
        imported = run_module("engine_image", images=images)
        assert imported.get("changed"), imported
        assert len(imported["changes"]) == 2
        assert not run_module("engine_image", images=images)["changed"]
        yield {image["name"]: image for image in images}
    finally:
        for image in images:
            with contextlib.suppress(docker.errors.ImageNotFound):
                engine.remove_image(image["image"])


@pytest.fixture(scope="module")
def network(engine: docker.APIClient) -> Iterator[tuple[str, str]]:
    """A bridge of the test's own: its name and the beginning of its addresses."""
    prefix = f"10.213.{RUN_ID % 250}"
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=f"{prefix}.0/28")])
    name = f"agency-images-{RUN_ID}"
    engine.create_network(name, ipam=pool, labels=LABELS)
    yield name, prefix
    engine.remove_network(name)


@pytest.fixture
def start(engine: docker.APIClient) -> Iterator[Callable[..., str]]:
    """Start a container as clients' are started: no capability, no new privilege, a read-only root."""
    started: list[str] = []

    def run(image: str, host: dict[str, Any], **options: Any) -> str:
        host_config = engine.create_host_config(
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs={"/tmp": "size=16m"},
            pids_limit=64,
            mem_limit="128m",
            **host,
        )
        made = engine.create_container(image, labels=LABELS, host_config=host_config, **options)
        started.append(made["Id"])
        engine.start(made["Id"])
        return str(made["Id"])

    yield run
    for container in started:
        engine.remove_container(container, force=True, v=True)


@pytest.fixture
def site(
    engine: docker.APIClient,
    archives: dict[str, dict[str, Any]],
    network: tuple[str, str],
    start: Callable[..., str],
    tmp_path: Path,
) -> tuple[str, str, Path]:
    """A running site: container, address, directory of the files."""
    name, prefix = network
    files = tmp_path / "files"
    files.mkdir(mode=0o750)
    os.chown(files, 0, CLIENT_UID)
    (files / "index.html").write_text("welcome")
    address = f"{prefix}.3"
    container = start(
        archives["site"]["image"],
        {"binds": [f"{files}:/srv/www:ro"]},
        user=f"{CLIENT_UID}:{CLIENT_UID}",
        stop_signal="SIGQUIT",
        healthcheck={"test": ["CMD", *HEALTH_CHECK], "interval": 10**9, "timeout": 3 * 10**9, "retries": 3},
        networking_config=engine.create_networking_config({name: engine.create_endpoint_config(ipv4_address=address)}),
    )
    wait_for(lambda: get(address, "/").status == 200)
    return container, address, files


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()


def get(address: str, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(address, 8080, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(connection.getresponse())


def test_the_archives_hold_nothing_else(archives: dict[str, dict[str, Any]]) -> None:
    with tarfile.open(archives["edge"]["archive"]) as archive:
        files = {member.name for member in archive if member.isfile()}
    assert files == {"./etc/group", "./etc/passwd", "./etc/ssl/certs/ca-certificates.crt", "./usr/local/bin/traefik"}
    with tarfile.open(archives["site"]["archive"]) as archive:
        files = {member.name for member in archive if member.isfile() and not member.name.startswith(("./lib",))}
        size = sum(member.size for member in archive)
    assert files == {
        "./bin/busybox",
        "./etc/group",
        "./etc/nginx/mime.types",
        "./etc/nginx/nginx.conf",
        "./etc/nginx/shared.conf",
        "./etc/passwd",
        "./usr/sbin/nginx",
    }
    assert size < 20 * 2**20


def test_the_other_architecture_builds_here_too(tmp_path: Path, archives: dict[str, dict[str, Any]]) -> None:
    own = Path(archives["site"]["archive"]).stem.rpartition("-")[2]
    other = {"amd64": "arm64", "arm64": "amd64"}[own]
    result = run_module("image_archive", dest=str(tmp_path), names=["site"], architecture=other)
    assert result.get("changed"), result
    assert result["images"][0]["image"] == reference("site")
    machine = {"amd64": 62, "arm64": 183}[other]
    with tarfile.open(result["images"][0]["archive"]) as archive:
        for name in ("./usr/sbin/nginx", "./bin/busybox", "./lib/libc.so.6"):
            handle = archive.extractfile(name)
            assert handle is not None
            assert int.from_bytes(handle.read(20)[18:20], "little") == machine


def test_a_file_is_served_at_once_and_gone_at_once(site: tuple[str, str, Path]) -> None:
    _container, address, files = site
    assert get(address, "/").body == b"welcome"
    for number in range(5):
        (files / "new.txt").write_text(f"version {number}")
        assert get(address, "/new.txt").body == f"version {number}".encode()
    (files / "new.txt").unlink()
    assert get(address, "/new.txt").status == 404
    (files / "index.html").unlink()
    assert get(address, "/").status == 403


PATHS = [
    ("/.git/config", 404),
    ("/%2egit/config", 404),
    ("/sub/.env", 404),
    ("/.well-known/acme-challenge/token", 200),
    ("/.well-known/.hidden", 404),
    ("/.well-known-not/x", 404),
    ("/listing/", 403),
    ("/healthz", 404),
    ("/..%2f..%2fetc/passwd", 400),
    ("/nothing", 404),
]


def test_what_is_served_and_what_is_not(site: tuple[str, str, Path]) -> None:
    _container, address, files = site
    for name in (".git/config", "sub/.env", ".well-known/acme-challenge/token", ".well-known/.hidden", "listing/x"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text("x")
    (files / ".well-known-not").mkdir()
    (files / ".well-known-not" / "x").write_text("x")
    assert {path: get(address, path).status for path, _status in PATHS} == dict(PATHS)
    assert get(address, "/", method="POST").status == 405


def test_headers_redirects_types_and_compression(site: tuple[str, str, Path]) -> None:
    _container, address, files = site
    (files / "sub").mkdir()
    (files / "app.mjs").write_text("export {}")
    (files / "big.css").write_text("a" * 5000)
    redirect = get(address, "/sub", Host="example.com")
    assert (redirect.status, redirect.headers["Location"]) == (301, "/sub/")
    assert redirect.headers["Server"] == "nginx"
    assert get(address, "/app.mjs").headers["Content-Type"] == "text/javascript"
    packed = get(address, "/big.css", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == b"a" * 5000


def test_the_log_shows_the_visitor_that_the_edge_names(engine: docker.APIClient, site: tuple[str, str, Path]) -> None:
    container, address, _files = site
    get(address, "/marked", X_Forwarded_For="192.0.2.66, 203.0.113.5")
    lines = wait_for(lambda: [x for x in engine.logs(container, stderr=False).splitlines() if b"/marked" in x])
    assert [line.split()[0] for line in lines] == [b"203.0.113.5"]
    assert b"emerg" not in engine.logs(container, stdout=False)


def test_the_health_check_answers_at_once_and_only_inside(
    engine: docker.APIClient, site: tuple[str, str, Path]
) -> None:
    container, address, _files = site
    call = engine.exec_create(container, HEALTH_CHECK)
    engine.exec_start(call)
    assert engine.exec_inspect(call)["ExitCode"] == 0
    wait_for(lambda: engine.inspect_container(container)["State"]["Health"]["Status"] == "healthy")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, 8081), timeout=2)


def test_it_stops_in_order(engine: docker.APIClient, site: tuple[str, str, Path]) -> None:
    container, _address, _files = site
    engine.stop(container, timeout=10)
    assert engine.inspect_container(container)["State"]["ExitCode"] == 0


def test_without_a_user_it_is_not_root(engine: docker.APIClient, archives: dict[str, dict[str, Any]]) -> None:
    assert engine.inspect_image(archives["site"]["image"])["Config"]["User"] == "65534:65534"


def self_signed(name: str) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def test_the_edge_serves_a_certificate_that_lies_in_its_file(
    archives: dict[str, dict[str, Any]], start: Callable[..., str], tmp_path: Path
) -> None:
    port = free_port()
    dynamic = tmp_path / "dynamic"
    dynamic.mkdir(mode=0o755)
    start(
        archives["edge"]["image"],
        {"binds": [f"{dynamic}:/dynamic:ro"], "network_mode": "host"},
        user="65532:65532",
        command=[
            f"--entryPoints.websecure.address=127.0.0.1:{port}",
            "--providers.file.directory=/dynamic",
            "--global.checkNewVersion=false",
        ],
    )

    def presented() -> str:
        # ssl.get_server_certificate would send the address as the server's name.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="client.example.com") as wrapped,
        ):
            return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")

    wait_for(presented)
    for _renewal in range(2):
        certificate, key = self_signed("client.example.com")
        outside = tmp_path / "client.yml"
        outside.write_text(json.dumps({"tls": {"certificates": [{"certFile": certificate, "keyFile": key}]}}))
        outside.rename(dynamic / "client.yml")
        wait_for(lambda: presented().strip() == certificate.strip())  # noqa: B023


def test_the_edge_is_the_pinned_version(
    engine: docker.APIClient, archives: dict[str, dict[str, Any]], start: Callable[..., str]
) -> None:
    container = start(archives["edge"]["image"], {"network_mode": "none"}, user="65532:65532", command=["version"])
    assert engine.wait(container)["StatusCode"] == 0
    assert b"Version:      3.7.15" in engine.logs(container)
    assert reference("edge").startswith("agency_stack/edge:3.7.15-")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real image registry on the loopback, out of Debian's package; yields its host and port."""
    home = tmp_path_factory.mktemp("registry")
    home.chmod(0o755)
    subprocess.run(["apt-get", "download", "docker-registry"], cwd=home, check=True, capture_output=True)
    (package,) = home.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, home / "root"], check=True)
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(home / "data")}},
        "http": {"addr": address},
    }
    (home / "config.yml").write_text(json.dumps(settings))
    with subprocess.Popen(
        [home / "root/usr/bin/docker-registry", "serve", home / "config.yml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        host, port = address.split(":")
        try:
            wait_for(lambda: socket.create_connection((host, int(port)), timeout=1).close() is None)
            yield address
        finally:
            process.terminate()


@pytest.fixture
def forget(engine: docker.APIClient) -> Iterator[Callable[..., None]]:
    """Remove images now, and again when the test ends."""
    names: set[str] = set()

    def remove(*given: str) -> None:
        names.update(given)
        for name in given:
            with contextlib.suppress(docker.errors.ImageNotFound):
                engine.remove_image(name)

    yield remove
    remove(*names)


def test_registry_images_are_pulled_by_tag_and_by_digest(
    engine: docker.APIClient,
    archives: dict[str, dict[str, Any]],
    registry: str,
    forget: Callable[..., None],
) -> None:
    # An image of the test's own: one that others use on this engine would never be missing.
    archive, changes = archives["site"]["archive"], [f"LABEL agency_stack.test={RUN_ID}"]
    tag = f"{registry}/site:1"
    seed = run_module("engine_image", images=[{"image": tag, "archive": archive, "changes": changes}])
    assert seed.get("changed"), seed
    pushed = list(engine.push(tag, stream=True, decode=True))
    digest = next(event["aux"]["Digest"] for event in pushed if "aux" in event)
    pinned = f"{registry}/site@{digest}"
    forget(tag, pinned)

    planned = run_module("engine_image", images=[{"image": pinned}], _ansible_check_mode=True)
    assert planned["changed"]
    with pytest.raises(docker.errors.ImageNotFound):
        engine.inspect_image(pinned)
    assert run_module("engine_image", images=[{"image": pinned}])["changed"]
    again = [{"image": pinned}, {"image": f"{registry}/site:9@{digest}"}]
    assert not run_module("engine_image", images=again)["changed"]

    forget(tag, pinned)
    wanted = [{"image": f"{registry}/none:1"}, {"image": tag}, {"image": "127.0.0.1:1/site:1"}]
    result = run_module("engine_image", images=wanted)
    assert result["failed"]
    assert [change["name"] for change in result["changes"]] == [tag]
    assert [failure["change"]["name"] for failure in result["failures"]] == [f"{registry}/none:1", "127.0.0.1:1/site:1"]
    assert "connection refused; check its name, the way to its registry" in result["failures"][1]["msg"]
    assert engine.inspect_image(tag)["Config"]["Labels"] == {"agency_stack.test": str(RUN_ID)}


def test_an_engine_that_does_not_answer_is_named() -> None:
    result = run_module("engine_image", docker_host="unix:///nowhere/docker.sock", images=[{"image": "site:1"}])
    assert result["failed"]
    assert result["msg"].startswith("No Docker engine answers at unix:///nowhere/docker.sock")
