"""Where the links of the chapters, of their pages and of the README lead."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bpfree.evidence.book import Chapter, find_chapters
from bpfree.evidence.pages import Pages

ROOT = Path(__file__).parent.parent
CHAPTERS = find_chapters(ROOT / "notebooks")
LINK = re.compile(r"\[([^][]+)\]\(([^()\s]+)\)")
# | [NN Title](goal) | question | and, in the book, how long it takes to read |
TABLE_ROW = re.compile(
    r"^\| (?:\[|\*\*)(\d\d .+?)(?:\]\((\S+)\)|\*\*) \| ([^|]+) \|(?: \d+ \|)?$", re.MULTILINE
)


class Links(HTMLParser):
    """The goals of a page's links and pictures, and the names in it that links may lead to."""

    def __init__(self, page: Path):
        super().__init__()
        self.goals, self.names = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.goals += [given[name] for name in ("href", "src") if given.get(name)]
        self.names |= {given[name] for name in ("id", "name") if given.get(name)}


def dead(folder: Path) -> list[str]:
    """The local links of a folder's pages that lead nowhere."""
    found = []
    pages = {page: Links(page) for page in folder.glob("*.html")}
    for page, links in pages.items():
        for goal in links.goals:
            parts = urlparse(goal)
            path = folder / unquote(parts.path) if parts.path else page
            if parts.scheme:
                continue
            name = unquote(parts.fragment)
            if not path.exists() or (name and name not in (pages.get(path) or Links(path)).names):
                found.append(f"{page.name}: {goal}")
    return found


@pytest.fixture
def pages(tmp_path):
    chapters = [Chapter(Path(f"{name}.ipynb"), name, "Why?", {}) for name in ("00_a", "01_b", "02_c-d")]
    return Pages(tmp_path / "quick", "quick", chapters), chapters


def executed(chapters: list[Chapter]):
    text = "# A title\n\n" + "\n".join(f"- [{c.title}]({c.name}.ipynb)" for c in chapters)
    text += "\n\n[own](#A-title) [elsewhere](https://example.org/00_a.ipynb)"
    return new_notebook(cells=[new_markdown_cell(text), new_code_cell("1 / 0")])


def test_links_between_pages_lead_somewhere_at_any_time(pages):
    pages, chapters = pages
    folder = pages.index.parent
    for chapter, status in zip(chapters, ("ok", "failed", "unfinished"), strict=True):
        pages.begin(chapter)
        pages.end(chapter, executed(chapters), status, 1.0, "why" if status == "failed" else "")
        assert dead(folder) == []
    goals = [Links(page).goals for page in sorted(folder.glob("0*.html"))]
    own = ["00_a.html", "01_b.html", "02_c-d.html"]
    neighbours = [own[1:2], own[::2], own[1:2]]  # above and below the chapter
    assert [[g for g in of_page if g[0] == "0"] for of_page in goals] == [n + own + n for n in neighbours]
    assert all("https://example.org/00_a.ipynb" in of_page for of_page in goals)


def test_a_chapter_without_a_page_is_found_in_the_index(pages):
    pages, chapters = pages
    folder = pages.index.parent
    pages.end(chapters[1], executed(chapters), "ok", 1.0)
    pages.end(chapters[2], None, "failed", 1.0, "no kernel")
    assert dead(folder) == []
    goals = Links(folder / "01_b.html").goals
    assert {"index.html#00_a", "01_b.html", "index.html#02_c-d"} <= set(goals)
    (folder / "01_b.html").unlink()
    pages.end(chapters[0], executed(chapters), "ok", 1.0)
    assert dead(folder) == []


# ---------------------------------------------------------------- what is committed


def texts(chapter: Chapter) -> list[str]:
    cells = nbformat.read(chapter.path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.name)
def test_links_of_a_chapter_lead_to_files(chapter):
    goals = [urlparse(goal) for text in texts(chapter) for _, goal in LINK.findall(text)]
    local = [g for g in goals if not g.scheme]
    assert [g.path for g in local if not (chapter.path.parent / g.path).exists()] == []
    assert not any(g.fragment for g in local)  # which pages do not carry over


def test_links_of_the_readme_lead_to_files():
    goals = [urlparse(goal) for _, goal in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert [g.path for g in goals if g.path and not g.scheme and not (ROOT / g.path).exists()] == []


def test_every_chapter_ends_with_a_question_that_the_next_one_opens():
    for chapter, following in pairwise(CHAPTERS):
        [last] = [text for text in texts(chapter) if "**Next:**" in text]
        thread = last.partition("**Next:**")[2]
        assert LINK.findall(thread)[0][1] == following.path.name
        assert "?" in thread, chapter.name


@pytest.mark.parametrize("where", ["README.md", "notebooks/00_start_here.ipynb"])
def test_the_maps_have_every_chapter_with_its_question(where):
    text = "\n".join(texts(CHAPTERS[0])) if where.endswith("ipynb") else (ROOT / where).read_text("utf-8")
    rows = TABLE_ROW.findall(text)
    assert [question for _, _, question in rows] == [c.question.strip("*") for c in CHAPTERS]
    assert [Path(goal).name for _, goal, _ in rows if goal] == [
        c.path.name for c in CHAPTERS if c.path.name not in where
    ]
