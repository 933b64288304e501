"""torchvision's classifiers as prunable models: made by torchvision, then converted. No network is copied."""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict, Tuple

from ..nn import prunable
from .base_model import BaseModel
from .origin import remember_origin

__all__ = ["CLASSES", "CONSTRUCTORS", "model_class", "model_constructor"]

CONSTRUCTORS: Tuple[str, ...] = (
    *("alexnet", "googlenet", "inception_v3", "maxvit_t", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"efficientnet_{size}" for size in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_s", "v2_m", "v2_l")),
    *(f"mnasnet{width}" for width in ("0_5", "0_75", "1_0", "1_3")),
    *(f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")),
    *(f"regnet_y_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf")),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *(f"shufflenet_v2_{width}" for width in ("x0_5", "x1_0", "x1_5", "x2_0")),
    *("squeezenet1_0", "squeezenet1_1"),
    *(f"swin_{size}" for size in ("t", "s", "b", "v2_t", "v2_s", "v2_b")),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
)
CLASSES: Tuple[str, ...] = (
    *("AlexNet", "ConvNeXt", "DenseNet", "EfficientNet", "GoogLeNet", "Inception3", "MNASNet", "MaxVit", "MobileNetV2"),
    *("MobileNetV3", "RegNet", "ResNet", "ShuffleNetV2", "SqueezeNet", "SwinTransformer", "VGG", "VisionTransformer"),
)

_classes: Dict[type, type] = {}  # torchvision's class -> ours


def model_constructor(name: str) -> Callable[..., Any]:
    """The function `mpl_sparse.models.<name>`, which makes torchvision's model of that name and converts it."""

    def construct(*args: Any, exclude: Any = (), **kwargs: Any) -> Any:
        model = getattr(_torchvision(name), name)(*args, **kwargs)
        model.__class__ = _prunable_class(type(model))
        if not args:
            remember_origin(model, name, {"exclude": exclude, **kwargs})
        return prunable(model, exclude)

    construct.__name__ = construct.__qualname__ = name
    construct.__module__ = __package__
    construct.__doc__ = f"""torchvision's {name} as a prunable model.

    Its Conv2d and Linear layers are masked, all weights remain. The model is a `BaseModel` and torchvision's own class
    at once: names, state_dict and forward are torchvision's.

    Args:
        exclude: names or patterns of layers that stay dense, as in `mpl_sparse.prunable`.
        args, kwargs: those of torchvision.models.{name}, such as `weights="DEFAULT"`.

    Raises:
        ImportError: there is no torchvision, or none that fits this torch.
    """
    return construct


def model_class(name: str) -> type:
    """The class `mpl_sparse.models.<name>`: torchvision's class of that name, with the methods of `BaseModel`."""
    return _prunable_class(getattr(_torchvision(name), name))


def _prunable_class(cls: type) -> type:
    if cls not in _classes:

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            cls.__init__(self, *args, **kwargs)  # type: ignore[misc]
            prunable(self)

        doc = f"torchvision's {cls.__name__} as a prunable model: same arguments, with the methods of `BaseModel`."
        attributes = {"__init__": __init__, "__module__": __package__, "__doc__": doc}
        _classes[cls] = type(cls.__name__, (cls, BaseModel), attributes)
    return _classes[cls]


def _torchvision(wanted: str) -> Any:
    what = f"mpl_sparse.models.{wanted} is a model of torchvision"
    try:
        importlib.import_module("torchvision")
        models = importlib.import_module("torchvision.models")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ImportError(f"{what}, which is not installed: pip install torchvision", name="torchvision") from None
    except RuntimeError as error:  # its operators were compiled for another torch
        raise ImportError(f"{what}, which does not fit this torch ({error}): install the two together") from error
    if not hasattr(models, wanted):
        raise ImportError(f"{what}, but not of the version that is installed: pip install --upgrade torchvision")
    return models
