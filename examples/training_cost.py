"""Count what training DALL-E Mini and Mega takes: parameters, operations, memory, time.

    python examples/training_cost.py [FOLDER]

Everything here is counted from shapes, nothing is measured: the networks are described on the
`meta` device, which holds no weights. The tests compare the counts with what torch counts and
keeps on a small network. The tables are those of docs/finetuning.md.

Shapes: T text tokens, L image tokens, D width, F feed-forward width, V image vocabulary, r rank.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from torch import nn

from dallemini import Transformer
from dallemini.models import TransformerConfig

MINI = TransformerConfig()
MEGA = TransformerConfig(
    text_vocab_size=50272,
    image_vocab_size=16415,
    d_model=2048,
    encoder_layers=24,
    decoder_layers=24,
    encoder_attention_heads=32,
    decoder_attention_heads=32,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
)
MODELS = {"mini": MINI, "mega": MEGA}
RANK = 16
GIB = 2**30
USABLE = 0.9  # of a GPU's memory: the rest goes to its context, to the VQGAN and to gaps

Precision = Literal["float32", "bfloat16"]

# Bytes that one layer keeps for the backward pass, for each token: (times D, times F). In float32
# an encoder layer keeps 9 D (inputs of three norms 3, of qkv_proj and in_proj 2, queries, keys and
# values 3, attended 1) and 5 F (gate and value 2, gelu(gate) 1, inputs of norm_mid and out_proj 2);
# attention to the text adds 5 D for each image token and 2 D (keys, values) for each text token.
# Under autocast on a GPU the inputs of norms are float32, all else bfloat16, and each decoder layer
# rounds the encoder's states for itself.
_KEPT: dict[Precision, dict[str, tuple[int, int]]] = {
    "float32": {"encoder": (36, 20), "decoder": (56, 20), "text": (8, 0)},
    "bfloat16": {"encoder": (24, 12), "decoder": (38, 12), "text": (6, 0)},
}


@dataclass(frozen=True)
class Training:
    """One way of training one network.

    Attributes:
        config: sizes of the network.
        lora_rank: r of adapters beside frozen weights; 0 trains all weights.
        checkpointing: whether the layers are computed again in the backward pass.
        precision: of the computation.
        optimizer: of matrices; the rest is AdamW's.
        text_tokens: T of a batch; the longest that the network reads when None.
    """

    config: TransformerConfig
    lora_rank: int = 0
    checkpointing: bool = False
    precision: Precision = "bfloat16"
    optimizer: Literal["adamw", "muon"] = "adamw"
    text_tokens: int | None = None

    @property
    def texts(self) -> int:
        """T, the text tokens of a picture."""
        return self.text_tokens or self.config.max_text_length


@cache
def parameters(config: TransformerConfig) -> dict[str, int]:
    """Count the parameters of each part of a network, by its shapes on `meta`.

    Example:
        >>> sum(parameters(MEGA).values())
        2587521024
    """
    model = Transformer(config)
    parts = {
        "encoder layers": _count(model.encoder.layers),
        "decoder layers": _count(model.decoder.layers),
        "head": _count(model.lm_head),
    }
    text = _count(model.encoder) - parts["encoder layers"]
    image = _count(model.decoder) - parts["decoder layers"]
    return {"text embeddings": text, "image embeddings": image, **parts}


def forward_operations(training: Training) -> dict[str, int]:
    """Count the operations of one picture's forward pass, without adapters.

    A multiplication and an addition are two operations: a matrix of P parameters costs 2 P for
    each token, and attention from S to T positions 4 S T D. Causal attention is counted whole.
    """
    config, texts, images = training.config, training.texts, training.config.image_length
    total = {"encoder": 0, "decoder": 0}
    for name, size, tokens in _linears(training):
        side = "encoder" if name.startswith("encoder") else "decoder"
        if name != "lm_head":
            total[side] += 2 * size[0] * size[1] * tokens
    width = config.d_model
    return {
        "encoder": total["encoder"],
        "attention in the encoder": config.encoder_layers * 4 * texts**2 * width,
        "decoder": total["decoder"],
        "attention among image tokens": config.decoder_layers * 4 * images**2 * width,
        "attention to the text": config.decoder_layers * 4 * images * texts * width,
        "head": 2 * width * (config.image_vocab_size + 1) * images,
    }


def step_operations(training: Training) -> int:
    """Count the operations that training takes for one picture, without the optimiser's.

    The backward pass of a product costs two products: 6 P for each token in all. Frozen matrices
    need one of the two: 4 P, and 6 r (I + O) for the adapter of a matrix with I inputs and O
    outputs. Checkpointing computes the layers once more, without adapters up to the last product
    of each.
    """
    forward, rank = forward_operations(training), training.lora_rank
    whole = sum(forward.values())
    attention = sum(count for name, count in forward.items() if "attention" in name)
    again, adapters, unused = whole - forward["head"], 0, 0
    for name, (inputs, outputs), tokens in _linears(training):
        if name == "lm_head":
            continue
        adapters += 2 * rank * (inputs + outputs) * tokens
        if name.endswith("layers.0.self_attn.qkv_proj"):  # what comes before it is frozen
            unused += 2 * inputs * (outputs + rank) * tokens
        if name.endswith("glu.out_proj") and not rank:  # nothing needs its output again
            again -= 2 * inputs * outputs * tokens
    again = again + adapters if training.checkpointing else 0
    if not rank:
        return 3 * whole + again
    return 2 * whole + attention + 3 * adapters - unused + again


def muon_operations(config: TransformerConfig) -> int:
    """Count the operations of one step of Muon, which do not depend on the batch.

    Each of its five rounds takes two products of m x m x n and one of m x m x m for a matrix with
    m rows and n columns, m the smaller.
    """
    total = 0
    for name, size, _ in _linears(Training(config)):
        small, large = sorted(size)
        total += 0 if name == "lm_head" else 5 * (4 * small**2 * large + 2 * small**3)
    return total


def state_bytes(training: Training) -> int:
    """Count the bytes of weights, gradients, optimiser and averaged weights, all in float32."""
    everything = sum(parameters(training.config).values())
    trained, matrices = everything, 0
    for name, (inputs, outputs), _ in _linears(training):
        matrices += 0 if name == "lm_head" else inputs * outputs
    if training.lora_rank:
        trained, matrices = _adapter_size(training), 0  # adapters are AdamW's
        everything += trained
    moments = 8 * trained - (4 * matrices if training.optimizer == "muon" else 0)
    return 4 * everything + 8 * trained + moments


def rounded_bytes(training: Training) -> int:
    """Count the bytes of the weights' copies that autocast makes."""
    if training.precision == "float32":
        return 0
    return 2 * sum(inputs * outputs for _, (inputs, outputs), _ in _linears(training))


