"""What a batch of chapters leaves to be read: HTML pages, figures, and an index that leads to them.

In the output folder: `notebooks/NN_x.ipynb`, `NN_x.html`, `figures/NN_x_K.png`, `appendix.html`,
`index.html`, and `index.json`, which holds what the index knows, so that another batch can add to it, a later
one or one that runs at the same time. No page loads anything from a network.

Two tags of a chapter's cells say what the index shows of it: `thumbnail`, the figure; `answer`, the result.
"""

import base64
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from filelock import FileLock, Timeout
from jinja2 import Environment
from markupsafe import Markup

from ..errors import disk
from .book import Chapter, content_of
from .export import TEMPLATES, Exporter, rendered

PATIENCE_S = 60  # with a batch that writes
PLOT_BYTES = 20_000  # axes, lines and words take as much; small images and matrices, that say less, do not

#: To a chapter: its notebook, its place in the index or its page.
LINK = re.compile(rb'href="(?:index\.html#)?(\d\d_[^".#]+)(?:\.ipynb|\.html)?"')


@dataclass
class Entry:
    """What the index knows of a chapter: its status (ok, failed or unfinished) and what goes with that."""

    status: str
    seconds: float = 0.0
    error: str = ""
    when: str = ""
    figure: str = ""
    headline: str = ""
    machine: str = ""


