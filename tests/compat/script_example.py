"""A script as people write it for pytorch-grad-cam: some methods, smoothing, an overlay on disk.

Usage: script_example.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from pytorch_grad_cam.utils.image import preprocess_image, show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision.models import resnet50

METHODS = {
    "gradcam": GradCAM,
    "hirescam": HiResCAM,
    "gradcam++": GradCAMPlusPlus,
    "xgradcam": XGradCAM,
    "layercam": LayerCAM,
    "eigencam": EigenCAM,
    "ablationcam": AblationCAM,
}


def picture(side: int = 64) -> np.ndarray:
    """A bright disc on a gradient, so that no file is needed."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    disc = (rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.04
    return np.stack([rows, columns, disc], axis=-1).astype(np.float32)


def main(folder: Path) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model = resnet50(weights=None).eval()
    rgb_img = picture()
    input_tensor = preprocess_image(rgb_img, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    target_layers = [model.layer4[-1]]
    targets = [ClassifierOutputTarget(281)]

    maps = {}
    for name, method in METHODS.items():
        with method(model=model, target_layers=target_layers) as cam:
            cam.batch_size = 32
            maps[name] = cam(input_tensor=input_tensor, targets=targets)[0, :]
            assert cam.outputs.shape == (1, 1000)

    with GradCAM(model=model, target_layers=[model.layer3[-1], model.layer4[-1]]) as cam:
        maps["two layers"] = cam(input_tensor=input_tensor, targets=targets)[0, :]
        maps["aug_smooth"] = cam(input_tensor=input_tensor, targets=targets, aug_smooth=True)[0, :]
        maps["predicted"] = cam(input_tensor=input_tensor, targets=None)[0, :]
    with GradCAM(model=model, target_layers=target_layers) as cam:
        maps["eigen_smooth"] = cam(input_tensor=input_tensor, targets=targets, eigen_smooth=True)[0, :]
        both = cam(input_tensor=input_tensor, targets=targets, aug_smooth=True, eigen_smooth=True)
        assert both.shape == (1, 64, 64)

    overlay = show_cam_on_image(rgb_img, maps["two layers"], use_rgb=True)
    maps["overlay"] = overlay
    Image.fromarray(overlay).save(folder / "overlay.png")
    return maps


if __name__ == "__main__":
    np.savez(Path(sys.argv[1]) / "maps.npz", **main(Path(sys.argv[1])))
