"""Embeddings: one vector for a text, pooled from the hidden states that the engine hands out in pieces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from .runtime.artifact import Artifact
from .runtime.errors import ArtifactError, HeddleError, RequestError
from .runtime.manifest import POOLING_FILE, POOLINGS, DenseInfo, PoolingInfo
from .runtime.safetensors import read_header

POOLER = "pooler"
"""The name of BERT's own pooling: a layer over the first token's state, trained with its next-sentence task."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """activation(weight x + bias) over the pooled vector: weight float32 [out, in], bias float32 [out] or None."""

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 [in] -> float32 [out], the same bits on any number of threads."""
        y = np.einsum("oi,i->o", self.weight, x)  # BLAS may sum in another order with more threads
        y = y if self.bias is None else y + self.bias
        return np.tanh(y) if self.activation == "tanh" else y


class Poolings:
    """The ways in which a model makes embeddings: its own, which the makers of the model chose, and others by name."""

    def __init__(self, info: PoolingInfo, tensors: Mapping[str, np.ndarray], width: int) -> None:
        """`tensors` holds the weights of all layers, `width` is the size of hidden states."""

        def stack(infos: tuple[DenseInfo, ...]) -> tuple[Layer, ...]:
            return tuple(Layer(tensors[i.weight], tensors[i.bias] if i.bias else None, i.activation) for i in infos)

        self._info, self._layers, self._pooler = info, stack(info.layers), stack(info.pooler)
        self._width = width

    @classmethod
    def load(cls, artifact: Artifact) -> Poolings:
        """Those of an artifact; ArtifactError where a layer's tensors are missing."""
        info, path = artifact.manifest.pooling, artifact.file(POOLING_FILE)
        tensors: dict[str, np.ndarray] = {}
        if info.layers or info.pooler:
            data = np.fromfile(path, np.uint8)
            tensors = {name: entry.view(data) for name, entry in read_header(path).items()}
        try:
            return cls(info, tensors, artifact.manifest.model.hidden_size)
        except KeyError as error:
            raise ArtifactError(
                f"{path} has no tensor {error}", "manifest.pooling names it", "compile again"
            ) from error

    def truncation(self, tokens: int | None, longest: int) -> int | None:
        """The tokens at which texts are cut, None where they are not. -1 is the makers' length; RequestError over `longest`."""
        if tokens is None:
            return None
        if isinstance(tokens, bool) or not isinstance(tokens, int) or not (tokens == -1 or 1 <= tokens <= longest):
            raise RequestError(f"truncate_prompt_tokens is {tokens!r}; allowed are 1 to {longest}, -1 and None")
        return min(self._info.max_tokens or longest, longest) if tokens == -1 else tokens

    def width(self, pooling: str | None) -> int:
        """Numbers in an embedding."""
        layers = self._chosen(pooling)[1]
        return len(layers[-1].weight) if layers else self._width

    def pool(self, pooling: str | None, normalize: bool | None) -> Pool:
        """A pool for one text. None is the model's own way, with the layers that it has behind its pooling; a name is that
        pooling of the hidden states and no more. RequestError for a name that it has not."""
        mode, layers = self._chosen(pooling)
        return Pool(mode, self._info.normalize if normalize is None else normalize, layers)

    def _chosen(self, pooling: str | None) -> tuple[str, tuple[Layer, ...]]:
        if pooling is None:
            return self._info.mode, self._layers
        names = (*POOLINGS, POOLER) if self._pooler else POOLINGS
        if pooling not in names:
            allowed = ", ".join(map(repr, names))
            raise RequestError(f"pooling is {pooling!r}; allowed are {allowed}, and None for the model's own")
        return ("cls", self._pooler) if pooling == POOLER else (pooling, ())


class Pool:
    """Takes the hidden states of one sequence as they come (a `Receiver`); `vector` is their embedding afterwards.

    pooling: "mean" over all positions, the state of the first ("cls"), or of the "last" one, which alone has seen the whole
    text of a causal model. `layers` follow, then the vector is scaled to length 1 if it is to `normalize`.
    Sums are float64, position after position: the result is the same in any chunking, like the hidden states.
    """

    def __init__(self, pooling: str, normalize: bool, layers: tuple[Layer, ...] = ()) -> None:
        self._pooling, self._normalize, self._layers = pooling, normalize, layers
        self._sum: np.ndarray | None = None
        self._count = 0

    def first(self, tokens: int) -> int:
        """The first position that is wanted of so many."""
        return tokens - 1 if self._pooling == "last" else 0

    def __call__(self, position: int, states: np.ndarray) -> None:
        """Add float32[r, width]."""
        if self._pooling == "cls":
            if position:
                return
            states = states[:1]
        before = np.zeros((1, states.shape[1])) if self._sum is None else self._sum[None]
        self._sum = np.add.reduce(np.concatenate((before, states)), 0)  # along the rows, one after the other
        self._count += len(states)

    def vector(self) -> np.ndarray:
        """float32[width], of length 1 where it is to be normalized (a zero vector stays so). HeddleError if not finite."""
        assert self._sum is not None, "nothing came"
        vector = self._sum / self._count
        for layer in self._layers:
            vector = layer(vector.astype(np.float32))
        if not np.isfinite(vector).all():
            raise HeddleError(
                "hidden states of the model are not finite",
                "no embedding follows from them; weights or activations overflow their type",
                "check the weights of the model",
            )
        length = float(np.linalg.norm(vector.astype(np.float64)))
        return (vector / length if self._normalize and length else vector).astype(np.float32)
