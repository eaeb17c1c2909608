"""The pages that a batch leaves: the way between them, equations, what the index shows; in a browser, too."""

import base64
import functools
import io
import os
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse
from xml.etree import ElementTree

import browser
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_links import Links, dead

from bpfree.errors import InvalidInput
from bpfree.evidence import appendix
from bpfree.evidence.appendix import LongTable
from bpfree.evidence.book import Chapter
from bpfree.evidence.committed import Committed
from bpfree.evidence.pages import Pages, duration, headline
from bpfree.evidence.tables import Quantity

CHAPTERS = [
    Chapter(Path(f"{name}.ipynb"), name, f"Is {name} $x_0$?", {}) for name in ("00_a", "01_b", "02_c")
]
EQUATION = (
    r"$$ L_i = \frac{a_i}{2}, \qquad c = \arg\max_c \sum_{i=1}^{L} g_i(c), \qquad y = \mathrm{ReLU}(x) $$"
)
WIDE = pd.DataFrame({f"column {k}": range(3) for k in range(40)}).to_html()
MATHML = "{http://www.w3.org/1998/Math/MathML}"
WIDTHS = (400, 1400)


def picture(lines: int) -> str:
    """A PNG that takes more bytes the more lines are in it."""
    figure, content = Figure(), io.BytesIO()
    axes = figure.subplots()
    axes.plot(np.random.default_rng(0).normal(size=(100, lines)))
    figure.savefig(content, format="png")
    return base64.b64encode(content.getvalue()).decode()


def code(source: str, *outputs: dict, tags: tuple[str, ...] = ()):
    found = [new_output("display_data", data=data) for data in outputs]
    return new_code_cell(source, outputs=found, metadata={"tags": list(tags)}, execution_count=1)


def notebook(*cells):
    return new_notebook(cells=[new_markdown_cell("# A chapter\n\nIs it one?"), *cells])


def whole():
    """A chapter with all that is too wide for a telephone."""
    return notebook(
        new_markdown_cell(f"## What it says\n\nIn `text`, $a^2$ and\n\n{EQUATION}"),
        code("x = 1  # " + 300 * "long ", {"text/html": WIDE}, {"image/png": picture(40)}),
        new_markdown_cell(
            "## What it *shows* & more\n\nSee [the next](01_b.ipynb).\n\n" + 5 * (EQUATION[3:-3])
        ),
        code("said", {"text/markdown": "**90 %**, see [b](01_b.ipynb).\n\nAnd more."}, tags=("answer",)),
        new_code_cell(
            "print('this machine')", outputs=[new_output("stream", text="this machine\n" + 200 * "x")]
        ),
    )


def small_table(committed: Committed) -> pd.DataFrame:
    cells = [Quantity(9.5, 0.1, n=3), Quantity(10.25), Quantity()]
    return pd.DataFrame(
        {"network": ["a", "b", "c"], "time (s)": cells, **{f"n_{k}": [1, 2, 3] for k in range(40)}}
    )


def refused(committed: Committed) -> pd.DataFrame:
    raise InvalidInput("no records of <this>")


@pytest.fixture
def pages(tmp_path):
    return Pages(tmp_path / "out", "quick", CHAPTERS)


@pytest.fixture
def records(tmp_path):
    """A folder of committed records."""
    path = tmp_path / "figures/data/table.csv"
    path.parent.mkdir(parents=True)
    path.write_text("a\n1\n")
    os.utime(path, (0, 0))
    return path.parents[1]


@pytest.fixture
def folder(pages, records, monkeypatch):
    """A whole one: a chapter that ran, one that failed, one that did not run, and an appendix."""
    listed = [LongTable("Refused", "It is not there.", refused), LongTable("Small", "Read it.", small_table)]
    monkeypatch.setattr(appendix, "TABLES", listed)
    pages.end(CHAPTERS[0], whole(), "ok", 75.0)
    traceback = [100 * "long line ", "ValueError: <story>"]
    error = new_output("error", ename="ValueError", evalue="<story>", traceback=traceback)
    failed = notebook(new_code_cell("1 / 0", outputs=[error]), code("beyond"))
    pages.end(CHAPTERS[1], failed, "failed", 1.0, "cell [1] `1 / 0`: ValueError: <story> " + 100 * "x")
    pages.append(appendix.write(records))
    return pages.index.parent


