"""Make a certificate to try Content Credentials with. Nobody will vouch for it: it is for tests.

    python examples/make_test_certificate.py certificates

writes chain.pem (the certificate and the one that vouches for it), key.pem and root.pem. The
specification wants a certificate that is not its own authority and is meant for signing documents
or mail. Needs the package cryptography, which comes with c2pa-python.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 365


def describe(
    name: str, issuer: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.CertificateBuilder:
    """Return a certificate that is not signed yet."""
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    names = [
        x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, text),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "dallemini test"),
            ]
        )
        for text in (name, issuer)
    ]
    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("encipher_only", "decipher_only"),
        ),
        False,
    )
    usage |= {
        "digital_signature": not is_authority,
        "key_cert_sign": is_authority,
        "crl_sign": is_authority,
    }
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def make(folder: Path) -> None:
    """Write the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    root = describe("test root", "test root", authority, is_authority=True)
    leaf = describe("test signer", "test root", key, is_authority=False)
    leaf = leaf.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
    ).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
    )
    signed = [
        one.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        for one in (leaf, root)
    ]
    (folder / "chain.pem").write_bytes(b"".join(signed))
    (folder / "root.pem").write_bytes(signed[1])
    secret = folder / "key.pem"
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    make(parser.parse_args().folder)
