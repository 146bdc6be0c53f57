"""A tiny pipeline on disk, and the command line run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tyro._parsers import ParserSpecification

from dallemini.cli import main
from dallemini.testing import tiny_pipeline


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Result]


@pytest.fixture(autouse=True, scope="session")
def _commands_read_once() -> Iterator[None]:
    """Let tyro read the class of each command once, as in use, and not again for each test."""
    read, known = ParserSpecification.from_callable_or_type, {}

    def read_once(kind: Any, **asked: Any) -> ParserSpecification:
        key = kind, *(str(value) for value in asked.values())
        if key not in known:
            known[key] = read(kind, **asked)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParserSpecification, "from_callable_or_type", staticmethod(read_once))
        yield


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command and return its exit code and what it printed."""

    def run_command(*argv: object) -> Result:
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run_command


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with every part."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder
