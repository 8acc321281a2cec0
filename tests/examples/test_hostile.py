"""A slice of the hostile files, and kills, by the script that runs all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource")
SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "hostile.py"


def run(*arguments: object) -> dict:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_hostile_files_end_in_a_result_or_in_one_line(tmp_path: Path) -> None:
    found = run("--part", "files", "--seed", 7, "--scale", 0.035, "--output", tmp_path / "out.json")
    assert found["cases"] >= 58
    counts = found["counts"]
    assert set(counts) == {"photo", "table", "recipe", "model", "clip"}
    assert sum(count["fault"] for count in counts.values()) == 0
    # Neither is all refused, nor is nothing hostile among it.
    assert sum(count["ok"] for count in counts.values()) > 5
    assert sum(count["error"] for count in counts.values()) > 5
    kept = json.loads((tmp_path / "out.json").read_text())
    assert (kept["seed"], kept["faults"]) == (7, [])
    assert set(kept["provenance"]) == {"commit", "machine", "torch"}


def test_a_killed_run_ends_in_the_same_bytes() -> None:
    kills = run("--part", "kills", "--kills", 2)["kills"]
    assert kills["kills"] == 2
    assert kills["finished_runs"] >= 1
    assert kills["differing"] == 0
