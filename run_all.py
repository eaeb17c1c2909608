"""Execute the chapters in order.

Trained runs are read from the store, so the same command goes on where an earlier one stopped.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bpfree.errors import InvalidInput, choose, disk, extend
from bpfree.errors.program import Parser, run_program, whole

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"
OPTIONS = ("profile", "datasets", "seeds")  # the parameters that have an option of their own


def parser() -> Parser:
    examples = """examples:
  run_all.py                                        every chapter, on the bundled digits
  run_all.py --only 03 --datasets cifar10 --seeds 0 1 2
  run_all.py --profile laptop --list                what would be trained, and for how long
  run_all.py --with my_parts                        with what my_parts.py of this folder adds to the tables
  run_all.py --profile paper --jobs slurm --slurm partition=gpu gpus_per_node=1
"""
    p = Parser(prog="run_all.py", description=__doc__, epilog=examples)
    p.add_argument("--profile", default="quick", help="quick (default), laptop, paper or evidence")
    p.add_argument("--only", nargs="+", metavar="CHAPTER", help="only these, by number or name: 03 01")
    several, more = {"nargs": "+"}, {"nargs": "+", "action": "extend", "default": []}
    p.add_argument("--datasets", **several, metavar="NAME", help="names or .npz files, not the profile's")
    seed = partial(whole, least=0)
    p.add_argument("--seeds", **several, type=seed, metavar="SEED", help="instead of the profile's: 0 1 2")
    twice = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    text = "set another parameter, in every chapter that has it; repeatable"
    p.add_argument("-p", dest="parameters", **twice, help=text)
    text = "import these, of this folder or installed, first in every process, for what they add to tables"
    p.add_argument("--with", dest="modules", **more, metavar="MODULE", help=text)
    p.add_argument("--output", metavar="DIR", help="instead of results/; a folder per profile is made in it")
    flag(p, "--download", "fetch data sets that are not there")
    flag(p, "--debug", "show tracebacks")
    flag(p, "--update-notebooks", "put the outputs into notebooks/, too (quick only)")
    instead = p.add_argument_group("instead of executing the chapters")
    flag(instead, "--list", "print chapters, parameters, every run and about how long it will take")
    flag(instead, "--figures-only", "redraw figures/ from its records")
    flag(instead, "--collect", "take the store's runs of the profile into figures/ as its records; redraw")
    flag(instead, "--add", "with --collect: beside the runs that are there, not instead of them")
    job_options(p)
    return p


def flag(options, name: str, text: str) -> None:
    options.add_argument(name, action="store_true", help=text)


def job_options(p: Parser) -> None:
    jobs = p.add_argument_group("to train every run beforehand, as jobs")
    text = "slurm (a job for each), local (processes of this machine) or inline (one after the other in this)"
    jobs.add_argument("--jobs", metavar="KIND", help=text)
    text = "runs at a time (default: one for each GPU, or one; with slurm all)"
    jobs.add_argument("--workers", type=whole, metavar="N", help=text)
    text = "runs side by side in each process, sharing its GPU; their costs count for nothing (default: 1)"
    jobs.add_argument("--at-once", type=whole, default=1, metavar="N", help=text)
    flag(jobs, "--keep-going", "execute the chapters although jobs have failed")
    text = "of the jobs: partition=gpu gpus_per_node=1 cpus_per_task=4 mem_gb=16 timeout_min=120 ..."
    jobs.add_argument("--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)


def main(argv: list[str] | None = None, notebooks: Path = ROOT / "notebooks") -> int:
    """Exit status: 0, 1 if a chapter failed, and otherwise as `run_program` has it."""

    def command(argv: list[str]) -> int:
        p = parser()
        args = p.parse_args(argv)
        refuse_contradictions(p, args)
        args.argv = argv
        settle_surroundings()
        extend(args.modules)
        return of_records_alone(draw_figures) if args.figures_only else run_batch(args, notebooks)

    return run_program("run_all.py", command, argv)


def refuse_contradictions(p: Parser, args: argparse.Namespace) -> None:
    """An option that another one would make mean nothing is an error."""
    name = {a.dest: a.option_strings[0] for a in p._actions}
    given = {k for k, v in vars(args).items() if v != p.get_default(k)} - {"debug"}
    for mode, allowed in {
        "figures_only": {"modules"},
        "collect": {"add", "profile", "datasets", "seeds", "modules"},
        "list": {"profile", "only", "datasets", "seeds", "parameters", "modules"},
        "update_notebooks": {"only", "output"},  # what is committed is the quick profile's
    }.items():
        others = given - {mode} - allowed
        if mode in given and others:
            which = " and ".join(sorted(name[o] for o in others))
            raise InvalidInput(f"{name[mode]} cannot be combined with {which}: leave one out")
    if args.add and not args.collect:
        raise InvalidInput("--add is for --collect: add that, or leave it out")
    kinds = ("slurm", "local", "inline")
    for option, some in {
        "slurm": kinds[:1],
        "workers": kinds[:2],
        "at_once": kinds[1:],
        "keep_going": kinds,
    }.items():
        if option in given and args.jobs not in some:
            which = " or ".join(some)
            raise InvalidInput(f"{name[option]} is for --jobs {which}: add that, or leave it out")


def settle_surroundings() -> None:
    """What the user's variables say holds here as in the kernels, which work in another folder."""
    disk.given_path(os.curdir)  # or whatever is asked first for the current folder would be blamed
    for name in ("BPFREE_STORE", "BPFREE_DATA"):
        if os.environ.get(name):
            os.environ[name] = str(disk.given_path(os.environ[name]))
    os.environ.pop("MPLBACKEND", None)  # a window is never opened
    if os.path.expanduser("~") == "~":  # neither HOME nor an account: Jupyter cannot even be imported
        os.environ["HOME"] = f"{os.devnull}/home"  # where nothing can be made


