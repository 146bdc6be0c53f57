"""What `import dallemini` offers, and that it changes nothing, seen from a fresh process."""

from __future__ import annotations

import graphlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dallemini

PACKAGE = Path(dallemini.__file__).parent

# Whatever other packages do when they are imported is theirs: they come first.
PROGRAM = """
import contextlib, io, json, os, random, socket, sys, threading, warnings
import huggingface_hub, msgpack, numpy, PIL.Image, PIL.PngImagePlugin, safetensors.torch
import tokenizers, torch, tqdm, yaml

def state():
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "running": threading.active_count(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "torch": torch.get_rng_state().tolist(),
        "numpy": numpy.random.get_state()[1].tolist(),
        "random": random.getstate(),
        "folder": os.getcwd(),
        "path": list(sys.path),
    }

asked = []
def refuse(*args, **kwargs):
    asked.append(repr(args))
    raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = refuse

before, printed = state(), io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    import dallemini
    from dallemini import Pipeline
after = state()
optional = {"tyro", "ftfy", "emoji", "unidecode", "efficientnet_lite_pytorch", "resvg_py"}
loaded = sorted(optional & set(sys.modules))

from dallemini.testing import tiny_pipeline
tiny_pipeline()("a red apple", seed=0, rank=True, progress=False)
from dallemini.generation.memory import predict_memory
from dallemini.models import TransformerConfig, VQGANConfig
predict_memory(TransformerConfig(), vqgan=VQGANConfig(), images=1)
print(json.dumps({
    "changed": [name for name in before if before[name] != after[name]],
    "printed": printed.getvalue(),
    "optional": loaded,
    "compiler": "torch._dynamo" in sys.modules,
    "asked": asked,
}))
"""

# One after the other in one process, so that each may load no more than those below it in the list.
STEPS = (
    *("dallemini", "dallemini.text", "dallemini.models.lora", "dallemini.data"),
    "dallemini.training.lora",
)
LOADED = f"""
import importlib, json, sys, torch
before, loaded = set(sys.modules), {{}}
for name in {STEPS}:
    for public in getattr(importlib.import_module(name), "__all__", ()):
        getattr(sys.modules[name], public)
    loaded[name] = sorted(set(sys.modules) - before)
print(json.dumps(loaded))
"""


# Both programs in forks of one process: torch, which each begins with, takes seconds.
BOTH = f"""
import os, sys, torch
for program in {[PROGRAM, LOADED]!r}:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        exec(program, {{"__name__": "program"}})
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def run(program: str) -> list[Any]:
    """What a fresh interpreter that sees this package prints, each line read as JSON."""
    root = os.path.dirname(os.path.dirname(dallemini.__file__))
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def both() -> list[Any]:
    """What importing this package changes, and what each import loads."""
    return run(BOTH)


@pytest.fixture(scope="module")
def report(both: list[Any]) -> Any:
    """What importing this package changes."""
    return both[0]


@pytest.fixture(scope="module")
def steps(both: list[Any]) -> Any:
    """The modules that are there beside torch's after each import."""
    return both[1]


@pytest.fixture
def loaded(steps: dict[str, list[str]]) -> list[str]:
    """The modules that importing this package adds to those of torch."""
    return steps["dallemini"]


def test_public_names_are_these() -> None:
    assert dallemini.__all__ == [
        *("CLIP", "VQGAN", "Blend", "C2PASigner"),
        *("CLIPScorer", "Detection", "GenerationConfig", "GenerationOutput", "GenerationProgress"),
        *(
            "GenerationStep",
            "ImageTokenizer",
            *("Inpaint", "Outpaint"),
            "PictureSafetyChecker",
            "Pipeline",
            "SafetyChecker",
            "SafetyCheckers",
        ),
        *("SafetyFlag", "TextTokens", "Tokenizer", "Transformer", "Upscaler", "Vary"),
        *("Watermark", "WordSafetyChecker", "__version__", "image_to_tensor"),
    ]


def test_every_public_name_exists_and_is_documented() -> None:
    for name in dallemini.__all__:
        assert getattr(dallemini, name)
        assert name == "__version__" or getattr(dallemini, name).__doc__


