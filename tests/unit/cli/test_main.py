"""Exit codes, one-line messages and the missing extra, whatever the command."""

from __future__ import annotations

import ast
import contextlib
import io
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dallemini import __version__, cli
from dallemini.cli import app, main
from patience import patience

ROOT = Path(__file__).parents[3]


def test_threads_of_a_command_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: dict[str, str] = {}
    cli.wait_asleep(loaded)  # torch is here already
    assert loaded == {}
    monkeypatch.delitem(sys.modules, "torch")
    wanted = {"OMP_WAIT_POLICY": "active"}
    cli.wait_asleep(loaded)
    cli.wait_asleep(wanted)
    assert (loaded, wanted) == ({"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "active"})


def test_missing_extra_is_named_with_exit_code_2(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "dallemini.cli.app")  # to be imported again
    result = run("generate", "a red apple")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        'dallemini: the command line needs its extra; run: pip install ".[cli]"\n'
    )


def test_top_level_help_lists_every_command(run: Any) -> None:
    result = run("--help")
    assert result.code == 0
    for name in (
        "generate",
        "redraw",
        "upscale",
        "score",
        "info",
        "convert",
        "encode",
        "evaluate",
        "train",
    ):
        assert f"\n  {name} " in result.out
    assert "Did you mean 'generate'?" in run("genrate").err


def test_completion_knows_the_commands(run: Any) -> None:
    result = run("--tyro-print-completion", "bash")
    assert result.code == 0
    assert "redraw" in result.out
    (line,) = [line for line in result.out.splitlines() if line.startswith("COMPLETION_SPEC = ")]
    commands = ast.literal_eval(line.partition(" = ")[2])["subcommands"]
    parts = commands["train"]["subcommands"]
    assert sorted(parts) == ["clip", "transformer", "vqgan"]
    flags = [flag for option in parts["vqgan"]["options"] for flag in option["flags"]]
    assert "--loss.decoder-only" in flags


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
    "argv", [[], ["paint"], ["help"], ["train"], ["generate", "x", "--no-such-option"], ["convert"]]
)
def test_words_that_are_not_understood_exit_with_2(run: Any, argv: list[str]) -> None:
    result = run(*argv)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err


WITHOUT_TORCH = """
import contextlib, io, json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "PIL", "tokenizers", "gradio"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, NoTorch())
from dallemini.cli import main
from dallemini.cli.app import _COMMANDS

wrong = {
    "generate": [[], ["a", "red", "apple"], ["x", "--top-k", "0"], ["--prompts", "none.txt"]],
    "edit": [["a.png"], ["a.png", "x", "--rows", "2", "--strength", "1"]],
    "extend": [["a.png"], ["a.png", "x", "--seed", "-1"]],
    "redraw": [[], ["a.png", "--nope"]],
    "upscale": [[], ["a.png", "--tile", "wide"]],
    "app": [["--port", "high"], ["--port", "70000"], ["--no-such-option"]],
    "serve": [["--port", "high"], ["--port", "-1"]],
    "inspect": [["--nope"]],
    "detect": [["a.png"]],
    "score": [["a.png"], ["--prompt", "a cat"], ["a.png", "--dtype", "int4"]],
    "info": [["a", "b"]],
    "convert": [[], ["a"], ["a", "b", "--dtype", "int4"]],
    "encode": [["--data", "x"], ["--output", "y"], ["--data", "x", "--output", "y", "--crop", "z"]],
    "evaluate": [["--data", "x"], ["--data", "x", "--output", "y", "--top-k", "0"]],
    "audit": [["--nope"]],
    "train": [[], ["sampler"], ["clip", "--config"], ["vqgan"], ["clip", "--steps", "x"]],
    "release": [[]],
    "data": [[], ["a", "--nope"]],
}
assert wrong.keys() == _COMMANDS.keys()
found = []
for name, several in wrong.items():
    for words in (["--help"], *several):
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            code = main([name, *words])
        if code != 2 * (words != ["--help"]) or not told.getvalue().strip():
            found.append((name, words, code, told.getvalue()))
for part in ("vqgan", "transformer", "clip"):
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        code = main(["train", part, "--help"])
    if code or "--steps INT" not in told.getvalue():
        found.append((part, code, told.getvalue()))
print(json.dumps(found))
"""


def test_help_and_wrong_use_wait_for_neither_torch_nor_gradio() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_expected_failure_is_one_line_with_exit_code_1(run: Any) -> None:
    result = run("info", "./no-such-folder")
    assert result.code == 1
    assert result.err.startswith("dallemini: There is no file or folder './no-such-folder'")
    assert result.err.count("\n") == 1


def printed_as(encoding: str, monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Let what is printed be encoded so, as on Windows when the output goes to a file."""
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    return output


def test_every_text_is_printed_in_any_encoding(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, "мини")
    output = printed_as("cp1252", monkeypatch)
    for words in (
        ["generate", "яблоко 🍎", "--model", "мини", "--output", "вот", "--grid", "все.png"],
        ["score", "все.png", "--prompt", "🍎", "--model", "мини"],
        ["info", "мини"],
        ["convert", "мини/vqgan", "другой"],
    ):
        assert main([*words, "--seed", "1"] if words[0] == "generate" else words) == 0
    lines = output.getvalue().decode("cp1252").splitlines()
    assert lines[:2] == [
        str(Path(ascii("вот")[1:-1], ascii("яблоко")[1:-1] + "-1.png")),
        ascii("все")[1:-1] + ".png",
    ]
    assert lines[2].endswith(ascii("🍎")[1:-1])
    assert lines[3] == ascii("мини")[1:-1]
    assert lines[-1] == ascii("другой")[1:-1]
    assert Path("вот", "яблоко-1.png").is_file()
    assert Path("все.png").is_file()
    assert sys.stdout.errors == "strict"  # as it was


FILES = ("--output", "pictures", "--grid", "all.png")


def test_all_files_are_saved_before_the_first_is_listed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["generate", "a cat", "--model", str(tiny), *FILES]) == 1
    assert len(list(tmp_path.glob("**/*.png"))) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["info"], ["--version"], ["generate", "--help"]])
def test_output_to_a_full_disk_is_told_in_one_line(
    command: list[str], tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([*command, str(tiny)] if command == ["info"] else command) == 1
        sys.stdout.close()
    assert capsys.readouterr().err == (
        "dallemini: the output could not be printed: No space left on device\n"
    )


def test_other_errors_of_the_system_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> NoReturn:
        raise OSError("a fault of ours")

    monkeypatch.setattr(app, "run", fail)
    with pytest.raises(OSError, match="a fault of ours"):
        main(["info"])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        (">&-", "dallemini: the output could not be printed: standard output is closed\n"),
        pytest.param("0>&- >&- 2>&-", "", marks=pytest.mark.slow),
    ],
)
def test_module_runs_as_the_command_and_tells_in_one_line_that_its_output_is_closed(
    closed: str, expected: str
) -> None:
    command = f"{shlex.quote(sys.executable)} -m dallemini --version"
    done = subprocess.run(
        ["sh", "-c", f"{command} {closed}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_interrupt_exits_with_130(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: list[str]) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)
    result = run("generate", "a red apple")
    assert (result.code, result.err) == (130, "dallemini: interrupted\n")