def of_records_alone(work: Callable[[], int]) -> int:
    """What is committed is made of what is committed: the store, with what was tuned there, is away."""
    mine = os.environ.get("BPFREE_STORE")
    with tempfile.TemporaryDirectory(prefix="bpfree-") as empty:
        os.environ["BPFREE_STORE"] = empty
        try:
            return work()
        finally:
            del os.environ["BPFREE_STORE"]
            os.environ |= {} if mine is None else {"BPFREE_STORE": mine}


def draw_figures() -> int:
    """Every figure of the gallery, their index, the appendix, and what the README has of the records."""
    from bpfree.evidence import answers, appendix, gallery

    figures = ROOT / "figures"
    with_places(README, {"findings": "", "results": ""})  # refuses one without them before the work
    for path in gallery.draw_gallery(figures):
        print(path)
    parts = {"findings": answers.findings(figures, "notebooks/"), "results": gallery.results_table(figures)}
    disk.replace(README, with_places(README, parts).encode(), disk.CHECKOUT)
    print(gallery.write_index(figures))
    print(appendix.write(figures))
    return 0


def with_places(path: Path, parts: dict[str, str]) -> str:
    """The file's text with these parts in their places, each between `marks` of its name."""
    try:
        text = path.read_text(encoding="utf-8")
        for name, part in parts.items():
            begin, end = marks(name)
            before, rest = text.split(begin)
            _, after = rest.split(end)
            text = f"{before}{begin}\n{part}\n{end}{after}"
    except (OSError, ValueError):
        where = " or ".join(f"between {' and '.join(marks(name))}" for name in parts)
        raise InvalidInput(f"{path} has no place {where}: restore it") from None
    return text


def marks(name: str) -> tuple[str, str]:
    """The lines of the README around a part that is made from the records."""
    return f"<!-- {name} -->", f"<!-- end of {name} -->"


# ---------------------------------------------------------------- what is to be run, checked before it is


def choose_chapters(chapters: list, only: list[str] | None) -> list:
    """Those asked for, by number or name, in the order of the book; all of them if none was named."""
    if only is None:
        return chapters
    by_number = {c.name[:2]: c.name for c in chapters}
    names = {choose("chapter", by_number.get(o.zfill(2), o), [c.name for c in chapters]) for o in only}
    return [c for c in chapters if c.name in names]


