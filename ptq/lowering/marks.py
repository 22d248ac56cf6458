"""What is noted on the nodes of a written file, for the audit to find them in the optimized graph."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

SITE_KEY: Final = "ptq.site"
"""The site that a node computes; with a number behind it, that of the weight at that input."""

REASON_KEY: Final = "ptq.float"
"""Why it does so in float."""

EXECUTION_KEY: Final = "ptq.execution"
"""How it is meant to."""


def site_key(slot: int) -> str:
    """The key for the weight at an input of a node; recurrent ones have two."""
    return f"{SITE_KEY}.{slot}" if slot > 1 else SITE_KEY


def marks(node: ir.Node) -> dict[str, str]:
    """What is noted on a node."""
    return {key: value for key, value in node.metadata_props.items() if key.startswith("ptq.")}
