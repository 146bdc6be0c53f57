"""Type checkers find the types of an editable install, which developers have, and all types."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from patience import patience

ROOT = Path(__file__).parents[2]
BUILD = "from setuptools.build_meta import build_editable; print(build_editable('wheels'))"
USER = """
from dallemini import Pipeline
out = Pipeline.from_pretrained()("a red apple", num_images_per_prompt="nine")
reveal_type(out.seeds)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with what `pip install -e .` puts there, made from a copy without weights."""
    folder = tmp_path_factory.mktemp("installed")
    copy = shutil.ignore_patterns("*.safetensors", "*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / "dallemini", folder / "dallemini", ignore=copy)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=folder, capture_output=True, text=True, check=False, timeout=patience(120),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    names = {"base": str(folder / "env"), "platbase": str(folder / "env")}
    site = sysconfig.get_path("purelib", "venv", vars=names)
    with zipfile.ZipFile(folder / "wheels" / done.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    return folder / "env"


def check(environment: Path, *command: str) -> str:
    """Return what a type checker says of a program that uses the package."""
    program = environment / "user.py"
    program.write_text(USER)
    done = subprocess.run(
        [*command, str(program)],
        cwd=environment, env={"PATH": "/usr/bin:/bin", "HOME": str(environment)},
        capture_output=True, text=True, check=False, timeout=patience(240),
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.slow  # mypy reads the whole package
def test_mypy_finds_the_types_of_an_editable_install(environment: Path) -> None:
    python = str(environment / "bin" / "python")
    told = check(environment, sys.executable, "-m", "mypy", "--python-executable", python)
    assert 'incompatible type "str"; expected "SupportsIndex"' in told, told
    told = told.replace("builtins.", "")  # some versions of mypy write it
    assert 'Revealed type is "tuple[int, ...]"' in told, told


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pyright"), reason="needs pyright")
def test_pyright_finds_the_types_of_an_editable_install(environment: Path) -> None:
    pyright = str(shutil.which("pyright"))
    told = check(environment, pyright, "--pythonpath", str(environment / "bin" / "python"))
    assert re.search('"Literal\\[\'nine\'\\]".* "SupportsIndex"', told), told
    assert 'Type of "out.seeds" is "tuple[int, ...]"' in told, told


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pyright"), reason="needs pyright")
def test_pyright_knows_the_type_of_everything_public(environment: Path) -> None:
    # torch and the others are needed for their base classes; `python` says where to look, since
    # --verifytypes does not read --pythonpath
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run(
        [str(shutil.which("pyright")), "--verifytypes", "dallemini", "--ignoreexternal",
         "--outputjson"],
        cwd=environment, env={"PATH": f"{environment}/bin:/usr/bin:/bin", "HOME": str(environment)},
        capture_output=True, text=True, check=False, timeout=patience(240),
    )  # fmt: skip
    told = json.loads(done.stdout)["typeCompleteness"]
    assert told["exportedSymbolCounts"]["withKnownType"] > 4000, told["packageRootDirectory"]
    unknown = [
        (symbol["name"], symbol["diagnostics"])
        for symbol in told["symbols"]
        if symbol["isExported"] and not (symbol["isTypeKnown"] or symbol["isTypeAmbiguous"])
    ]
    assert not unknown
