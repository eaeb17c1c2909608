"""The form of the committed chapters. That they run, and what their checked cells give, nbval tests."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import papermill
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
LINES = 25  # of code: more than a screen of it hides its idea, while answers are folded
BYTES = 2**20

# A folder of somebody's machine, or a place in its memory: neither means anything to a reader.
ABSOLUTE = re.compile(
    r"(?<![\w.+=:/])/(home|root|Users|tmp|private|var|usr|opt|mnt|work|workspace)/\S*|\b[A-Z]:\\\\?\w"
)
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem, scope="module")
def path(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook) -> list:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def texts(output) -> list[str]:
    """What an output says in words, images left out."""
    data = output.get("data", {})
    return [output.get("text", ""), *(v for k, v in data.items() if isinstance(v, str) and "image" not in k)]


def test_there_are_chapters():
    assert PATHS
    assert all(re.fullmatch(r"\d\d_[a-z_]+", path.stem) for path in PATHS)


def test_file_is_valid_and_small(path):
    # Not through nbformat.read, which repairs what it reads.
    nbformat.validate(nbformat.reads(path.read_text(encoding="utf-8"), as_version=nbformat.NO_CONVERT))
    assert path.stat().st_size < BYTES


def test_first_cell_is_title_and_question(notebook):
    first = notebook.cells[0]
    title, _, rest = first.source.partition("\n")
    assert first.cell_type == "markdown"
    assert title.startswith("# ")
    assert "?" in rest.strip().partition("\n\n")[0]  # what the index shows below the title


def test_one_parameters_cell_of_annotated_literals(path, notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0] is code_cells(notebook)[0]
    values = {}
    for line in ast.parse(tagged[0].source).body:
        assert isinstance(line, ast.AnnAssign)
        values[line.target.id] = ast.literal_eval(line.value)
    assert set(papermill.inspect_notebook(path)) == set(values)
    # run_all.py --update-notebooks runs with these, and what is committed is the quick profile's.
    assert values["profile"] == "quick"
    assert not values.get("datasets")
    assert not values.get("seeds")


def test_cells_were_executed_once_in_order(notebook):
    cells = code_cells(notebook)
    assert all(cell.source.strip() for cell in cells)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    results = [
        (o.execution_count, cell.execution_count)
        for cell in cells
        for o in cell.outputs
        if "execution_count" in o
    ]
    assert all(a == b for a, b in results)


def test_outputs_have_no_errors_and_no_warnings(notebook):
    assert not [o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"]


def test_no_sentence_has_a_table_in_it(notebook):
    """As a sentence has whose variable a later cell has given another value."""
    said = [t for o in outputs(notebook) if "data" in o for t in [o["data"].get("text/markdown", "")]]
    assert not [text for text in said if "dtype:" in "".join(text)]


def test_nothing_is_of_one_machine_only(notebook):
    said = [cell.source for cell in notebook.cells] + [t for o in outputs(notebook) for t in texts(o)]
    for text in said:
        assert not ABSOLUTE.search(text)
        assert not ADDRESS.search(text)


def test_last_cell_prints_the_environment(notebook):
    last = code_cells(notebook)[-1]
    assert last is notebook.cells[-1]
    assert "environment_line()" in last.source
    assert re.match(r"bpfree \S+, torch \S+, Python \S+ on ", "".join(texts(last.outputs[0])))


def test_code_fits_a_screen(notebook):
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= LINES


def test_metadata_hold_nothing_that_changes_from_run_to_run(notebook):
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


def test_chapters_are_numbered_in_order():
    numbers = [int(path.stem[:2]) for path in PATHS]
    assert all(a < b for a, b in pairwise(numbers))
