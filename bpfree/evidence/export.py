"""An executed notebook as one HTML file that needs nothing else: no script, and no network.

Its figures are in it, and its equations are MathML, which browsers show by themselves.
"""

import html
import re
from pathlib import Path

from jinja2 import FileSystemLoader, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")
UNKNOWN_COMMAND = re.compile(r"<mi>\\([a-zA-Z]+)</mi>")
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)(?:<a class="anchor-link".*?)?</h2>', re.DOTALL)


def mathml(tex: str, display: str) -> str:
    r"""An equation as MathML; display: "inline" or "block".

    The converter's name for a command that it does not know, `\arg`, is taken for the operator of that name.
    What is no equation stays the text that it is.
    """
    try:
        return UNKNOWN_COMMAND.sub(r"<mi>\1</mi>", convert(tex.strip(), display=display))
    except Exception:  # the converter has a dozen kinds, and IndexError
        return f"<code>{html.escape(tex)}</code>"


class Renderer(IPythonRenderer):
    """Of Markdown with equations between dollar signs or as a LaTeX environment."""

    def block_html(self, html: str) -> str:
        # nbconvert's, which looks for pictures, closes what is open: a fold whose text follows in Markdown.
        return super().block_html(html) if "<img" in html else html

    def inline_html(self, html: str) -> str:
        return super().inline_html(html) if "<img" in html else html

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return f'<span class="equation">{mathml(body, "block")}</span>'  # in a paragraph: no div

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def rendered(markdown: str, **how: object) -> str:
    """Markdown as HTML, its headings with names that links may lead to. how: as for nbconvert's renderer."""
    return MarkdownWithMath(renderer=Renderer(escape=False, **how)).render(markdown)


def headings(page: str) -> list[tuple[str, str]]:
    """The name and the HTML of every heading of the second level."""
    return [found.groups() for found in HEADING.finditer(page)]


class Exporter(HTMLExporter):
    """By the template `chapter.html.j2`."""

    def __init__(self):
        super().__init__(extra_loaders=[TEMPLATES], template_file="chapter.html.j2", embed_images=True)
        self.register_filter("headings", headings)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """The template's filter of this name, which knows the cell that the text is of."""
        attachments = context.get("cell", {}).get("attachments", {})
        folder = context["resources"]["metadata"]["path"]
        return rendered(source, attachments=attachments, embed_images=True, path=folder)

    def page(self, notebook, title: str, folder: Path, **surroundings: object) -> str:
        """A notebook as HTML.

        folder: where the pictures lie that its text refers to. surroundings: what the template shows around
        it, `previous` and `following` (chapters or None) and `error`.
        """
        resources = {"metadata": {"name": title, "path": str(folder)}, **surroundings}
        return self.from_notebook_node(notebook, resources)[0]
