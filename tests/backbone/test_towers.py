from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import DIM, TEXT, VISION, write_clip
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from trmml.backbone.clip import FrozenCLIP
from trmml.backbone.folding import fold_batch_norms
from trmml.backbone.loading import load_clip
from trmml.backbone.text import TextTower
from trmml.backbone.text_towers import text_tower
from trmml.backbone.towers import image_tower, resize_position_table
from trmml.config.groups import MatchingConfig
from trmml.errors import ConfigError, UnsupportedBackboneError
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.prompts import PromptLearner
from trmml.zoo.loading import make_config

KINDS = list(VISION)
BATCH, CONTEXT = 2, 5
NAMES = ("dog", "a very long and winding name of a thing", "two words")


def photos(size: int = 64) -> Tensor:
    return torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(1))


def open_clip_model(folder: Path) -> Any:
    return open_clip.create_model(f"local-dir:{folder}").eval()


def random_clip(vision: dict[str, Any], text: dict[str, Any] | None = None) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return open_clip.CLIP(DIM, vision, TEXT | (text or {})).eval().requires_grad_(False)


@pytest.fixture
def tower(backbone: FrozenCLIP) -> TextTower:
    assert backbone.text_tower is not None
    return backbone.text_tower


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_feature_is_that_of_open_clip(clip_folders: dict[str, Path], kind: str) -> None:
    folder = clip_folders[kind]
    with torch.no_grad():
        expected = open_clip_model(folder).encode_image(photos())
    features = FrozenCLIP.load(f"local-dir:{folder}")(photos())
    torch.testing.assert_close(features.image_features, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_plain_prompt_are_those_of_open_clip(
    clip_folders: dict[str, Path], kind: str
) -> None:
    folder = clip_folders[kind]
    prompts = [f"a photo of a {name}." for name in NAMES]
    with torch.no_grad():
        expected = open_clip_model(folder).encode_text(open_clip.tokenize(prompts), normalize=True)
    tower = FrozenCLIP.load(f"local-dir:{folder}").text_tower
    assert tower is not None
    words = tower.embed("a photo of a")
    names, counts = tower.embed_names(NAMES, len(words))
    torch.testing.assert_close(tower(PromptLearner(words)(names), counts + len(words)), expected)


def double_tower(**text: Any) -> TextTower:
    return text_tower(random_clip(VISION["vit"], text)).double()


def gradient_of(features: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(5)).double()
    return torch.autograd.grad((features * direction).sum(), inputs)


def as_open_clip_does(tower: TextTower, prompts: Tensor, num_tokens: Tensor) -> Tensor:
    """All tokens of the context length, padding too, through open_clip's own transformer."""
    room = tower.context_length - prompts.shape[1]
    tokens = F.pad(prompts, (0, 0, 0, room)) + tower.positional_embedding
    tokens = tower.ln_final(tower.transformer(tokens, attn_mask=tower.attention_mask))
    projection: Any = tower.text_projection
    text = tokens[torch.arange(len(tokens)), num_tokens - 1] @ projection
    return F.normalize(text.float(), dim=-1)


@pytest.mark.parametrize("text", [{}, {"ls_init_value": 0.3}, {"layers": 1}])
@pytest.mark.parametrize("at_once", [30, 8192])
def test_a_shared_beginning_encoded_once_changes_neither_features_nor_gradients(
    monkeypatch: pytest.MonkeyPatch, text: dict, at_once: int
) -> None:
    tower = double_tower(**text)
    names, counts = tower.embed_names(NAMES, CONTEXT)
    context = torch.randn(CONTEXT, tower.width, generator=torch.Generator().manual_seed(2)).double()
    prompts = PromptLearner(context)
    names = names.detach().requires_grad_()
    plain = as_open_clip_does(tower, prompts(names), counts + CONTEXT)
    torch.testing.assert_close(tower(prompts(names), counts + CONTEXT), plain)
    expected = gradient_of(plain, prompts.context, names)
    monkeypatch.setattr("trmml.backbone.text.TOKENS_AT_ONCE", at_once)
    shared = tower.encode_behind(prompts.context, names, counts)
    torch.testing.assert_close(shared, plain, rtol=1e-11, atol=1e-11)
    found = gradient_of(shared, prompts.context, names)
    # All prompts take the start token from the first name, whose gradient is then the sum.
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found[1][:, 1:], expected[1][:, 1:], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found[1][0, 0], expected[1][:, 0].sum(dim=0), rtol=1e-9, atol=1e-11)