def common_values(args: argparse.Namespace) -> dict:
    """The parameters that have options of their own, as far as they were given."""
    values = {"profile": args.profile}
    if args.datasets is not None:
        # A path is the user's, seen from the folder of this command and not of the kernel's.
        paths = {d: str(disk.given_path(d).resolve()) for d in args.datasets if d.endswith(".npz")}
        values["datasets"] = list(dict.fromkeys(paths.get(d, d) for d in args.datasets))
    if args.seeds is not None:
        values["seeds"] = list(dict.fromkeys(args.seeds))  # a seed given twice is one run, not two
    return values


def chapter_values(chapters: list, common: dict, extra: list[tuple[str, str]]) -> list[dict]:
    """For each chapter the values of the parameters it declares. What none of them declares is an error."""
    declared = list(dict.fromkeys(name for c in chapters for name in c.parameters))
    for name, _ in extra:
        if name in OPTIONS:
            raise InvalidInput(f"-p {name} is not for this parameter: use --{name}")
        own = [name for name in declared if name not in OPTIONS]
        if not own:
            raise InvalidInput(f"unknown parameter {name!r}: {', '.join(c.name for c in chapters)} has none")
        choose("parameter", name, own)
    for name in common.keys() - {"profile", *declared}:
        raise InvalidInput(f"--{name} means nothing to {', '.join(c.name for c in chapters)}: leave it out")
    return [
        {k: v for k, v in common.items() if k in c.parameters}
        | {k: c.parse(k, text) for k, text in extra if k in c.parameters}
        for c in chapters
    ]


def check_data(names: list[str], *, present: bool, download: bool) -> None:
    """Check the names and, if `present`, load each once: a broken one should not come out after an hour."""
    from bpfree.data import check_name, load  # here, because torch takes seconds to import

    for name in names:
        check_name(name)
    for name in names if present else ():
        if name != "digits":  # which are bundled, and sound
            load(name, download=download)


def needed_runs(chosen, chapters: list) -> list:
    """Every run that the chapters need."""
    from bpfree.experiments import study

    numbers = [c.name[:2] for c in chapters if c.name[:2] in study.CHAPTERS]
    return study.plan(chosen, numbers) if numbers else []


def print_list(chapters: list, values: list[dict], runs: list) -> None:
    """The chapters with their parameters; then, arm by arm, how long the runs will take on this machine."""
    from bpfree.experiments.forecast import forecast, lines

    for chapter, own in zip(chapters, values, strict=True):
        print(f"{chapter.name}: {chapter.title}")
        for name, p in chapter.parameters.items():
            value = repr(own[name]) if name in own else p["default"]
            print(f"    {name} = {value}" + (f"  # {p['help']}" if p["help"] else ""))
    print(f"\n{len(runs)} runs, timed by a few steps of each network on this machine:\n", flush=True)
    print(lines(forecast(runs, progress=sys.stderr.isatty())))


# ---------------------------------------------------------------- the batch


