"""Where channels and locations are, for every kind of layer output."""

import pytest
import torch

from hirescam.errors import LayerError
from hirescam.passes.layout import Layout, infer

CASES = [
    ((2, 64, 100), (400,), Layout(1, (100,), (100,)), "a signal"),
    ((2, 50, 512), (400,), Layout(2, (50,), (50,)), "a signal, channels last"),
    ((1, 768, 7, 7), (224, 224), Layout(1, (7, 7), (7, 7)), "an image"),
    ((1, 7, 7, 768), (224, 224), Layout(3, (7, 7), (7, 7)), "an image, channels last (Swin)"),
    ((1, 64, 56, 56), (224, 224), Layout(1, (56, 56), (56, 56)), "more locations than channels"),
    ((1, 7, 14, 64), (224, 448), Layout(3, (7, 14), (7, 14)), "not square, channels last"),
    ((1, 14, 7, 14), (224, 448), Layout(1, (7, 14), (7, 14)), "not square, few channels"),
    ((1, 512, 2, 7, 7), (16, 112, 112), Layout(1, (2, 7, 7), (2, 7, 7)), "a volume"),
    ((1, 2, 7, 7, 512), (16, 112, 112), Layout(4, (2, 7, 7), (2, 7, 7)), "a volume, channels last"),
    ((1, 197, 768), (224, 224), Layout(2, (197,), (14, 14), 1), "tokens behind a class token"),
    ((1, 198, 768), (224, 224), Layout(2, (198,), (14, 14), 2), "and a distillation token"),
    ((1, 261, 768), (256, 256), Layout(2, (261,), (16, 16), 5), "and four registers"),
    ((1, 196, 768), (224, 224), Layout(2, (14, 14), (14, 14)), "tokens alone"),
    ((1, 50, 768), (224, 224), Layout(2, (50,), (7, 7), 1), "large patches"),
    ((1, 33, 16), (32, 64), Layout(2, (33,), (4, 8), 1), "tokens of an image that is not square"),
    ((1, 6, 16), (32, 32), None, "a number of tokens that is no grid"),
    ((1, 1000), (224, 224), None, "scores"),
    ((1, 9, 16), (48, 48), Layout(2, (3, 3), (3, 3)), "a small grid of tokens"),
    ((1, 10, 16), (48, 48), Layout(2, (10,), (3, 3), 1), "the smallest grid behind a class token"),
    ((1, 10, 16), (32, 32), None, "too few for a class token before a grid that does not tile the image"),
    ((1, 5, 16), (32, 32), None, "too few for a class token and a grid"),
    ((1, 4, 16), (32, 32), Layout(2, (2, 2), (2, 2)), "the smallest grid"),
    ((1, 3, 16), (32, 32), None, "fewer tokens than a grid has"),
    ((1, 17, 16), (64, 64), Layout(2, (17,), (4, 4), 1), "a class token before a small grid"),
    ((1, 200, 16), (224, 224), Layout(2, (200,), (14, 14), 4), "four registers"),
    ((1, 199, 16), (224, 224), None, "three tokens more than a grid"),
    ((1, 32, 16), (64, 32), Layout(2, (8, 4), (8, 4)), "tokens of a tall image"),
    ((1, 6, 16), (48, 32), Layout(2, (3, 2), (3, 2)), "tokens of an image of three by two"),
    ((1, 8, 8, 8), (32, 32), Layout(1, (8, 8), (8, 8)), "channels first where both fit"),
    ((1, 64, 40, 40), (32, 32), Layout(1, (40, 40), (40, 40)), "more locations than pixels"),
    ((1, 7, 7, 40), (32, 32), Layout(3, (7, 7), (7, 7)), "more channels than pixels, last"),
    ((1, 3, 8, 8, 2), (16, 32, 32), Layout(4, (3, 8, 8), (3, 8, 8)), "a volume of two channels, last"),
    ((1, 4, 6, 6, 5), (32, 32, 32), Layout(4, (4, 6, 6), (4, 6, 6)), "a volume; its first axis may differ"),
    ((1, 49, 16), (400,), Layout(1, (16,), (16,)), "a signal is never tokens"),
    ((1, 8, 8, 8), (32,), None, "more axes than the image has"),
    ((1, 196, 16), (8, 224, 224), None, "tokens of a volume"),
]


@pytest.mark.parametrize(("shape", "image", "expected", "what"), CASES, ids=[c[3] for c in CASES])
def test_layout_is_found(
    shape: tuple[int, ...], image: tuple[int, ...], expected: Layout | None, what: str
) -> None:
    assert infer(shape, image) == expected


@pytest.mark.parametrize(("shape", "image", "expected", "what"), CASES, ids=[c[3] for c in CASES])
def test_write_is_the_inverse_of_read(
    shape: tuple[int, ...], image: tuple[int, ...], expected: Layout | None, what: str
) -> None:
    if expected is None:
        return
    tensor = torch.randn(shape)
    read = expected.read(tensor)
    assert tuple(read.shape[2:]) == expected.space
    assert expected.locations == read[0, 0].numel()
    torch.testing.assert_close(expected.write(read, shape), tensor)


def test_the_callers_grid_goes_first() -> None:
    assert infer((1, 7, 16), (32, 32), grid=(2, 3)) == Layout(2, (7,), (2, 3), 1)
    assert infer((1, 16, 6), (32, 32), grid=(2, 3)) == Layout(1, (2, 3), (2, 3))
    assert infer((1, 5, 6, 7), (32, 32), grid=(6, 7)) == Layout(1, (6, 7), (6, 7))
    assert infer((1, 16, 9), (32, 32), grid=(2, 4)) == Layout(1, (9,), (2, 4), 1)
    assert infer((1, 11, 99), (32, 32), grid=(2, 3)) == Layout(2, (11,), (2, 3), 5)
    assert infer((1, 2, 3, 4), (32, 32), grid=(2, 3)) == Layout(3, (2, 3), (2, 3))
    assert infer((1, 3, 6), (32,), grid=(6,)) == Layout(1, (6,), (6,))
    with pytest.raises(
        LayerError, match=r"grid=\(4, 4\) does not fit .* \(b, 6, 40\): give a grid of 6 or 40"
    ):
        infer((1, 6, 40), (32, 32), grid=(4, 4))
    for shape in ((1, 12, 99), (1, 5, 99), (1, 6, 2, 2)):
        with pytest.raises(LayerError, match=r"grid=\(2, 3\) does not fit"):
            infer(shape, (32, 32), grid=(2, 3))
