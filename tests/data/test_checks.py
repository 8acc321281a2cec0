import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trmml.data.check_page import check_page
from trmml.data.checks import check_dataset, similar_names
from trmml.data.dataset import MultiLabelDataset
from trmml.data.duplicates import photo_hash
from trmml.errors import DataError
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN

P, N, U = POSITIVE, NEGATIVE, UNKNOWN


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., MultiLabelDataset]:
    def dataset(pictures: dict[str, Image.Image], states: list, names: tuple) -> MultiLabelDataset:
        for name, photo in pictures.items():
            photo.save(tmp_path / name)
        photos = tuple(tmp_path / name for name in pictures)
        return MultiLabelDataset(photos, np.array(states, dtype=np.int8), names)

    return dataset


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("Dog", "dog"), (("Dog", "dog"),)),
        (("traffic light", "traffic_light", "Traffic-Lights"), None),
        (("puppy", "puppies"), (("puppy", "puppies"),)),
        (("box", "boxes", "bench", "benches"), (("box", "boxes"), ("bench", "benches"))),
        (("glass", "grass", "bus", "bu"), (("bus", "bu"),)),
        (("cat", "dog"), ()),
    ],
)
def test_names_that_differ_by_case_spacing_or_plural(names: tuple, groups: tuple | None) -> None:
    assert similar_names(names) == (groups if groups is not None else (names,))


def test_a_hash_survives_another_size_and_compression(tmp_path: Path) -> None:
    photo = picture(0, (320, 240))
    photo.resize((100, 90)).save(tmp_path / "small.jpg", quality=40)
    with Image.open(tmp_path / "small.jpg") as small:
        again = photo_hash(small)
    apart = np.unpackbits(photo_hash(photo) ^ again).sum()
    others = [np.unpackbits(photo_hash(photo) ^ photo_hash(picture(i))).sum() for i in range(1, 30)]
    assert apart <= 4 < min(others)
    assert photo_hash(Image.new("RGB", (50, 50), "white")) is None


def test_a_training_photo_among_the_validation_photos_is_found(make: Callable) -> None:
    train = make({f"t{i}.png": picture(i) for i in range(4)}, [[P], [N], [P], [N]], ("dog",))
    copies = {"v0.jpg": picture(2).resize((60, 50)), "v1.png": picture(9)}
    val = make(copies, [[P], [N]], ("dog",))
    found = check_dataset(train, val=val)
    assert [(a.name, b.name) for a, b in found.near_duplicates] == [("t2.png", "v0.jpg")]
    assert found.is_accepted


def test_photos_that_are_the_same_file_are_named_and_what_they_disagree_about(
    make: Callable, tmp_path: Path
) -> None:
    pictures = {"a.png": picture(1), "b.png": picture(2), "c.png": picture(3)}
    pictures |= {"copy of b.png": picture(2), "d.png": picture(2), "copy of a.png": picture(1)}
    states = [[P, U], [P, N], [N, N], [N, N], [U, N], [P, N]]
    found = check_dataset(make(pictures, states, ("dog", "cat")))
    a, b = ("a.png", "copy of a.png"), ("b.png", "copy of b.png", "d.png")
    assert [tuple(p.name for p in item.photos) for item in found.copies] == [b, a]
    assert [item.disagree for item in found.copies] == [("dog",), ()]
    shown = " = ".join(str(tmp_path / name) for name in b)
    assert f"look at: {shown}: the same photo, and the rows disagree about 'dog'" in str(found)
    assert found.to_dict()["copies"][1]["disagree"] == []
    assert check_dataset(make(pictures, states, ("dog", "cat")), open_photos=False).copies == ()


def test_labels_that_break_a_rule_are_named(make: Callable) -> None:
    states = [[P, P, N], [P, N, N], [P, U, P], [N, N, P]]
    data = make({f"{i}.png": picture(i) for i in range(4)}, states, ("puppy", "dog", "cat"))
    found = check_dataset(data, rules=["puppy implies dog", " puppy  excludes cat "])
    broken = [(c.photo.name, str(c.rule)) for c in found.contradictions]
    assert broken == [("1.png", "puppy implies dog"), ("2.png", "puppy excludes cat")]
    for rule, message in (("puppy dog", "must be `a implies b`"), ("pupy implies dog", "'puppy'")):
        with pytest.raises(DataError, match=message):
            check_dataset(data, rules=[rule])


