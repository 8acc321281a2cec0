from trmml.reports.columns import first_column


def test_names_of_any_script_end_at_the_same_place_of_a_terminal() -> None:
    decomposed = "cafe\u0301"  # five characters in four places
    column = first_column("label", ["dog", "日本語 猫", decomposed])
    assert column == ["label    ", "dog      ", "日本語 猫", decomposed + "     "]


def test_a_head_may_be_the_longest() -> None:
    assert first_column("label", ["a"]) == ["label", "a    "]