def text_of(folder: Path, name: str) -> str:
    return (folder / f"{name}.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- pages


def test_every_page_has_the_way_to_its_neighbours_and_its_own_headings(folder):
    assert dead(folder) == []
    first, second = (Links(folder / f"{name}.html").goals for name in ("00_a", "01_b"))
    assert [g for g in first if g.startswith("0")] == [
        "01_b.html"
    ] * 4  # above, below, in the text and in the answer
    assert {"00_a.html", "index.html#02_c", "index.html"} <= set(second)
    contents = re.findall(r'<li><a href="#([^"]+)">(.+?)</a></li>', text_of(folder, "00_a"))
    assert [title for _, title in contents] == ["What it says", "What it <em>shows</em> &amp; more"]
    assert all(f'<h2 id="{name}">' in text_of(folder, "00_a") for name, _ in contents)


def test_equations_are_mathml(folder):
    page = text_of(folder, "00_a")
    inline, first = (ElementTree.fromstring(m) for m in re.findall(r"<math.*?</math>", page, re.DOTALL)[:2])
    assert inline.find(f".//{MATHML}msup") is not None
    over, under = first.find(f".//{MATHML}mfrac")
    assert ("".join(over.itertext()), "".join(under.itertext())) == ("ai", "2")
    words = "".join(first.itertext())
    assert "\\" not in words
    for part in ("=", "arg", "max", "∑", "ReLU", "gi(c)"):
        assert part in words
    assert "$" not in page
    assert re.search(r"Is 00_a <math.*x.*0.*</math>", (folder / "index.html").read_text(encoding="utf-8"))


def test_what_is_no_equation_stays_text(pages):
    pages.end(CHAPTERS[0], notebook(new_markdown_cell(r"$$ \frac{<b>}{ $$ and $5 or 6")), "ok", 1.0)
    page = text_of(pages.index.parent, "00_a")
    assert r"<code> \frac{&lt;b&gt;}{ </code>" in page
    assert "$5 or 6" in page


def test_an_answer_is_folded_whatever_markdown_is_in_it(pages):
    text = "1. Why?\n\n<details><summary>Answer</summary>\n\nBecause of $x^2$.\n\n</details>\n\nAnd on."
    pages.end(CHAPTERS[0], notebook(new_markdown_cell(text)), "ok", 1.0)
    [folded] = re.findall(r"<details>(.*?)</details>", text_of(pages.index.parent, "00_a"), re.DOTALL)
    assert "Because of <math" in folded
    assert "And on" not in folded


def test_numbers_are_folded_in_a_line_of_a_list(pages):
    text = "1. Found <details><summary>numbers</summary>$x^2$ and more</details>\n2. On"
    pages.end(CHAPTERS[0], notebook(code("said", {"text/markdown": text})), "ok", 1.0)
    [folded] = re.findall(r"<details>(.*?)</details>", text_of(pages.index.parent, "00_a"), re.DOTALL)
    assert folded.startswith("<summary>numbers</summary><math")
    assert folded.endswith("and more")


def test_pages_load_nothing(folder):
    for page in folder.glob("*.html"):
        content = page.read_text(encoding="utf-8")
        own = re.sub(r"base64,[\w+/=]+", "base64,", content)
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source|object|embed|video|audio)\b[^>]*?(?:src|href|data)=\"([^\"]*)",
            own,
        )
        loaded += re.findall(r"url\(['\"]?([^'\")]+)", own) + re.findall(r"@import\s+['\"]?([^'\";]+)", own)
        assert [goal for goal in loaded if urlparse(goal).scheme not in ("", "data")] == [], page.name
        assert ("<script" in own) == (page.name == "appendix.html")


def test_a_failure_is_on_the_page_and_in_the_index_and_hides_nothing(folder):
    assert "ValueError: &lt;story&gt;" in text_of(folder, "01_b").split('class="chapter"')[0]
    good, failed, absent = text_of(folder, "index").split("<article")[1:]
    assert "ValueError: &lt;story&gt;" in failed
    assert ">failed<" in failed
    assert ">ok<" in good
    assert "1 min 15 s" in good
    assert ">not run<" in absent


# ---------------------------------------------------------------- what the index shows of a chapter


def thumbnail(pages: Pages, *cells) -> str:
    pages.end(CHAPTERS[0], notebook(*cells), "ok", 1.0)
    return "".join(re.findall(r'<img src="figures/([^"]+)"', pages.index.read_text(encoding="utf-8")))


def test_the_index_shows_the_tagged_figure_or_else_the_first_plot(pages):
    small, plot = {"image/png": picture(0)}, {"image/png": picture(40)}
    assert len(small["image/png"]) < 20_000 < len(plot["image/png"]) * 3 / 4
    assert thumbnail(pages, code("a", small), code("b", plot), code("c", plot)) == "00_a_2.png"
    assert (
        thumbnail(pages, code("a", small), code("b", plot), code("c", small, tags=("thumbnail",)))
        == "00_a_3.png"
    )
    assert thumbnail(pages, code("a", small), code("b", small)) == "00_a_1.png"
    assert thumbnail(pages, code("a")) == ""


def test_the_index_has_the_first_paragraph_of_the_answer(folder):
    good = text_of(folder, "index").split("<article")[1]
    assert '<strong>90 %</strong>, see <a href="01_b.html">b</a>' in good
    assert "And more" not in good


