"""Keys and certificates of a small deployment: an authority, the SuperLink's certificate, a key for each SuperNode.

`python -m fedsim.federated.engines.certificates FOLDER NODES HOST…` makes them for the named hosts. For a federation of
institutions use the certificates that they issue; these serve one run on one machine, or a trial.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedsim.types import UserError

CA, CERTIFICATE, KEY = "ca.crt", "superlink.crt", "superlink.key"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
VALID = timedelta(days=30)


def make(folder: Path, nodes: int, hosts: Sequence[str] = LOOPBACK) -> None:
    """Write ca.crt, superlink.crt, superlink.key, and node_I.key, node_I.pub for I < `nodes`.

    The authority's own key is not kept: nothing else can ever be signed in its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer, subject = _name("fedsim run authority"), _name(hosts[0])
    signed = _certificate(issuer, issuer, authority.public_key())
    signed = signed.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    signed = signed.add_extension(_usage(signs=True), critical=True)
    (folder / CA).write_bytes(_pem(signed.sign(authority, hashes.SHA384())))
    signed = _certificate(issuer, subject, server.public_key())
    signed = signed.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    signed = signed.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    signed = signed.add_extension(_usage(signs=False), critical=True)
    signed = signed.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    signed = signed.add_extension(identifier, critical=False)
    (folder / CERTIFICATE).write_bytes(_pem(signed.sign(authority, hashes.SHA384())))
    _write_secret(folder / KEY, _private(server, serialization.PrivateFormat.PKCS8))
    for node in range(nodes):
        key = ec.generate_private_key(ec.SECP384R1())
        _write_secret(folder / f"node_{node}.key", _private(key, serialization.PrivateFormat.OpenSSH))
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        (folder / f"node_{node}.pub").write_bytes(public)


def check(folder: Path, nodes: int) -> None:
    """Raise `UserError` if a file is missing that a SuperLink with `nodes` authenticated SuperNodes needs."""
    keys = [f"node_{node}.{end}" for node in range(nodes) for end in ("key", "pub")]
    missing = [name for name in (CA, CERTIFICATE, KEY, *keys) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"engine.certificates: {folder} has no {missing[0]}; make such a folder with: "
            f"python -m fedsim.federated.engines.certificates {folder} {nodes} HOST"
        )


def _certificate(issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).public_key(key)
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + VALID)
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write_secret(path: Path, content: bytes) -> None:
    """A file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def main(words: Sequence[str]) -> None:
    """FOLDER NODES HOST…"""
    if len(words) < 3 or not words[1].isdecimal():
        sys.exit("give: FOLDER NODES HOST…, such as: keys 2 superlink.example.org 127.0.0.1")
    make(Path(words[0]), int(words[1]), words[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
