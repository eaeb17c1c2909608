"""The chapters as a batch: notebooks with declared parameters, executed by this interpreter."""

import logging
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from tqdm import tqdm
from traitlets import default

from ..errors import InvalidInput, disk

# ---------------------------------------------------------------- chapters and their parameters


@dataclass(frozen=True)
class Chapter:
    """A notebook with one cell tagged `parameters`; its first cell is the title and then the question.

    question: the paragraph below the title, Markdown.
    parameters: name -> papermill's account of it: inferred_type_name, default (as source text), help.
    """

    path: Path
    title: str
    question: str
    parameters: dict[str, dict] = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.stem

    def parse(self, name: str, text: str) -> object:
        """The value that the text, as typed by the user, means for this parameter: YAML of the declared type.

        Raises InvalidInput if it is of another type, or negative: parameters that are numbers are amounts.
        """
        kind = self.parameters[name]["inferred_type_name"].partition("[")[0]
        if kind == "str":
            return text
        try:
            value = yaml.safe_load(text)
            if kind == "float" and not isinstance(value, bool):
                value = float(value)  # YAML 1.1 takes 1e-3 for a string
        except (yaml.YAMLError, TypeError, ValueError):
            value = text
        if kind != "None" and type(value).__name__ != kind:  # "None" is what papermill calls undeclared
            raise InvalidInput(f"parameter {name} of {self.name} takes a value of type {kind}, not {text!r}")
        if kind in ("int", "float") and not 0 <= value < math.inf:
            raise InvalidInput(f"parameter {name} of {self.name} takes a number of 0 or more, not {text!r}")
        return value


def find_chapters(folder: Path) -> list[Chapter]:
    """A folder's notebooks NN_*.ipynb in order. Raises InvalidInput if there is none or one is broken."""
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise InvalidInput(f"no chapters NN_*.ipynb in {folder}: run this from a complete checkout")
    chapters = []
    for path in paths:
        try:
            # papermill receives notebooks, never paths, in which it would fill in what stands in braces.
            notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
            first = notebook.cells[0].source
            parameters = papermill.inspect_notebook(notebook)
        except Exception as error:  # json, nbformat and papermill each have their own
            raise InvalidInput(f"{path} is no readable notebook ({error}): restore it") from error
        heading, _, text = first.partition("\n")
        question = text.strip().partition("\n\n")[0]
        chapters.append(Chapter(path, heading.lstrip("# ").strip(), question, parameters))
    return chapters


# ---------------------------------------------------------------- execution

FOREVER_S = 3600
logging.getLogger("papermill").addHandler(logging.NullHandler())  # what it would log, ChapterFailed says


class OwnPython(AsyncKernelManager):
    """Starts kernels with the interpreter that runs this batch, whatever kernelspecs a user has installed."""

    @default("kernel_spec_manager")
    def _only_own(self) -> KernelSpecManager:
        # No folders to search: what is left is ipykernel's own description of sys.executable.
        return KernelSpecManager(kernel_dirs=[], parent=self.parent)


#: What a kernel of the book does first: rows of a table without names are shown without numbers for names.
PLAIN_TABLES = """
import pandas as pd
pd.options.display.max_colwidth = None
def _plain(table):
    unnamed = isinstance(table.index, pd.RangeIndex)
    return table.to_html(index=not unnamed, notebook=True, border=0, max_rows=pd.options.display.max_rows)
get_ipython().display_formatter.formatters["text/html"].for_type(pd.DataFrame, _plain)
"""


