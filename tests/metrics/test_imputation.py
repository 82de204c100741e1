"""What removed pixels become."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from hirescam.errors import InputError
from hirescam.metrics.imputation import blur, substitute


def test_zeros_and_the_mean_colour():
    images = torch.arange(12.0).reshape(1, 2, 2, 3)
    assert not substitute(images, "zeros").any()
    assert substitute(images, "mean")[0, :, 0, 0].tolist() == [2.5, 8.5]
    assert substitute(images, "mean").shape == images.shape
    assert torch.equal(substitute(images, "blur"), blur(images))
    with pytest.raises(InputError, match="fill='grey' is unknown: use 'zeros', 'mean' or 'blur'"):
        substitute(images, "grey")


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_blur_is_rise_s_kernel_on_an_image_padded_with_zeros(ndim):
    images = torch.rand(2, 3, *(13, 9, 12)[:ndim], dtype=torch.float64)
    pixel = np.zeros((11,) * ndim)
    pixel[(5,) * ndim] = 1
    kernel = torch.from_numpy(gaussian_filter(pixel, 5))
    torch.testing.assert_close(float(kernel.sum()), 1.0)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[ndim]
    expected = convolve(images.flatten(0, 1)[:, None], kernel[None, None], padding=5).reshape(images.shape)
    torch.testing.assert_close(blur(images), expected)
