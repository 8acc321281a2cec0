import json
from pathlib import Path

import pytest
from conftest import small_disk

from trmml.app.journal import HEADER, Answer, Journal
from trmml.errors import ConfigError, DataError, OutputError


def answer(number: int, reply: str = "yes", image: str = "a.jpg", label: str = "dog") -> Answer:
    return Answer(f"id{number}", image, label, reply, 1000.0 + number)  # pyright: ignore


ODD = 'a "quoted"\nand <b>broken</b>\u2028name.jpg'


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    given = [answer(1), answer(2, "no", ODD, 'l"a\nb'), answer(3, "unsure")]
    first = Journal(tmp_path / "j.jsonl")
    assert first.add(given) == given
    first.close()
    assert list(Journal(tmp_path / "j.jsonl").answers.values()) == given
    assert json.loads((tmp_path / "j.jsonl").read_text().splitlines()[0]) == HEADER


def test_an_answer_that_comes_twice_counts_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    assert journal.add([answer(1), answer(1)]) == [answer(1)]
    assert journal.add([answer(1, "no")]) == []
    assert (tmp_path / "j.jsonl").read_text().count("\n") == 2


def test_what_is_taken_back_stays_so_even_if_it_is_sent_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.add([answer(1), answer(2)])
    assert journal.take_back("id1") == answer(1)
    assert journal.take_back("id1") is None
    assert journal.add([answer(1)]) == []
    journal.close()
    again = Journal(tmp_path / "j.jsonl")
    assert list(again.answers) == ["id2"]
    assert "id1" in again


def test_a_journal_cut_anywhere_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.add([answer(i) for i in range(3)])
    journal.close()
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(ends[0], len(whole)):
        path.write_bytes(whole[:cut])
        left = Journal(path)
        complete = sum(end <= cut for end in ends) - 1
        assert list(left.answers) == [f"id{i}" for i in range(complete)], cut
        left.add([answer(9)])
        left.close()
        after = Journal(path)
        assert list(after.answers)[-1] == "id9"
        after.close()


def test_a_whole_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for line in ("{", '{"id": 1}', '["a"]', '{"undo": ["a"]}', "7"):
        path.write_text(json.dumps(HEADER) + f"\n{line}\n")
        with pytest.raises(DataError, match="line 2 is no answer"):
            Journal(path)
    path.write_text("image,dog\na.jpg,1\n")
    with pytest.raises(DataError, match="line 1 is no answer"):
        Journal(path)
    assert path.read_text() == "image,dog\na.jpg,1\n"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.jsonl")
    with pytest.raises(ConfigError, match=r"Another process has .* open"):
        Journal(tmp_path / "j.jsonl")
    first.close()
    Journal(tmp_path / "j.jsonl").close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.add([answer(1)])
    before = (tmp_path / "j.jsonl").read_bytes()
    with small_disk(len(before) + 10), pytest.raises(OutputError, match="make room"):
        journal.add([answer(2)])
    assert (tmp_path / "j.jsonl").read_bytes() == before
    assert list(journal.answers) == ["id1"]
    assert journal.add([answer(2)]) == [answer(2)]
    journal.close()
    assert list(Journal(tmp_path / "j.jsonl").answers) == ["id1", "id2"]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").mkdir()
    with pytest.raises(OutputError, match="Cannot write"):
        Journal(tmp_path / "j.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["j.jsonl"]
