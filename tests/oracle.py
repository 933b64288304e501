"""The independent oracle: both operations in dense float64 numpy, tap by tap, and the bound on the error of a sum."""

import math

import numpy as np


def linear(input, weight, bias):
    """(batch, cols) x (rows, cols) -> (batch, rows)."""
    output = input.astype(np.float64) @ weight.astype(np.float64).T
    return output if bias is None else output + bias


def conv2d(input, weight, bias, stride, pads, dilation, groups):
    """(batch, channels, height, width) with weight (out, channels / groups, kh, kw); pads as geometry.pads."""
    top, bottom, left, right = pads
    padded = np.pad(input.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    out_channels, group_channels, kernel_height, kernel_width = weight.shape
    height = (padded.shape[2] - dilation[0] * (kernel_height - 1) - 1) // stride[0] + 1
    width = (padded.shape[3] - dilation[1] * (kernel_width - 1) - 1) // stride[1] + 1
    output = np.zeros((input.shape[0], out_channels, height, width))
    for channel in range(out_channels):
        first = channel // (out_channels // groups) * group_channels
        images = padded[:, first : first + group_channels]
        for y in range(kernel_height):
            for x in range(kernel_width):
                rows = slice(y * dilation[0], y * dilation[0] + (height - 1) * stride[0] + 1, stride[0])
                columns = slice(x * dilation[1], x * dilation[1] + (width - 1) * stride[1] + 1, stride[1])
                taps = weight[channel, :, y, x].astype(np.float64)
                output[:, channel] += np.einsum("c,nchw->nhw", taps, images[:, :, rows, columns])
    return output if bias is None else output + bias[:, None, None]


def gamma(terms, dtype):
    """gamma_k = k u / (1 - k u), u the unit roundoff: a sum of k products errs by at most gamma_k * sum|w * x|.

    In any order, fused or not: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
    """
    rounding = terms * np.finfo(dtype).eps / 2
    return rounding / (1 - rounding)


def assert_within(actual, expected, magnitude, terms):
    """|actual - expected| <= (gamma_k of its dtype + gamma_k of the oracle's) * magnitude, for k = terms + 1."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    bound = (gamma(terms + 1, actual.dtype) + gamma(terms + 1, np.float64)) * magnitude
    # products below the smallest normal number lose bits that no relative bound counts
    bound = bound + (terms + 1) * float(np.finfo(actual.dtype).tiny)
    excess = np.abs(actual - expected) - bound
    assert np.all(excess <= 0), f"beyond the bound by {excess.max()} where it is {bound.flat[excess.argmax()]}"


def conv_terms(weight, bias):
    """The number of terms of one output of a convolution."""
    return math.prod(weight.shape[1:]) + (bias is not None)