def test_the_answer_is_the_last_markdown_of_the_tagged_cells():
    text, answer = {"text/plain": "42"}, ("answer",)
    first, last, other = ({"text/markdown": word} for word in ("first", "last", "other"))
    assert (
        headline(notebook(code("a", first, tags=answer), code("b", last, tags=answer), code("c", other)))
        == "last"
    )
    assert headline(notebook(code("a", first, text, tags=answer))) == "first"
    assert headline(notebook(code("a", text, tags=answer), code("b", other))) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.34, "9.3 s"), (59.94, "59.9 s"), (65, "1 min 5 s"), (3599.8, "1 h 0 min"), (4321, "1 h 12 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# ---------------------------------------------------------------- the appendix


def test_a_table_of_the_appendix_is_sorted_by_numbers_and_one_that_fails_hides_no_other(folder):
    page = text_of(folder, "appendix")
    refused, small = page.split("<section")[1:]
    assert "no records of &lt;this&gt;" in refused
    assert "Read it." in small
    assert re.findall(r"<th>(.*?)</th>", small)[:3] == ["network", "time (s)", "n 0"]
    rows = re.findall(r'<tr><td>(\w)</td><td class="number" data-order="(.*?)">(.*?)</td>', small)
    assert rows == [("a", "9.5", "9.50 ± 0.10 (n = 3)"), ("b", "10.25", "10.25"), ("c", "", "")]
    assert 'href="appendix.html"' in text_of(folder, "index")


def test_without_an_appendix_the_index_has_no_link_to_one(pages, tmp_path):
    pages.append(tmp_path / "nowhere.html")
    pages.end(CHAPTERS[0], notebook(), "ok", 1.0)
    assert not pages.appendix.exists()
    assert "appendix" not in pages.index.read_text(encoding="utf-8").lower()


@pytest.mark.slow
def test_every_table_of_the_appendix_is_computed_from_the_committed_records():
    committed = Committed()
    for long in appendix.TABLES:
        table = long.compute(committed)
        assert table.columns.is_unique, long.title
        assert len(table), long.title
        assert long.says.endswith("."), long.title
    page = appendix.page(committed)
    shown = (appendix.evidence.FOLDER / "appendix.html").read_text(encoding="utf-8")
    for what in (
        r"<h2>.*?</h2>",
        "<tr>",
        "<th>.*?</th>",
    ):  # of numbers, another pandas may round the last digit
        assert re.findall(what, shown) == re.findall(what, page), "run_all.py --figures-only writes it anew"
    assert "failed" not in re.findall(r'<p class="(\w+)">', page)
    assert page.count("<section") == page.count("<table") == len(appendix.TABLES)
    assert len({long.title for long in appendix.TABLES}) == len(appendix.TABLES)


# ---------------------------------------------------------------- in a browser


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def served(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tab(tmp_path):
    with browser.opened(tmp_path / "profile") as found:
        yield found


GOALS = """Promise.all([...document.querySelectorAll("a[href], img[src]")].map(async element => {
  const goal = new URL(element.href || element.src)
  if (goal.origin != location.origin) return ""
  const answer = await fetch(goal)
  const page = new DOMParser().parseFromString(await answer.text(), "text/html")
  const name = decodeURIComponent(goal.hash.slice(1))
  return answer.ok && (!name || page.getElementById(name)) ? "" : goal.href
})).then(found => found.filter(Boolean))"""
SPILLED = """[...document.querySelectorAll("img, table, pre, math")].filter(element =>
  element.getBoundingClientRect().right > innerWidth &&
  !element.closest(".box, .equation, table, .highlight, .jp-OutputArea-output"))
  .map(element => element.tagName)"""
FIRST_COLUMN = '[...document.querySelectorAll("tbody td:first-child")].map(cell => cell.textContent).join("")'


@pytest.mark.slow
@pytest.mark.skipif(browser.FOUND is None, reason=f"none of {', '.join(browser.NAMES)} is on the PATH")
def test_a_browser_shows_every_page_without_errors_requests_or_a_bar_below(folder, served, tab):
    for page in sorted(folder.glob("*.html")):
        for width in WIDTHS:
            tab.open(f"{served}/{page.name}", width)
            assert tab.errors == [], page.name
            elsewhere = [url for url in tab.requests if not url.startswith((served, "data:"))]
            assert elsewhere == [], page.name
            assert tab.ask("document.documentElement.scrollWidth") <= width, (page.name, width)
            assert tab.ask(SPILLED) == [], (page.name, width)
        assert tab.ask(GOALS) == [], page.name


@pytest.mark.slow
@pytest.mark.skipif(browser.FOUND is None, reason=f"none of {', '.join(browser.NAMES)} is on the PATH")
def test_in_a_browser_the_appendix_is_sorted_and_searched(folder, served, tab):
    tab.open(f"{served}/appendix.html")
    tab.wait_for('document.querySelector(".dt-search input")')
    assert tab.ask(FIRST_COLUMN) == "abc"
    click = 'document.querySelectorAll("th")[1].dispatchEvent(new MouseEvent("click", {bubbles: true}))'
    tab.ask(click)
    tab.wait_for(f'{FIRST_COLUMN} == "cab"')  # "" first, and 9.5 before 10.25
    tab.ask(click)
    tab.wait_for(f'{FIRST_COLUMN} == "bac"')
    search = 'const field = document.querySelector(".dt-search input"); field.value = "10.25"'
    tab.ask(f'{search}; field.dispatchEvent(new Event("input", {{bubbles: true}}))')
    tab.wait_for(f'{FIRST_COLUMN} == "b"')
