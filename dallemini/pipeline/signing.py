"""Content Credentials: a picture's origin, signed with your certificate (extra `c2pa`).

The signature comes last, since it covers every byte of the file. Specification: C2PA 2, by
c2pa-python of the Content Authenticity Initiative.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .._version import __version__
from ..errors import InputError, MissingDependencyError
from ..files import as_path
from ..foreign import check_file, show
from ..sheets import png_bytes
from .origin import VOCABULARY, file_format, source_type

_MOST_PEM = 1 << 20
_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

State = Literal["trusted", "valid", "broken"]


@dataclass(frozen=True, kw_only=True)
class C2PASigner:
    """Your certificate and its key, for `GenerationOutput.save(..., c2pa=)`.

    Args:
        certificate: a PEM file with the certificate, then those that vouch for it.
        private_key: a PEM file with its key (PKCS#8).
        algorithm: of the key: es256, es384, es512, ps256, ps384, ps512 or ed25519.
        timestamp_url: of an authority that also signs the time; None for none, so that signing
            needs no network.

    Example:
        >>> from dallemini import C2PASigner
        >>> C2PASigner(certificate="chain.pem", private_key="key.pem").algorithm
        'es256'
    """

    certificate: str | os.PathLike[str]
    private_key: str | os.PathLike[str] = field(repr=False)
    algorithm: str = "es256"
    timestamp_url: str | None = None

    def check(self) -> None:
        """Sign a picture of one pixel, before anything is drawn.

        Raises:
            MissingDependencyError: c2pa-python is not installed.
            MissingFileError: there is no such certificate or key.
            InputError: they are no PEM files, or cannot sign.
        """
        self._check_files()
        import PIL.Image  # here, because importing the library need not wait for it

        self._sign(png_bytes(PIL.Image.new("RGB", (1, 1))), {})

    def _check_files(self) -> None:
        _package()
        for path in map(as_path, (self.certificate, self.private_key)):
            check_file(path, error=InputError, largest=_MOST_PEM)
            if b"-----BEGIN" not in path.read_bytes():
                raise InputError(f"{path} is no PEM file; convert it with openssl.")

    def sign(self, content: bytes, texts: Mapping[str, str]) -> bytes:
        """Return a file with a signed manifest in it.

        Args:
            content: a PNG, JPEG or WebP file.
            texts: of the picture, as `GenerationOutput.metadata` returns them; the manifest says
                whether it was drawn whole or is an edit, and by which version.

        Raises:
            MissingDependencyError: c2pa-python is not installed.
            MissingFileError: there is no such certificate or key.
            InputError: they cannot sign, or the content is no such file.
        """
        self._check_files()
        return self._sign(content, texts)

    def _sign(self, content: bytes, texts: Mapping[str, str]) -> bytes:
        c2pa, kind = _package(), _MEDIA_TYPES[file_format(content)]
        pem = [as_path(path).read_bytes() for path in (self.certificate, self.private_key)]
        signed = io.BytesIO()
        try:
            info = c2pa.C2paSignerInfo(
                alg=self.algorithm.encode(),
                sign_cert=pem[0],
                private_key=pem[1],
                ta_url=None if self.timestamp_url is None else self.timestamp_url.encode(),
            )
            settings = c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
            context = c2pa.Context(settings=settings)
            builder = c2pa.Builder(json.dumps(_manifest(texts)), context=context)
            builder.sign(c2pa.Signer.from_info(info), kind, io.BytesIO(content), signed)
        except c2pa.C2paError as error:
            raise InputError(
                f"{os.fspath(self.certificate)} cannot sign a picture: {show(str(error))}. Give a "
                f"certificate for signing with its chain, and the {self.algorithm} key that "
                "belongs to it."
            ) from error
        return signed.getvalue()


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What the manifest of a picture says.

    Attributes:
        state: "trusted" where the certificate is one that the verifier knows, "valid" where
            signature and picture agree but anybody could have made the certificate, "broken" where
            the picture or the manifest was changed.
        issuer: of the certificate, as it calls itself.
        generator: the program that wrote the manifest.
        problems: the verifier's codes.
    """

    state: State
    issuer: str
    generator: str
    problems: tuple[str, ...]


def read_credentials(content: bytes) -> Credentials | None:
    """Verify the manifest in a file; None where there is none.

    Raises:
        MissingDependencyError: c2pa-python is not installed.
        InputError: the content is no PNG, JPEG or WebP file.
    """
    c2pa, kind = _package(), _MEDIA_TYPES[file_format(content)]
    try:
        reader = c2pa.Reader.try_create(kind, io.BytesIO(content))
        if reader is None:
            return None
        told = json.loads(reader.json())
    except (c2pa.C2paError, ValueError) as error:
        return Credentials(state="broken", issuer="", generator="", problems=(show(str(error)),))
    manifest = told.get("manifests", {}).get(told.get("active_manifest"), {})
    generators = manifest.get("claim_generator_info") or [{}]
    states: dict[str, State] = {"Trusted": "trusted", "Valid": "valid"}
    return Credentials(
        state=states.get(str(told.get("validation_state")), "broken"),
        issuer=str(manifest.get("signature_info", {}).get("issuer", "")),
        generator=str(generators[0].get("name", "")),
        problems=tuple(str(status.get("code")) for status in told.get("validation_status", [])),
    )


def _manifest(texts: Mapping[str, str]) -> dict[str, Any]:
    kind = source_type(texts)
    action = "c2pa.created" if kind == "trainedAlgorithmicMedia" else "c2pa.edited"
    created = {"action": action, "digitalSourceType": VOCABULARY + kind}
    if action == "c2pa.edited":  # a manifest begins with how its picture came to be
        actions = [{"action": "c2pa.created", "digitalSourceType": VOCABULARY + kind}, created]
    else:
        actions = [created]
    return {
        "claim_generator_info": [{"name": "dallemini", "version": __version__}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _package() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise MissingDependencyError(
            'Content Credentials need c2pa-python; run: pip install ".[c2pa]".'
        ) from error
    return c2pa
