"""What torch's own encoders would do past converted layers, and how they are kept from it.

In evaluation `nn.TransformerEncoderLayer` takes the weights of its layers by itself, as they are, and computes in one
kernel; `nn.TransformerEncoder` packs a padded batch into a nested tensor before, which has few operators.
"""

from __future__ import annotations

from typing import Any, Final

from torch import nn

_NESTED: Final = "use_nested_tensor"
_KEPT: Final = "low_bit_use_nested_tensor"
"""The name of the attribute with what an encoder did before."""


def called(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    """A hook that does nothing but be seen: an encoder layer calls its layers if one of them has a hook."""


def watch(layer: nn.Module) -> None:
    """Let the layer be called, once."""
    if called not in layer._forward_pre_hooks.values():
        layer.register_forward_pre_hook(called)


def unwatch(layer: nn.Module) -> None:
    """Take the hook off."""
    for key in [key for key, hook in layer._forward_pre_hooks.items() if hook is called]:
        del layer._forward_pre_hooks[key]


def keep_padding(model: nn.Module) -> None:
    """Let the encoders in a model whose layers have the hook work on padded batches."""
    for part in model.modules():
        watched = isinstance(part, nn.TransformerEncoder) and any(
            called in module._forward_pre_hooks.values() for module in part.modules()
        )
        if watched and getattr(part, _NESTED, False):
            setattr(part, _KEPT, True)
            setattr(part, _NESTED, False)


def allow_nesting(model: nn.Module) -> None:
    """Undo `keep_padding`."""
    for part in model.modules():
        if vars(part).get(_KEPT):
            delattr(part, _KEPT)
            setattr(part, _NESTED, True)
