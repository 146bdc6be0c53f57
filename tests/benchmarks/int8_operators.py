"""What multiplies by int8 weights fastest, and how exactly: this package's kernel beside products.

    pip install torchao openvino
    OMP_NUM_THREADS=2 python tests/benchmarks/int8_operators.py

prints JSON and a table in Markdown. The layers are those of mini's decoder; 2 rows are a guided
picture, 18 are nine. The operators take turns, each at 64 MB of copies of a weight, so that none is
in a cache. Products not installed are named as left out. The machine should do nothing else.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import math
import re
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dallemini import kernels
from dallemini.kernels.int8 import FbgemmOperator, Int8Operator, KernelOperator
from dallemini.models.int8 import quantize_weight

LAYERS = ((3072, 1024), (1024, 1024), (5460, 1024), (1024, 2730), (16385, 1024))
ROWS = (2, 18)
MEGABYTES, ROUNDS = 64.0, 9

Product = Callable[[], Tensor]
Figures = tuple[dict[str, Any], dict[str, str]]  # and the reasons of those left out


@dataclass(frozen=True)
class Candidate:
    """Makes of a weight f32[O,I], which it copies, and rows f32[M,I] a product f[M,O].

    `width` is the bytes it keeps of a number. With `whole`, it makes one graph of weights
    f32[C,O,I], of this part of the copies, for compiling takes long. `build` tells their number.
    """

    make: Callable[[Tensor, Tensor], Product]
    width: int = 1
    whole: float = 0.0

    def build(self, weight: Tensor, rows: Tensor) -> tuple[Product, int]:
        copies = math.ceil(MEGABYTES * 1e6 * (self.whole or 1) / (weight.numel() * self.width))
        if self.whole:  # different weights, or the compiler would keep one
            weights = torch.stack([weight.roll(place, 0) for place in reversed(range(copies))])
            return self.make(weights, rows), copies
        products = [self.make(weight, rows) for _ in range(copies)]
        return lambda: [product() for product in products][-1], copies


def of_float(function: Callable[[Tensor, Tensor], Tensor], weight: Tensor, rows: Tensor) -> Product:
    """Multiply in float32."""
    if function is kernels.linear and not kernels.has_kernels():
        raise RuntimeError("the kernels were not built, or this processor has no AVX2")
    return partial(function, rows, weight.clone())


def of_operator(operator: Int8Operator, weight: Tensor, rows: Tensor) -> Product:
    """Multiply by an operator of this package."""
    return partial(operator.multiply, rows, operator.pack(*_rounded(weight)), fine=False)


def of_onednn(weight: Tensor, rows: Tensor) -> Product:
    """Multiply by torch's quantised linear layer, in its oneDNN engine."""
    rounded, scale = _rounded(weight)
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, "onednn"
    try:
        with warnings.catch_warnings(action="ignore"):  # of the end of torch's quantised tensors
            quantized = torch._make_per_channel_quantized_tensor(rounded, scale.double(), zeros, 0)
            packed = torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        torch.backends.quantized.engine = before
    return partial(torch.ops.quantized.linear_dynamic, rows, packed, False)


def of_int8pack(weight: Tensor, rows: Tensor) -> Product:
    """Multiply bfloat16 rows by int8 weights, which are widened on the way."""
    rounded, scale = _rounded(weight)
    pad = partial(F.pad, pad=(0, -weight.shape[1] % 16))  # of other sizes it reads past the end
    rounded, scale = pad(rounded), scale.bfloat16()
    return lambda: torch.ops.aten._weight_int8pack_mm(pad(rows.bfloat16()), rounded, scale).float()


def of_int_mm(weight: Tensor, rows: Tensor) -> Product:
    """Round the rows with operators of torch, and multiply integers."""
    rounded, scale = _rounded(weight)

    def product() -> Tensor:
        step = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True).div_(127)
        integers = (rows / step).round_().to(torch.int8)
        return torch._int_mm(integers, rounded.t()).float().mul_(step).mul_(scale)

    return product


def of_torchao(config: str, weight: Tensor, rows: Tensor) -> Product:
    """Multiply by a layer of torchao in eager mode, for which it is not meant."""
    return partial(copy.deepcopy(_torchao_layer(config, weight)), rows)


def of_compiled_torchao(config: str, weights: Tensor, rows: Tensor) -> Product:
    """Multiply by layers of torchao side by side, in one graph of inductor with frozen weights."""
    layers = [_torchao_layer(config, weight) for weight in weights]
    inputs = [rows.clone() for _ in weights]  # or rows would be rounded once for all weights
    torch._dynamo.reset()
    compiled = torch.compile(lambda inputs: [layers[i](one) for i, one in enumerate(inputs)])
    with importlib.import_module("torch._inductor.config").patch(freezing=True):
        compiled(inputs)
    return lambda: compiled(inputs)[-1]


def of_openvino(group: int, weight: Tensor, rows: Tensor) -> Product:
    """Multiply by a model of one int8 weight and its scales; so many activations share a scale."""
    openvino, nodes = map(importlib.import_module, ("openvino", "openvino.opset13"))
    rounded, scale = _rounded(weight)
    inputs = nodes.parameter(list(rows.shape), openvino.Type.f32)
    widened = nodes.convert(nodes.constant(rounded.numpy()), "f32")
    scaled = nodes.multiply(widened, nodes.constant(scale[:, None].numpy()))
    model = openvino.Model([nodes.matmul(inputs, scaled, False, True)], [inputs])
    settings = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group, "INFERENCE_PRECISION_HINT": "f32"}
    settings |= {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(rows.numpy(), shared_memory=True))
    return lambda: torch.from_numpy(request.infer()[0])


