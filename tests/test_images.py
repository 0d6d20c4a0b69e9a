"""Images: letterboxed as ultralytics does, upright, refused if they are not whole."""

import numpy as np
import pytest
from PIL import Image

from yolop.data import DatasetError, digits
from yolop.data.images import load_image


def test_letterbox_geometry_is_ultralytics(tmp_path):
    from ultralytics.data.augment import LetterBox

    for width, height, imgsz in [(640, 427, 320), (427, 640, 320), (100, 100, 96), (37, 91, 160), (500, 11, 64)]:
        Image.new("RGB", (width, height), "white").save(tmp_path / "image.png")
        ours, (ratio, pad_x, pad_y) = load_image(tmp_path / "image.png", imgsz)
        theirs = LetterBox((imgsz, imgsz), auto=False, scaleup=True)(image=np.full((height, width, 3), 255, np.uint8))
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.uint8 and ours.shape == (imgsz, imgsz, 3)
        rows, columns = np.nonzero(ours[..., 0] == 255)
        assert (columns.min(), rows.min()) == (pad_x, pad_y)
        assert abs(columns.max() + 1 - (width * ratio + pad_x)) <= 0.5
        assert abs(rows.max() + 1 - (height * ratio + pad_y)) <= 0.5


def test_letterbox_shrinks_as_an_area_filter_does(tmp_path):
    import cv2

    photograph = digits.photograph("skimage/data/astronaut.png")
    photograph.save(tmp_path / "image.png")
    ours, _ = load_image(tmp_path / "image.png", 192)
    np.testing.assert_array_equal(ours, cv2.resize(np.asarray(photograph), (192, 192), interpolation=cv2.INTER_AREA))


def test_an_image_is_loaded_upright_in_rgb(tmp_path):
    image = Image.new("RGB", (20, 40), (200, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "image.jpg", exif=exif)
    pixels, (ratio, pad_x, pad_y) = load_image(tmp_path / "image.jpg", 40)
    assert (ratio, pad_x, pad_y) == (1.0, 0, 10)
    assert (pixels[:10] == 114).all() and np.abs(pixels[20, 20].astype(int) - [200, 0, 0]).max() < 6
    (tmp_path / "image.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DatasetError, match=r"image\.jpg: a pointer of Git LFS: git lfs pull"):
        load_image(tmp_path / "image.jpg", 40)
    (tmp_path / "image.jpg").write_bytes(b"no")
    with pytest.raises(DatasetError, match=r"image\.jpg: not a whole image"):
        load_image(tmp_path / "image.jpg", 40)
