import numpy as np
import pytest
import torch
from PIL import Image

from trmml.config.groups import PhotoConfig
from trmml.data.tensors import SMALLEST_CROP, Augmentation

SIZE = 53


@pytest.fixture
def augmentation() -> Augmentation:
    return Augmentation(PhotoConfig(image_size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))


# Red grows from left to right, green from top to bottom: a crop shows where it is from.
def ramps(width: int, height: int) -> Image.Image:
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width)
    pixels[:, :, 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def test_the_same_seed_gives_the_same_view_and_another_seed_another(
    augmentation: Augmentation,
) -> None:
    photo = ramps(61, 67)
    first, other = augmentation(photo, 7), augmentation(photo, 8)
    torch.rand(3)
    assert torch.equal(augmentation(photo, 7), first)
    assert not torch.equal(other, first)


def test_the_global_generator_is_left_as_it_was(augmentation: Augmentation) -> None:
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    augmentation(ramps(61, 67), 7)
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize(("width", "height"), [(61, 67), (SIZE, SIZE), (17, 97), (1, 1)])
def test_a_view_has_the_size_of_the_backbone(
    augmentation: Augmentation, width: int, height: int
) -> None:
    view = augmentation(ramps(width, height), 2**62 - 1)
    assert view.shape == (3, SIZE, SIZE)
    assert view.isfinite().all()


@pytest.mark.parametrize(("width", "height"), [(211, 199), (307, 101), (101, 503)])
def test_no_crop_is_smaller_than_promised(
    augmentation: Augmentation, width: int, height: int
) -> None:
    shares = []
    for seed in range(41):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            crop = np.asarray(augmentation.crop(ramps(width, height))).astype(float)
        red, green = crop[:, :, 0], crop[:, :, 1]
        shares.append(np.ptp(red) / 255 * np.ptp(green) / 255)
    assert crop.shape == (SIZE, SIZE, 3)
    # The ramps are steps of 8 bits, and resizing averages over their ends.
    assert min(shares) > SMALLEST_CROP - 0.05
    assert min(shares) < 0.8


def test_some_views_are_flipped_and_some_are_not(augmentation: Augmentation) -> None:
    photo = ramps(61, 61)
    grows = [
        bool(view[0, :, -9:].mean() > view[0, :, :9].mean())
        for view in (augmentation(photo, seed) for seed in range(41))
    ]
    assert 8 < sum(grows) < 33


def test_a_part_of_some_views_is_cut_out(augmentation: Augmentation) -> None:
    white = Image.new("RGB", (61, 61), "white")
    cut = [bool((augmentation(white, seed) == 0).any()) for seed in range(41)]
    assert 8 < sum(cut) < 33