class Pages:
    """The output folder of one profile."""

    def __init__(self, folder: Path, profile: str, chapters: list[Chapter]):
        self.index, self.appendix = folder / "index.html", folder / "appendix.html"
        self._folder, self._profile, self._chapters = folder, profile, chapters
        self._state = folder / "index.json"
        with disk.refusals(folder, disk.OUTPUT):
            for name in ("notebooks", "figures"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        self._exporter = Exporter()
        self._templates = Environment(loader=TEMPLATES, autoescape=True)
        self._templates.filters["duration"] = duration

    def notebook(self, chapter: Chapter) -> Path:
        """Where the executed notebook belongs."""
        return self._folder / "notebooks" / chapter.path.name

    def save(self, chapter: Chapter, notebook) -> None:
        """Write what was executed of a chapter. This and all that follow raise StorageFailed."""
        _write(self.notebook(chapter), content_of(notebook))

    def begin(self, chapter: Chapter) -> None:
        """The chapter runs; should this process be killed, the index says that it did not finish."""
        with self._alone():
            self._enter(chapter, Entry("unfinished"))

    def end(self, chapter: Chapter, notebook, status: str, seconds: float, error: str = "") -> None:
        """The chapter has run or stopped: write the page and the figures it got to, and the index.

        notebook: what was executed of it; None if that was nothing.
        """
        entry = Entry(status, round(seconds, 1), error, f"{datetime.now():%Y-%m-%d %H:%M}")
        if notebook is None:
            with self._alone():
                self._enter(chapter, entry)
            return
        place = [c.name for c in self._chapters].index(chapter.name)
        previous, following = ([None, *self._chapters, None][place + step] for step in (0, 2))
        around = {"previous": previous, "following": following, "error": error}
        html = self._exporter.page(notebook, chapter.title, chapter.path.parent, **around)
        with self._alone():
            self.save(chapter, notebook)
            entry.figure = self._write_figures(chapter, notebook)
            entry.headline = headline(notebook)
            outputs = next((c.outputs for c in reversed(notebook.cells) if c.cell_type == "code"), [])
            printed = [o.text.strip() for o in outputs if o.output_type == "stream"]
            # Chapters end with their environment line.
            entry.machine = printed[0] if printed and status == "ok" else ""
            _write(self._page(chapter), html)
            self._link()
            self._enter(chapter, entry)

    def append(self, appendix: Path) -> None:
        """Puts a page of tables (see `evidence.appendix`) among the chapters, its tables to be sorted and
        searched without a network; nothing if it is not there.
        """
        if not appendix.exists():
            return
        library = files("itables") / "html"  # has DataTables in one file, for notebooks without a network
        sortable = self._templates.get_template("sortable.html.j2").render(
            style=(library / "dt_bundle.css").read_text(encoding="utf-8"),
            script=base64.b64encode((library / "dt_bundle.js").read_bytes()).decode(),
        )
        with disk.refusals(appendix, disk.CHECKOUT, doing="read"):
            text = appendix.read_text(encoding="utf-8")
        with self._alone():
            _write(self.appendix, text.replace("</html>", f"{sortable}</html>"))
            self._write_index(_entries(self._state))

    def _page(self, chapter: Chapter) -> Path:
        return self._folder / f"{chapter.name}.html"

    def _link(self) -> None:
        """Lets links of the pages to a chapter lead to its page or, while there is none, into the index."""
        for page in filter(Path.exists, map(self._page, self._chapters)):
            with disk.refusals(page, disk.OUTPUT, doing="read"):
                content = page.read_bytes()
            if (linked := self._linked(content)) != content:
                _write(page, linked)

    def _linked(self, content: bytes) -> bytes:
        pages = [page for page in map(self._page, self._chapters) if page.exists()]
        goals = {c.name.encode(): f'href="index.html#{c.name}"'.encode() for c in self._chapters}
        goals |= {page.stem.encode(): f'href="{page.name}"'.encode() for page in pages}
        return LINK.sub(lambda link: goals.get(link[1], link[0]), content)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of the batches with this output folder one writes at a time.

        Where there are no locks, or one hangs that has it, each takes its chance: every file is whole all the
        same, but the index may lack an entry.
        """
        lock = FileLock(self._folder / ".lock")
        with suppress(Timeout, NotImplementedError, UserWarning, OSError), warnings.catch_warnings():
            # In their place filelock would take a file that a killed process leaves for ever.
            warnings.filterwarnings("error", "flock not supported")
            lock.acquire(timeout=PATIENCE_S)
        try:
            yield
        finally:
            lock.release()

    def _enter(self, chapter: Chapter, entry: Entry) -> None:
        """Into index.json, read afresh because another batch may have added to it, and into the index."""
        entries = _entries(self._state) | {chapter.name: asdict(entry)}
        _write(self._state, json.dumps(entries, indent=1) + "\n")
        self._write_index(entries)

    def _write_index(self, entries: dict[str, dict]) -> None:
        rows = [self._row(chapter, entries.get(chapter.name)) for chapter in self._chapters]
        text = self._templates.get_template("index.html.j2").render(
            profile=self._profile,
            chapters=rows,
            finished=sum(row["status"] == "ok" for row in rows),
            seconds=sum(row.get("seconds", 0.0) for row in rows),
            appendix=self.appendix.name if self.appendix.exists() else "",
            machines=list(dict.fromkeys(row["machine"] for row in rows if row.get("machine"))),
        )
        _write(self.index, self._linked(text.encode()))

    def _row(self, chapter: Chapter, entry: dict | None) -> dict:
        """What the index shows of a chapter; an entry whose page was deleted counts as not run."""
        page = self._page(chapter)
        exists = page.exists()
        if not exists and entry and entry["status"] != "unfinished":
            entry = None
        return {
            **(entry or {"status": "not run"}),
            "name": chapter.name,
            "title": chapter.title,
            "question": Markup(rendered(chapter.question)),
            "headline": Markup(rendered((entry or {}).get("headline", ""))),
            "page": page.name if exists else "",
        }

    def _write_figures(self, chapter: Chapter, notebook) -> str:
        """Write the chapter's figures in place of those of an earlier execution.

        Returns the path of the one that stands for the chapter: the first of a cell tagged `thumbnail`, or
        else the first plot; "" without any.
        """
        ranks = {}  # path -> which comes first
        for cell in notebook.cells:
            for image in (output.get("data", {}) for output in cell.get("outputs", [])):
                path = f"figures/{chapter.name}_{len(ranks) + 1}"
                if "image/png" in image:
                    path, content = f"{path}.png", base64.b64decode(image["image/png"])
                elif "image/svg+xml" in image:
                    path, content = f"{path}.svg", image["image/svg+xml"]
                else:
                    continue
                _write(self._folder / path, content)
                ranks[path] = ("thumbnail" not in _tags(cell), len(content) < PLOT_BYTES)
        with disk.refusals(self._folder, disk.OUTPUT):
            for old in self._folder.glob(f"figures/{chapter.name}_[0-9]*"):
                if old.relative_to(self._folder).as_posix() not in ranks:
                    old.unlink(missing_ok=True)
        return min(ranks, key=ranks.get, default="")


def headline(notebook) -> str:
    """The first paragraph of the last Markdown output of the cells tagged `answer`; "" if there is none."""
    outputs = [o for cell in notebook.cells if "answer" in _tags(cell) for o in cell.get("outputs", [])]
    said = [o.data["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    return said[-1].strip().partition("\n\n")[0] if said else ""


def duration(seconds: float) -> str:
    """As text: "9.3 s", "2 min 5 s", "1 h 12 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def _entries(state: Path) -> dict[str, dict]:
    """What index.json has of chapters, without what is not as `Entry` has it: that was not written here."""
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # there is none yet, or it is broken: begin anew
        return {}
    kinds = {field.name: field.type for field in fields(Entry)}
    return {
        name: entry
        for name, entry in (found.items() if isinstance(found, dict) else ())
        if isinstance(entry, dict) and {field: type(value) for field, value in entry.items()} == kinds
    }


def _write(path: Path, content: str | bytes) -> None:
    """Whole: a reader, or Ctrl-C, never meets half a file."""
    content = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    disk.replace(path, content, disk.OUTPUT)
