"""What stands beside the code: citation, forms, and where the documents lead to."""

import re
from pathlib import Path

import pytest
import yaml

from trmml.zoo import card

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def test_the_citation_is_the_one_of_the_cards() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = cited["preferred-citation"]
    template = Path(card.__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^  (\w+) += \{(.*)\},?$", template, re.M))
    names = [f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]]
    assert fields["author"] == " and ".join(names)
    assert fields["title"] == paper["title"]
    assert fields["doi"] == paper["doi"]
    assert fields["year"] == str(paper["year"])
    assert paper["collection-title"].endswith(fields["booktitle"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_for_issues_asks_for_something(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form.keys() == {"name", "description", "labels", "body"}
    questions = [part for part in form["body"] if part["type"] != "markdown"]
    ids = [part["id"] for part in questions]
    assert len(set(ids)) == len(ids)
    for part in questions:
        assert part["type"] in ("textarea", "input")
        assert part["attributes"]["label"]
    assert any(part.get("validations", {}).get("required") for part in questions)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_what_a_document_leads_to_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / link).exists()] == []
    # Modules that CONTRIBUTING names by their place in the package.
    modules = re.findall(r"`((?:\w+\.)+\w+)` \(", text)
    assert all((ROOT / "trmml" / f"{m.replace('.', '/')}.py").exists() for m in modules), modules
