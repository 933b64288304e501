"""In deep networks with random, pruned weights signals grow or die on their way. Here they are kept alive."""

import torch
from torch import nn

from mpl_sparse.nn import prunable_layers


@torch.no_grad()
def keep_signals(model, images):
    """Scale each masked layer so that its outputs for `images` have deviation 1, without a bias, and let batch norms
    take their statistics from them: Mishkin and Matas, "All you need is a good init" (arXiv:1511.06422). Eval mode.
    """

    def rescale(layer, _, output):
        deviation = output.std()
        if deviation > 0:
            layer.weight.div_(deviation)
            output = output / deviation
        return output

    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    layers = [layer for _, layer in prunable_layers(model)]
    for layer in layers:
        if not layer.weight.any():  # heads may start at zero
            layer.weight.normal_()
        if layer.bias is not None:
            layer.bias.zero_()
    hooks = [layer.register_forward_hook(rescale) for layer in layers]
    model(images)
    for hook in hooks:
        hook.remove()
    return model.eval()


def assert_same_signals(actual, expected):
    """Check that two outputs (2, classes) are equal beside the difference that the input makes to them."""
    spread = (expected[0] - expected[1]).std().item()
    assert 1e-6 < spread < float("inf")
    # rounding errors grow on their way too, ten thousand times and more
    tolerance = 1e-7 if expected.dtype == torch.float64 else 1e-3
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * spread)
