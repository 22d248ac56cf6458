"""How many nodes of a choice lie one behind the other, up to each of them."""

from __future__ import annotations

from collections.abc import Container

from ptq.model.graph import Model


def depths(model: Model, nodes: Container[str]) -> dict[str, int]:
    """By name, of the chosen nodes, the largest number of others of them on a way from the inputs to it."""
    behind: dict[str, int] = {}
    found: dict[str, int] = {}
    for node in model.graph.graph:
        depth = max((behind.get(str(value.name), 0) for value in node.inputs if value is not None), default=0)
        if str(node.name) in nodes:
            found[str(node.name)] = depth
            depth += 1
        behind |= dict.fromkeys((str(value.name) for value in node.outputs), depth)
    return found
