"""What memory may still be had: of the machine, of control groups of both versions, of ulimit."""

import psutil
import pytest
import torch

from bpfree.training.limits import free_memory, in_cgroups, under_rlimits

CPU = torch.device("cpu")
GIB = 1 << 30


def tree(root, files: dict[str, str | int]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def left(tmp_path, membership: str, files: dict) -> list[int]:
    tree(tmp_path / "sys", files)
    (tmp_path / "self").write_text(membership)
    return sorted(in_cgroups(tmp_path / "sys", tmp_path / "self"))


def test_of_nested_groups_every_limit_counts_and_caches_are_free(tmp_path):
    """Version 2: a job with 8 GiB in a slice with 20."""
    found = left(
        tmp_path,
        "0::/slice/job/step\n",
        {
            "slice/memory.max": 20 * GIB,
            "slice/memory.current": 15 * GIB,
            "slice/memory.stat": f"anon 5\ninactive_file {4 * GIB}",
            "slice/job/memory.max": 8 * GIB,
            "slice/job/memory.current": 6 * GIB,
            "slice/job/memory.stat": "inactive_file 0",
            "slice/job/step/memory.max": "max",
            "slice/job/step/memory.current": 6 * GIB,
            "slice/job/step/memory.stat": "inactive_file 0",
        },
    )
    assert found == [2 * GIB, 9 * GIB]


def test_in_a_container_the_root_is_its_own_group(tmp_path):
    files = {"memory.max": 4 * GIB, "memory.current": GIB, "memory.stat": "inactive_file 0"}
    assert left(tmp_path, "0::/docker/of/the/host\n", files) == [3 * GIB]


def test_the_first_version_has_its_own_names(tmp_path):
    files = {
        "memory/job/memory.limit_in_bytes": 3 * GIB,
        "memory/job/memory.usage_in_bytes": 2 * GIB,
        "memory/job/memory.stat": f"cache 7\ntotal_inactive_file {GIB}",
        "memory/memory.limit_in_bytes": 9223372036854771712,  # none
        "memory/memory.usage_in_bytes": 5 * GIB,
        "memory/memory.stat": "total_inactive_file 0",
    }
    assert left(tmp_path, "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n", files) == [2 * GIB]


@pytest.mark.parametrize("membership", ["", "nonsense", "0::/\n", "4:memory:/a\n"])
def test_without_groups_there_is_no_limit(tmp_path, membership):
    assert left(tmp_path, membership, {"unrelated": 1}) == []
    assert list(in_cgroups(tmp_path / "sys", tmp_path / "none")) == []


def test_what_may_be_had_is_the_least_of_all(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    available = psutil.virtual_memory().available
    nowhere = tmp_path / "sys", tmp_path / "self"
    assert free_memory(CPU, *nowhere) == pytest.approx(available, rel=0.2)
    left(tmp_path, "0::/\n", {"memory.max": 5000, "memory.current": 2000, "memory.stat": "inactive_file 0"})
    assert free_memory(CPU, *nowhere) == 3000
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (used // 2, used // 2))
    assert free_memory(CPU, *nowhere) == 0  # more than it may


def test_ulimits_count_what_is_used_of_them(monkeypatch):
    resource = pytest.importorskip("resource")
    used = psutil.Process().memory_info()
    most = {resource.RLIMIT_AS: used.vms + GIB, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (most[kind], most[kind]))
    (found,) = under_rlimits()
    assert found == pytest.approx(GIB, rel=0.1)
