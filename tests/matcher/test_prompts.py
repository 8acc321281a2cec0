import torch

from trmml.matcher.prompts import PromptLearner, random_context

CATEGORIES, CONTEXT, TOKENS, WIDTH = 3, 2, 5, 7


def test_the_context_stands_between_the_start_and_the_name() -> None:
    names, context = torch.randn(CATEGORIES, TOKENS, WIDTH), torch.randn(CONTEXT, WIDTH)
    prompts = PromptLearner(context)(names)
    assert prompts.shape == (CATEGORIES, TOKENS + CONTEXT, WIDTH)
    for prompt, name in zip(prompts, names, strict=True):
        assert torch.equal(prompt, torch.cat([name[:1], context, name[1:]]))


def test_each_category_can_have_its_own_context() -> None:
    names, context = torch.randn(CATEGORIES, TOKENS, WIDTH), torch.randn(CATEGORIES, CONTEXT, WIDTH)
    prompts = PromptLearner(context)(names)
    assert torch.equal(prompts[:, 1 : 1 + CONTEXT], context)


def test_a_shared_context_moves_to_other_names_and_gathers_all_gradients() -> None:
    learner = PromptLearner(torch.randn(CONTEXT, WIDTH))
    learner(torch.randn(CATEGORIES + 2, TOKENS + 1, WIDTH)).sum().backward()
    torch.testing.assert_close(
        learner.context.grad, torch.full((CONTEXT, WIDTH), float(CATEGORIES + 2))
    )


def test_noise_is_small_and_the_same_for_the_same_seed() -> None:
    noise = random_context(CONTEXT, 1009, CATEGORIES, torch.Generator().manual_seed(5))
    again = random_context(CONTEXT, 1009, CATEGORIES, torch.Generator().manual_seed(5))
    assert torch.equal(noise, again)
    torch.testing.assert_close(noise.std(), torch.tensor(0.02), rtol=0.05, atol=0)
