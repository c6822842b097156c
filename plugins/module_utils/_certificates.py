# Copyright (c) 2026, The AgencyStack developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The internal certificate authority and the certificates that it gives to clients."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.agency_stack.multi_tenancy.plugins.module_utils._plan import TenancyError

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

CA_DAYS = 3650
# Browsers refuse certificates of more than 398 days, Apple's more than 825 also from an own authority.
LEAF_DAYS = 397
RENEW_DAYS = 30
# The unit in the name of a certificate whose key no shared edge has had.
_OWN_EDGE = "own edge"


@dataclass(frozen=True)
class Pair:
    """A certificate with its key.

    Args:
        certificate: PEM; of a client's, the leaf alone (who trusts the authority needs nothing more).
        key: PEM, PKCS #8.
    """

    certificate: str
    key: str


@dataclass(frozen=True)
class Facts:
    """What is known of a certificate.

    Args:
        names: Its DNS names, sorted.
        issuer: SHA-256 of the issuing key's identifier, as its extension says; '' without.
        expires: End of validity, UTC.
        fingerprint: SHA-256 of the whole, hexadecimal.
        own_edge: Whether its key was made for the client's own edge, and no other one has ever had it.
    """

    names: list[str]
    issuer: str
    expires: datetime.datetime
    fingerprint: str
    own_edge: bool = False

    def shown(self) -> dict[str, Any]:
        """As the diff shows it."""
        return {"names": self.names, "expires": self.expires.date().isoformat(), "fingerprint": self.fingerprint[:16]}


def why_renew(
    facts: Facts | None, names: Sequence[str], authority: str, now: datetime.datetime, own_edge: bool = False
) -> str | None:
    """Why a client needs a new certificate; None when the present one is good.

    Args:
        facts: The present certificate; None when there is none that parses and fits its key.
        names: The host names it must cover.
        authority: Key identifier of the certificate authority.
        now: UTC.
        own_edge: Whether the client has an edge of its own, which alone may know the key.
    """
    if facts is None:
        return "there is none"
    if facts.names != sorted(names):
        return "its names are not the client's"
    if facts.issuer != authority:
        return "it is of another certificate authority"
    if own_edge and not facts.own_edge:
        return "the shared edge may have had its key"
    if facts.own_edge and not own_edge:
        # What it says must not hold on for a key that the shared edge is given.
        return "it is for an edge of the client's own"
    if facts.expires - now < datetime.timedelta(days=RENEW_DAYS):
        return f"it expires on {facts.expires.date().isoformat()}"
    return None


def make_authority(name: str, now: datetime.datetime, key_pem: str | None = None) -> Pair:
    """A new certificate authority.

    Args:
        name: Its common name.
        now: UTC.
        key_pem: The key that it is made for; a new one when None.

    Raises:
        TenancyError: The key is damaged.
    """
    key: Any = ec.generate_private_key(ec.SECP256R1())
    if key_pem is not None:
        try:
            key = serialization.load_pem_private_key(key_pem.encode(), password=None)
        except ValueError as exc:
            raise TenancyError("The certificate authority's ca.key is damaged; restore it from a copy.") from exc
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(authority: Pair, names: Sequence[str], now: datetime.datetime, own_edge: bool = False) -> Pair:
    """A certificate for host names, with a new key; in itself it says for which kind of edge."""
    ca = x509.load_pem_x509_certificate(authority.certificate.encode())
    ca_key: Any = serialization.load_pem_private_key(authority.key.encode(), password=None)
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name has 64 characters at most; the names that count stand in the extension.
    units = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, _OWN_EDGE)] if own_edge else []
    subject = x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, min(names, key=len)[:64])])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in sorted(names)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def read_certificate(pem: str) -> Facts:
    """What a certificate says.

    Raises:
        ValueError: It does not parse.
    """
    certificate = x509.load_pem_x509_certificate(pem.encode())
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    try:
        issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        issuer = None
    # not_valid_after_utc is missing in Debian 12's library (38), not_valid_after warns in newer ones.
    expires = getattr(certificate, "not_valid_after_utc", None)
    if expires is None:
        expires = certificate.not_valid_after.replace(tzinfo=datetime.UTC)
    der = certificate.public_bytes(serialization.Encoding.DER)
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    own_edge = any(unit.value == _OWN_EDGE for unit in units)
    return Facts(sorted(names), (issuer or b"").hex(), expires, hashlib.sha256(der).hexdigest(), own_edge)


def authority_identifier(pem: str) -> str:
    """The key identifier of a certificate authority, hexadecimal.

    Raises:
        TenancyError: It is no certificate authority.
    """
    try:
        extensions = x509.load_pem_x509_certificate(pem.encode()).extensions
        return str(extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex())
    except (ValueError, x509.ExtensionNotFound) as exc:
        raise TenancyError("The certificate authority's ca.crt is damaged; restore it from a copy.") from exc


def fits(pair: Pair) -> bool:
    """Whether the certificate parses and is the key's."""
    try:
        public = x509.load_pem_x509_certificate(pair.certificate.encode()).public_key()
        private: Any = serialization.load_pem_private_key(pair.key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # TypeError: the key is encrypted.
        return False
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return bool(public.public_bytes(*form) == private.public_key().public_bytes(*form))


def _builder(subject: Any, issuer: Any, public_key: Any, now: datetime.datetime, days: int) -> Any:
    # An hour back: a client whose clock is a little slow must not refuse a new certificate.
    start = now - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
    )


def _usage(**on: bool) -> Any:
    off = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**{**off, **on})


def _pair(certificate: Any, key: Any) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
