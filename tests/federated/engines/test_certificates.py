"""Certificates of a deployment: what OpenSSL accepts, and what it refuses."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from fedsim.federated.engines import certificates
from fedsim.types import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("keys")
    certificates.make(made, 2, ["localhost", "127.0.0.1"])
    return made


def handshake(server: Path, authority: Path, host: str) -> None:
    """A client that trusts `authority` connects to `host`, where the server of `server` answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server / certificates.CERTIFICATE, server / certificates.KEY)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except (ssl.SSLError, ConnectionError):
                    return  # the client hung up, and says why

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            trust = ssl.create_default_context(cafile=str(authority / certificates.CA))
            with socket.create_connection(listener.getsockname()) as plain:
                trust.wrap_socket(plain, server_hostname=host).close()
        finally:
            thread.join()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_its_own_authority_trusts_it_under_its_names(folder: Path, host: str) -> None:
    handshake(folder, folder, host)


def test_another_name_is_refused(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(folder, folder, "example.org")


def test_another_authority_of_the_same_name_is_refused(folder: Path, tmp_path: Path) -> None:
    certificates.make(tmp_path, 0)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(folder, tmp_path, "localhost")


def test_each_node_has_a_key_and_secrets_are_its_owners_alone(folder: Path) -> None:
    publics = set()
    for node in (0, 1):
        key = serialization.load_ssh_private_key((folder / f"node_{node}.key").read_bytes(), None)
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        assert public == (folder / f"node_{node}.pub").read_bytes()
        publics.add(public)
    assert len(publics) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.key")} == {0o600}


def test_a_missing_file_is_named_with_the_command_that_makes_it(folder: Path, tmp_path: Path) -> None:
    certificates.check(folder, 2)
    with pytest.raises(UserError, match=r"has no node_2\.key; make such a folder with: python -m .* 3 HOST"):
        certificates.check(folder, 3)
    with pytest.raises(UserError, match=r"has no ca\.crt"):
        certificates.check(tmp_path, 0)


def test_from_the_command_line(tmp_path: Path) -> None:
    certificates.main([str(tmp_path / "new"), "1", "localhost"])
    certificates.check(tmp_path / "new", 1)
    with pytest.raises(SystemExit, match="FOLDER NODES HOST"):
        certificates.main([str(tmp_path), "localhost"])
