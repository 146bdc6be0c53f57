"""Exit codes, one-line messages and the missing extra, whatever the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dallemini import __version__
from dallemini.cli import app, main
from patience import patience

ROOT = Path(__file__).parents[3]
WITHOUT_TYRO = """
import sys
sys.modules["tyro"] = None
from dallemini.cli import main
sys.exit(main(["generate", "a red apple"]))
"""


def python(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )


def test_missing_extra_is_named_with_exit_code_2() -> None:
    done = python("-c", WITHOUT_TYRO)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        'dallemini: the command line needs its extra; run: pip install "dallemini[cli]"\n'
    )


def test_module_runs_as_the_command() -> None:
    done = python("-m", "dallemini.cli", "--version")
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_import_of_another_missing_module_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dallemini.cli.app", None)
    with pytest.raises(ImportError, match=r"dallemini\.cli\.app"):
        main(["info"])


def test_version_is_printed(run: Any) -> None:
    assert run("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("command", ["generate", "convert", "info", "score"])
def test_help_exits_with_0(run: Any, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"usage: dallemini {command}" in result.out


@pytest.mark.parametrize(
    "argv", [[], ["paint"], ["generate", "x", "--no-such-option"], ["convert"]]
)
def test_words_that_are_not_understood_exit_with_2(run: Any, argv: list[str]) -> None:
    result = run(*argv)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err


def test_expected_failure_is_one_line_with_exit_code_1(run: Any) -> None:
    result = run("info", "./no-such-folder")
    assert result.code == 1
    assert result.err.startswith("dallemini: There is no file or folder './no-such-folder'")
    assert result.err.count("\n") == 1


def test_interrupt_exits_with_130(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: list[str]) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)
    result = run("generate", "a red apple")
    assert (result.code, result.err) == (130, "dallemini: interrupted\n")
