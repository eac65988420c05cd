"""The order in which terms are added, as a tree that pairs of cancelling terms reveal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sparq_sim.arrays import Array

#: Leaves are places of K; this one is c.
START = -1


@dataclass(frozen=True)
class Node:
    """What is added in one go: leaves, and sums that were made before."""

    leaves: tuple[int, ...]
    nodes: tuple[Node, ...] = ()

    @property
    def members(self) -> tuple[int, ...]:
        """All leaves below, in ascending order; c first."""
        return tuple(sorted([*self.leaves, *(leaf for node in self.nodes for leaf in node.members)]))

    @property
    def size(self) -> int:
        """Number of leaves below."""
        return len(self.leaves) + sum(node.size for node in self.nodes)


def nodes_of(tree: Node) -> Iterator[Node]:
    """The tree's nodes, each before those below it."""
    yield tree
    for below in tree.nodes:
        yield from nodes_of(below)


def places_text(leaves: Sequence[int]) -> str:
    """0..7, 9"""
    parts = ["c"] if START in leaves else []
    places = [leaf for leaf in leaves if leaf != START]
    first = 0
    for at in range(1, len(places) + 1):
        if at == len(places) or places[at] != places[at - 1] + 1:
            parts.append(str(places[first]) if at - first == 1 else f"{places[first]}..{places[at - 1]}")
            first = at
    return ", ".join(parts)


def tree_of(sizes: Array, leaves: Sequence[int]) -> Node | None:
    """The tree in which the smallest sum that holds leaves i and j has sizes[i, j] leaves; None if there is none."""
    made = _built(sizes, list(range(len(leaves))))
    if made is None or not _agrees(made, sizes):
        return None
    return _renamed(made, leaves)


def _built(sizes: Array, places: list[int]) -> Node | None:
    if len(places) == 1:
        return Node((places[0],))
    first = places[0]
    made = Node((first,))
    for size in sorted({int(sizes[first, other]) for other in places[1:]}):
        joined = [other for other in places[1:] if sizes[first, other] == size]
        leaves, nodes = ([first], []) if made.size == 1 else ([], [made])
        while joined:
            near = [other for other in joined if other == joined[0] or sizes[joined[0], other] < size]
            joined = [other for other in joined if other not in near]
            if len(near) == 1:
                leaves.append(near[0])
                continue
            below = _built(sizes, near)
            if below is None:
                return None
            nodes.append(below)
        made = Node(tuple(leaves), tuple(nodes))
        if made.size != size:
            return None
    return made


def _agrees(tree: Node, sizes: Array) -> bool:
    said = np.zeros_like(sizes)

    def fill(node: Node) -> None:
        members = list(node.members)
        said[np.ix_(members, members)] = node.size
        for below in node.nodes:
            fill(below)

    fill(tree)
    off = ~np.eye(len(sizes), dtype=np.bool_)
    return bool((said[off] == sizes[off]).all())


def _renamed(node: Node, leaves: Sequence[int]) -> Node:
    return Node(tuple(leaves[at] for at in node.leaves), tuple(_renamed(below, leaves) for below in node.nodes))


def exact_groups(lost: Array, leaves: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
    """Groups that are added exactly to what came before, in their order, where lost[i, j] others are lost between i
    and j: those of the groups before the later one. None if it is not so."""
    count = len(leaves)
    groups: list[list[int]] = []
    for at in range(count):
        own = next((group for group in groups if lost[group[0], at] == 0), None)
        if own is None:
            groups.append([at])
        else:
            own.append(at)
    if len(groups) > 1:
        # Leaves of the first two groups lose the same to each other; what either loses to a third says who is later.
        least = [min(int(lost[group[0], other[0]]) for other in groups if other is not group) for group in groups]
        groups = [groups[at] for at in sorted(range(len(groups)), key=lambda at: (least[at], groups[at][0]))]
    before = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
    for g, group in enumerate(groups):
        for h in range(g + 1):
            for i in group:
                for j in groups[h]:
                    if i != j and lost[i, j] != (0 if g == h else before[g] - 1):
                        return None
    return tuple(tuple(leaves[at] for at in group) for group in groups)


def chain_of(tree: Node) -> tuple[tuple[int, ...], ...] | None:
    """Groups of leaves that join an accumulator one after the other; None if sums of their own join it."""
    groups: list[tuple[int, ...]] = []
    node = tree
    while True:
        if len(node.nodes) > 1:
            return None
        groups.append(tuple(sorted(node.leaves)))
        if not node.nodes:
            return tuple(reversed(groups))
        node = node.nodes[0]