def test_import_changes_nothing(report: Any) -> None:
    assert report["changed"] == []


def test_import_prints_nothing(report: Any) -> None:
    assert report["printed"] == ""


def test_import_leaves_optional_packages_alone(report: Any) -> None:
    assert report["optional"] == []


def test_import_loads_no_package_that_can_wait(loaded: list[str]) -> None:
    # PIL, tokenizers and huggingface_hub would double or triple what an import takes; numpy and
    # tqdm are quick, and mostly torch has them already.
    packages = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    assert packages <= {"dallemini", "numpy", "safetensors", "tqdm"}


def test_import_loads_nothing_slow_of_torch_or_of_python(loaded: list[str]) -> None:
    slow = ("torch._dynamo", "torch._inductor", "torch.onnx", "asyncio", "http", "multiprocessing")
    assert not [name for name in loaded if name.startswith(slow)]


def test_import_loads_no_layer_above_the_pipeline(loaded: list[str]) -> None:
    above = {"cli", "data", "evaluation", "testing", "training"}
    assert not above & {name.split(".")[1] for name in loaded if name.startswith("dallemini.")}


@pytest.mark.parametrize(
    ("name", "optional"),
    [
        ("dallemini.text", "ftfy emoji unidecode anyascii"),
        ("dallemini.models.lora", "torch.distributed.checkpoint"),
        ("dallemini.data", "pyarrow webdataset pandas"),
        ("dallemini.training.lora", "matplotlib tensorboard wandb pytorch_optimizer tyro"),
        ("dallemini.training.lora", "efficientnet_lite_pytorch torch._dynamo"),
    ],
)
def test_importing_a_layer_needs_no_optional_package(
    steps: dict[str, list[str]], name: str, optional: str
) -> None:
    assert not set(optional.split()) & set(steps[name])


def test_import_and_drawing_ask_no_network(report: Any) -> None:
    assert report["asked"] == []


def test_drawing_and_counting_memory_need_no_compiler(report: Any) -> None:
    # torch's compiler takes seconds to import, and building on `meta` easily does so by accident
    assert not report["compiler"]


def test_modules_and_unknown_names_are_found_as_usual() -> None:
    assert dallemini.errors.ConfigError.__module__ == "dallemini.errors"
    assert "Pipeline" in dir(dallemini)
    with pytest.raises(AttributeError, match="module 'dallemini' has no attribute 'Pipelin'"):
        dallemini.Pipelin  # type: ignore[attr-defined]  # noqa: B018


# Also inside functions, but not what only types need.
FOR_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t].*\n|\n)+", re.MULTILINE)
IMPORT = re.compile(r"^[ \t]*from (\.+)([\w.]*) import (\([^)]*\)|[^(\n]+)", re.MULTILINE)


def imports_by_file() -> dict[str, set[str]]:
    """Return what each module of the package imports of it."""
    names = {
        path: path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
        for path in PACKAGE.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__") for name in names.values()}
    found: dict[str, set[str]] = {}
    for path, name in names.items():
        asked = set()
        for dots, module, listed in IMPORT.findall(FOR_TYPES.sub("", path.read_text("utf-8"))):
            above = [*name.split(".")[: -len(dots)], *filter(None, [module])]
            for one in re.findall(r"(\w+)(?: as \w+)?", listed):
                asked |= {".".join([*above, one]), ".".join(above)}
        found[name.removesuffix(".__init__")] = asked
    return {name: _files(asked, modules) - {name} for name, asked in found.items()}


def _files(asked: set[str], modules: set[str]) -> set[str]:
    """Leave out a package where one of its modules is meant."""
    named = asked & modules
    return {n for n in named if not any(m.startswith(f"{n}.") for m in named)}


def test_no_files_import_each_other_in_a_circle() -> None:
    files = imports_by_file()
    assert "dallemini.errors" in files["dallemini.files"]
    assert "dallemini.pipeline.parts" in files["dallemini.pipeline.pipeline"]
    graphlib.TopologicalSorter(files).prepare()
    files["dallemini.errors"].add("dallemini.pipeline.pipeline")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(files).prepare()