def kept_bytes(training: Training) -> int:
    """Count the bytes that one picture keeps for the backward pass, with fused attention.

    With checkpointing, a layer keeps its input only; one layer at a time keeps the rest.
    """
    config, texts, images = training.config, training.texts, training.config.image_length
    encoder, decoder = _layer_bytes(training)
    if training.checkpointing:
        residual = 4 * config.d_model
        encoder, decoder = (
            config.encoder_layers * residual * texts,
            config.decoder_layers * residual * images + max(encoder, decoder),
        )
    else:
        encoder, decoder = config.encoder_layers * encoder, config.decoder_layers * decoder
    embedded = 0 if training.lora_rank else 4 * config.d_model * (texts + images)
    final = 4 * config.d_model * (texts + images)
    if training.precision == "float32":
        final += 4 * config.d_model * texts  # the encoder's states, which all layers share
    head = 0 if training.lora_rank else _width(training) * config.d_model * images
    return encoder + decoder + embedded + final + head + 4 * _logits(config)


def peak_bytes(training: Training, *, pictures: int, processes: int = 1) -> int:
    """Count the bytes on a GPU that computes so many pictures at a time, at most.

    Args:
        training: what is trained.
        pictures: of one pass on one GPU.
        processes: over which "fsdp" splits the weights; 1 splits nothing.
    """
    gathered = 0
    if processes > 1:
        sizes = parameters(training.config)
        layer = sizes["decoder layers"] // training.config.decoder_layers
        outside = sum(count for name, count in sizes.items() if "layers" not in name)
        gathered = 4 * (outside + 2 * layer) * (1 if training.lora_rank else 2)
        fixed = state_bytes(training) // processes + gathered + rounded_bytes(training)
    else:
        fixed = state_bytes(training) + rounded_bytes(training)
    gradient = 6 * _logits(training.config)  # float32, and rounded
    return fixed + pictures * (kept_bytes(training) + gradient)


