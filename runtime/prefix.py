"""The prefix tree: which full pages hold the keys and values of which tokens, so that a prompt need not be computed twice.

A node is one full page of tokens after those of its parent. Its key is a hash of the parent's key and its tokens (a chain, as in
vLLM), which begins with the model's namespace and the caller's salt; tokens are compared as well, no hash is trusted alone. Pages
leave in the order of their last use, leaves first (as in SGLang's RadixAttention), and never while a request holds them.
"""

from __future__ import annotations

import bisect
import operator
from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

HOLE = -1
"""Stands in a page table where a page was given back because no row can see it any more."""

TOKEN_BYTES = 4


class Node:
    """A page and the tokens in it (`tokens`: int32 as bytes), after those of the parents. Roots have neither."""

    __slots__ = ("children", "key", "page", "parent", "tokens")

    def __init__(self, key: bytes, parent: Node | None, tokens: bytes, page: int) -> None:
        self.key, self.parent, self.tokens, self.page = key, parent, tokens, page
        self.children: list[Node] = []  # ordered by their tokens

    def nearest(self, tokens: bytes) -> tuple[Node, int] | None:
        """The child that begins with the most of `tokens`, and how many these are; None where none begins so.

        Of all strings in order, one of the two next to a place shares the longest prefix with what belongs there.
        """
        at = bisect.bisect_left(self.children, tokens, key=_tokens)
        found = [(child, _common(child.tokens, tokens)) for child in self.children[max(0, at - 1) : at + 1]]
        best = max(found, key=operator.itemgetter(1), default=None)
        return best if best and best[1] else None


_tokens = operator.attrgetter("tokens")


def _common(a: bytes, b: bytes) -> int:
    """Tokens with which both begin."""
    n = min(len(a), len(b)) // TOKEN_BYTES
    differ = np.flatnonzero(np.frombuffer(a, np.int32, n) != np.frombuffer(b, np.int32, n))
    return int(differ[0]) if len(differ) else n


def chain(parent: bytes, tokens: bytes) -> bytes:
    """The key of a page with `tokens` after the page with the key `parent`."""
    return blake2b(parent + tokens, digest_size=16).digest()