@contextmanager
def kernels_environment() -> Iterator[None]:
    """Inside, kernels start without the user's IPython profile, whose start-up files and settings are for the
    user's own notebooks, and need no home folder that can be written.
    """
    with disk.refusals(Path("a temporary folder"), "name a folder in the variable TMPDIR"):
        temporary = tempfile.TemporaryDirectory(prefix="bpfree-", ignore_cleanup_errors=True)
    with temporary as folder:
        before = dict(os.environ)
        startup = Path(folder, "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "tables.py").write_text(PLAIN_TABLES, encoding="utf-8")
        os.environ |= {"IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}
        os.environ["TQDM_DISABLE"] = "1"  # a bar has no place in a page
        if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(before):
            # GNU's OpenMP lets a waiting thread spin 300,000 times, but 1,000 times where it knows that there
            # are more threads than cores. It does not know of other programs: beside them the long wait slows
            # small networks several times. On a quiet machine the short one costs nothing that shows.
            os.environ["GOMP_SPINCOUNT"] = "1000"
        for name in ("MPLBACKEND", "PYTHONSTARTUP"):  # that back end would keep figures out of the page
            os.environ.pop(name, None)
        if not os.access(os.path.expanduser("~"), os.W_OK):
            os.environ.setdefault("MPLCONFIGDIR", folder)  # or matplotlib would say so in every chapter
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


class Bars:
    """A bar over chapters and one over the cells of the running one; on a terminal only.

    Its methods named on_* are nbclient's hooks; `notebook` is the one that runs, None before it does, and
    `number` and `cell` are its code cell.
    """

    def __init__(self, chapters: int):
        look = {
            "leave": False,
            "bar_format": "{desc:<40.40} {n_fmt}/{total_fmt} |{bar:40}| {elapsed}",
            # Said outright, because TQDM_DISABLE is set for the kernels.
            "disable": not sys.stderr.isatty(),
        }
        self._chapters, self._cells = tqdm(total=chapters, **look), tqdm(total=0, **look)
        self.notebook, self.number, self.cell = None, 0, None

    def begin(self, name: str) -> None:
        self._chapters.set_description_str(name)
        self._cells.set_description_str("starting the kernel", refresh=False)
        self._cells.reset(total=0)
        self.notebook, self.number, self.cell = None, 0, None

    def end(self, line: str) -> None:
        tqdm.write(line)  # above the bars
        sys.stdout.flush()
        self._chapters.update()

    def write(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        self._cells.close()
        self._chapters.close()

    def on_notebook_start(self, notebook) -> None:
        self.notebook = notebook
        self._headings, heading = [], ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                heading = (re.findall(r"^#+ +(.+)", cell.source, re.MULTILINE) or [heading])[-1]
            self._headings.append(heading)
        self._cells.reset(sum(c.cell_type == "code" and bool(c.source.strip()) for c in notebook.cells))

    def on_cell_execute(self, cell, cell_index) -> None:
        self.number, self.cell = self.number + 1, cell
        self._cells.set_description_str(self._headings[cell_index])

    def on_cell_executed(self, cell, cell_index, execute_reply) -> None:
        self._cells.update()


class ChapterFailed(Exception):
    """A cell raised, or the kernel died: the message names the cell, its first line and the error's last."""

    def __init__(self, number: int, source: str, error: str, traceback: list[str]):
        first = (source.strip().splitlines() or [""])[0]
        super().__init__(f"cell [{number}] `{first}`: {error}")
        self.traceback = traceback


def execute(
    chapter: Chapter, values: dict, cwd: Path, bars: Bars, save: Callable[[nbformat.NotebookNode], None]
) -> None:
    """Execute a chapter with these parameter values; `save` is given the notebook after every cell.

    Raises ChapterFailed; what was executed, however far that is, stands in `bars.notebook`.
    """

    def begin(notebook) -> None:
        del notebook.metadata["papermill"]["input_path"]  # the notebook itself
        bars.on_notebook_start(notebook)

    def executed(cell, cell_index, execute_reply) -> None:
        bars.on_cell_executed(cell, cell_index, execute_reply)
        save(bars.notebook)

    try:
        papermill.execute_notebook(
            nbformat.reads(chapter.path.read_text(encoding="utf-8"), as_version=4),
            None,
            parameters=values,
            cwd=cwd,
            progress_bar=False,
            kernel_name="python3",
            kernel_manager_class=OwnPython,
            # Else every kernel warns on the terminal that it talks to us without encryption, and logs Ctrl-C.
            extra_arguments=["--log-level=CRITICAL"],
            coalesce_streams=True,
            # A kernel has nothing to say after its last cell, and with torch in it takes seconds to leave.
            shutdown_kernel="immediate",
            # A machine with much else to do is no reason to fail: a kernel that dies is noticed at once.
            start_timeout=FOREVER_S,
            iopub_timeout=FOREVER_S,
            on_notebook_start=begin,
            on_cell_execute=bars.on_cell_execute,
            on_cell_executed=executed,
        )
    except papermill.PapermillExecutionError as error:
        message = f"{error.ename}: {(error.evalue.strip().splitlines() or [''])[-1]}"
        raise ChapterFailed(bars.number, error.source, message, error.traceback) from error
    except KeyboardInterrupt:
        # Nobody will ask the interrupted cell's task for its result, of which asyncio would complain.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except disk.StorageFailed:
        raise
    except (RuntimeError, OSError) as error:  # nbclient's DeadKernelError, or a kernel that did not start
        raise ChapterFailed(bars.number, bars.cell.source if bars.cell else "", str(error), []) from error


def refresh_outputs(source: Path, executed: nbformat.NotebookNode) -> None:
    """Put the outputs of an executed notebook into the one it came from, and nothing else that would vary.

    The executed notebook must have the same cells, that is, no injected parameters.
    """
    notebook = nbformat.reads(source.read_text(encoding="utf-8"), as_version=4)
    for cell, ran in zip(notebook.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    disk.replace(source, content_of(notebook), disk.CHECKOUT)


def content_of(notebook: nbformat.NotebookNode) -> bytes:
    """A notebook as the content of its file; of a name that is not UTF-8 the bytes stand in it as escapes."""
    return (nbformat.writes(notebook) + "\n").encode("utf-8", "backslashreplace")
