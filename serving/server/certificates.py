"""The server's TLS certificate, which may be renewed while it serves."""

import logging
import os
import pathlib
import ssl
import time
from typing import Any

import grpc

from igpt_keras.errors import InputError

# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
INVALID_NOW = (9, 10)
logger = logging.getLogger(__name__)


def read_credentials(
    certificate: str | os.PathLike,
    key: str | os.PathLike,
    client_ca: str | os.PathLike | None = None,
) -> grpc.ServerCredentials:
    """Reads a server's TLS credentials from PEM files, and again when the files change.

    A renewed certificate holds for new connections. One that cannot be read is logged, and the
    one before stays; so is one that has expired.

    Args:
        certificate: File of the server's certificate and the intermediate ones it is signed by.
        key: File of its private key.
        client_ca: File of certificate authorities. If given, clients must present a certificate
            signed by one of them.

    Raises:
        OSError: A file cannot be read.
        InputError: A file does not hold a certificate or the certificate's key.
    """
    paths = [pathlib.Path(path) for path in (certificate, key, client_ca) if path is not None]
    files = _Files(paths)
    # None for no change is missing in the type hints.
    changed: Any = files.changed
    return grpc.dynamic_ssl_server_credentials(
        files.read(), changed, require_client_authentication=client_ca is not None
    )


class _Files:
    """The files of a certificate, its key and perhaps the clients' authorities."""

    def __init__(self, paths: list[pathlib.Path]):
        self._paths = paths
        self._contents: list[bytes] = []
        self._expires = 0.0
        self._told = False

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Reads the files."""
        contents = [path.read_bytes() for path in self._paths]
        certificate, key, *client_ca = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise InputError(
                f"{certificate} and {key} are not a certificate and its key: {error}"
            ) from None
        for path in client_ca:
            try:
                context.load_verify_locations(path)
            except ssl.SSLError as error:
                raise InputError(f"{path} holds no certificates: {error}") from None
        self._contents, self._told = contents, False
        self._expires = _expiry(context, certificate)
        self._tell_expired()
        return grpc.ssl_server_certificate_configuration(
            [(contents[1], contents[0])], *contents[2:]
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what the files hold if that is new and valid; gRPC asks at every handshake."""
        self._tell_expired()
        try:
            if [path.read_bytes() for path in self._paths] == self._contents:
                return None
            configuration = self.read()
        except (InputError, OSError) as error:
            logger.error("the certificate stays as it was: %s", error)
            return None
        logger.info("the certificate in %s has changed", self._paths[0])
        return configuration

    def _tell_expired(self) -> None:
        if time.time() >= self._expires and not self._told:
            self._told = True
            logger.error("the certificate in %s is not valid now", self._paths[0])


def _expiry(server: ssl.SSLContext, certificate: pathlib.Path) -> float:
    """Returns the time at which a certificate expires, in seconds since 1970; 0 if not valid now.

    Only a client learns it from `ssl`, so one shakes hands with the server in memory.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for end in [*ends, *ends]:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in INVALID_NOW:
                return 0.0
            raise InputError(f"{certificate} is not a server's certificate: {error}") from None
    found = ends[0].getpeercert() or {}
    return ssl.cert_time_to_seconds(str(found["notAfter"]))
