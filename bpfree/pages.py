"""What a batch of chapters leaves to be read: HTML pages, figures, and an index that leads to them.

In the output folder: `notebooks/NN_x.ipynb`, `NN_x.html`, `figures/NN_x_K.png`, `index.html`, and
`index.json`, which holds what the index knows, so that a later batch can add to it.
"""

import base64
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import nbformat
from jinja2 import DictLoader, Environment
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from .batch import Chapter
from .errors import InvalidInput

TEMPLATES = {
    # nbconvert's page without the scripts that are not needed. MathJax no longer holds up the page while
    # it loads, and without a network the equations stay legible as TeX.
    "chapter": """
{%- extends "lab/index.html.j2" -%}
{%- from "mathjax.html.j2" import mathjax -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}<style>main { max-width: 60rem; margin: auto }</style>{%- endblock -%}
{%- block html_head_js_mathjax -%}
{{ mathjax(resources.mathjax_url) | replace("<script src", "<script async src") }}
{%- endblock -%}""",
    "index": """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bpfree: {{ profile }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #222 }
  body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
  article { display: flex; gap: 1.25rem; padding: 1rem 0; border-top: 1px solid #ddd }
  article > div { flex: 1; min-width: 0 }
  h2 { font-size: 1.15rem; margin: 0 } p { margin: .3rem 0 } a { color: #0b5394 }
  img { width: 11rem; height: 8rem; object-fit: contain; object-position: top }
  .small { color: #666; font-size: .85rem } .failed, .unfinished { color: #b00020 }
</style>
<h1>Learning without backpropagation</h1>
<p>Profile <b>{{ profile }}</b>: {{ finished }} of {{ chapters | length }} chapters finished.</p>
{%- for machine in machines %}
<p class="small">{{ machine }}</p>
{%- endfor %}
{%- for c in chapters %}
<article id="{{ c.name }}">
<div>
<h2>{% if c.page %}<a href="{{ c.page }}">{{ c.title }}</a>{% else %}{{ c.title }}{% endif %}</h2>
{{ c.question }}
<p class="small"><span class="{{ c.status }}">{{ c.status }}</span>
{%- if c.seconds %}, {{ "%.1f" | format(c.seconds) }} s{% endif %}
{%- if c.when %}, {{ c.when }}{% endif %}
{%- if c.page %}, <a href="notebooks/{{ c.name }}.ipynb">notebook</a>{% endif %}</p>
{%- if c.error %}
<p class="small failed">{{ c.error }}</p>
{%- endif %}
</div>
{%- if c.figure %}
<a href="{{ c.page }}"><img src="{{ c.figure }}" alt="first figure of {{ c.title }}"></a>
{%- endif %}
</article>
{%- endfor %}
</html>
""",
}


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
        try:
            for name in ("notebooks", "figures"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"cannot write to {folder} ({error.strerror})"
            raise InvalidInput(f"{why}: choose another --output") from error
        self._exporter = HTMLExporter(
            extra_loaders=[DictLoader(TEMPLATES)], template_file="chapter", embed_images=True
        )
        self._template = Environment(loader=DictLoader(TEMPLATES), autoescape=True).get_template("index")

    def notebook(self, chapter: Chapter) -> Path:
        """Where the executed notebook belongs."""
        return self._folder / "notebooks" / chapter.path.name

    def begin(self, chapter: Chapter) -> None:
        """The chapter runs; should this process be killed, the index says that it did not finish."""
        self._enter(chapter, Entry("unfinished"))

    def end(self, chapter: Chapter, status: str, seconds: float, error: str = "") -> None:
        """The chapter has run or stopped: write the page and the figures it got to, and the index."""
        entry = Entry(status, round(seconds, 1), error, f"{datetime.now():%Y-%m-%d %H:%M}")
        if self.notebook(chapter).exists():
            notebook = nbformat.read(self.notebook(chapter), as_version=4)
            entry.figure = next(iter(self._write_figures(chapter, notebook)), "")
            entry.machine = _last_line(notebook) if status == "ok" else ""
            resources = {"metadata": {"name": chapter.title, "path": str(chapter.path.parent)}}
            html, _ = self._exporter.from_notebook_node(notebook, resources)
            _write(self._folder / f"{chapter.name}.html", html)
        self._enter(chapter, entry)

    def _enter(self, chapter: Chapter, entry: Entry) -> None:
        """Into index.json, read afresh because another batch may have added to it, and into the index."""
        state = self._folder / "index.json"
        try:
            entries = json.loads(state.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # there is none yet, or it is broken: begin anew
            entries = {}
        entries[chapter.name] = asdict(entry)
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
        page = f"{chapter.name}.html"
        exists = (self._folder / page).exists()
        if not exists and entry and entry["status"] != "unfinished":
            entry = None
        return {
            **(entry or {"status": "not run"}),
            "name": chapter.name,
            "title": chapter.title,
            "question": Markup(markdown2html(chapter.question)),
            "page": page if exists else "",
        }

    def _write_figures(self, chapter: Chapter, notebook) -> list[str]:
        """Write the chapter's figures in place of those of an earlier execution; returns their paths."""
        for old in self._folder.glob(f"figures/{chapter.name}_[0-9]*"):
            old.unlink()
        paths = []
        for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
            image = output.get("data", {})
            path = f"figures/{chapter.name}_{len(paths) + 1}"
            if "image/png" in image:
                paths.append(f"{path}.png")
                (self._folder / paths[-1]).write_bytes(base64.b64decode(image["image/png"]))
            elif "image/svg+xml" in image:
                paths.append(f"{path}.svg")
                (self._folder / paths[-1]).write_text(image["image/svg+xml"], encoding="utf-8")
        return paths


def _last_line(notebook) -> str:
    """What the last code cell prints: chapters end with their environment line."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = cells[-1].outputs if cells else []
    return next((o.text.strip() for o in outputs if o.output_type == "stream"), "")


def _write(path: Path, text: str) -> None:
    """Through a temporary name: a reader, or Ctrl-C, never meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
