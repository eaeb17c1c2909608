"""What a batch of chapters leaves to be read: HTML pages, figures, and an index that leads to them.

In the output folder: `notebooks/NN_x.ipynb`, `NN_x.html`, `figures/NN_x_K.png`, `index.html`, and
`index.json`, which holds what the index knows, so that another batch can add to it, a later one or one that
runs at the same time.
"""

import base64
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from ..errors import disk
from .book import Chapter, content_of

PATIENCE_S = 60  # with a batch that writes

#: To a chapter: its notebook, its place in the index or its page.
LINK = re.compile(rb'href="(?:index\.html#)?(\d\d_[^".#]+)(?:\.ipynb|\.html)?"')

TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")


@dataclass
class Entry:
    """What the index knows of a chapter: its status (ok, failed or unfinished) and what goes with that."""

    status: str
    seconds: float = 0.0
    error: str = ""
    when: str = ""
    figure: str = ""
    machine: str = ""


class Pages:
    """The output folder of one profile."""

    def __init__(self, folder: Path, profile: str, chapters: list[Chapter]):
        self.index = folder / "index.html"
        self._folder, self._profile, self._chapters = folder, profile, chapters
        with disk.refusals(folder, disk.OUTPUT):
            for name in ("notebooks", "figures"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        how = {"extra_loaders": [TEMPLATES], "template_file": "chapter.html.j2", "embed_images": True}
        self._exporter = HTMLExporter(**how)
        self._template = Environment(loader=TEMPLATES, autoescape=True).get_template("index.html.j2")

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
        resources = {"metadata": {"name": chapter.title, "path": str(chapter.path.parent)}}
        html, _ = self._exporter.from_notebook_node(notebook, resources)
        with self._alone():
            self.save(chapter, notebook)
            entry.figure = next(iter(self._write_figures(chapter, notebook)), "")
            outputs = next((c.outputs for c in reversed(notebook.cells) if c.cell_type == "code"), [])
            printed = [o.text.strip() for o in outputs if o.output_type == "stream"]
            # Chapters end with their environment line.
            entry.machine = printed[0] if printed and status == "ok" else ""
            _write(self._page(chapter), html)
            self._link()
            self._enter(chapter, entry)

    def _page(self, chapter: Chapter) -> Path:
        return self._folder / f"{chapter.name}.html"

    def _link(self) -> None:
        """Lets links to a chapter lead to its page or, while there is none, to its entry in the index."""
        pages = [page for page in map(self._page, self._chapters) if page.exists()]
        goals = {c.name.encode(): f'href="index.html#{c.name}"'.encode() for c in self._chapters}
        goals |= {page.stem.encode(): f'href="{page.name}"'.encode() for page in pages}

        for page in pages:
            with disk.refusals(page, disk.OUTPUT, doing="read"):
                content = page.read_bytes()
            linked = LINK.sub(lambda link: goals.get(link[1], link[0]), content)
            if linked != content:
                _write(page, linked)

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
        state = self._folder / "index.json"
        entries = _entries(state) | {chapter.name: asdict(entry)}
        _write(state, json.dumps(entries, indent=1) + "\n")
        rows = [self._row(chapter, entries.get(chapter.name)) for chapter in self._chapters]
        text = self._template.render(
            profile=self._profile,
            chapters=rows,
            finished=sum(row["status"] == "ok" for row in rows),
            machines=list(dict.fromkeys(row["machine"] for row in rows if row.get("machine"))),
        )
        _write(self.index, text)

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
            "question": Markup(markdown2html(chapter.question)),
            "page": page.name if exists else "",
        }

    def _write_figures(self, chapter: Chapter, notebook) -> list[str]:
        """Write the chapter's figures in place of those of an earlier execution; returns their paths."""
        paths = []
        for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
            image = output.get("data", {})
            path = f"figures/{chapter.name}_{len(paths) + 1}"
            if "image/png" in image:
                paths.append(f"{path}.png")
                _write(self._folder / paths[-1], base64.b64decode(image["image/png"]))
            elif "image/svg+xml" in image:
                paths.append(f"{path}.svg")
                _write(self._folder / paths[-1], image["image/svg+xml"])
        with disk.refusals(self._folder, disk.OUTPUT):
            for old in self._folder.glob(f"figures/{chapter.name}_[0-9]*"):
                if old.relative_to(self._folder).as_posix() not in paths:
                    old.unlink(missing_ok=True)
        return paths


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
