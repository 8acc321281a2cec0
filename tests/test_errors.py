from trmml.errors import nearest


def test_the_nearest_name_comes_first() -> None:
    assert nearest("epoch", ["seed", "epochs"]) == "Did you mean 'epochs'? Known: seed, epochs."


def test_capitals_do_not_hide_the_nearest_name() -> None:
    names = ["ViT-S-16", "ViT-B-16"]
    assert nearest("vit-b-16", names).startswith("Did you mean 'ViT-B-16'?")


def test_a_name_far_from_all_gets_no_suggestion() -> None:
    assert nearest("zebra", ["seed", "epochs"]) == "Known: seed, epochs."


def test_eight_names_are_shown_and_the_others_counted() -> None:
    names = [f"n{i}" for i in range(11)]
    assert nearest("", names[:8]) == "Known: n0, n1, n2, n3, n4, n5, n6, n7."
    assert nearest("", names) == "Known: n0, n1, n2, n3, n4, n5, n6, n7, … (11 in all)."


def test_a_suggestion_may_be_a_name_that_is_not_shown() -> None:
    names = [f"n{i}" for i in range(11)]
    assert nearest("nn10", names).startswith("Did you mean 'n10'?")


def test_nothing_known_is_said_so() -> None:
    assert nearest("dog", iter([])) == "Known: none."
