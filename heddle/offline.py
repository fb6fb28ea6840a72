"""The order in which a batch's requests go into the engine. It changes how fast they are served, never what they get.

"given" is first come, first served. "shared" puts the prompts in a prefix tree whose branches are annotated with their demand,
tokens to prefill and tokens to decode, as in BlendServe (Zhao et al., 2024). Depth first, requests with a common prefix come one
after another, while it is in the cache. Branches are sorted by their demand and taken from both ends, so that a step has
prefill, which wants arithmetic, beside decodes, which want memory. A request is held back while its neighbour computes what
both begin with: both would compute it otherwise.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from .runtime.engine import Engine
from .runtime.errors import RequestError
from .runtime.request import Request


class GivenOrder:
    """Requests as they stand in the list, as many as may wait."""

    def __init__(self, requests: Sequence[Request], engine: Engine) -> None:
        self._left, self._engine = deque(requests), engine

    def ready(self) -> Iterator[Request]:
        """The requests to add before the next step; each is added before the next is asked for."""
        while self._left and _may_wait(self._engine):
            yield self._left.popleft()


class SharedOrder:
    """Requests along their prefix tree, as many as the engine can serve."""

    def __init__(self, requests: Sequence[Request], engine: Engine) -> None:
        self._engine = engine
        tree = prefix_tree(requests, engine.runner.info.page_tokens)
        self._left = deque(depth_first(tree))
        self._last: list[Request | None] = [None, None]  # taken from the front and from the back
        self._computing: list[Request] = []  # taken, and with prompts that are not computed yet
        self._all = tree.prefill, tree.decode
        self._taken = [0, 0]

    def ready(self) -> Iterator[Request]:
        """The requests to add before the next step; each is added before the next is asked for."""
        engine, places = self._engine, self._engine.limits.max_seqs - len(self._engine.running)
        if engine.waiting:
            return  # the pool is full: what is added now would only wait, with nothing in the cache
        self._computing = [r for r in self._computing if r.request_id in engine.groups and r.computed < r.num_prompt]
        while self._left and places > 0 and _may_wait(engine):
            request = self._take()
            if request is None:
                return
            places -= request.group.width
            yield request

    def _take(self) -> Request | None:
        """The next from the end whose kind of work is behind, from the other where it is held back; None where both are.

        Never from between: each branch that is begun early wants pages for its prefix, and a small pool has them for few.
        """
        front = self._taken[0] * self._all[1] <= self._taken[1] * self._all[0]
        for end in (0, 1) if front else (1, 0):
            request = self._left[-end]
            if self._held_back(request):
                continue
            self._left.pop() if end else self._left.popleft()
            self._taken[0] += request.num_prompt - _shared_tokens(self._last[end], request)
            self._taken[1] += _decode_tokens(request)
            self._last[end] = request
            self._computing.append(request)
            return request
        return None

    def _held_back(self, request: Request) -> bool:
        """Whether somebody is computing pages that `request` needs too."""
        if not self._engine.kv.prefix_cache:
            return False
        return any(other.computed < _shared_tokens(other, request) for other in self._computing)


ORDERS: dict[str, type[GivenOrder | SharedOrder]] = {"given": GivenOrder, "shared": SharedOrder}


def feeder(order: str, requests: Sequence[Request], engine: Engine) -> GivenOrder | SharedOrder:
    """What hands `requests` to the engine in this order; RequestError for an unknown one."""
    if order not in ORDERS:
        raise RequestError(f"order is {order!r}; allowed are {', '.join(map(repr, ORDERS))}")
    return ORDERS[order](requests, engine)


def _may_wait(engine: Engine) -> bool:
    return engine.max_waiting is None or len(engine.waiting) < engine.max_waiting


def _decode_tokens(request: Request) -> int:
    """Tokens to generate at most, in all samples. How many will be is not known: all are taken to need them."""
    return (request.max_length - request.num_prompt) * request.group.width


def _shared_tokens(a: Request | None, b: Request) -> int:
    """Tokens of whole pages that `b` finds in the cache when `a` has computed its prompt."""
    if a is None or a.salt != b.salt:
        return 0
    common = common_tokens(a.prompt_ids, b.prompt_ids[:-1])
    return common - common % a.page_tokens


# The tree.


@dataclasses.dataclass(eq=False)
class Branch:
    """What follows the first `depth` tokens, which all below have in common; `prefill` and `decode` are the demand of it all."""

    depth: int
    request: Request | None = None
    children: list[Branch] = dataclasses.field(default_factory=list)
    prefill: int = 0
    decode: int = 0

    @property
    def density(self) -> float:
        """Prefill for each token to decode."""
        return self.prefill / max(1, self.decode)


def common_tokens(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens with which both begin."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def prefix_tree(requests: Sequence[Request], page_tokens: int) -> Branch:
    """All requests under one root, by their salts and whole pages of their prompts."""
    # Big-endian bytes are ordered like the tokens.
    names = [(r.salt, r.prompt_ids.astype(">i4").tobytes()) for r in requests]
    root = Branch(0)
    path = [root]
    before: Request | None = None
    for i in sorted(range(len(requests)), key=names.__getitem__):
        request, common = requests[i], 0
        if before is not None and before.salt == request.salt:
            common = common_tokens(before.prompt_ids, request.prompt_ids)
            common -= common % page_tokens
        below: Branch | None = None
        while path[-1].depth > common:
            below = path.pop()
        if below is not None and path[-1].depth < common:
            path[-1].children[-1] = Branch(common, children=[below])
            path.append(path[-1].children[-1])
        leaf = Branch(request.num_prompt, request)
        path[-1].children.append(leaf)
        path.append(leaf)
        before = request
    _annotate(root)
    return root


def _annotate(root: Branch) -> None:
    """Sum the demand up from the leaves; a common prefix counts once."""
    order = [(root, 0)]
    for branch, _ in order:  # grows: parents before their children
        order += [(child, branch.depth) for child in branch.children]
    for branch, begin in reversed(order):
        own = _decode_tokens(branch.request) if branch.request else 0
        branch.prefill = branch.depth - begin + sum(child.prefill for child in branch.children)
        branch.decode = own + sum(child.decode for child in branch.children)


def depth_first(tree: Branch) -> list[Request]:
    """The requests of a tree, of the branches at one place those first that are the most prefill."""
    found: list[Request] = []
    stack = [tree]
    while stack:
        branch = stack.pop()
        if branch.request is not None:
            found.append(branch.request)
        by_density = sorted(branch.children, key=lambda child: -child.density)
        stack += by_density[::-1]
    return found
