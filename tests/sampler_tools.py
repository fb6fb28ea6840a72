"""What the sampler's tests share: compiled samplers, and the filters as textbooks have them."""

from __future__ import annotations

import functools

import numpy as np

from heddle.runtime.sampler import Draw, Sampler
from heddle.runtime.sampler.compiled import compiled_kernels
from heddle.runtime.sampling import SamplingParams
from heddle.schedules.catalog import edit_logits, mask_logits, rank_tokens, sample_tokens
from heddle.schedules.compat import tvm
from heddle.schedules.target import resolve_target


@functools.cache
def compiled_sampler(vocab: int) -> Sampler:
    """The kernels for this CPU."""
    target = resolve_target()
    factories = sample_tokens, rank_tokens, edit_logits, mask_logits
    functions = [f(vocab=vocab, target=target).with_attr("global_symbol", "main") for f in factories]
    return Sampler(compiled_kernels(*(tvm.compile(f, target=target.tvm_target())["main"] for f in functions)))


def draws(params: SamplingParams, count: int, seed: int = 0) -> list[Draw]:
    """Draws at positions 0 to count - 1."""
    return [Draw(params, seed, position) for position in range(count)]


def probabilities(row: np.ndarray, params: SamplingParams) -> np.ndarray:
    """What each token is drawn with, in float64, by sorting: min_p, top_k, top_p, typical_p one after the other."""
    z = (row.astype(np.float64) - row.max()) / params.temperature
    p = np.where(np.exp(z) >= params.min_p, np.exp(z), 0)
    order = np.lexsort((np.arange(len(row)), -row))
    if params.top_k > 0:
        p[order[params.top_k :]] = 0
    p = first_to_reach(p / p.sum(), order, params.top_p)
    information = -np.log(p, out=np.zeros_like(p), where=p > 0)
    away = np.where(p > 0, np.abs(information - (p * information).sum()), np.inf)
    return first_to_reach(p, np.lexsort((np.arange(len(row)), away)), params.typical_p)


def first_to_reach(p: np.ndarray, order: np.ndarray, wanted: float) -> np.ndarray:
    """The first tokens of the order that together reach the probability, normalised; all where it is 1."""
    if wanted == 1:
        return p
    before = np.cumsum(p[order]) - p[order]
    kept = np.zeros_like(p)
    kept[order] = np.where(before < wanted, p[order], 0)
    return kept / kept.sum()
