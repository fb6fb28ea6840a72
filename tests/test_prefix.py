"""The prefix tree against a dictionary from prefixes to pages, and a list for the order of eviction."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from heddle.runtime import prefix
from heddle.runtime.prefix import HOLE, PrefixTree

PAGE = 3
Key = tuple[str, tuple[int, ...]]

salts = st.sampled_from(["", "tenant"])
# Few beginnings, so that sequences have much in common, and any end.
sequences = st.builds(
    lambda start, length, end: [start] * length + end,
    st.integers(0, 1),
    st.integers(0, 5 * PAGE),
    st.lists(st.integers(0, 1), max_size=PAGE),
)


def array(tokens: list[int]) -> np.ndarray:
    return np.array(tokens, np.int32)


def keys(tokens: list[int], salt: str) -> list[Key]:
    """The full pages of a sequence, each by all tokens up to its end."""
    return [(salt, tuple(tokens[: end * PAGE])) for end in range(1, len(tokens) // PAGE + 1)]


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Tree(RuleBasedStateMachine):
    """Sequences are published and let go, pages are evicted; page numbers are never used again."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixTree(PAGE, b"model")
        self.pages: dict[Key, int] = {}
        self.idle: list[Key] = []
        self.holders: list[list[int]] = []
        self.numbers = itertools.count()

    @initialize(arrivals=st.lists(st.tuples(sequences, salts, st.booleans()), min_size=2, max_size=4))
    def begin(self, arrivals: list[tuple[list[int], str, bool]]) -> None:
        """Hypothesis leaves out rules at random; something is in the tree all the same."""
        for tokens, salt, stays in arrivals:
            self.publish(tokens, salt, True)
            if not stays:
                self.leave(len(self.holders) - 1)

    def held(self, page: int) -> bool:
        return any(page in pages for pages in self.holders)

    @rule(tokens=sequences, salt=salts, cached=st.booleans())
    def publish(self, tokens: list[int], salt: str, cached: bool) -> None:
        """Pages that are cached are used, or, as after a simultaneous prefill, computed again."""
        found = self.tree.match(array(tokens), salt)[0] if cached else []
        self.tree.take(found)
        self.idle = [key for key in self.idle if self.pages[key] not in found]
        pages = found + [next(self.numbers) for _ in range(len(tokens) // PAGE - len(found))]
        self.holders.append(pages)
        self.insert(tokens, pages, salt)

    def insert(self, tokens: list[int], pages: list[int], salt: str) -> None:
        table = keys(tokens, salt)
        own = max((i + 1 for i, key in enumerate(table) if self.pages.get(key) == pages[i]), default=0)
        new = [pages[i] for i, key in enumerate(table) if key not in self.pages]
        used = [key for key in table[own:] if key in self.idle]
        self.idle = [key for key in self.idle if key not in used] + used[::-1]
        self.pages = dict(zip(table, pages, strict=True)) | self.pages
        assert self.tree.insert(array(tokens), np.array(pages, np.int32), salt) == new

    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        if self.holders:
            self.leave(data.draw(st.integers(0, len(self.holders) - 1)))

    def leave(self, index: int) -> None:
        alone = [page for page in self.holders.pop(index) if not self.held(page)]
        self.tree.rest(alone)
        at = {page: key for key, page in self.pages.items()}
        self.idle += [at[page] for page in reversed(alone) if page in at]

    @rule(count=st.integers(0, 5))
    def evict(self, count: int) -> None:
        expected: list[int] = []
        remain = max(0, len(self.idle) - count)
        while len(self.idle) > remain:
            salt, tokens = self.idle[0]
            below = [key for key in self.pages if key[0] == salt and key[1][: len(tokens)] == tokens]
            expected += map(self.pages.pop, below)
            self.idle = [key for key in self.idle if key not in below]
        assert sorted(self.tree.evict(count)) == sorted(expected)

    @rule(tokens=sequences, salt=salts)
    def match(self, tokens: list[int], salt: str) -> None:
        found, tail = self.tree.match(array(tokens), salt)
        expected = list(itertools.takewhile(lambda page: page is not None, map(self.pages.get, keys(tokens, salt))))
        assert found == expected
        full = len(found) * PAGE
        rest, before = tuple(tokens[full : full + PAGE]), tuple(tokens[:full])
        nearest = {
            page: common(key[full:], rest)
            for (name, key), page in self.pages.items()
            if name == salt and len(key) == full + PAGE and key[:full] == before
        }
        best = max(nearest.values(), default=0)
        assert tail == ((tail[0], best) if tail and nearest[tail[0]] == best and best else None)
        assert (tail is None) == (best == 0)

    @rule()
    def clear(self) -> None:
        assert sorted(self.tree.clear()) == sorted(self.pages.values())
        self.pages, self.idle = {}, []

    @invariant()
    def agrees(self) -> None:
        self.tree.check_integrity()
        assert sorted(self.tree.pages) == sorted(self.pages.values())
        assert list(self.tree.idle) == [self.pages[key] for key in self.idle]
        assert not any(map(self.held, self.tree.idle))


TestTree = Tree.TestCase
TestTree.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


def filled(namespace: bytes = b"model") -> tuple[PrefixTree, np.ndarray]:
    """A tree with four pages of the tokens 0 to 11."""
    tree, tokens = PrefixTree(PAGE, namespace), np.arange(12, dtype=np.int32)
    assert tree.insert(tokens, np.arange(4, dtype=np.int32), "") == [0, 1, 2, 3]
    return tree, tokens


def test_leaves_go_before_what_they_follow() -> None:
    tree, _ = filled()
    tree.rest([0, 1, 2, 3])
    assert [tree.evict(1) for _ in range(5)] == [[3], [2], [1], [0], []]
    assert not tree._nodes  # the root went with its last page


def test_pages_that_were_computed_again_count_as_used() -> None:
    tree, tokens = filled()
    assert tree.insert(tokens[:3] + 50, np.array([9], np.int32), "") == [9]
    tree.rest([0, 1, 2, 3])
    tree.rest([9])
    assert tree.insert(tokens, np.arange(20, 24, dtype=np.int32), "") == []
    assert list(tree.idle) == [9, 3, 2, 1, 0]


def test_what_cannot_be_found_any_more_leaves_too() -> None:
    tree, tokens = filled()
    tree.rest([1])  # pages 2 and 3 are still held: they stay with their holder, not in the tree
    assert tree.evict(1) == [1, 2, 3]
    assert tree.match(tokens, "") == ([0], None)


def test_the_chain_begins_with_namespace_and_salt() -> None:
    tree, tokens = filled()
    assert tree.match(tokens, "")[0] == [0, 1, 2, 3]
    assert tree.match(tokens, "other") == ([], None)
    roots = {
        PrefixTree(PAGE, name)._root_key(salt) for name in (b"", b"a", b"ab") for salt in ("", "a", "ab", "b", "\ud800")
    }
    assert len(roots) == 15


def test_equal_hashes_do_not_mix_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash of one bit nearly everything collides; what is found has the right tokens all the same."""
    true = prefix.chain
    monkeypatch.setattr(prefix, "chain", lambda parent, tokens: bytes([true(parent, tokens)[0] & 3]) + parent[:1])
    tree, rng = PrefixTree(PAGE), np.random.default_rng(0)
    stored: dict[int, tuple[int, ...]] = {}
    numbers = itertools.count()
    for _ in range(200):
        tokens = rng.integers(0, 2, 12).astype(np.int32)
        pages = np.array([next(numbers) for _ in range(4)], np.int32)
        for page in tree.insert(tokens, pages, ""):
            at = int(page - pages[0]) + 1
            stored[page] = tuple(tokens[: at * PAGE].tolist())
        found, tail = tree.match(tokens, "")
        assert [stored[page] for page in found] == [
            tuple(tokens[: i * PAGE].tolist()) for i in range(1, len(found) + 1)
        ]
        if tail:
            end = len(found) * PAGE + tail[1]
            assert stored[tail[0]][:end] == tuple(tokens[:end].tolist())
        tree.check_integrity()
    assert 4 < len(stored) < 2**4


def test_holes_are_bridged_only_by_what_is_there() -> None:
    tree, _ = filled()
    longer = np.arange(18, dtype=np.int32)
    table = np.array([HOLE, HOLE, 2, 3, 4, 5], np.int32)
    assert tree.insert(longer, table, "") == [4, 5]
    assert tree.match(longer, "")[0] == [0, 1, 2, 3, 4, 5]
    other = longer + 1
    assert tree.insert(other, np.array([HOLE, 7, 8, 9, 10, 11], np.int32), "") == []


def test_a_page_has_one_content() -> None:
    tree, tokens = filled()
    with pytest.raises(ValueError, match="page 3 is published with other tokens"):
        tree.insert(tokens + 1, np.arange(4, dtype=np.int32), "")
    tree.check_integrity()


def break_link(tree: PrefixTree) -> None:
    tree._by_page[1].parent = tree._by_page[3]


def break_order(tree: PrefixTree) -> None:
    tree._by_page[1].children.append(tree._by_page[3])


def lose_page(tree: PrefixTree) -> None:
    del tree._by_page[3]


def strange_idle(tree: PrefixTree) -> None:
    tree.rest([0])
    tree.idle[77] = tree.idle.pop(0)


def change_tokens(tree: PrefixTree) -> None:
    tree._by_page[3].tokens = bytes(12)


@pytest.mark.parametrize("damage", [break_link, break_order, lose_page, strange_idle, change_tokens])
def test_integrity_finds(damage: object) -> None:
    tree, _ = filled()
    assert callable(damage)
    damage(tree)
    with pytest.raises(RuntimeError, match="prefix tree"):
        tree.check_integrity()


def test_growing_publishes_cost_their_new_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is published again at every full page hashes each page once."""
    calls = []
    true = prefix.chain
    monkeypatch.setattr(prefix, "chain", lambda parent, tokens: calls.append(1) or true(parent, tokens))  # type: ignore[func-returns-value]
    tree = PrefixTree(16)
    tokens, pages = np.arange(16 * 500, dtype=np.int32), np.arange(500, dtype=np.int32)
    for end in range(1, 501):
        assert tree.insert(tokens[: 16 * end], pages[:end], "") == [end - 1]
    assert len(calls) <= 2 * 500 + 2
