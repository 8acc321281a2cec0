import pytest
import torch
import torch.nn.functional as F

from trmml.errors import ConfigError
from trmml.matcher.regions import RegionModule

BATCH, CATEGORIES, PATCHES, HEADS = 2, 3, 5, 7
DIM = 11 * HEADS


def trained_like(num_labels: int = CATEGORIES, **settings: object) -> RegionModule:
    module = RegionModule(torch.randn(num_labels, DIM), num_heads=HEADS, **settings)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def test_region_attention_sums_to_one_and_regions_have_unit_length() -> None:
    module, patches = trained_like(), torch.randn(BATCH, PATCHES, DIM)
    regions, attention = module(patches), module.attention(patches)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(BATCH, HEADS, CATEGORIES))
    torch.testing.assert_close(regions.norm(dim=-1), torch.ones(BATCH, CATEGORIES))
    assert (attention >= 0).all()


@pytest.mark.parametrize("num_labels", [CATEGORIES, DIM // HEADS + 1])
def test_it_is_the_attention_of_torch_with_the_same_weights(num_labels: int) -> None:
    """With few labels and with many, which take the products in another order."""
    module = trained_like(num_labels, mlp=False)
    patches = torch.randn(BATCH, PATCHES, DIM)
    reference = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    maps = (module.query_map, module.key_map, module.value_map)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([linear.weight for linear in maps]))
        reference.in_proj_bias.copy_(torch.cat([linear.bias for linear in maps]))
        reference.out_proj.load_state_dict(module.output_map.state_dict())
    queries = module.query_norm(module.queries).expand(BATCH, -1, -1)
    read, weights = reference(queries, module.patch_norm(patches), patches)
    regions, attention = module(patches), module.attention(patches).mean(dim=1)
    torch.testing.assert_close(regions, F.normalize(read, dim=-1))
    torch.testing.assert_close(attention, weights)

    learned = (module.queries, module.query_map.weight, module.patch_norm.weight)
    goal = torch.rand_like(attention)
    ours = torch.autograd.grad((attention * goal).sum(), [*learned, module.key_map.weight])
    theirs = torch.autograd.grad(
        (weights * goal).sum(), [*learned[:1], reference.in_proj_weight, learned[2]]
    )
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1][:DIM])
    torch.testing.assert_close(ours[2], theirs[2])
    torch.testing.assert_close(ours[3], theirs[1][DIM : 2 * DIM])


def test_the_evidence_of_the_patches_adds_up_to_the_match() -> None:
    module, patches = trained_like(mlp=False), torch.randn(BATCH, PATCHES, DIM)
    directions = torch.randn(CATEGORIES, DIM)
    read: list[torch.Tensor] = []
    module.output_map.register_forward_hook(lambda _, __, output: read.append(output))
    module(patches)
    product = ((read[0] - module.output_map.bias) * directions).sum(dim=-1)
    evidence = module.evidence(patches, directions)
    torch.testing.assert_close(evidence.sum(dim=-1), product)
    # A patch that is not attended to says nothing, and what it says is what a region of it alone says.
    one = module.evidence(patches[:, :1], directions)
    alone = F.linear(module.value_map(patches[:, :1]), module.output_map.weight)
    torch.testing.assert_close(one, torch.einsum("bpd,cd->bcp", alone, directions))


def test_at_the_start_a_region_is_the_mean_of_the_patches() -> None:
    module = RegionModule(torch.randn(CATEGORIES, DIM), num_heads=HEADS).eval()
    patches = torch.randn(BATCH, PATCHES, DIM)
    regions, attention = module(patches), module.attention(patches)
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / PATCHES))
    mean = F.normalize(patches.mean(dim=1), dim=-1)
    torch.testing.assert_close(regions, mean[:, None].expand_as(regions))


def test_the_order_of_patches_does_not_matter() -> None:
    module, patches = trained_like(), torch.randn(BATCH, PATCHES, DIM)
    order = torch.randperm(PATCHES)
    torch.testing.assert_close(module(patches[:, order]), module(patches))
    shuffled = module.attention(patches[:, order])
    torch.testing.assert_close(shuffled, module.attention(patches)[..., order])


def test_permuting_categories_permutes_regions() -> None:
    module, patches = trained_like(), torch.randn(BATCH, PATCHES, DIM)
    regions = module(patches)
    with torch.no_grad():
        module.queries.copy_(module.queries.flip(0))
    torch.testing.assert_close(module(patches), regions.flip(1))


def test_a_photo_gives_the_same_regions_alone_and_in_a_batch() -> None:
    module, patches = trained_like(), torch.randn(BATCH, PATCHES, DIM)
    torch.testing.assert_close(module(patches[1:]), module(patches)[1:])


def test_dropout_acts_in_training_only() -> None:
    module, patches = trained_like(dropout=0.5), torch.randn(BATCH, PATCHES, DIM)
    assert torch.equal(module(patches), module(patches))
    module.train()
    assert not torch.equal(module(patches), module(patches))


def test_the_number_of_heads_must_divide_the_width() -> None:
    with pytest.raises(
        ConfigError, match=r"num_heads \(4\) must divide the backbone's width \(77\)"
    ):
        RegionModule(torch.randn(CATEGORIES, DIM), num_heads=4)
