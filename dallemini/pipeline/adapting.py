"""What people do with adapters: load several, weigh them, and take them out again.

The part of `Pipeline` about its transformer's adapters. Knows names and weights; `models.adapted`
changes the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .. import hub
from ..errors import InputError, InputTypeError
from ..models.adapted import adapter_weights, add_adapter, delete_adapters, set_adapters
from ..models.adapter_files import read_adapter
from ..models.pretrained import SourceName
from ..models.transformer import Transformer


class Adapting:
    """The part of `Pipeline` that loads LoRA adapters.

    Adapters are added to the transformer's weights, so that they cost no time, and the weights
    without them are kept aside: taken out again, a seed draws to the bit what it drew before.
    """

    transformer: Transformer

    def load_adapter(
        self,
        source: SourceName | hub.Source,
        *,
        weight: float = 1.0,
        name: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: SourceName | None = None,
        local_files_only: bool = False,
        token: str | None = None,
    ) -> str:
        """Add an adapter, beside those that are loaded already.

        Pictures tell in their metadata which adapters drew them, and `dallemini redraw` loads them.
        With int8 weights, load adapters first and call `quantize` then: they cannot be taken out
        any more.

        Args:
            source: folder or file of an adapter that `dallemini train`, `save_lora` or the package
                peft wrote, or a Hub id.
            weight: its strength; 1 as trained, 0 without effect.
            name: to speak of it later; the source's when None.
            subfolder: folder inside the source that holds the adapter.
            revision: branch, tag or commit on the Hub.
            cache_dir: the Hub's cache folder, instead of the user's.
            local_files_only: never ask the network.
            token: Hub access token, instead of the stored one.

        Returns:
            Its name.

        Raises:
            MissingFileError: the source does not exist or holds no adapter.
            HubError: the Hub could not be reached or refused.
            CheckpointError: the adapter is corrupt, belongs to another model, or asks for what
                cannot be honoured.
            ConfigError: its settings cannot be read.
            InputError: the name is taken, the weight is not finite, or the weights are int8.

        Example:
            >>> from dallemini.models.lora import add_lora, save_lora
            >>> from dallemini.testing import tiny_pipeline, tiny_transformer
            >>> trained = tiny_transformer()
            >>> _ = add_lora(trained)
            >>> save_lora(trained, "ink")
            >>> pipe = tiny_pipeline()
            >>> pipe.load_adapter("ink", weight=0.8)
            'ink'
            >>> pipe.adapters
            {'ink': 0.8}
        """
        where = hub.Where(revision, cache_dir, local_files_only, token)
        opened = hub.open(source, where, subfolder=subfolder)
        known = re.sub(r"@[0-9a-f]{12}$", "", opened.label) if name is None else name
        add_adapter(self.transformer, read_adapter(opened), name=known, weight=weight)
        return known

    @property
    def adapters(self) -> dict[str, float]:
        """The weight of each adapter that is loaded, by its name."""
        return adapter_weights(self.transformer)

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        adapter_weights: float | Sequence[float] = 1.0,
    ) -> None:
        """Choose which of the loaded adapters draw, and how strongly; the others are left out.

        Args:
            adapter_names: one or several; none leaves all out.
            adapter_weights: one for all, or one for each.

        Raises:
            InputError: none of that name is loaded, or there is not one finite weight for each.
            InputTypeError: a name is not a string.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if odd := [name for name in names if not isinstance(name, str)]:
            raise InputTypeError(f"Adapters are named by strings, not by {odd[0]!r:.80}.")
        given = adapter_weights
        weights = [given] * len(names) if isinstance(given, int | float) else list(given)
        if len(weights) != len(names):
            raise InputError(f"{len(names)} adapters need as many weights, not {len(weights)}.")
        chosen = dict(zip(names, weights, strict=True))
        set_adapters(self.transformer, {**dict.fromkeys(self.adapters, 0.0), **chosen})

    def unload_adapter(self, name: str | None = None) -> None:
        """Take an adapter out of the weights, or all of them when None.

        Raises:
            InputError: none of that name is loaded.
        """
        delete_adapters(self.transformer, self.adapters if name is None else [name])
