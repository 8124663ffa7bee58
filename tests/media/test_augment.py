"""Augmentation: the distribution of draws, their effect on pixels, and keep_places."""

import numpy as np
import pytest
from PIL import Image

from owl_jax.errors import UserError
from owl_jax.media.augment import Augmentation, Draw
from owl_jax.media.image import preprocess_image

SIZE = 32
WHOLE = Augmentation(min_scale=1.0, flip=False)


def generator(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(width=60, height=45, seed=0) -> Image.Image:
    """A picture without any symmetry."""
    coarse = generator(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def draws(augmentation, count=2000, picture=(640, 480), **options) -> list[Draw]:
    rng = generator()
    return [augmentation.draw(picture, rng, **options) for _ in range(count)]


def operated(picture, *operations) -> np.ndarray:
    """The square of a picture after these operations."""
    return Draw(picture.size, (0, 0, *picture.size), False, operations).apply([picture], SIZE)[0]


def shares(draw) -> tuple[float, float]:
    """The crop's fraction of the image's area, and its width / height."""
    left, upper, right, lower = draw.box
    width, height = draw.image_size
    return (right - left) * (lower - upper) / (width * height), (right - left) / (lower - upper)


def test_everything_off_is_preprocess_image():
    frames = [noise(seed=seed) for seed in range(3)]
    pixels = WHOLE.augment(frames, SIZE, generator())
    assert (pixels.shape, pixels.dtype) == ((3, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(pixels, [preprocess_image(frame, SIZE) for frame in frames])


def test_crop_precedes_resizing():
    picture = noise()
    draw = Draw(picture.size, (7, 5, 47, 40))
    expected = picture.crop((7, 5, 47, 40)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(draw.apply([picture], SIZE)[0], np.asarray(expected))


def test_augment_is_the_draw_and_its_application():
    augmentation, picture = Augmentation(rand_augment=True), noise()
    for seed in range(20):
        draw = augmentation.draw(picture.size, generator(seed))
        augmented = augmentation.augment([picture], SIZE, generator(seed))
        np.testing.assert_array_equal(augmented, draw.apply([picture], SIZE))
        np.testing.assert_array_equal(
            augmented, augmentation.augment([picture], SIZE, generator(seed))
        )


def test_seeds_differ():
    augmentation = Augmentation(rand_augment=True)
    found = {augmentation.augment([noise()], SIZE, generator(i)).tobytes() for i in range(30)}
    assert len(found) == 30


def test_crops_are_inside_and_of_the_drawn_shape():
    for draw in draws(Augmentation()):
        left, upper, right, lower = draw.box
        assert 0 <= left < right <= 640 and 0 <= upper < lower <= 480
        area, aspect = shares(draw)
        assert 0.5 - 0.01 < area <= 1 and 0.75 - 0.01 < aspect < 4 / 3 + 0.01


def test_crops_are_spread_over_scale_aspect_and_place():
    # In a square, most crops of up to 0.7 of its area fit at the first try: nothing is skewed.
    found = draws(Augmentation(max_scale=0.7), picture=(1000, 1000))
    areas, aspects = np.array([shares(draw) for draw in found]).T
    np.testing.assert_allclose(np.quantile(areas, [0.1, 0.5, 0.9]), [0.52, 0.6, 0.68], atol=0.01)
    logs = np.log(aspects) / np.log(4 / 3)
    np.testing.assert_allclose(np.quantile(logs, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.07)
    for low, high, side in ((0, 2, 1000), (1, 3, 1000)):
        places = [draw.box[low] / (side - draw.box[high] + draw.box[low]) for draw in found]
        np.testing.assert_allclose(np.quantile(places, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.04)


def test_min_scale_is_the_least_area():
    areas = [shares(draw)[0] for draw in draws(Augmentation(min_scale=0.1, max_scale=0.2))]
    assert 0.099 < min(areas) < 0.11 < 0.19 < max(areas) < 0.201


@pytest.mark.parametrize(
    ("picture", "box"),
    [
        ((1000, 100), (433, 0, 566, 100)),  # 133 x 100 in the middle
        ((100, 1000), (0, 433, 100, 566)),
        ((9, 100), (0, 44, 9, 56)),
    ],
)
def test_picture_that_no_crop_fits_is_cut_in_its_middle(picture, box):
    assert {draw.box for draw in draws(Augmentation(), 20, picture)} == {box}


def test_tiny_pictures_give_a_square():
    for width, height in ((1, 1), (1, 9), (2, 1), (3, 2)):
        picture = Image.new("RGB", (width, height), (9, 8, 7))
        pixels = Augmentation().augment([picture], SIZE, generator())
        np.testing.assert_array_equal(pixels, np.full((1, SIZE, SIZE, 3), (9, 8, 7)))


def test_half_of_the_images_are_flipped():
    flips = [draw.flip for draw in draws(Augmentation())]
    assert 0.46 < np.mean(flips) < 0.54
    assert not any(draw.flip for draw in draws(Augmentation(flip=False)))


def test_flipped_pixels():
    picture = noise()
    mirrored = Draw(picture.size, (0, 0, *picture.size), flip=True).apply([picture], SIZE)[0]
    np.testing.assert_array_equal(mirrored, preprocess_image(picture, SIZE)[:, ::-1])


def test_frames_of_a_video_share_the_draw():
    frames = [noise()] * 3
    for seed in range(10):
        first, *others = Augmentation(rand_augment=True).augment(frames, SIZE, generator(seed))
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_frame_of_another_size_is_cut_in_proportion():
    draw = Draw((60, 40), (15, 10, 45, 30))
    small, large = Image.new("RGB", (60, 40), "blue"), Image.new("RGB", (120, 80), "blue")
    small.paste("red", (15, 10, 45, 30))
    large.paste("red", (30, 20, 90, 60))
    pixels = draw.apply([small, large], SIZE)
    np.testing.assert_array_equal(pixels, np.full((2, SIZE, SIZE, 3), (255, 0, 0)))
    assert draw.apply([Image.new("RGB", (7, 1))], SIZE).shape == (1, SIZE, SIZE, 3)


def test_no_frames_and_impossible_scales_are_refused():
    with pytest.raises(ValueError, match="no frames"):
        Augmentation().augment([], SIZE, generator())
    for low, high in ((0.0, 1.0), (0.6, 0.5), (0.5, 1.5), (-1.0, 0.5)):
        with pytest.raises(UserError, match="min_scale <= max_scale"):
            Augmentation(low, high)


def test_rand_augment_draws_each_operation_alike():
    found = draws(Augmentation(rand_augment=True), 4000)
    assert not any(draw.operations for draw in draws(Augmentation(), 50))
    counts = [len(draw.operations) for draw in found]
    # Two, each applied with probability 0.5.
    np.testing.assert_allclose(np.bincount(counts) / 4000, [0.25, 0.5, 0.25], atol=0.03)
    drawn = [item for draw in found for item in draw.operations]
    names, times = np.unique([name for name, _ in drawn], return_counts=True)
    assert len(names) == 10
    np.testing.assert_allclose(times / len(drawn), 0.1, atol=0.02)


def test_rand_augment_magnitudes_are_the_originals():
    found: dict[str, list[float]] = {}
    for draw in draws(Augmentation(rand_augment=True)):
        for name, magnitude in draw.operations:
            found.setdefault(name, []).append(magnitude)
    # Level 7 of 10.
    for name in ("Brightness", "Sharpness"):
        np.testing.assert_allclose(found[name], 1.36)
    for name, size in (("Shear", 0.21), ("Translate", 7), ("Rotate", 21)):
        for axis in ("",) if name == "Rotate" else ("X", "Y"):
            values = np.array(found[name + axis])
            np.testing.assert_allclose(np.abs(values), size)
            assert 0.3 < (values > 0).mean() < 0.7


def test_operations_that_change_nothing():
    picture = noise()
    square = preprocess_image(picture, SIZE)
    moving = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
    neutral = {"Identity": 0, "Brightness": 1, "Sharpness": 1} | dict.fromkeys(moving, 0)
    for name, magnitude in neutral.items():
        np.testing.assert_array_equal(operated(picture, (name, magnitude)), square)


def test_translation_by_pixels_leaves_grey():
    picture = noise()
    square = preprocess_image(picture, SIZE)
    left = operated(picture, ("TranslateX", 7))
    np.testing.assert_array_equal(left[:, :-7], square[:, 7:])
    assert (left[:, -7:] == 128).all()
    down = operated(picture, ("TranslateY", -7))
    np.testing.assert_array_equal(down[7:], square[:-7])
    assert (down[:7] == 128).all()


def test_shear_and_rotation_move_what_they_should():
    picture = Image.new("RGB", (SIZE, SIZE), "black")
    picture.paste("white", (15, 0, 17, SIZE))  # an upright line
    sheared = operated(picture, ("ShearX", 0.21))[..., 0].astype(float)
    places = (sheared * (sheared != 128)).argmax(1)
    assert places[0] in (15, 16)
    assert np.polyfit(np.arange(SIZE), places, 1)[0] == pytest.approx(0.21, abs=0.03)
    assert (operated(picture, ("ShearX", 0.21))[-1, 0] == 128).all()
    tilted = operated(picture, ("ShearY", 0.21))
    assert (tilted[0, 16] == 128).all() and (tilted[10, 16] == 255).all()
    turned = operated(picture, ("Rotate", 21))[..., 0]
    assert turned[0, 0] == 128 and turned[16, 16] == 255
    # Counter-clockwise: the upper end goes to the left.
    row = turned[6].astype(float)
    assert (row * (row != 128)).argmax() < 14


def test_colour_operations():
    picture = Image.fromarray(np.linspace(50, 100, SIZE**2).astype(np.uint8).reshape(SIZE, SIZE))
    picture = picture.convert("RGB")
    stretched = operated(picture, ("AutoContrast", 0))
    assert stretched.min() == 0 and stretched.max() >= 254  # Pillow rounds down
    levels = np.bincount(operated(picture, ("Equalize", 0))[..., 0].ravel() // 64)
    np.testing.assert_allclose(levels / SIZE**2, 0.25, atol=0.05)
    bright = operated(picture, ("Brightness", 1.36)).astype(float)
    np.testing.assert_allclose(bright, preprocess_image(picture, SIZE) * 1.36, atol=1)
    edge = Image.new("RGB", (SIZE, SIZE), (100,) * 3)
    edge.paste((150,) * 3, (16, 0, SIZE, SIZE))
    sharp = operated(edge, ("Sharpness", 1.36))[16, :, 0]
    assert sharp[15] < 100 and sharp[16] > 150
    # The original wraps around here.
    white = Image.new("RGB", (SIZE, SIZE))
    white.paste("white", (16, 0, SIZE, SIZE))
    assert operated(white, ("Sharpness", 1.36))[16, 16, 0] == 255


def test_operations_run_in_order():
    picture = noise()
    one = operated(picture, ("TranslateX", 7), ("ShearX", 0.21))
    other = operated(picture, ("ShearX", 0.21), ("TranslateX", 7))
    assert not np.array_equal(one, other)
    first = Image.fromarray(operated(picture, ("TranslateX", 7)))
    np.testing.assert_array_equal(one, operated(first, ("ShearX", 0.21)))


def test_keep_places_moves_nothing():
    found = draws(Augmentation(rand_augment=True), keep_places=True)
    assert {draw.box for draw in found} == {(0, 0, 640, 480)}
    assert not any(draw.flip for draw in found)
    names = {name for draw in found for name, _ in draw.operations}
    assert names == {"Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness"}
    # Colour operations stay as frequent: the others are dropped, not replaced.
    assert np.mean([len(draw.operations) for draw in found]) == pytest.approx(0.5, abs=0.05)


def test_no_crop_of_the_smallest_picture_is_smaller_than_the_square():
    for augmentation in (Augmentation(), Augmentation(min_scale=0.2), WHOLE):
        side = augmentation.smallest_side(224)
        for picture in ((side, side), (side, 3 * side)):
            for draw in draws(augmentation, 300, picture):
                left, upper, right, lower = draw.box
                assert min(right - left, lower - upper) >= 224
    assert WHOLE.smallest_side(224) == 224
