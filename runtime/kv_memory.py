"""How large the pool of KV pages is: by bytes, by a share of the memory that is left, or by contexts; as sums that can be read."""

from __future__ import annotations

import logging

from .artifact import Artifact
from .errors import PoolError
from .manifest import ENCODER
from .memory import available_memory, size_text

LOG = logging.getLogger("heddle")


def pool_pages(artifact: Artifact, kv_bytes: int | None) -> int:
    """Pages of a pool of `kv_bytes`; None means two full contexts, or for an encoder, whose texts hold pages for one step only,
    what a step can take. PoolError where not even one page fits."""
    group, context, plan = artifact.manifest.caches[0], artifact.manifest.model.context_length, artifact.manifest.plan
    if kv_bytes is None and artifact.manifest.model.kind == ENCODER:
        return plan.max_tokens // group.page_tokens + plan.max_seqs
    if kv_bytes is None:
        return 2 * -(-context // group.page_tokens)
    pages = kv_bytes // group.record_bytes
    if pages < 1:
        raise PoolError(
            f"a KV pool of {size_text(kv_bytes)} holds no page: one page needs {size_text(group.record_bytes)}",
            f"a page holds {group.page_tokens} tokens of all layers",
            "give a larger kv_memory",
        )
    return int(pages)


def share_bytes(artifact: Artifact, share: float) -> int:
    """Bytes of a pool that takes `share` (0 to 1) of what is available beyond weights and workspace; the sum is logged.

    PoolError where nothing is left.
    """
    needs = artifact.manifest.memory
    available, by = available_memory()
    left = available - needs.weights_bytes - needs.workspace_bytes
    terms = (
        f"{size_text(available)} available - {size_text(needs.weights_bytes)} weights"
        f" - {size_text(needs.workspace_bytes)} workspace"
    )
    if left <= 0:
        raise PoolError(f"no memory is left for a KV pool: {terms}", by, "free memory, or quantize the model")
    LOG.info(
        "%s: KV pool = %.4g%% of (%s) = %s; %s", artifact.path, 100 * share, terms, size_text(int(share * left)), by
    )
    return int(share * left)


def pool_text(artifact: Artifact, pages: int) -> str:
    """What a pool of `pages` is and takes, as a sum."""
    group = artifact.manifest.caches[0]
    return (
        f"{artifact.path}: KV pool = {pages} pages * {group.record_bytes} bytes ({group.page_tokens} tokens of"
        f" {group.layers} layers in {artifact.manifest.model.kv_dtype}) = {size_text(pages * group.record_bytes)},"
        f" {pages * group.page_tokens} tokens"
    )