def most_pictures(training: Training, *, gibibytes: int, processes: int = 1) -> int:
    """Return how many pictures a GPU computes at a time; 0 if not even one fits."""
    fixed = peak_bytes(training, pictures=0, processes=processes)
    each = peak_bytes(training, pictures=1, processes=processes) - fixed
    return max(0, int(USABLE * gibibytes * GIB - fixed) // each)


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@cache
def _matrices(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    """Return the inputs and outputs of every matrix, by name."""
    return {
        name: (part.in_features, part.out_features)
        for name, part in Transformer(config).named_modules()
        if isinstance(part, nn.Linear)
    }


def _linears(training: Training) -> Iterable[tuple[str, tuple[int, int], int]]:
    """Give the name, the inputs and outputs, and the tokens of every matrix."""
    for name, size in _matrices(training.config).items():
        text = name.startswith("encoder.") or name.endswith(".cross_attn.kv_proj")
        yield name, size, training.texts if text else training.config.image_length


def _adapter_size(training: Training) -> int:
    return sum(
        training.lora_rank * (inputs + outputs)
        for name, (inputs, outputs), _ in _linears(training)
        if name != "lm_head"
    )


def _layer_bytes(training: Training) -> tuple[int, int]:
    """Return what an encoder and a decoder layer keep for one picture."""
    config, kept = training.config, _KEPT[training.precision]
    extra = 2 if training.lora_rank and training.precision == "bfloat16" else 0
    rank = training.lora_rank * _width(training)  # the narrow tensor of each adapter

    def times(kind: str, ffn_width: int, adapters: int, projections: int) -> int:
        by_width, by_ffn = kept[kind]
        by_width += extra * projections  # the adapters beside out_proj round their own input
        return by_width * config.d_model + by_ffn * ffn_width + rank * adapters

    encoder = times("encoder", config.encoder_ffn_dim, 4, 1) * training.texts
    decoder = times("decoder", config.decoder_ffn_dim, 6, 2) * config.image_length
    return encoder, decoder + times("text", 0, 1, 0) * training.texts


def _width(training: Training) -> int:
    return 4 if training.precision == "float32" else 2


def _logits(config: TransformerConfig) -> int:
    return config.image_length * (config.image_vocab_size + 1)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def ways() -> dict[str, Training]:
    """Return what the tables compare."""
    found = {}
    for name, config in MODELS.items():
        found[f"{name}, all weights, AdamW"] = Training(config)
        found[f"{name}, all weights, Muon"] = Training(config, optimizer="muon")
        found[f"{name}, LoRA of rank {RANK}"] = Training(config, lora_rank=RANK)
    return found


def parameter_table() -> str:
    """Parameters of each part."""
    counts = {name: parameters(config) for name, config in MODELS.items()}
    rows = [
        [part, *(f"{counts[name][part]:,}" for name in MODELS)]
        for part in next(iter(counts.values()))
    ]
    total = ["all", *(f"{sum(counts[name].values()):,}" for name in MODELS)]
    return table(["parameters", *MODELS], [*rows, total])


def operation_table() -> str:
    """Operations of one picture, in 10^9, and the hours that a million pictures take."""
    rows = []
    for name, config in MODELS.items():
        ahead = forward_operations(Training(config))
        rows.append([f"{name}: forward", _giga(sum(ahead.values())), ""])
        rows += [[f"- {part}", _giga(count), ""] for part, count in ahead.items()]
        for what, rank in (("all weights", 0), (f"LoRA of rank {RANK}", RANK)):
            for again in (False, True):
                count = step_operations(Training(config, lora_rank=rank, checkpointing=again))
                hours = count * 1e6 / 1e14 / 3600
                label = f"{name}: {what}{', checkpointing' if again else ''}"
                rows.append([label, _giga(count), f"{hours:.1f}"])
        rows.append([f"{name}: Muon, for each step", _giga(muon_operations(config)), ""])
    return table(["", "10^9 operations", "hours for a million pictures at 10^14 a second"], rows)


def memory_table() -> str:
    """Bytes of the states, and of one picture."""
    rows = []
    for name, plain in ways().items():
        again = _again(plain)
        numbers = (state_bytes(plain), rounded_bytes(plain), kept_bytes(plain), kept_bytes(again))
        rows.append([name, *(f"{number / 1e9:.2f}" for number in numbers)])
    head = ["10^9 bytes", "states", "rounded weights", "a picture", "a picture, checkpointing"]
    return table(head, rows)


def fit_table() -> str:
    """Pictures that a GPU computes at a time, without and with checkpointing."""
    rows = []
    for name, plain in ways().items():
        for processes in (1, 8):
            if plain.optimizer == "muon" or (processes > 1 and name.startswith("mini")):
                continue
            cells = [
                " / ".join(
                    str(most_pictures(way, gibibytes=size, processes=processes))
                    for way in (plain, _again(plain))
                )
                for size in (16, 24, 40, 80)
            ]
            rows.append([f"{name}{', fsdp over 8' if processes > 1 else ''}", *cells])
    return table(["pictures at a time", "16 GiB", "24 GiB", "40 GiB", "80 GiB"], rows)


def _again(training: Training) -> Training:
    return replace(training, checkpointing=True)


def _giga(count: int) -> str:
    return f"{count / 1e9:,.1f}"


def main(folder: Path) -> None:
    """Print the tables and write them to a Markdown file."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([parameter_table(), operation_table(), memory_table(), fit_table()])
    print(text)
    (folder / "training cost.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "cost"))