def test_many_prompts_in_parts_are_those_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = double_tower()
    names, counts = tower.embed_names(NAMES, 0)
    names = names.detach().requires_grad_()
    whole = tower(names, counts)
    expected = gradient_of(whole, names)
    monkeypatch.setattr("trmml.backbone.text.TOKENS_AT_ONCE", 2 * names.shape[1])
    parts = tower(names, counts)
    torch.testing.assert_close(parts, whole, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(gradient_of(parts, names), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("bias", [False, True])
def test_the_text_projection_can_have_a_bias_or_be_absent(bias: bool) -> None:
    settings = {"proj_bias": True} if bias else {"width": DIM, "proj_type": "none"}
    clip = random_clip(VISION["vit"], settings)
    tower = text_tower(clip)
    names, counts = tower.embed_names(NAMES, 0)
    expected = clip.encode_text(open_clip.tokenize([f"{n}." for n in NAMES]), normalize=True)
    torch.testing.assert_close(tower(names, counts), expected)


def test_what_stands_behind_the_longest_prompt_changes_neither_features_nor_gradients(
    tower: TextTower,
) -> None:
    names, counts = tower.embed_names(NAMES, CONTEXT)
    answers = []
    for length in (names.shape[1], tower.context_length - CONTEXT):
        learner = PromptLearner(torch.linspace(-0.1, 0.1, CONTEXT * tower.width).view(CONTEXT, -1))
        filler = torch.randn(len(NAMES), length - names.shape[1], tower.width)
        text = tower(learner(torch.cat([names, filler], dim=1)), counts + CONTEXT)
        text[:, :3].square().sum().backward()
        answers.append((text.detach(), learner.context.grad))
    (text, gradient), (padded_text, padded_gradient) = answers
    assert gradient.abs().max() > 1e-2
    torch.testing.assert_close(text, padded_text, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, padded_gradient, rtol=1e-4, atol=1e-6)


def test_the_text_tower_sees_each_token_once_and_no_padding(tower: TextTower) -> None:
    seen = []
    for block in tower.transformer.resblocks:
        block.mlp.register_forward_hook(lambda _, tokens, __: seen.append(len(tokens[0])))
    names, counts = tower.embed_names(NAMES, CONTEXT)
    learner = PromptLearner(torch.zeros(CONTEXT, tower.width))
    in_names = sum(1 + len(tower.tokenize(f"{name}.")) for name in NAMES)
    tower(learner(names), counts + CONTEXT)
    assert seen == [in_names + len(NAMES) * (CONTEXT + 1)] * TEXT["layers"]
    seen.clear()
    tower.encode_behind(learner.context, names, counts)
    assert seen == [CONTEXT + 1] * TEXT["layers"] + [in_names] * TEXT["layers"]


def test_prompts_of_different_lengths_do_not_disturb_each_other(tower: TextTower) -> None:
    learner = PromptLearner(torch.randn(CONTEXT, tower.width))
    names, counts = tower.embed_names(NAMES, CONTEXT)
    together = tower(learner(names), counts + CONTEXT)
    assert len(set(counts.tolist())) == len(NAMES)
    for row, name in enumerate(NAMES):
        alone, count = tower.embed_names((name,), CONTEXT)
        assert alone.shape[1] == counts[row]
        torch.testing.assert_close(tower(learner(alone), count + CONTEXT)[0], together[row])


def test_a_name_that_does_not_fit_is_named(tower: TextTower) -> None:
    room = tower.context_length - CONTEXT - 3  # start, full stop and end
    fits, too_long = " ".join(["dog"] * room), " ".join(["dog"] * (room + 1))
    names, counts = tower.embed_names(("cat", fits), CONTEXT)
    assert counts.tolist() == [4, room + 3] == [4, names.shape[1]]
    with pytest.raises(ConfigError, match=f"'{too_long}' has {room + 1} tokens.* at most {room}"):
        tower.embed_names(("cat", too_long), CONTEXT)


@pytest.mark.parametrize("text", [{"pool_type": "first"}, {"pool_type": "eos", "eos_id": 5}])
def test_a_text_tower_that_reads_elsewhere_is_refused(text: dict) -> None:
    with pytest.raises(UnsupportedBackboneError, match="and not at the end of its tokenizer's"):
        text_tower(random_clip(VISION["vit"], text))


def test_a_constant_map_gives_resnet_cells_that_are_the_image_feature() -> None:
    clip = random_clip(VISION["resnet"])
    tower = image_tower(clip, 64)
    clip.visual.attnpool.positional_embedding.data.zero_()
    cell = torch.randn(BATCH, 256, 1, 1)
    clip.visual.layer4.register_forward_hook(lambda _, __, cells: cell.expand_as(cells))
    patches, pooled = tower(photos())
    assert patches.shape == (BATCH, 4, DIM)
    torch.testing.assert_close(patches, pooled[:, None].expand_as(patches))


@pytest.mark.parametrize("settings", [{}, {"ls_init_value": 0.3}])
def test_a_vit_patch_is_what_the_last_block_gives_where_each_token_attends_to_itself(
    settings: dict,
) -> None:
    clip = random_clip(VISION["vit"] | settings)
    visual, last = clip.visual, clip.visual.transformer.resblocks[-1]
    inputs = []
    last.register_forward_hook(lambda _, tokens, __: inputs.append(tokens[0]))
    patches, _ = image_tower(clip, 64)(photos())
    tokens = last.ln_1(inputs[0])
    elsewhere = ~torch.eye(tokens.shape[1], dtype=torch.bool)
    read, _ = last.attn(tokens, tokens, tokens, attn_mask=elsewhere)
    expected = visual.ln_post(last.ls_1(read)[:, 1:]) @ visual.proj
    torch.testing.assert_close(patches, expected)


def test_with_one_head_the_class_token_reads_the_mean_of_patch_values_by_attention() -> None:
    clip = random_clip(VISION["vit"] | {"head_width": VISION["vit"]["width"]})
    tower, last = image_tower(clip, 64), clip.visual.transformer.resblocks[-1]
    tokens = torch.randn(BATCH, 17, VISION["vit"]["width"])
    normed = last.ln_1(tokens)
    read, weights = last.attn(normed, normed, normed, need_weights=True)
    values = tower._patches_of_value(last, tokens)
    torch.testing.assert_close(torch.einsum("bt,btw->bw", weights[:, 0], values), read[:, 0])


@pytest.mark.parametrize("norm_last", [False, True])
def test_a_vit_that_pools_by_the_mean_gives_the_patches_of_its_last_block(norm_last: bool) -> None:
    clip = random_clip(VISION["vit"] | {"pool_type": "avg", "final_ln_after_pool": norm_last})
    patches, pooled = image_tower(clip, 64)(photos())
    torch.testing.assert_close(pooled, clip.encode_image(photos()))
    last = clip.visual.forward_intermediates(photos(), indices=1, output_fmt="NLC")
    tokens = last["image_intermediates"][0]
    torch.testing.assert_close(patches, clip.visual.ln_post(tokens) @ clip.visual.proj)
    mean = clip.visual.ln_post(tokens.mean(dim=1)) @ clip.visual.proj
    torch.testing.assert_close(pooled, mean if norm_last else patches.mean(dim=1))


# Cells, cells with channels last, and tokens behind a class token.
@pytest.mark.filterwarnings("ignore::UserWarning:timm.layers.interpolate")
@pytest.mark.parametrize(
    ("name", "num_patches"),
    [("resnet10t", 4), ("swin_tiny_patch4_window7_224", 4), ("test_vit", 16)],
)
def test_the_mean_of_timm_patches_is_the_image_feature(name: str, num_patches: int) -> None:
    clip = random_clip(VISION["timm"] | {"timm_model_name": name})
    patches, pooled = image_tower(clip, 64)(photos())
    torch.testing.assert_close(pooled, clip.encode_image(photos()))
    assert patches.shape == (BATCH, num_patches, DIM)
    torch.testing.assert_close(patches.mean(dim=1), pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (VISION["vit"] | {"attentional_pool": True}, "pools by attention"),
        (VISION["vit"] | {"pool_type": "none"}, "pools by attention or not at all"),
        (VISION["vit"] | {"qk_norm": True}, "custom blocks"),
        (VISION["timm"] | {"timm_pool": "abs_attn"}, "pools by 'attention'"),
        (VISION["timm"] | {"timm_pool": "max"}, "pools by 'max'"),
        (VISION["timm"] | {"timm_model_name": "test_vit3"}, "avg with prefix tokens"),
    ],
)
def test_other_poolings_are_refused(settings: dict, reason: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=reason):
        image_tower(random_clip(settings), 64)


@pytest.mark.parametrize(("kind", "side"), [("vit", 6), ("resnet", 3), ("timm", 3)])
def test_larger_photos_have_more_patches(
    clip_folders: dict[str, Path], kind: str, side: int
) -> None:
    larger = FrozenCLIP.load(f"local-dir:{clip_folders[kind]}", image_size=96, text=False)
    assert (larger.photo.image_size, larger.grid) == (96, (side, side))
    features = larger(photos(96))
    assert features.patch_features.shape == (BATCH, side * side, larger.dim)
    assert features.image_features.isfinite().all()


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_position_table_is_resized_for_larger_photos(
    clip_folders: dict[str, Path], kind: str
) -> None:
    def table_of(clip: FrozenCLIP) -> Tensor:
        visual: Any = clip.image_tower.visual
        owner = visual if kind == "vit" else visual.attnpool
        return owner.positional_embedding

    source = f"local-dir:{clip_folders[kind]}"
    table = table_of(FrozenCLIP.load(source, text=False))
    larger = table_of(FrozenCLIP.load(source, image_size=96, text=False))
    side, old = {"vit": (6, 4), "resnet": (3, 2)}[kind]
    assert len(larger) == side * side + 1
    assert torch.equal(larger[0], table[0])
    for column in (0, -1):
        plane = table[1:, column].view(1, 1, old, old)
        resized = F.interpolate(plane, (side, side), mode="bicubic", antialias=True)
        torch.testing.assert_close(larger[1:, column], resized.flatten())


def test_a_position_table_of_the_right_size_stays_as_it_is() -> None:
    table = torch.randn(10, 3)
    assert resize_position_table(table, 3) is table


@pytest.mark.parametrize(("kind", "multiple"), [("vit", 16), ("resnet", 32)])
def test_a_size_with_a_remainder_is_refused(
    clip_folders: dict[str, Path], kind: str, multiple: int
) -> None:
    with pytest.raises(ConfigError, match=f"must be a multiple of {multiple} here, got 72"):
        FrozenCLIP.load(f"local-dir:{clip_folders[kind]}", image_size=72)


def test_a_size_that_a_timm_tower_cannot_take_is_refused(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip", VISION["timm"] | {"timm_model_name": "test_vit"})
    with pytest.raises(ConfigError, match=r"cannot take photos of image_size 70: .*divisible by"):
        FrozenCLIP.load(f"local-dir:{folder}", image_size=70)


def norms_in(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@pytest.mark.parametrize(("kind", "left"), [("resnet", 0), ("timm", 1)])
def test_batch_norms_are_folded(clip_folders: dict[str, Path], kind: str, left: int) -> None:
    """All but one that is not beside its convolution; that features stay is tested above."""
    source = f"local-dir:{clip_folders[kind]}"
    assert norms_in(load_clip(source).clip.visual) > 3
    assert norms_in(FrozenCLIP.load(source).image_tower) == left


class NormFirst(nn.Module):
    """A norm that is registered behind a convolution and does not read it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean = torch.tensor([0.5, -0.5, 1.0])

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.conv(self.norm(images)),)


def test_a_batch_norm_that_reads_something_else_stays() -> None:
    module = NormFirst().eval()
    expected = module(photos())
    fold_batch_norms(module, 64)
    assert norms_in(module) == 1
    torch.testing.assert_close(module(photos()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["resnet", "timm"])
def test_a_training_step_leaves_the_backbone_as_it_is(
    clip_folders: dict[str, Path], kind: str
) -> None:
    backbone = FrozenCLIP.load(f"local-dir:{clip_folders[kind]}")
    model = TextRegionMatcher(make_config(backbone, NAMES, MatchingConfig()), backbone)
    model.start_from_text()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learned = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert not any(name.startswith("backbone.") for name, _ in learned)
    optimizer = torch.optim.SGD([parameter for _, parameter in learned], lr=0.1)
    assert model.train().training
    assert not any(module.training for module in backbone.modules())
    model.match(backbone(photos()), model.encode_text()).logits.square().sum().backward()
    optimizer.step()
    after = model.state_dict()
    assert any("backbone.image_tower" in name for name in after)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert "present.prompts.context" in changed
    assert not any(name.startswith("backbone.") for name in changed)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_the_activation_of_both_towers_is_the_one_in_the_config(
    tmp_path: Path, quick_gelu: bool
) -> None:
    folder = write_clip(tmp_path / "clip", VISION["vit"], quick_gelu=quick_gelu)
    backbone = FrozenCLIP.load(f"local-dir:{folder}")
    assert backbone.config.quick_gelu is quick_gelu
    for part in (backbone.image_tower, backbone.text_tower):
        kinds = {type(m) for m in part.modules() if isinstance(m, QuickGELU | nn.GELU)}
        assert kinds == {QuickGELU if quick_gelu else nn.GELU}
    with torch.no_grad():
        expected = open_clip_model(folder).encode_image(photos())
    again = FrozenCLIP.load(f"local-dir:{folder}", expected=backbone.config)
    torch.testing.assert_close(again(photos()).image_features, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_rounds_features_and_leaves_the_text_alone(
    clip_folders: dict[str, Path], kind: str
) -> None:
    source = f"local-dir:{clip_folders[kind]}"
    whole, half = FrozenCLIP.load(source), FrozenCLIP.load(source)
    half.use_bfloat16()
    assert half.precision == torch.bfloat16
    for exact, rounded in zip(whole(photos()), half(photos()), strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (exact - rounded).abs().max() < 0.05 * exact.abs().max()
    assert whole.text_tower is not None
    assert half.text_tower is not None
    before, after = (tower.text_tower.embed_names(NAMES, 2) for tower in (whole, half))
    torch.testing.assert_close(whole.text_tower(*before), half.text_tower(*after), rtol=0, atol=0)
