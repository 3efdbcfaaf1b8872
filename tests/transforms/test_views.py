"""Two views: independent, repeatable draws from copies of the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, Flip, RandGaussianNoise, RandomizableTransform, RandShiftIntensity

from medssl_monai.core import seed_transform
from medssl_monai.transforms import TwoViews, TwoViewsd

NOISE = RandGaussianNoise(prob=1.0, std=0.1)


class InPlaceShift(RandomizableTransform):
    """Changes its input in place and draws a number of times that is itself random."""

    def __call__(self, image):
        for _ in range(1 + int(self.R.randint(3))):
            image += self.R.uniform()
        return image


@pytest.fixture
def image():
    return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transform", [NOISE, Compose([NOISE, RandShiftIntensity(0.2, prob=1.0)]), InPlaceShift()])
def test_same_seed_same_views_other_seed_other_views(image, transform):
    views = TwoViews(transform)
    original = image.clone()

    def draw(seed):
        seed_transform(views, seed)
        return [*views(image), *views(image)]

    first, again, other = draw(1), draw(1), draw(2)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    distinct = [*first, *other]
    for i, a in enumerate(distinct):
        for b in distinct[:i]:
            assert not torch.equal(a, b)
    assert torch.equal(image, original)


def test_a_view_does_not_depend_on_the_draws_of_the_other(image):
    views = TwoViews(InPlaceShift()).set_random_state(seed=5)
    plain = [views(image)[1] for _ in range(4)]
    views.set_random_state(seed=5)
    views.transforms[0].R.uniform(size=17)
    assert all(torch.equal(views(image)[1], expected) for expected in plain)


def test_views_of_an_already_seeded_transform_differ(image):
    seeded = RandGaussianNoise(prob=1.0).set_random_state(seed=0)
    view1, view2 = TwoViews(seeded)(image)
    assert not torch.equal(view1, view2)


def test_numpy_and_meta_tensor_stay_apart_from_the_source():
    array = np.zeros((1, 4, 4), np.float32)
    view1, view2 = TwoViews(InPlaceShift())(array)
    assert isinstance(view1, np.ndarray)
    assert array.max() == 0.0
    assert view1.max() != view2.max()
    tensor = MetaTensor(torch.zeros(1, 4, 4), meta={"filename_or_obj": "a.png"})
    view1, view2 = TwoViews(InPlaceShift())(tensor)
    view1.meta["filename_or_obj"] = "changed"
    assert view2.meta["filename_or_obj"] == tensor.meta["filename_or_obj"] == "a.png"


def test_dictionary_form_equals_the_array_form(image):
    dictionary = TwoViewsd("image", NOISE, drop=False).set_random_state(seed=3)
    data = {"image": image, "label": 1}
    result = dictionary(data)
    expected = TwoViews(NOISE).set_random_state(seed=3)(image)
    assert set(result) == {"image", "label", "view1", "view2"}
    assert torch.equal(result["view1"], expected[0])
    assert torch.equal(result["view2"], expected[1])
    assert set(data) == {"image", "label"}
    assert set(TwoViewsd(["image"], NOISE, names=("a", "b"))(data)) == {"label", "a", "b"}
    assert TwoViewsd("image", NOISE, allow_missing_keys=True)({"label": 1}) == {"label": 1}


def test_it_is_seeded_inside_compose_and_never_cached(image):
    pipeline = Compose([TwoViewsd("image", NOISE)])
    first, again = (pipeline.set_random_state(seed=9)({"image": image}) for _ in range(2))
    assert torch.equal(first["view1"], again["view1"])
    dataset = CacheDataset([{"image": image}], pipeline, progress=False)
    assert not torch.equal(dataset[0]["view1"], dataset[0]["view1"])


def test_errors():
    with pytest.raises(ValueError, match=r"needs a MONAI Randomizable transform .* got Flip"):
        TwoViews(Flip(0))
    with pytest.raises(ValueError, match=r"needs a MONAI Randomizable transform .* got int"):
        TwoViews(3)
    with pytest.raises(ValueError, match=r"views of one key, got 2: \['image', 'other'\]"):
        TwoViewsd(["image", "other"], NOISE)
    with pytest.raises(ValueError, match=r"two different names .*got \('a', 'a'\)"):
        TwoViewsd("image", NOISE, names=("a", "a"))
    with pytest.raises(ValueError, match=r"two different names .*got 'ab'"):
        TwoViewsd("image", NOISE, names="ab")
    with pytest.raises(ValueError, match=r"name 'image_2' of a view .*begin with 'image_'.*'view1' and 'view2'"):
        TwoViewsd("image", NOISE, names=("view1", "image_2"))
    with pytest.raises(KeyError, match="image"):
        TwoViewsd("image", NOISE)({"other": 1})
