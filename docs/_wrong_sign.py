"""Make docs/images/wrong-sign.png and the sentence below it: where Grad-CAM has the wrong sign.

python docs/_wrong_sign.py
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

import hirescam
from hirescam.networks import digits
from hirescam.reports import panel

HERE = Path(__file__).parent
SIDE = 320
NOTICEABLE = 0.1
STRONG = 0.4
MARK = (0, 110, 60)


def main() -> None:
    """Train, explain all test images, draw the one with the most wrong signs, print the sentence."""
    trained = digits.train(cut=False)
    explainer = hirescam.Explainer(trained.model, layer="features")
    maps = {rule: explainer(trained.test_images, rule=rule).raw[:, 0] for rule in ("hirescam", "gradcam")}
    worth = explainer(trained.test_images, rule="removal").raw[:, 0]
    noticeable = maps["gradcam"].abs() > NOTICEABLE * maps["gradcam"].abs().amax((1, 2), keepdim=True)
    wrong = noticeable & (maps["gradcam"].sign() != worth.sign())
    strong = worth.abs() > STRONG * worth.abs().amax((1, 2), keepdim=True)
    index = int((wrong & strong).sum((1, 2)).argmax())
    one = explainer(trained.test_images[index : index + 1])
    picture = _picture(trained.test_images[index, 0])
    tiles = [(picture, f"a handwritten {int(one.target)}")]
    for rule in maps:
        found = explainer(trained.test_images[index : index + 1], rule=rule)
        drawn = found.overlay([picture], resample="nearest")[0][0]
        tiles.append((_mark(drawn, (wrong & strong)[index]), rule))
    foot = (
        "Red adds to the score, blue takes from it. Marked: strong cells that Grad-CAM gives the wrong sign."
    )
    panel(tiles, foot=foot, width=SIDE).save(HERE / "images" / "wrong-sign.png")
    share = float(wrong.sum() / noticeable.sum())
    agree = float((maps["hirescam"] - worth).abs().max() / worth.abs().max())
    print(
        f"Over {len(worth)} test images, {share:.0%} of Grad-CAM's cells above {NOTICEABLE:.0%} of its "
        f"largest value have the wrong sign. HiResCAM differs from what removing each cell costs by at most "
        f"{agree:.0e} of the largest value."
    )


def _picture(pixels: torch.Tensor) -> Image.Image:
    levels = ((1 - pixels) * 255).round().to(torch.uint8)
    small = Image.frombytes("L", (8, 8), bytes(levels.flatten().tolist()))
    return small.resize((SIDE, SIDE), Image.Resampling.NEAREST).convert("RGB")


def _mark(picture: Image.Image, cells: torch.Tensor) -> Image.Image:
    draw, step = ImageDraw.Draw(picture), SIDE // 8
    for row, column in cells.nonzero().tolist():
        box = (column * step + 3, row * step + 3, (column + 1) * step - 4, (row + 1) * step - 4)
        draw.rectangle(box, outline=MARK, width=3)
    return picture


if __name__ == "__main__":
    main()
