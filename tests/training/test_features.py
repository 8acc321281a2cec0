import hashlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from trmml.backbone.clip import FrozenCLIP
from trmml.config.groups import TrainingConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.data.photos import load_photo
from trmml.data.tensors import photo_tensor
from trmml.errors import DataError, OutputError
from trmml.training import features as features_module
from trmml.training.batches import AugmentedPhotos, CachedFeatures
from trmml.training.features import cache_bytes, compute_features

Maker = Callable[..., MultiLabelDataset]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "PHOTOS_PER_SHARD", 3)


def direct(backbone: FrozenCLIP, photos: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    out = backbone(torch.stack([photo_tensor(photo, backbone.photo) for photo in photos]))
    return out.patch_features.numpy(), out.image_features.numpy()


def files_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_stored_features_are_those_of_the_tower_rounded_to_float16(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    photos = make_dataset(11).photos
    store = compute_features(photos, backbone, folder=tmp_path / "f", batch_size=2)
    rows = np.array([10, 0, 4, 4])
    got = store.read(rows, np.zeros(4, dtype=np.int64))
    patches, pooled = direct(backbone, [load_photo(photos[row]) for row in rows])
    np.testing.assert_allclose(got.patch_features.numpy(), patches, atol=2e-3)
    np.testing.assert_allclose(got.image_features.numpy(), pooled, atol=2e-3)
    assert got.patch_features.dtype == torch.float32


def test_few_files_are_open_however_many_there_are(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "MOST_OPEN", 2)
    photos = make_dataset(11).photos
    store = compute_features(photos, backbone, folder=tmp_path / "f")
    rows = np.array([0, 10, 5, 7, 1, 3])
    got = store.read(rows, np.zeros(6, dtype=np.int64))
    patches, _ = direct(backbone, [load_photo(photos[row]) for row in rows])
    np.testing.assert_allclose(got.patch_features.numpy(), patches, atol=2e-3)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if ".npy" in line]
    assert len(maps) <= 2


def test_the_second_view_is_the_mirrored_photo(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    photos = make_dataset(5).photos
    store = compute_features(photos, backbone, views="plain+flip", folder=tmp_path / "f")
    got = store.read(np.array([3, 3]), np.array([0, 1]))
    photo = load_photo(photos[3])
    patches, _ = direct(backbone, [photo, ImageOps.mirror(photo)])
    np.testing.assert_allclose(got.patch_features.numpy(), patches, atol=2e-3)
    assert store.num_views == 2


def test_features_are_computed_once(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    photos = make_dataset(7).photos
    compute_features(photos, backbone, folder=tmp_path / "f")
    before = files_below(tmp_path / "f")
    compute_features(photos, backbone, folder=tmp_path / "f")
    assert files_below(tmp_path / "f") == before
    assert len(before) == 3


def test_a_replaced_photo_makes_its_shard_anew_and_no_other(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    photos = make_dataset(7).photos
    compute_features(photos, backbone, folder=tmp_path / "f")
    before = files_below(tmp_path / "f")
    Image.new("RGB", (20, 20), "yellow").save(photos[4])
    store = compute_features(photos, backbone, folder=tmp_path / "f")
    assert len(set(files_below(tmp_path / "f")) - set(before)) == 1
    _, pooled = direct(backbone, [load_photo(photos[4])])
    got = store.read(np.array([4]), np.array([0])).image_features.numpy()
    np.testing.assert_allclose(got, pooled, atol=2e-3)


def test_a_photo_replaced_within_a_second_by_one_of_its_size_has_its_own_features(
    backbone: FrozenCLIP, tmp_path: Path
) -> None:
    photo, when = tmp_path / "a.bmp", 1_700_000_000_000_000_000
    for colour in ("yellow", "green"):
        Image.new("RGB", (20, 20), colour).save(photo)
        os.utime(photo, ns=(when, when))
        store = compute_features([photo], backbone, folder=tmp_path / "f")
        _, pooled = direct(backbone, [load_photo(photo)])
        got = store.read(np.array([0]), np.array([0])).image_features.numpy()
        np.testing.assert_allclose(got, pooled, atol=2e-3)


def test_features_are_read_where_files_cannot_be_mapped(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_dataset(5).photos
    rows, views = np.array([4, 0, 1]), np.array([1, 0, 1])
    compute = partial(compute_features, photos, backbone, views="plain+flip")
    expected = compute(folder=tmp_path / "f").read(rows, views)
    before = files_below(tmp_path / "f")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(np, "memmap", refuse)
    store = compute(folder=tmp_path / "f")
    for found, same in zip(store.read(rows, views), expected, strict=True):
        assert torch.equal(found, same)
    assert files_below(tmp_path / "f") == before
    shard = next(iter(before))
    shard.write_bytes(shard.read_bytes()[:-1])  # cut off, and so made anew
    compute(folder=tmp_path / "f")
    assert {path for path, when in files_below(tmp_path / "f").items() if when != before[path]} == {
        shard
    }


@pytest.mark.skipif(sys.platform != "linux", reason="names of files must be UTF-8")
@pytest.mark.parametrize("name", ["plain.png", "日本.png", os.fsdecode(b"caf\xe9.png")])
def test_any_name_of_a_photo_has_its_shard(backbone: FrozenCLIP, tmp_path: Path, name: str) -> None:
    photo, when = tmp_path / name, 1_700_000_000_000_000_000
    Image.new("RGB", (20, 20), "yellow").save(photo, "PNG")
    os.utime(photo, ns=(when, when))
    compute_features([photo], backbone, folder=tmp_path / "f")
    (shard,) = files_below(tmp_path / "f")
    content = photo.read_bytes()
    assert len(content) < 1024  # so that its first and its last kilobyte are all of it
    facts = b"%s\0%d\0%d\0" % (os.fsencode(photo.resolve()), len(content), when) + 2 * content
    # Another name would make everyone compute their features anew.
    assert shard.stem == hashlib.sha256(facts).hexdigest()[:32]


def test_another_size_of_photo_has_its_own_features(
    backbone_source: str, make_dataset: Maker, tmp_path: Path
) -> None:
    photos = make_dataset(2).photos
    for size in (64, 96):
        backbone = FrozenCLIP.load(backbone_source, image_size=size)
        store = compute_features(photos, backbone, folder=tmp_path / "f")
        got = store.read(np.array([0]), np.array([0]))
        assert got.patch_features.shape[1] == (size // 16) ** 2


def test_another_range_of_greys_has_its_own_features(
    backbone: FrozenCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greys = np.random.default_rng(0).integers(0, 4096, size=(64, 64)).astype(np.uint16)
    Image.fromarray(greys).save(tmp_path / "a.png")
    found = []
    for bounds in ("0-65535", "0-4095", "0-65535"):
        monkeypatch.setenv("TRMML_GREY_RANGE", bounds)
        store = compute_features([tmp_path / "a.png"], backbone, folder=tmp_path / "f")
        found.append(store.read(np.zeros(1, int), np.zeros(1, int)).image_features)
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_the_size_on_disk_is_as_announced(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    compute_features(make_dataset(6).photos, backbone, views="plain+flip", folder=tmp_path / "f")
    size = sum(path.stat().st_size for path in files_below(tmp_path / "f"))
    headers = 2 * 128
    assert size == cache_bytes(6, backbone, "plain+flip") + headers


def test_all_unreadable_photos_are_named_and_the_other_shards_kept(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    photos = make_dataset(9).photos
    photos[1].write_bytes(photos[1].read_bytes()[:60])
    photos[7].write_text("no picture")
    with pytest.raises(DataError, match=r"2 of 9 photos cannot be read.*001\.png.*007\.png"):
        compute_features(photos, backbone, folder=tmp_path / "f")
    assert len(files_below(tmp_path / "f")) == 1


def test_a_full_disk_is_noticed_before_any_work(
    backbone: FrozenCLIP,
    make_dataset: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = features_module.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(features_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="set TRMML_CACHE to a larger disk"):
        compute_features(make_dataset(2).photos, backbone, folder=tmp_path / "f")


@pytest.mark.parametrize("damage", ["empty", "cut off", "overwritten"])
def test_a_damaged_shard_is_made_anew(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path, damage: str
) -> None:
    photos, rows, views = make_dataset(4).photos, np.arange(4), np.zeros(4, dtype=np.int64)
    first = compute_features(photos, backbone, folder=tmp_path / "f").read(rows, views)
    for shard in files_below(tmp_path / "f"):
        whole = shard.read_bytes()
        damaged = {"empty": b"", "cut off": whole[:-100], "overwritten": bytes(len(whole))}
        shard.write_bytes(damaged[damage])
    again = compute_features(photos, backbone, folder=tmp_path / "f").read(rows, views)
    torch.testing.assert_close(again.patch_features, first.patch_features)


def test_a_cache_that_cannot_be_written_to_is_named(
    backbone: FrozenCLIP,
    make_dataset: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRMML_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match=r"Cannot write to .*cache.*\. Set TRMML_CACHE"):
        compute_features(make_dataset(2).photos, backbone)


def cached(backbone: FrozenCLIP, dataset: MultiLabelDataset, folder: Path) -> CachedFeatures:
    store = compute_features(dataset.photos, backbone, views="plain+flip", folder=folder)
    return CachedFeatures(store, np.arange(1, len(dataset)))


def test_an_epoch_has_every_photo_once_in_an_order_of_its_own(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    batches = cached(backbone, make_dataset(8), tmp_path / "f")
    orders = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        rows = [rows for rows, _ in batches.shuffled(3, seed, epoch)]
        assert [len(r) for r in rows] == [3, 3, 1]
        orders.append(np.concatenate(rows).tolist())
        assert sorted(orders[-1]) == list(range(7))
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


def test_batches_give_the_features_of_the_rows_they_name(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    batches = cached(backbone, make_dataset(8), tmp_path / "f")
    plain = torch.cat([part.image_features for part in batches.in_order(4)])
    flipped = batches.store.read(batches.positions, np.ones(7, dtype=np.int64)).image_features
    for rows, features in batches.shuffled(3, seed=0, epoch=0):
        for row, feature in zip(rows, features.image_features, strict=True):
            assert torch.equal(feature, plain[row]) or torch.equal(feature, flipped[row])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmented_views_do_not_depend_on_the_number_of_workers(
    backbone: FrozenCLIP, make_dataset: Maker, num_workers: int
) -> None:
    photos = make_dataset(5).photos
    alone = AugmentedPhotos(photos, backbone, TrainingConfig(num_workers=0))
    other = AugmentedPhotos(photos, backbone, TrainingConfig(num_workers=num_workers))
    ours, theirs = list(alone.shuffled(2, 0, 3)), list(other.shuffled(2, 0, 3))
    for (rows, features), (same_rows, same) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(rows, same_rows)
        torch.testing.assert_close(features.patch_features, same.patch_features)
    again = torch.cat([f.image_features for _, f in alone.shuffled(2, 0, 4)])
    assert not torch.equal(again, torch.cat([f.image_features for _, f in ours]))


def test_a_sample_is_of_the_plain_photos(
    backbone: FrozenCLIP, make_dataset: Maker, tmp_path: Path
) -> None:
    dataset = make_dataset(8)
    batches = cached(backbone, dataset, tmp_path / "f")
    _, pooled = direct(backbone, [load_photo(photo) for photo in dataset.photos[1:]])
    np.testing.assert_allclose(batches.sample().image_features.numpy(), pooled, atol=2e-3)
    augmented = AugmentedPhotos(dataset.photos[1:], backbone, TrainingConfig())
    np.testing.assert_allclose(augmented.sample().image_features.numpy(), pooled, atol=1e-5)
