"""The head's certificate: made on the first start, signed by itself, known by its fingerprint.

Any thread may call. Key and certificate lie in one file, so that no stop leaves one without the
other. It never expires: every join token names its fingerprint, and nobody judges its dates. Who
deletes the file gets a new one at the next start, and must hand out all tokens anew.
"""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clusterray.core.errors import LocalFault
from clusterray.head.secret_file import write_secret
from clusterray.wire.tls import fingerprint_of, server_context

PEM_NAME: Final = "head.pem"
_NAME: Final = "ClusterRay head"
_LAST_DAY: Final = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)
"""What RFC 5280, 4.1.2.5 says of a certificate without an end."""
_FIRST_DAY: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class HeadCertificate:
    """The file with key and certificate, what join tokens say of it, and TLS made of it."""

    pem: Path
    fingerprint: str
    context: ssl.SSLContext


def head_certificate(folder: Path) -> HeadCertificate:
    """Give the certificate that lies in ``folder``, made if there is none; raises LocalFault."""
    pem = folder / PEM_NAME
    try:
        if not pem.exists():
            write_secret(pem, _make())
        certificate = x509.load_pem_x509_certificate(pem.read_bytes())
        context = server_context(pem)
    except (ssl.SSLError, ValueError):
        raise LocalFault(
            "damaged: this is no private key with its certificate; put back a copy, or delete it "
            "and hand out new tokens",
            file=str(pem),
        ) from None
    except OSError as error:
        raise LocalFault(
            f"the head's certificate {pem} cannot be used: {error.strerror}; "
            "give the head its state folder"
        ) from error
    shown = certificate.public_bytes(serialization.Encoding.DER)
    return HeadCertificate(pem, fingerprint_of(shown), context)


def _make() -> bytes:
    # P-256: the fastest handshake of those that every browser takes.
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FIRST_DAY)
        .not_valid_after(_LAST_DAY)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
