"""What scripts written for pytorch-grad-cam use, computed by hirescam's rules.

Change ``pytorch_grad_cam`` to ``hirescam.compat.pytorch_grad_cam`` in the imports. The ReLU, the scaling to
[0, 1] and the mean over layers of that library are applied here and nowhere else; the signed map in units
of the score, and what is guaranteed about it, come from `hirescam.explain`.

Names, arguments and their defaults follow that library. What differs, and why, is in the migration guide.
"""

from hirescam.compat.pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
from hirescam.compat.pytorch_grad_cam.finer_cam import FinerCAM
from hirescam.compat.pytorch_grad_cam.methods import (
    FEM,
    KPCA_CAM,
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RandomCAM,
    ScoreCAM,
    SegEigenCAM,
    ShapleyCAM,
    XGradCAM,
)
from hirescam.compat.pytorch_grad_cam.refine_cam import RefineCAM

__all__ = [
    "FEM",
    "KPCA_CAM",
    "AblationCAM",
    "AblationLayer",
    "AblationLayerVit",
    "EigenCAM",
    "EigenGradCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
]

_LEFT_OUT = {
    "AblationLayerFasterRCNN": "detection models are not supported here",
    "ActivationsAndGradients": "hirescam leaves no hooks on a model; see hirescam.passes.trace",
    "DeepFeatureFactorization": "it explains no score",
    "FullGrad": "it has no layer; use hirescam.fullgrad.fullgrad(model, images)",
    "GuidedBackpropReLUModel": "use hirescam.adapters.explain_input(model, images, 'guided_backprop')",
    "SESS": "crop and rescale the images, and explain each with hirescam.explain",
    "run_dff_on_image": "it explains no score",
}


def __getattr__(name: str) -> object:
    if name in _LEFT_OUT:
        raise ImportError(f"hirescam.compat.pytorch_grad_cam has no {name}: {_LEFT_OUT[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
