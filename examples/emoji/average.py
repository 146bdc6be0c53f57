"""Average the transformers of several runs that began from one another.

    python examples/emoji/average.py OUTPUT MODEL MODEL ...

Each MODEL has tokenizer/ and transformer/, of one vocabulary and one size; OUTPUT gets the same.
The mean of what a run was at several stages often generalises better than each of them ("Model
soups", Wortsman et al. 2022).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from dallemini import Transformer


def main() -> None:
    """Read the arguments, load, average, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    arguments = parser.parse_args()
    files = {(model / "tokenizer" / "tokenizer.json").read_bytes() for model in arguments.models}
    if len(files) > 1:
        parser.error("the models have different tokenizers, whose ids mean different words")
    states = [
        Transformer.from_pretrained(model / "transformer").float().state_dict()
        for model in arguments.models
    ]
    averaged = Transformer.from_pretrained(arguments.models[0] / "transformer").float()
    averaged.load_state_dict(
        {name: sum(state[name] for state in states) / len(states) for name in states[0]}
    )
    averaged.save_pretrained(arguments.output / "transformer")
    shutil.copytree(
        arguments.models[0] / "tokenizer", arguments.output / "tokenizer", dirs_exist_ok=True
    )


if __name__ == "__main__":
    main()