def test_what_cannot_be_opened_or_learned_is_refused(make: Callable) -> None:
    pictures = {f"{i}.png": picture(i) for i in range(3)}
    data = make(pictures, [[P, N], [N, U], [U, N]], ("dog", "cat"))
    (data.photos[1]).write_bytes(data.photos[1].read_bytes()[:60])
    found = check_dataset(data)
    assert not found.is_accepted
    assert found.num_learnable == 1
    assert "1.png" in found.unreadable[0]
    assert "1 of 2 labels can be learned; with its default settings finetune would refuse" in str(
        found
    )
    assert found.to_dict()["accepted"] is False
    assert check_dataset(data, open_photos=False).unreadable == ()


def test_a_table_that_cannot_be_split_is_refused(make: Callable) -> None:
    few = make({f"{i}.png": picture(i) for i in range(3)}, [[P], [P], [N]], ("dog",))
    found = check_dataset(few)
    assert not found.is_accepted
    assert "problem: data set has 3 photos, too few to hold out 10 %" in str(found)
    assert found.to_dict()["split_problem"] == found.split_problem
    assert "too few to hold out" in check_page(found, few)
    names = tuple(f"label {i}" for i in range(10))
    photos = {f"{i}.png": picture(i) for i in range(10)}
    found = check_dataset(make(photos, np.eye(10).tolist(), names), open_photos=False)
    assert not found.is_accepted
    assert "too few labelled photos to hold any out" in str(found)
    enough = make({f"{i}.png": picture(i) for i in range(20)}, [[P], [N]] * 10, ("dog",))
    assert check_dataset(enough).is_accepted
    found = check_dataset(enough, val=few, open_photos=False)
    assert not found.is_accepted
    assert "problem: 3 photos are for training and for validation." in str(found)


def test_what_the_validation_photos_lack_is_said(make: Callable) -> None:
    train = make(
        {f"{i}.png": picture(i) for i in range(4)}, [[P, P, P], [N, N, N]] * 2, ("a", "b", "c")
    )
    val = make({f"v{i}.png": picture(9 + i) for i in range(2)}, [[P, N], [N, N]], ("a", "b"))
    found = check_dataset(train, val=val, open_photos=False)
    assert found.is_accepted
    assert found.val_gaps == (
        "the 2 validation photos say nothing of c",
        "the 2 validation photos have no known positive of b",
    )
    assert "look at: the 2 validation photos say nothing of c" in str(found)
    assert found.to_dict()["validation_gaps"] == list(found.val_gaps)
    other = make({"w.png": picture(20)}, [[P, P]], ("a", "sea"))
    found = check_dataset(train, val=other, open_photos=False)
    assert not found.is_accepted
    assert "has labels that data set does not have: 'sea'; rename what is the same" in str(found)


def test_the_page_shows_any_label_name_as_text(make: Callable) -> None:
    names = ("<b>bold</b>", "日本語", "a & b")
    states = [[P, N, U], [P, U, U], [N, P, P]]
    data = make({f"{i}.png": picture(i) for i in range(3)}, states, names)
    page = check_page(check_dataset(data), data)
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "日本語" in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert "2 positive, 1 negative, 0 unknown" in page
    assert ">1 positive · 0 negative · 2 unknown<" in page  # in the words of everything else
    assert "http" not in page  # opens without a network


def test_the_page_shows_a_photo_whose_name_is_not_utf_8(make: Callable, tmp_path: Path) -> None:
    data = make({"a.png": picture(0)}, [[P]], ("dog",))
    odd = data.photos[0].rename(os.fsdecode(os.fsencode(tmp_path / "dog") + b"\xe9.png"))
    data = MultiLabelDataset((odd,), data.states, ("dog",))
    page = check_page(check_dataset(data), data)
    assert "dog?.png" in page
    assert page.encode()
