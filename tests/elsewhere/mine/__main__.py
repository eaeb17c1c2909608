"""All five by their names: trained, read again, searched, in a job, in a table and in a picture."""

import bpfree
from bpfree import tuning
from bpfree.evidence import gallery, tables
from bpfree.experiments import jobs

if __name__ == "__main__":
    parts = {
        "data": "mine.data:odd",
        "architecture": "mine.network:Wide",
        "stopping": "mine.rule:ninety",
        "max_epochs": 10,
    }
    arms = [bpfree.Experiment(name, **parts) for name in ("bp", "mf", "mine.algorithm:reservoir")]
    assert jobs.submit(arms, "local", progress=False) == []
    runs = [bpfree.run(arm) for arm in arms]  # as the jobs have stored them
    assert [run.metrics["epochs"] > 0 for run in runs] == [True] * 3
    assert all((run.history["val_accuracy"].iloc[:-1] < 90.0).all() for run in runs)
    table = tables.summary(bpfree.records())
    assert list(table.loc[table["data"] == "odd", "algorithm"]) == ["BP", "MF", "Reservoir"]
    found = tuning.tune(bpfree.Experiment("mine.algorithm:reservoir", **parts), 2, progress=False)
    assert set(tuning.best(found)) == {"lr"}
    gallery.add("mine.figure:count").draw(bpfree.records()).savefig("mine.png")
    print(table.to_string())