@lru_cache(maxsize=1)
def _torchao_layer(config: str, weight: Tensor) -> nn.Module:
    torchao = importlib.import_module("torchao.quantization")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    torchao.quantize_(layer.eval(), getattr(torchao, config)())
    return layer


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    state = _rounding(weight)
    return state["weight"].clone(), state["weight_scale"]


_rounding = lru_cache(maxsize=1)(quantize_weight)  # all copies are of one weight
DYNAMIC, WEIGHTS = "Int8DynamicActivationInt8WeightConfig", "Int8WeightOnlyConfig"
REFERENCE = "torch float32"
CANDIDATES = {
    REFERENCE: Candidate(partial(of_float, F.linear), width=4),
    "dallemini float32": Candidate(partial(of_float, kernels.linear), width=4),
    "dallemini int8": Candidate(partial(of_operator, KernelOperator())),
    "torch FBGEMM": Candidate(partial(of_operator, FbgemmOperator(levels=127))),
    "torch oneDNN": Candidate(of_onednn),
    "torch _weight_int8pack_mm": Candidate(of_int8pack),
    "torch _int_mm": Candidate(of_int_mm),
    "torchao dynamic, eager": Candidate(partial(of_torchao, DYNAMIC)),
    "torchao weights only, eager": Candidate(partial(of_torchao, WEIGHTS)),
    "torchao dynamic, compiled": Candidate(partial(of_compiled_torchao, DYNAMIC), whole=0.5),
    "OpenVINO, groups of 32": Candidate(partial(of_openvino, 32)),
    "OpenVINO, groups of 128": Candidate(partial(of_openvino, 128)),
}


@torch.no_grad()
def measure(candidates: Mapping[str, Candidate], shape: Sequence[int], rows: int) -> Figures:
    """Let candidates multiply by a layer in turns; return figures, and why others failed."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(*shape, generator=random) * 0.02
    activations = torch.randn(rows, shape[1], generator=random)
    exact = activations.double() @ weight.double().T
    built, found, failed = {}, {}, {}
    for name, candidate in candidates.items():
        try:
            product, copies = candidate.build(weight, activations)
            error = float((product().double() - exact).norm() / exact.norm())
            built[name] = (product, copies, error, list[float]())
        except Exception as failure:  # whatever a product says here is a finding
            failed[name] = f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
    for product, copies, _, times in list(built.values()) * ROUNDS:
        start = time.perf_counter()
        product()
        times.append((time.perf_counter() - start) * 1e3 / copies)
    for name, (_, _, error, times) in built.items():
        ms = statistics.median(times)
        found[name] = {"ms": ms, "spread": [min(times), max(times)], "relative_error": error}
        found[name]["gb_per_second"] = weight.numel() * candidates[name].width / ms / 1e6
        found[name]["times_reference"] = statistics.median(built[REFERENCE][3]) / ms
    return found, failed


def run(candidates: Mapping[str, Candidate], layers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Measure layers at both numbers of rows, with torch's present threads."""
    measured, failed = [], dict[str, str]()
    for shape, rows in itertools.product(layers, ROWS):
        found, why = measure(candidates, shape, rows)
        measured.append({"shape": shape, "rows": rows, "operators": found})
        failed |= why
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    installed = filter(importlib.util.find_spec, ("torch", "torchao", "openvino"))
    return {
        "processor": (re.findall(r"model name\s*: (.*)", text) or ["unknown"])[0],
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in installed},
        "n": ROUNDS,
        "layers": measured,
        "left_out": failed,
    }


def table(report: Mapping[str, Any]) -> str:
    """Return the layers one after another in Markdown, of operators that compute all of them."""
    layers, left_out = report["layers"], report["left_out"]
    versions = ", ".join(f"{name} {found}" for name, found in report["versions"].items())
    heads = " | ".join(f"{rows} rows: ms (spread) | GB/s | times" for rows in ROWS)
    lines = [f"{report['processor']}, {report['threads']} threads, {versions}, n = {report['n']}."]
    lines += ["", f"| | error | {heads} |", f"|---|---|{'---|' * 3 * len(ROWS)}"]
    for name in (name for name in layers[0]["operators"] if name not in left_out):
        error = max(layer["operators"][name]["relative_error"] for layer in layers)
        lines.append(f"| {name} | {error:.2g} |")
        for rows in ROWS:
            found = [layer["operators"] for layer in layers if layer["rows"] == rows]
            ms = sum(one[name]["ms"] for one in found)
            low, high = (sum(one[name]["spread"][end] for one in found) for end in (0, 1))
            rate = sum(one[name]["ms"] * one[name]["gb_per_second"] for one in found) / ms
            times = sum(one[REFERENCE]["ms"] for one in found) / ms
            lines[-1] += f" {ms:.2f} ({low:.2f} to {high:.2f}) | {rate:.1f} | {times:.1f} |"
    lines += [f"\nLeft out: {name} ({reason})" for name, reason in left_out.items()]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    report = run(CANDIDATES, LAYERS)
    print(f"{json.dumps(report, indent=2)}\n\n{table(report)}")


if __name__ == "__main__":
    main()
