"""The configuration of an encoder: a decoder's choices, and those that only encoders have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .config import ConfigReader
from .decoder_config import DecoderConfig
from .problems import raise_errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(DecoderConfig):
    """Everything that determines the functions of one model.

    `windows` has one entry per layer: a token at position p sees the keys in (p - window, p + window), all of them where the
    window is 0. With `post_norm` a layer normalises its two residual sums (BERT), else what attention and MLP read, and the last
    layer's output (ModernBERT). Positions count from row `first_position` of the checkpoint's table, which has
    `first_position + position_rows` rows; `types` are the rows of the table of token types, the first of which is added to all.
    """

    post_norm: bool
    first_position: int = 0
    types: int = 0

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each logical axis of the weights."""
        own = {"unused_positions": self.first_position, "type": 1, "other_types": self.types - 1}
        return super().sizes | own

    @property
    def lookaheads(self) -> tuple[int, ...]:
        """As in a decoder, whose steps are causal; here a token sees the whole sequence where there is no window."""
        return tuple(window - 1 for window in self.windows)


def finish_encoder(reader: ConfigReader, fields: Mapping[str, Any]) -> EncoderConfig:
    """The config of these fields, once no key is left unread; ModelError with all problems of the reader."""
    if reader.get("is_decoder", False) is not False:
        what = f'config key "is_decoder" is {reader.raw["is_decoder"]!r:.80}'
        reader.bad("is_decoder", what, "an encoder's tokens all see each other", "check `architectures`")
    if fields["num_kv_heads"] != fields["num_heads"]:
        what = f"{fields['num_kv_heads']} key/value heads for {fields['num_heads']} heads"
        reader.bad("num_key_value_heads", what, "an encoder's heads each have their own", "remove num_key_value_heads")
    reader.check_unknown()
    raise_errors("config.json", reader.problems)
    return EncoderConfig(**fields)