class PrefixTree:
    """Full pages by their tokens. It counts nothing: `KVCache` holds a page for it as long as it is in here.

    `idle` has the pages that nobody else holds, the least recently used first, and of pages used together the deeper ones.
    """

    def __init__(self, page_tokens: int, namespace: bytes = b"") -> None:
        self._page_tokens, self._namespace = page_tokens, namespace
        self._nodes: dict[bytes, Node] = {}
        self._by_page: dict[int, Node] = {}
        self.idle: OrderedDict[int, Node] = OrderedDict()

    @property
    def pages(self) -> list[int]:
        """All pages in the tree."""
        return list(self._by_page)

    def _root_key(self, salt: str) -> bytes:
        name = len(self._namespace).to_bytes(8, "little") + self._namespace
        return chain(name, salt.encode("utf-8", "surrogatepass"))

    def _piece(self, tokens: np.ndarray, page: int) -> bytes:
        return tokens[page * self._page_tokens : (page + 1) * self._page_tokens].tobytes()

    def match(self, tokens: np.ndarray, salt: str) -> tuple[list[int], tuple[int, int] | None]:
        """The pages with the most full pages of `tokens` (int32) from the first on, and a page that begins like the rest.

        The latter is (page, tokens that it has in common). Read only.
        """
        node = self._nodes.get(self._root_key(salt))
        if node is None:
            return [], None
        pages: list[int] = []
        for i in range(len(tokens) // self._page_tokens):
            child = self._child(node, self._piece(tokens, i))
            if child is None:
                break
            pages.append(child.page)
            node = child
        best = node.nearest(self._piece(tokens, len(pages)))
        return pages, (best[0].page, best[1]) if best else None

    def _child(self, node: Node, tokens: bytes) -> Node | None:
        found = self._nodes.get(chain(node.key, tokens))
        return found if found and found.parent is node and found.tokens == tokens else None

    def insert(self, tokens: np.ndarray, pages: np.ndarray, salt: str) -> list[int]:
        """Put the full pages of `tokens` in; returns those that are new here. All of `pages` are held by the caller.

        Contents that the tree has already under another page count as used and keep that page. Nothing can follow a HOLE
        that the tree does not bridge, or a page whose hash belongs to other tokens. The cost is that of the new pages: the
        walk begins at the last page that the tree has already.
        """
        count = at = min(len(tokens) // self._page_tokens, len(pages))
        while at and int(pages[at - 1]) not in self._by_page:
            at -= 1
        node = self._by_page[int(pages[at - 1])] if at else None
        if node and node.tokens != self._piece(tokens, at - 1):
            raise ValueError(f"page {node.page} is published with other tokens than it has in the prefix tree")
        if node is None:
            root = self._root_key(salt)
            node = self._nodes.get(root) or Node(root, None, b"", HOLE)
        new, known = [], []
        for i in range(at, count):
            piece, page = self._piece(tokens, i), int(pages[i])
            child = self._child(node, piece)
            if child is None:
                child = Node(chain(node.key, piece), node, piece, page)
                if page == HOLE or child.key in self._nodes:
                    break
                self._add(child, node)
                new.append(page)
            else:
                known.append(child.page)
            node = child
        for page in reversed(known):
            if page in self.idle:
                self.idle.move_to_end(page)
        return new

    def _add(self, child: Node, parent: Node) -> None:
        self._nodes[parent.key] = parent  # a root comes with its first child
        self._nodes[child.key] = self._by_page[child.page] = child
        bisect.insort(parent.children, child, key=_tokens)

    def take(self, pages: Iterable[int]) -> None:
        """Somebody holds `pages` now: they are not idle."""
        for page in pages:
            self.idle.pop(page, None)

    def rest(self, pages: list[int]) -> None:
        """Nobody but the tree holds `pages` (in the order of a sequence) any more; those in the tree were used just now."""
        for page in reversed(pages):
            if node := self._by_page.get(page):
                self.idle[page] = node

    def evict(self, count: int) -> list[int]:
        """Forget the least recently used pages until `count` idle ones are gone; returns all pages that have left.

        What follows a page that leaves cannot be found any more and leaves too, also if a request holds it: that keeps it.
        """
        left: list[int] = []
        remain = max(0, len(self.idle) - count)
        while len(self.idle) > remain:
            left += self._remove(next(iter(self.idle.values())))
        return left

    def clear(self) -> list[int]:
        """Forget everything; returns the pages that have left."""
        pages = self.pages
        self._nodes, self._by_page, self.idle = {}, {}, OrderedDict()
        return pages

    def _remove(self, node: Node) -> list[int]:
        parent = node.parent
        assert parent is not None, "roots are not idle"
        del parent.children[bisect.bisect_left(parent.children, node.tokens, key=_tokens)]
        if parent.parent is None and not parent.children:
            del self._nodes[parent.key]
        pages, below = [], [node]
        while below:
            gone = below.pop()
            below += gone.children
            pages.append(gone.page)
            del self._nodes[gone.key], self._by_page[gone.page]
            self.idle.pop(gone.page, None)
        return pages

    def check_integrity(self) -> None:
        """RuntimeError unless nodes, pages and links agree."""
        inner = [node for node in self._nodes.values() if node.parent is not None]
        links = sum(len(node.children) for node in self._nodes.values())
        if {node.page: node for node in inner} != self._by_page or not len(inner) == len(self._by_page) == links:
            raise RuntimeError("prefix tree: the nodes and the pages disagree")
        for key, node in self._nodes.items():
            linked = node.parent is None or (
                self._nodes.get(node.parent.key) is node.parent and node in node.parent.children
            )
            if node.key != key or not linked or (node.parent and key != chain(node.parent.key, node.tokens)):
                raise RuntimeError(f"prefix tree: the node of page {node.page} is not linked to its parent")
            order = [child.tokens for child in node.children]
            if order != sorted(set(order)) or any(child.parent is not node for child in node.children):
                raise RuntimeError(f"prefix tree: the children of page {node.page} are out of order or lost")
            if node.parent is None and not node.children:
                raise RuntimeError("prefix tree: a root without pages is left")
        if any(self._by_page.get(page) is not node for page, node in self.idle.items()):
            raise RuntimeError("prefix tree: a page is idle that is not in the tree")
