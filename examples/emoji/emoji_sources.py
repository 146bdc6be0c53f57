"""Where the emoji data set comes from: npm packages, their licences, and how to open them.

Knows tarballs and JSON, nothing of what is chosen from them or how it is drawn.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

LICENSES = Path(__file__).parent / "licenses"


class BuildError(Exception):
    """The data set cannot be built; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """An npm package at a fixed version, its licence, and whom it asks to be named."""

    name: str
    version: str
    sha256: str
    license: str
    attribution: str

    @property
    def file(self) -> str:
        """The name that `npm pack` gives the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True, kw_only=True)
class EmojiSet:
    """One artist's drawings of the emoji, and the words by which a caption names the style."""

    name: str
    style: str
    package: Package


GOOGLE = "Noto Emoji, Copyright Google LLC, https://github.com/googlefonts/noto-emoji"
MICROSOFT = """Fluent Emoji, Copyright (c) Microsoft Corporation,
https://github.com/microsoft/fluentui-emoji"""
LOBEHUB = "Copyright (c) 2023 LobeHub, https://github.com/lobehub/fluent-emoji"
EMOJIBASE = Package(
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    license="MIT",
    attribution="""Copyright (c) 2017-2019 Miles Johnson, https://github.com/milesj/emojibase
Names and tags come from Unicode CLDR, Copyright (c) Unicode, Inc., licence Unicode-3.0""",
)
EMOJILIB = Package(
    name="emojilib",
    version="4.0.3",
    sha256="7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
    license="MIT",
    attribution="Copyright (c) 2014 Mu-An Chiou, https://github.com/muan/emojilib",
)
NOTO = EmojiSet(
    name="noto",
    style="noto emoji",
    package=Package(
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        license="Apache-2.0",
        attribution=GOOGLE,
    ),
)
BLOB = EmojiSet(
    name="noto-v1",
    style="blob emoji",
    package=Package(
        name="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        license="Apache-2.0",
        attribution=GOOGLE,
    ),
)
FLAT = EmojiSet(
    name="fluent-emoji-flat",
    style="flat emoji",
    package=Package(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        license="MIT",
        attribution=MICROSOFT,
    ),
)
COLOUR = EmojiSet(
    name="fluent-emoji",
    style="colour emoji",
    package=Package(
        name="@iconify-json/fluent-emoji",
        version="1.2.7",
        sha256="8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        license="MIT",
        attribution=MICROSOFT,
    ),
)
SOLID = EmojiSet(
    name="fluent-emoji-3d",
    style="3d emoji",
    package=Package(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        license="MIT",
        attribution=f"{MICROSOFT}\nPackaged by LobeHub, {LOBEHUB}",
    ),
)
SETS = (NOTO, BLOB, FLAT, COLOUR, SOLID)
PACKAGES = (*(emoji_set.package for emoji_set in SETS), EMOJIBASE, EMOJILIB)


def fetch(package: Package, folder: Path) -> Path:
    """The tarball of a package in `folder`, from the npm registry unless it lies there already.

    Raises:
        BuildError: npm is missing or fails, or the tarball is not the one pinned here.
    """
    path = folder / package.file
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise BuildError(
                f"npm is not installed, and {path} is not there. Install Node.js, or give a folder "
                f"with the tarball as --packages."
            )
        command = [npm, "pack", "--silent", f"{package.name}@{package.version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode or not path.is_file():
            raise BuildError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise BuildError(
            f"{path} has sha256 {digest}, expected {package.sha256}. Delete it and run again."
        )
    return path


def read_member(tarball: Path, member: str) -> bytes:
    """The bytes of one file of an npm tarball, which keeps all under `package/`.

    Raises:
        BuildError: The tarball has no such file.
    """
    with tarfile.open(tarball) as archive:
        try:
            file = archive.extractfile(f"package/{member}")
        except KeyError:
            file = None
        if file is None:
            raise BuildError(f"{tarball} has no file package/{member}. Delete it and run again.")
        return file.read()


def read_json(tarball: Path, member: str) -> Any:
    """The content of one JSON file of an npm tarball."""
    return json.loads(read_member(tarball, member))


def read_folder(tarball: Path, folder: str) -> dict[str, bytes]:
    """The files of one folder of an npm tarball, sorted by name.

    Raises:
        BuildError: The tarball has no file in this folder.
    """
    files = {}
    with tarfile.open(tarball) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            path = PurePosixPath(member.name)
            file = archive.extractfile(member)
            if file is not None and path.parent == PurePosixPath("package", folder):
                files[path.name] = file.read()
    if not files:
        raise BuildError(f"{tarball} has no files in package/{folder}. Delete it and run again.")
    return files


def notice() -> str:
    """The sources with versions, the attribution that they ask for, and the licences in full."""
    parts = [
        "Emoji images with captions, built from packages of the npm registry.",
        "Changes: a selection of the drawings was rendered to PNG and paired with keywords.",
    ]
    used = [(f"Images in images/{emoji_set.name}", emoji_set.package) for emoji_set in SETS]
    used += [("Labels, keywords and groups", EMOJIBASE), ("Keywords", EMOJILIB)]
    for use, package in used:
        origin = f"{package.name} {package.version}, licence {package.license}"
        parts.append(f"{use}: {origin}\n{package.attribution}")
    for path in sorted(LICENSES.glob("*.txt")):
        title = f"Licence {path.stem}"
        parts.append(f"{title}\n{'=' * len(title)}\n\n{path.read_text(encoding='utf-8').strip()}")
    return "\n\n".join(parts) + "\n"
