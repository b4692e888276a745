"""Groups of a graph whose members all reach each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def closed_groups(edges: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Give the groups of a graph that reach each other and nobody else: its strongly connected components without a way out."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    group_of: dict[str, int] = {}
    groups: list[list[str]] = []
    path: list[str] = []
    for root in edges:
        if root in number:
            continue
        todo = [(root, iter(edges[root]))]
        number[root] = lowest[root] = len(number)
        path.append(root)
        while todo:
            node, others = todo[-1]
            other = next((each for each in others if each not in group_of), None)
            if other is not None:
                if other in number:
                    lowest[node] = min(lowest[node], number[other])
                else:
                    number[other] = lowest[other] = len(number)
                    path.append(other)
                    todo.append((other, iter(edges[other])))
                continue
            todo.pop()
            if todo:
                above = todo[-1][0]
                lowest[above] = min(lowest[above], lowest[node])
            if lowest[node] == number[node]:
                group = _popped(path, node)
                group_of.update(dict.fromkeys(group, len(groups)))
                groups.append(group)
    for index, group in enumerate(groups):
        if all(group_of[other] == index for node in group for other in edges[node]):
            yield group


def _popped(path: list[str], down_to: str) -> list[str]:
    group: list[str] = []
    while not group or group[-1] != down_to:
        group.append(path.pop())
    return group
