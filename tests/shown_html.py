"""What a notebook shows, read as a browser reads it: elements, attributes and texts."""

from html.parser import HTMLParser

ELEMENTS = {
    *("div", "table", "thead", "tbody", "tr", "th", "td", "bdi", "strong", "code", "span", "p"),
    *("img", "figure", "figcaption", "details", "summary", "ul", "li"),
}
ATTRIBUTES = {"style", "src", "alt", "role", "aria-label", "scope", "open"}


class Shown(HTMLParser):
    """An HTML fragment; refuses elements and attributes that could do something, and open ends."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.rows: list[list[str]] = []  # of tables, with the texts of their cells
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        html.encode()  # a lone surrogate would end a notebook
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES, attrs
        found = dict(attrs)
        if tag == "img":
            assert (found["src"] or "").startswith("data:image/jpeg;base64,")
        else:
            self._open.append(tag)
        assert "url(" not in (found.get("style") or "")
        self.elements.append((tag, found))
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))
            if "tr" in self._open:
                self.rows[-1].append(self.texts[-1])

    def count(self, tag: str) -> int:
        """Return how many elements of a kind there are."""
        return sum(name == tag for name, _ in self.elements)


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></table></div><style>*{display:none}</style>",
    "&lt;b&gt;",
    "{{ 7 * 7 }}{% raw %}",
    "<!--",
)
"""Names of labels and files that would do something if they were put into HTML as they are."""