def run_batch(args: argparse.Namespace, notebooks: Path) -> int:
    from bpfree.experiments import study

    common = common_values(args)
    chosen = study.profile(args.profile, common.get("datasets", ()), common.get("seeds", ()))
    if args.collect:
        from bpfree.evidence import gallery

        for path in gallery.collect(ROOT / "figures", profile=chosen, add=args.add):
            print(path)
        return of_records_alone(draw_figures)
    from bpfree.evidence import book  # here, because papermill takes a second or two to import
    from bpfree.evidence.pages import Pages
    from bpfree.experiments.store import Store

    every = book.find_chapters(notebooks)
    chapters = choose_chapters(every, args.only)
    values = chapter_values(chapters, common, args.parameters)
    output = disk.given_path(args.output or ROOT / "results")
    disk.settle_store("run_all.py", output / "store")
    Store()  # refuses what is no folder, now and not in a chapter
    if args.jobs:  # one that cannot be had, and settings that it does not know, are refused at once
        from bpfree.experiments import jobs

        args.settings = jobs.slurm_settings(args.slurm)
        if choose("kind of job", args.jobs, jobs.JOB_KINDS) == "slurm":
            jobs.engine(Path(tempfile.gettempdir()), args.settings)
    check_data(chosen.datasets, present=not args.list, download=args.download)
    if args.list:
        print_list(chapters, values, needed_runs(chosen, chapters))
        return 0
    failures = 0
    if args.jobs:
        failures = hand_out(needed_runs(chosen, chapters), args)
        if failures and not args.keep_going:
            text = "no chapter was executed: mend it and give the same command, or add --keep-going"
            print(f"run_all.py: {text}", file=sys.stderr)
            return 1
        if args.jobs == "slurm":
            return max(chapters_on_cluster(args), min(failures, 1))
    if args.update_notebooks:
        values = [{} for _ in chapters]

    pages = Pages(output / args.profile, args.profile, every)
    pages.append(notebooks.parent / "figures/appendix.html")
    begin = time.perf_counter()
    finished, failed = [], []
    bars = book.Bars(len(chapters))
    try:
        with book.kernels_environment():
            for chapter, own in zip(chapters, values, strict=True):
                bars.begin(chapter.name)
                failure = run_chapter(chapter, own, pages, bars, debug=args.debug)
                (failed if failure else finished).append(chapter.name)
                if not failure and args.update_notebooks:
                    book.refresh_outputs(chapter.path, bars.notebook)
    except KeyboardInterrupt as stop:
        done = len(finished) + len(failed)
        where = f"in {chapters[done].name}, " if done < len(chapters) else ""
        stop.add_note(f"{where}finished: {', '.join(finished) or 'none'}")
        stop.add_note("the same command goes on: what was trained is read from the store")
        raise
    finally:
        bars.close()
        here = Path.cwd()
        print(f"index: {pages.index.relative_to(here) if pages.index.is_relative_to(here) else pages.index}")
        print(f"total: {time.perf_counter() - begin:.1f} s")
    if failed:
        print(f"run_all.py: failed: {', '.join(failed)}; their pages show where", file=sys.stderr)
    return 1 if failed or failures else 0


def hand_out(runs: list, args: argparse.Namespace) -> int:
    """Trains the runs as jobs, says which failed, and returns how many."""
    from bpfree.experiments import jobs

    how = {
        "workers": args.workers,
        "at_once": args.at_once or 1,
        "slurm": args.settings,
        "progress": sys.stderr.isatty(),
    }
    failures = jobs.submit(runs, args.jobs, **how)
    for failure in failures:
        print(f"run_all.py: {failure}", file=sys.stderr)
    print(f"{args.jobs}: {len(runs) - len(failures)} of {len(runs)} runs are in the store", flush=True)
    return len(failures)


def chapters_on_cluster(args: argparse.Namespace) -> int:
    """The chapters as one more job: their records and measurements are of the cluster's kind of device."""
    from bpfree.experiments import jobs
    from bpfree.experiments.store import Store

    options = Parser(add_help=False)
    job_options(options)
    _, rest = options.parse_known_args(args.argv)
    command = [sys.executable, str(ROOT / "run_all.py"), *rest]
    done = jobs.run_on_cluster(command, Store(), args.settings)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


def run_chapter(chapter, values: dict, pages, bars, *, debug: bool) -> Exception | None:
    """Execute one chapter, write its pages however it ends, and say how; returns the failure, if any."""
    from bpfree.evidence.book import ChapterFailed, execute

    pages.begin(chapter)
    start = time.perf_counter()
    status, failure = "unfinished", None
    try:
        execute(chapter, values, ROOT, bars, partial(pages.save, chapter))
        status = "ok"
    except ChapterFailed as error:
        status, failure = "failed", error
    finally:
        seconds = time.perf_counter() - start
        pages.end(chapter, bars.notebook, status, seconds, str(failure or ""))
        bars.end(f"{chapter.name}: {status}, {seconds:.1f} s")
    if failure:
        if debug:
            bars.write("\n".join(failure.traceback))
        bars.write(f"run_all.py: {chapter.name} failed in {failure}")
    return failure


if __name__ == "__main__":
    sys.exit(main())
