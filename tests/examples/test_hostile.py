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


CULPRITS = """
import signal, sys, time
import hostile, numpy as np
from pathlib import Path
from trmml.errors import DataError

def says(line, code=0):
    print(line, flush=True)
    sys.exit(code)

def grows():
    kept = np.ones(20_000_000)
    sys.exit(0 * int(kept[0]))

def works():
    while True: pass

culprits = {
    "raises": lambda: {}["missing"],
    "grows": grows,
    "works": works,
    "waits": lambda: time.sleep(60),
    "is killed": lambda: signal.raise_signal(signal.SIGKILL),
    "is silent": lambda: sys.exit(4),
    "says NaN": lambda: says('{"source": "good.png", "scores": {"dog": NaN}}'),
    "says one line": lambda: says("trmml: no table.", 4),
    "says two": lambda: says("trmml: no table." + chr(10) + "trmml: none.", 4),
    "is fine": lambda: says('{"source": "good.png", "scores": {"dog": 0.5}}'),
}
hostile.MOST_GB, hostile.MOST_SECONDS, hostile.MOST_WAIT = 0.1, 2, 6
hostile.run_command = lambda command: culprits[command[0]]()
signal.signal(signal.SIGALRM, hostile._too_long)
for name in culprits:
    place = Path(sys.argv[1]) / name
    place.mkdir()
    ending = hostile.ending_of([name], place, "model")
    print(f"{name}: {ending.outcome} {ending.reason}".strip())
"""


def test_the_judge_sees_every_kind_of_fault(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CULPRITS, str(tmp_path)]
    done = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, text=True)
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert found["works"].startswith("fault ")
    assert found["grows"].startswith("fault 0.")
    assert {name: found[name] for name in found if name not in ("works", "grows")} == {
        "raises": "fault an exception",
        "waits": "fault no end",
        "is killed": "fault a signal",
        "is silent": "fault no word of why",
        "says NaN": "fault a score that is no finite number",
        "says one line": "error",
        "says two": "fault more than one line",
        "is fine": "ok",
    }


def test_a_killed_run_ends_in_the_same_bytes() -> None:
    kills = run("--part", "kills", "--kills", 2)["kills"]
    assert kills["kills"] == 2
    assert kills["finished_runs"] >= 1
    assert kills["differing"] == 0
