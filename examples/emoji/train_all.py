"""Make the bundled model from nothing: data, VQGAN, scenes, transformer, scorer, decoder, figures.

    python examples/emoji/train_all.py WORK [--settings cpu|gpu|small] [--data DATA]
    python examples/emoji/train_all.py --pack DATA FILE.tar
    python examples/emoji/train_all.py WORK --settings gpu --data FILE.tar

Every step is a command of its own that goes on where it stopped; a step that is done leaves a file
WORK/done/NAME, and is not done again. The second command packs the pictures into one file for a
machine without network, the third is the whole training on one large GPU.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
SETTINGS = HERE / "settings"
SCENES = {"cpu": 36_000, "gpu": 60_000, "small": 24}
CAPTIONS = {"cpu": 200, "gpu": 200, "small": 2}
LIMIT = 60_000_000  # of a packed file


def steps(work: Path, data: Path, settings: str) -> dict[str, list[str]]:
    """Return the commands by name, in their order."""
    model, runs = work / "model", work / "runs"

    def train(part: str, *arguments: object, name: str | None = None) -> list[str]:
        name = name or part
        config = SETTINGS / settings / f"{name}.yaml"
        command = [f"train_{part}.py", data, runs / name, "--config", config, *arguments]
        return [str(word) for word in command]

    vqgan, scenes, bundle = model / "vqgan", runs / "scenes", work / "bundle"
    commands: dict[str, list[object]] = {
        "vqgan": [*train("vqgan", "--output", vqgan)],
        "scenes": ["scenes.py", data, scenes, "--vqgan", vqgan, "--count", SCENES[settings]],
        "transformer": train(
            "transformer", "--vqgan", vqgan, "--scenes", scenes, "--output", model
        ),  # type: ignore[dict-item]
        "clip": [*train("clip", "--output", model / "scorer")],
        "decoder": train(
            "vqgan", "--decoder-of", vqgan, "--size", 320, "--output", vqgan, name="decoder"
        ),  # type: ignore[dict-item]
        "assemble": [
            "assemble.py", data, model, bundle, "--card", HERE / "model_card.md",
        ],
        "evaluate": [
            "evaluate.py", data, "--model", bundle, "--captions", CAPTIONS[settings],
            "--output", work / "evaluation.json",
        ],
    }  # fmt: skip
    return {name: [str(word) for word in command] for name, command in commands.items()}


def do(name: str, command: list[str], *, work: Path) -> None:
    """Run a step unless it is done, and note how long it took.

    Raises:
        SystemExit: the step failed; what it wrote is kept, and the next run goes on from there.
    """
    mark = work / "done" / name
    if mark.exists():
        print(f"{name}: done before ({mark.read_text(encoding='utf-8').strip()})", flush=True)
        return
    started = time.monotonic()
    print(f"{name}: {' '.join(command)}", flush=True)
    script, *rest = command
    if subprocess.run([sys.executable, str(HERE / script), *rest], check=False).returncode:
        raise SystemExit(f"The step {name!r} failed; mend it and give the same command again.")
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"{time.monotonic() - started:.0f} s\n", encoding="utf-8")


def pack(data: Path, file: Path) -> int:
    """Write a data set into one file, its pictures as WebP of high quality; return its bytes.

    Raises:
        SystemExit: it is larger than 60 MB.
    """
    with tarfile.open(file, "w") as tar:
        for path in sorted(data.rglob("*")):
            inside = path.relative_to(data)
            if path.suffix == ".png":
                buffer = io.BytesIO()
                with Image.open(path) as image:
                    image.convert("RGBA").save(buffer, "WEBP", quality=90, method=4)
                entry = tarfile.TarInfo(str(inside))
                entry.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(entry, buffer)
            elif path.name in ("metadata.jsonl", "NOTICE"):
                tar.add(path, str(inside))
    size = file.stat().st_size
    if size > LIMIT:
        raise SystemExit(f"{file} has {size} bytes, more than {LIMIT}.")
    return size


def opened(data: Path, work: Path) -> Path:
    """Return the folder of a data set, unpacked into WORK if it came as one file."""
    if data.is_dir():
        return data
    folder = work / "data"
    if not (folder / "metadata.jsonl").exists():
        with tarfile.open(data) as tar:
            tar.extractall(folder, filter="data")
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Read the arguments, and pack or train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--settings", choices=sorted(SCENES), default="cpu")
    parser.add_argument("--data", type=Path, help="a data set's folder, or its packed file")
    parser.add_argument("--pack", type=Path, nargs=2, metavar=("DATA", "FILE"))
    parser.add_argument("--until", help="stop after this step")
    chosen = parser.parse_args(arguments)
    if chosen.pack:
        print(f"{chosen.pack[1]}: {pack(*chosen.pack) / 1e6:.1f} MB")
        return
    if chosen.work is None:
        parser.error("name the folder to work in")
    work, data = chosen.work, chosen.data or chosen.work / "data"
    work.mkdir(parents=True, exist_ok=True)
    if chosen.data is None:
        do("data", ["build_dataset.py", str(data)], work=work)
    data = opened(data, work)
    for name, command in steps(work, data, chosen.settings).items():
        do(name, command, work=work)
        if name == chosen.until:
            break


if __name__ == "__main__":
    main()
