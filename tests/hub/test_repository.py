"""Loading from and pushing to a Hub, over a real client and a loopback server."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from conftest import run_command as run
from hub_server import TOKEN, HubServer
from PIL import Image

import trmml
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import (
    ArtifactError,
    ConfigError,
    ModelAccessError,
    ModelNotFoundError,
    OfflineError,
    OutputError,
)
from trmml.zoo import catalog
from trmml.zoo.catalog import model_info

Maker = Callable[..., MultiLabelDataset]
QUICK = {"training.epochs": 1, "matching.num_heads": 2, "matching.num_context_tokens": 2}
WEIGHTS = "model.safetensors"
NAME = "acme/shop"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trmml.hub.errors.WAITS", (0.01, 0.01))


@pytest.fixture(scope="module")
def trained(
    clip_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Path]]:
    """A fine-tuned model folder on a CLIP that has a name on the Hub, and some photos."""
    place = tmp_path_factory.mktemp("trained")
    generator = np.random.default_rng(0)
    photos = []
    for i in range(40):
        photos.append(place / f"private {i}.png")
        pixels = generator.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos[-1])
    labels = (generator.random((40, 3)) < 0.5).astype(np.int8)
    data = MultiLabelDataset(tuple(photos), labels, ("red", "green", "blue"))
    source = f"local-dir:{clip_folders['vit']}"
    trmml.finetune(data, backbone=source, config=QUICK, output=place / "model")
    config = json.loads((place / "model" / "config.json").read_text())
    config["backbone"]["source"] = "hf-hub:acme/clip"
    (place / "model" / "config.json").write_text(json.dumps(config))
    return place / "model", photos[:5]


def contents(folder: Path) -> dict[str, bytes]:
    names = ("config.json", WEIGHTS, "calibration.json", "metrics.json", "README.md")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def world(hub: HubServer, clip_folders: dict[str, Path]) -> HubServer:
    """A Hub that has the CLIP."""
    hub.add("acme/clip", {path.name: path.read_bytes() for path in clip_folders["vit"].iterdir()})
    return hub


@pytest.fixture
def shop(world: HubServer, trained: tuple[Path, list[Path]]) -> HubServer:
    """A Hub that has the CLIP and the model."""
    world.add(NAME, contents(trained[0]))
    return world


def scores(model: Any, photos: list[Path]) -> np.ndarray:
    return np.stack([prediction.scores for prediction in trmml.predict(photos, model)])


def forget(hub_cache: Path) -> None:
    shutil.rmtree(hub_cache, ignore_errors=True)


def test_what_is_pushed_is_what_is_loaded(
    world: HubServer, trained: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder, photos = trained
    expected = scores(trmml.load_model(folder), photos)
    first = trmml.push_to_hub(folder, NAME, private=True, token=TOKEN)
    assert first.url == f"{world.url}/{NAME}/commit/{first.commit}"
    repository = world.repositories[NAME]
    assert repository.private
    assert len(repository.commits) == 2  # the empty one and ours
    for source in (NAME, f"{NAME}@main", f"{NAME}@{first.commit}"):
        forget(tmp_path / "hub")
        model = trmml.load_model(source, token=TOKEN)
        assert model.source == f"{NAME}@{first.commit}"
        np.testing.assert_array_equal(scores(model, photos), expected)


def test_a_commit_keeps_its_model_when_another_is_pushed(
    world: HubServer, trained: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    first = trmml.push_to_hub(trained[0], NAME, token=TOKEN)
    changed = shutil.copytree(trained[0], tmp_path / "changed")
    limits = json.loads((changed / "calibration.json").read_text())
    limits["thresholds"]["red"] = 0.125
    (changed / "calibration.json").write_text(json.dumps(limits))
    second = trmml.push_to_hub(changed, NAME, token=TOKEN)
    old, new = trmml.load_model(f"{NAME}@{first.commit}"), trmml.load_model(NAME)
    assert new.source == f"{NAME}@{second.commit}"
    assert new.calibration.thresholds[0] == 0.125
    assert old.calibration.thresholds[0] != 0.125
    assert model_info(NAME, revision=first.commit).name == f"{NAME}@{first.commit}"


def test_only_the_files_of_a_model_are_uploaded_and_nothing_private_in_them(
    world: HubServer,
    trained: tuple[Path, list[Path]],
    clip_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["backbone"]["source"] = f"local-dir:{clip_folders['vit']}"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "checkpoint.pt").write_bytes(b"x")
    (folder / "photo.png").write_bytes(b"x")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    published = trmml.push_to_hub(folder, NAME, token=TOKEN)
    files = world.repositories[NAME].commits[published.commit]
    assert set(files) == {*contents(folder), "finetune.json"}
    together = b"".join(files.values())
    assert str(clip_folders["vit"].parent).encode() not in together
    assert b"private" not in together  # the names of the photos
    assert json.loads(files["config.json"])["backbone"]["source"] == "local-dir:vit"
    assert f'trmml.load_model("{NAME}")' in files["README.md"].decode()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_numbers_of_a_pushed_card_are_those_that_were_measured(
    world: HubServer, trained: tuple[Path, list[Path]]
) -> None:
    published = trmml.push_to_hub(trained[0], NAME, token=TOKEN)
    card = world.repositories[NAME].commits[published.commit]["README.md"].decode()
    (result,) = huggingface_hub.ModelCard(card).data.eval_results
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    assert result.metric_value == pytest.approx(metrics["validation"]["mAP"], abs=1e-6)


def test_a_pull_request_leaves_the_branch_as_it_is(
    shop: HubServer, trained: tuple[Path, list[Path]]
) -> None:
    before = shop.repositories[NAME].branches["main"]
    published = trmml.push_to_hub(trained[0], NAME, create_pr=True, token=TOKEN)
    assert published.url == f"{shop.url}/{NAME}/discussions/1"
    assert shop.repositories[NAME].branches["main"] == before
    model = trmml.load_model(NAME, revision="refs/pr/1")
    assert model.source == f"{NAME}@{published.commit}"


def test_a_file_that_is_gone_is_removed_from_the_repository(
    shop: HubServer, trained: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "model")
    (folder / "metrics.json").unlink()
    published = trmml.push_to_hub(folder, NAME, token=TOKEN)
    assert "metrics.json" not in shop.repositories[NAME].commits[published.commit]


def test_a_push_to_a_branch_replaces_what_that_branch_has(
    shop: HubServer, trained: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    repository = shop.repositories[NAME]
    dev = contents(trained[0]) | {"about.json": b'{"summary": "stale"}'}
    del dev["metrics.json"]
    repository.commit(dev, "dev")
    before = repository.branches["main"]
    folder = shutil.copytree(trained[0], tmp_path / "model")
    (folder / "metrics.json").unlink()
    published = trmml.push_to_hub(folder, NAME, revision="dev", token=TOKEN)
    assert set(repository.commits[published.commit]) == {*dev, "finetune.json"} - {"about.json"}
    assert repository.branches == {"main": before, "dev": published.commit}


def test_a_folder_that_does_not_load_is_not_pushed(
    world: HubServer, trained: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "model")
    (folder / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ArtifactError, match="is damaged"):
        trmml.push_to_hub(folder, NAME, token=TOKEN)
    assert NAME not in world.repositories


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_pushing_without_the_right_token_says_how_to_log_in(
    world: HubServer, trained: tuple[Path, list[Path]], token: str | None
) -> None:
    with pytest.raises(ModelAccessError, match="cannot be written to with this token; log in"):
        trmml.push_to_hub(trained[0], NAME, token=token)


def test_only_what_is_needed_is_fetched(shop: HubServer, trained: tuple[Path, list[Path]]) -> None:
    more = {"pytorch_model.bin": b"pickle", "evil.pkl": b"pickle", "code.py": b"print()"}
    shop.add(NAME, contents(trained[0]) | more)
    trmml.load_model(NAME)
    asked = " ".join(shop.requests)
    assert not any(name in asked for name in more)


def test_a_commit_in_the_cache_asks_the_hub_for_nothing(shop: HubServer) -> None:
    model = trmml.load_model(NAME)
    shop.requests.clear()
    again = trmml.load_model(model.source)
    assert again.source == model.source
    assert not any(NAME in request for request in shop.requests)


@pytest.mark.parametrize(
    ("pattern", "action", "error", "message"),
    [
        ("api/models/acme/shop", 401, ModelAccessError, "cannot be read with this token"),
        ("api/models/acme/shop", 403, ModelAccessError, "cannot be read with this token"),
        ("api/models/acme/shop", 503, OfflineError, "answered 503 .*; try again later"),
        ("api/models/acme/shop", 429, OfflineError, "answered 429 .*; try again later"),
        ("GET /cdn", "change", ArtifactError, "is not what its checksum says"),
        ("api/models/acme/shop", "page", OfflineError, "is there a login or a proxy before it"),
        ("api/models/acme/shop", "odd", OfflineError, "is there a login or a proxy before it"),
        ("acme/shop/resolve/", "page", OfflineError, "is not in the cache and cannot be fetched"),
    ],
)
def test_a_fault_that_stays_is_a_clear_error(
    shop: HubServer, pattern: str, action: int | str, error: type, message: str
) -> None:
    shop.fail(pattern, action, times=100)
    with pytest.raises(error, match=message):
        trmml.load_model(NAME)
    shop.faults.clear()
    assert trmml.load_model(NAME).labels == ("red", "green", "blue")


@pytest.mark.parametrize(
    ("pattern", "action"),
    [
        ("api/models/acme/shop", 429),
        ("api/models/acme/shop", 503),
        ("resolve/.*/model.safetensors", 503),
        ("GET /cdn", 503),
        ("GET /cdn", "cut"),
        ("GET /acme/shop/resolve/.*/config.json", "cut"),
    ],
)
def test_a_fault_that_passes_is_lived_through(
    shop: HubServer, trained: tuple[Path, list[Path]], pattern: str, action: int | str
) -> None:
    folder, photos = trained
    shop.fail(pattern, action)
    model = trmml.load_model(NAME)
    assert shop.faults[0].times == 0
    np.testing.assert_array_equal(scores(model, photos), scores(trmml.load_model(folder), photos))


def test_what_does_not_exist_is_named(shop: HubServer, trained: tuple[Path, list[Path]]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"acme/shoop does not exist .* or is private"):
        trmml.load_model("acme/shoop")
    with pytest.raises(ModelNotFoundError, match="acme/shop has no revision 'v9'"):
        trmml.load_model("acme/shop@v9")
    files = contents(trained[0])
    del files["calibration.json"]
    shop.add(NAME, files)
    with pytest.raises(ModelNotFoundError, match=r"on the Hub has no file calibration\.json"):
        trmml.load_model(NAME)


def test_a_mistyped_folder_brings_the_nearest(
    shop: HubServer,
    trained: tuple[Path, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained[0], tmp_path / "runs" / "shop")
    shutil.copytree(trained[0], tmp_path / "acme" / "other")
    for log in tmp_path.glob("*/*/log.jsonl"):  # as if they had been fetched
        log.unlink()
    local = r"no folder 'shpo' in runs\. Did you mean 'shop'\?.*Hub: runs/shpo "
    with pytest.raises(ModelNotFoundError, match=f"{local}does not exist"):
        trmml.load_model("runs/shpo")
    with pytest.raises(OfflineError, match=f"{local}is not in the cache"):
        trmml.load_model("runs/shpo", local_files_only=True)
    # Beside a model that was trained here it is a slip, and nobody is asked.
    (tmp_path / "runs" / "shop" / "log.jsonl").touch()
    asked = len(shop.requests)
    with pytest.raises(
        ModelNotFoundError, match=r"Did you mean 'shop'.* On the Hub it would be runs"
    ):
        trmml.load_model("runs/shpo")
    assert len(shop.requests) == asked
    with pytest.raises(ModelNotFoundError, match="runs/shpo does not exist"):
        trmml.load_model("runs/shpo@main")
    # A folder beside that happens to have an organization's name changes nothing.
    assert trmml.load_model(NAME).source.startswith(f"{NAME}@")


def test_private_and_gated_models_need_a_token(
    world: HubServer, trained: tuple[Path, list[Path]]
) -> None:
    world.add("acme/private", contents(trained[0]), private=True)
    world.add("acme/gated", contents(trained[0]), gated=True)
    with pytest.raises(ModelNotFoundError, match="or is private and needs a token"):
        trmml.load_model("acme/private")
    with pytest.raises(ModelAccessError, match="acme/gated is gated: accept its terms"):
        trmml.load_model("acme/gated")
    for name in ("acme/private", "acme/gated"):
        assert trmml.load_model(name, token=TOKEN).labels == ("red", "green", "blue")


@pytest.mark.parametrize("way", ["server down", "local_files_only", "HF_HUB_OFFLINE"])
def test_without_a_network_the_cache_is_used_or_the_error_says_so(
    shop: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    source = trmml.load_model(NAME).source
    options = {"local_files_only": True} if way == "local_files_only" else {}
    if way == "server down":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    if way == "HF_HUB_OFFLINE":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert trmml.load_model(NAME, **options).source == source
    forget(tmp_path / "hub")
    with pytest.raises(OfflineError, match="acme/shop"):
        trmml.load_model(NAME, **options)


def test_a_cache_that_cannot_be_written_to_can_be_read(
    shop: HubServer, tmp_path: Path, trained: tuple[Path, list[Path]]
) -> None:
    if os.geteuid() == 0:
        blocked = tmp_path / "file"
        blocked.touch()  # nobody can make a folder inside a file, not even root
        with pytest.raises(OutputError, match=r"Cannot write to .*cache.*Set cache_dir or HF_HOME"):
            trmml.load_model(NAME, cache_dir=blocked / "cache")
        return
    cache = tmp_path / "cache"
    trmml.load_model(NAME, cache_dir=cache)
    for path in [cache, *cache.rglob("*")]:
        if path.is_dir():
            path.chmod(0o555)
    assert trmml.load_model(NAME, cache_dir=cache).labels == ("red", "green", "blue")


HOSTILE: list[tuple[str, Callable[[dict], Any], str]] = [
    ("a billion labels", lambda c: c.update(dim=10**9), r"dim must be in \[1"),
    ("negative", lambda c: c["photo"].update(image_size=-1), r"image_size must be in \[16"),
    ("unknown key", lambda c: c.update(run="me"), "run"),
    ("wrong type", lambda c: c.update(labels=3), "labels"),
    ("path", lambda c: c["backbone"].update(file="../../etc/x"), "backbone.file must be the name"),
    (
        "path in a repository",
        lambda c: c["backbone"].update(
            repository="../etc", revision="0" * 40, file="a.safetensors"
        ),
        "backbone.repository must be",
    ),
    ("newer", lambda c: c.update(format_version=99), "format version 99"),
]


@pytest.mark.parametrize(
    ("change", "message"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE]
)
def test_a_hostile_configuration_is_refused(
    world: HubServer, trained: tuple[Path, list[Path]], change: Callable, message: str
) -> None:
    files = contents(trained[0])
    config = json.loads(files["config.json"])
    change(config)
    if config["backbone"]["repository"] == "../etc":
        config["backbone"]["source"] = "ViT-B-16-quickgelu/openai"
    world.add(NAME, files | {"config.json": json.dumps(config).encode()})
    with pytest.raises((ArtifactError, ConfigError), match=message):
        trmml.load_model(NAME)


@pytest.mark.parametrize("commit", ["../../../../evil", "main", ""])
def test_a_commit_that_is_none_is_refused(shop: HubServer, commit: str, tmp_path: Path) -> None:
    repository = shop.repositories[NAME]
    repository.commits[commit] = repository.commits[repository.branches["main"]]
    repository.branches["main"] = commit
    before = {path for path in tmp_path.rglob("*") if "cache" not in str(path)}
    with pytest.raises((ArtifactError, OfflineError), match=r"names no commit|is not understood"):
        trmml.load_model(NAME)
    assert {path for path in tmp_path.rglob("*") if "cache" not in str(path)} == before


def test_a_header_that_claims_ten_gigabytes_is_refused(
    world: HubServer, trained: tuple[Path, list[Path]]
) -> None:
    files = contents(trained[0])
    files[WEIGHTS] = (10 * 2**30).to_bytes(8, "little") + files[WEIGHTS][8:]
    world.add(NAME, files)
    with pytest.raises(ArtifactError, match="is damaged"):
        trmml.load_model(NAME)


def test_a_file_too_large_is_not_fetched(
    world: HubServer, trained: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(NAME, contents(trained[0]))
    monkeypatch.setitem(catalog.REQUIRED_FILES, WEIGHTS, 1000)
    with pytest.raises(ArtifactError, match=r"acme/shop/model\.safetensors has"):
        trmml.load_model(NAME)
    assert not any(request.startswith("GET /cdn") for request in world.requests)


@pytest.mark.parametrize("name", ["acme/../etc", "acme/shop@", "acme/sh op"])
def test_a_name_that_is_none_is_refused(hub: HubServer, name: str) -> None:
    with pytest.raises((ConfigError, ModelNotFoundError)):
        trmml.load_model(name)
    assert not hub.requests


def test_two_processes_can_fill_one_cache(
    shop: HubServer, trained: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    code = "import sys, trmml; print(trmml.predict(sys.argv[1], sys.argv[2]).scores.tolist())"
    # A busy machine may take its time: nobody gives up, neither the client nor this test.
    patience = {"HF_HUB_ETAG_TIMEOUT": "3600", "HF_HUB_DOWNLOAD_TIMEOUT": "3600"}
    environment = os.environ | patience | {"HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code, str(trained[1][0]), NAME]
    expected = trmml.predict(trained[1][0], trained[0]).scores
    both: list[subprocess.Popen[str]] = []
    try:
        for _ in range(2):
            both.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            )
        shown = [process.communicate()[0] for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert [process.returncode for process in both] == [0, 0]
    for scores_there in shown:
        np.testing.assert_array_equal(json.loads(scores_there), expected.tolist())


def test_the_command_that_pushes_says_where_the_model_is(
    world: HubServer,
    trained: tuple[Path, list[Path]],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    assert run("push", trained[0], NAME, "--private") == 0
    url, line = capsys.readouterr().out.splitlines()
    commit = url.rpartition("/")[2]
    assert line == f'load it with: trmml.load_model("{NAME}@{commit}")'
    assert world.repositories[NAME].private
    assert run("models", "info", NAME, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == f"{NAME}@{commit}"


def test_a_model_can_be_fetched_to_a_folder(
    shop: HubServer, trained: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    assert run("models", "download", NAME, "--to", tmp_path / "here") == 0
    copied = trmml.predict(trained[1][0], tmp_path / "here").scores
    np.testing.assert_array_equal(copied, trmml.predict(trained[1][0], trained[0]).scores)


def test_one_changed_byte_in_the_cache_is_found(shop: HubServer, tmp_path: Path) -> None:
    assert run("models", "verify", NAME) == 0
    (snapshot,) = (tmp_path / "hub").glob("models--acme--shop/snapshots/*")
    blob = (snapshot / WEIGHTS).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(bytes(content))
    assert run("models", "verify", NAME) == 3


def test_a_token_is_shown_nowhere(
    world: HubServer,
    trained: tuple[Path, list[Path]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    trmml.push_to_hub(trained[0], NAME, token=TOKEN)
    trmml.load_model(NAME, token=TOKEN)
    errors = []
    for pattern, action in (("api/models", 403), ("api/models", 503), ("api/models", 404)):
        world.fail(pattern, action, times=9)
        try:
            trmml.load_model(NAME, token=TOKEN)
        except trmml.TrmmlError as error:
            errors.append("".join(traceback.format_exception(error)))
        world.faults.clear()
    assert len(errors) == 2  # 503 is answered from the cache
    everywhere = [*errors, caplog.text, *capsys.readouterr()]
    everywhere += [content.decode(errors="ignore") for c in world.repositories[NAME].commits.values()
                   for content in c.values()]  # fmt: skip
    everywhere += [path.read_text(errors="ignore") for path in trained[0].iterdir()]
    assert not any(TOKEN in text for text in everywhere)


@pytest.fixture
def pinned(
    shop: HubServer,
    trained: tuple[Path, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """The entry of a package that knows the model under the name shop-tags, and nothing else."""
    monkeypatch.setattr("trmml.zoo.catalog.BUNDLED", tmp_path)
    commit = shop.repositories[NAME].branches["main"]
    sums = {n: hashlib.sha256(c).hexdigest() for n, c in contents(trained[0]).items()}
    entry = {"repository": NAME, "revision": commit, "sha256": sums}
    (tmp_path / "registry.json").write_text(json.dumps({"shop-tags": entry}))
    return entry


def test_a_pinned_model_is_listed_before_and_after_it_was_fetched(pinned: dict[str, Any]) -> None:
    (listed,) = trmml.list_models()
    assert (listed.name, listed.folder, listed.labels) == ("shop-tags", None, ())
    trmml.load_model("shop-tags")
    assert trmml.list_models()[0].labels == ("red", "green", "blue")


def test_a_pinned_model_stays_at_its_commit(
    shop: HubServer, trained: tuple[Path, list[Path]], pinned: dict[str, Any]
) -> None:
    shop.add(NAME, contents(trained[0]) | {WEIGHTS: b"later"})
    assert trmml.load_model("shop-tags").source == f"{NAME}@{pinned['revision']}"


def test_a_pinned_model_with_other_bytes_is_refused(pinned: dict[str, Any], tmp_path: Path) -> None:
    pinned["sha256"][WEIGHTS] = "0" * 64
    (tmp_path / "registry.json").write_text(json.dumps({"shop-tags": pinned}))
    with pytest.raises(ArtifactError, match="is not the file that this version of trmml knows"):
        trmml.load_model("shop-tags")


def test_a_mistyped_name_of_a_pinned_model_brings_the_nearest(pinned: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean 'shop-tags'"):
        trmml.load_model("shop-tag")
