"""The form of `torch.nn.utils.prune`, in which weights are also right where a forward reads them and does not call their layer.

torch makes a layer's weight, mask times what is trained, when the layer is called. Here it is made before that, in time for a
forward that only reads it, and has no graph when the forward is over: `copy.deepcopy` refuses tensors that have one.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import prune

from evoprune.masks.mask import Mask

__all__ = ["in_torch_form"]


def in_torch_form(module: nn.Module, mask: Mask) -> nn.Module:
    """Prune `module` by `mask` (in place) and return it; its pruned weights are made anew before each forward of the whole.

    Its parts may be called too: layers renew themselves, attention renews the last layer, which it does not call.
    """
    for name, kept in mask.dense().items():
        weight = module.get_parameter(name)
        for owner in [layer for layer in module.modules() if layer._parameters.get("weight") is weight]:  # tied ones too
            prune.custom_from_mask(owner, "weight", kept.to(weight.device))
    _let_go(module)
    for part in module.modules():
        if _pruning(part):
            part.register_forward_hook(_let_go_unless_held)
        if isinstance(part, nn.MultiheadAttention) and _pruning(part.out_proj):
            part.register_forward_pre_hook(_renew)
            part.register_forward_hook(_let_go_unless_held)
    module.register_forward_pre_hook(_hold)
    module.register_forward_hook(_let_go, always_call=True)  # of a forward that fails too
    return module


def _pruning(layer: nn.Module) -> list[prune.BasePruningMethod]:
    """What makes the weight of `layer`; empty of a layer that is not pruned, or is no more (`prune.remove`)."""
    hooks = layer._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == "weight"]


def _renew(module: nn.Module, *_: object) -> None:
    for layer in module.modules():
        for hook in _pruning(layer):
            hook(layer, ())


def _hold(module: nn.Module, *_: object) -> None:
    """Before a forward of the whole: its weights keep their graphs until it is over."""
    _renew(module)
    for layer in module.modules():
        if _pruning(layer):
            layer._held = True  # type: ignore[assignment]


def _let_go(module: nn.Module, *_: object) -> None:
    for layer in module.modules():
        if _pruning(layer):
            layer._held = False  # type: ignore[assignment]
            _without_graph(layer)


def _let_go_unless_held(module: nn.Module, *_: object) -> None:
    """After a forward of a part."""
    for layer in module.modules():
        if _pruning(layer) and not layer._held:
            _without_graph(layer)


def _without_graph(layer: nn.Module) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    layer.weight = weight.detach()
