"""The server's TLS certificate, which may be renewed while it serves."""

import logging
import os
import pathlib
import ssl
import threading
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
) -> "Credentials":
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
    return Credentials(
        [pathlib.Path(path) for path in (certificate, key, client_ca) if path is not None]
    )


class Credentials:
    """A certificate, its key and perhaps the clients' authorities, as gRPC and HTTPS need them.

    Args:
        paths: The files, in this order.

    Raises:
        OSError: A file cannot be read.
        InputError: A file does not hold what it should.
    """

    def __init__(self, paths: list[pathlib.Path]):
        self._paths = paths
        self._lock = threading.Lock()
        self._told = False
        self._read()

    def for_grpc(self) -> grpc.ServerCredentials:
        """Returns credentials whose files gRPC has read again at every handshake."""
        given = self._configuration

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self._refresh()
            if self._configuration is given:
                return None
            given = self._configuration
            return given

        # None for no change is missing in the type hints.
        callback: Any = changed
        return grpc.dynamic_ssl_server_credentials(
            given, callback, require_client_authentication=len(self._paths) > 2
        )

    def for_https(self) -> ssl.SSLContext:
        """Returns the context for the next handshake, with what the files hold now."""
        self._refresh()
        return self._context

    def _refresh(self) -> None:
        """Reads the files again if they have changed."""
        with self._lock:
            self._tell_expired()
            try:
                if [path.read_bytes() for path in self._paths] == self._contents:
                    return
                self._read()
            except (InputError, OSError) as error:
                logger.error("the certificate stays as it was: %s", error)
                return
        logger.info("the certificate in %s has changed", self._paths[0])

    def _read(self) -> None:
        contents = [path.read_bytes() for path in self._paths]
        certificate, key, *client_ca = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
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
        self._expires = _expiry(context, certificate)
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
        self._contents, self._context, self._told = contents, context, False
        self._configuration = grpc.ssl_server_certificate_configuration(
            [(contents[1], contents[0])], *contents[2:]
        )
        self._tell_expired()

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
