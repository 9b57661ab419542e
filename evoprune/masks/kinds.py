"""What the operations of a network do to its units: a few kinds.

| kind | what it does to units | examples |
|---|---|---|
| layer | makes new units from all units | Linear, Conv |
| pointwise | keeps units apart, joins those of several operands place by place | relu, dropout, add, mul |
| channelwise | keeps channels apart, mixes their pixels | pooling, batch norm, interpolate |
| reduce | takes dimensions together | mean over pixels |
| mix | scales every unit by a statistic of others | softmax, layer norm |
| blend | makes each output from all units | transposed convolutions |
| move | moves values, computes none | flatten, reshape, pad, slice, cat |
| create | makes constants | zeros, ones |
| ask | answers about a tensor | size, shape |
"""

from __future__ import annotations

from torch import fx, nn

from evoprune.masks.space import PRUNABLE

__all__ = ["IN_PLACE", "KINDS", "kind_of", "name_of", "plain_name"]

FUNCTIONS = {
    "pointwise": """abs add alpha_dropout bfloat16 bool celu clamp clip contiguous clone cos detach div double dropout dropout1d
        dropout2d dropout3d elu eq erf exp expm1 feature_alpha_dropout feature_dropout float floordiv ge gelu gt half hardshrink
        hardsigmoid hardswish hardtanh le leaky_relu log log1p log_sigmoid lt maximum minimum mish mod mul ne neg pos pow
        reciprocal relu relu6 rrelu rsqrt selu sigmoid sign silu sin softplus softshrink softsign sqrt square sub tanh tanhshrink
        threshold to truediv where""",
    "channelwise": """adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d interpolate lp_pool1d lp_pool2d lp_pool3d max_pool1d max_pool2d
        max_pool3d""",
    "reduce": "amax amin logsumexp mean prod std sum var",
    "mix": """batch_norm group_norm instance_norm layer_norm local_response_norm log_softmax normalize prelu rms_norm softmax
        softmin""",
    "move": """cat chunk concat concatenate expand expand_as flatten flip getitem movedim moveaxis narrow pad permute
        pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape reshape_as roll select split squeeze stack swapaxes
        swapdims t tile transpose unbind unflatten unsqueeze view view_as""",
    "create": "full full_like new_full new_ones new_zeros ones ones_like zeros zeros_like",
    "ask": "dim getattr is_floating_point len ndimension numel size",
}
KINDS = {name: kind for kind, names in FUNCTIONS.items() for name in names.split()}
IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv"}  # a += b is operator.iadd

_MIXING = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
_PADS = ("ConstantPad", "ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad")


def kind_of(module: nn.Module) -> str | None:
    """The kind of a module that is not traced into; None when nothing is known of it."""
    name, families = type(module).__name__, [base.__module__ for base in type(module).__mro__]
    if isinstance(module, PRUNABLE):
        return "layer"
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return "channelwise"
    if isinstance(module, (*_MIXING, nn.modules.batchnorm._NormBase)) or name == "RMSNorm":
        return "mix"
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "blend"
    if isinstance(module, (nn.PReLU, nn.RReLU, nn.Identity)):
        return "mix" if isinstance(module, nn.PReLU) and module.num_parameters > 1 else "pointwise"
    if isinstance(module, (nn.GLU, nn.MultiheadAttention)):
        return None
    if isinstance(module, (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)) or name.startswith(
        _PADS
    ):
        return "move"
    kinds = {"activation": "pointwise", "dropout": "pointwise", "pooling": "channelwise", "upsampling": "channelwise"}
    return next((kind for part, kind in kinds.items() if f"torch.nn.modules.{part}" in families), None)


def name_of(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def plain_name(name: str) -> str:
    """The name of an operation without what says that it is done in place."""
    return IN_PLACE.get(name, name.rstrip("_"))
