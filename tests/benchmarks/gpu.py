"""Everything about a GPU in one go, in under ten minutes: tests, parity, CUDA graphs, and speed.

    python tests/benchmarks/gpu.py [--output gpu.json]
    python tests/benchmarks/gpu.py --dry-run

Prints JSON. `tests`: pytest's last line for what is marked `gpu`. `parity`: for each
floating-point type, how far logits are from float32 on the processor, relative to them. `speed`:
milliseconds of a token with random weights of mini's and mega's size, plain and compiled (on a GPU:
a CUDA graph), and whether both draw the same tokens. `min-dalle`: seconds of its parts for one
picture, where it is installed. `--dry-run` goes the same ways on the processor with tiny sizes, so
that nothing of this is dead while there is no GPU; its times say nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dallemini.generation import TopSampler, generate_tokens, make_generators
from dallemini.models import Transformer, TransformerConfig
from dallemini.testing import TINY_TRANSFORMER, tiny_tokenizer

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from benchmarks.side_by_side.models import SIZES, write_model  # noqa: E402
from benchmarks.side_by_side.peer import Peer  # noqa: E402

FAR = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}  # the most that counts as the same
NAMES, IMAGES = ("mini", "mega"), (1, 9)
MARKED = ("tests/unit/generation", "tests/unit/models/test_compiled.py")


def full_size(name: str) -> TransformerConfig:
    """Return a decoder of a released size, whose prompts are those of the tiny tokenizer."""
    size = SIZES[name]
    return TransformerConfig(
        d_model=size.width,
        decoder_layers=size.layers,
        decoder_attention_heads=size.heads,
        encoder_attention_heads=size.heads,
        decoder_ffn_dim=size.ffn,
        encoder_ffn_dim=size.ffn,
        encoder_layers=1,
        text_vocab_size=1024,
    )


def run_tests(dry: bool) -> str:
    """Return the last line of pytest for what is marked."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "gpu", *MARKED]
    command += ["--collect-only"] if dry else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]


def measure_parity(config: TransformerConfig, device: str) -> dict[str, dict[str, float]]:
    """Return how far logits of each type are from float32 on the processor."""
    model = Transformer.from_config(config).eval()
    text = tiny_tokenizer()("a red apple")
    length = min(64, config.image_length)
    generator = torch.Generator("cpu").manual_seed(0)
    tokens = torch.randint(config.image_vocab_size, (1, length), generator=generator)
    with torch.no_grad():
        wanted = model(text, tokens)
        found = {}
        for name, most in FAR.items():
            model.to(device=device, dtype=getattr(torch, name))
            error = (model(text, tokens).float().cpu() - wanted).norm() / wanted.norm()
            found[name] = {"error": float(error), "passes": float(error) < most}
            model = Transformer.from_config(config).eval()
    return found


def draw_tokens(model: Transformer, *, images: int, warm: int, count: int) -> tuple[Any, float]:
    """Return the first tokens of some pictures, and the milliseconds of each but the first ones."""
    tokenizer = tiny_tokenizer()
    steps = generate_tokens(
        model,
        tokenizer("a red apple"),
        unconditional=tokenizer.unconditional(),
        prompt_of_image=torch.zeros(images, dtype=torch.int64),
        guidance_scale=10.0,
        sampler=TopSampler(),
        generators=make_generators(range(images)),
        num_codes=model.config.image_vocab_size,
    )
    drawn = [next(steps).tolist() for _ in range(warm)]  # the lists wait for the GPU
    started = time.perf_counter()
    drawn += [next(steps).tolist() for _ in range(count)]
    return drawn, 1e3 * (time.perf_counter() - started) / count


def measure_size(config: TransformerConfig, device: str, backend: str) -> dict[str, Any]:
    """Return the milliseconds of a token, plain and compiled, and whether the tokens agree."""
    found: dict[str, Any] = {}
    lengths = {"warm": config.image_length // 8, "count": config.image_length // 4}
    for dtype in (torch.float32, torch.float16):
        model = Transformer.from_config(config).eval().to(device=device, dtype=dtype)
        plain = {images: draw_tokens(model, images=images, **lengths) for images in IMAGES}
        model.compile_decoding(backend=backend)
        for images, (tokens, milliseconds) in plain.items():
            again, compiled = draw_tokens(model, images=images, **lengths)
            found[f"{dtype}, {images}"] = {
                "plain_ms": milliseconds,
                "compiled_ms": compiled,
                "tokens_agree": tokens == again,
            }
    return found


def measure_peer(name: str, device: str) -> dict[str, Any] | None:
    """Return the seconds of min-dalle's parts for one picture; None where it is not installed."""
    if importlib.util.find_spec("min_dalle") is None:
        return None
    size = SIZES[name]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), size)
        peer = Peer(Path(folder), size, positions=None, device=device)
        peer.warm_up()
        return peer.measure([1], seed=0)["1"]


def measure(*, dry: bool) -> dict[str, Any]:
    """Return everything, of the GPU, or of the processor at a tiny size."""
    device, backend = ("cpu", "eager") if dry else ("cuda", "inductor")
    configs = {"tiny": TINY_TRANSFORMER} if dry else {name: full_size(name) for name in NAMES}
    first = next(iter(configs.values()))
    return {
        "device": "the processor, a dry run" if dry else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "tests": run_tests(dry),
        "parity": measure_parity(first, device),
        "speed": {name: measure_size(one, device, backend) for name, one in configs.items()},
        "min-dalle": {} if dry else {name: measure_peer(name, device) for name in NAMES},
    }


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description="Test and measure a GPU.")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    if not asked.dry_run and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here; --dry-run goes the same ways on the processor.")
    report = json.dumps(measure(dry=asked.dry_run), indent=2)
    print(report)
    if asked.output:
        asked.output.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
