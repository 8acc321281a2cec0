"""Hostile files, and kills: does every command end well, whatever it is given?

    python examples/benchmarks/hostile.py --output examples/benchmarks/measured/hostile.json

Each case is a file broken by the seed, given to the command in a process of its own. It ends well if the
command works or says what is wrong in one line. It is a fault if it ends by an exception or a signal, if
it takes more than 10 s or 2 GB, or if a score is no finite number. `--part kills` ends a fine-tuning at
random moments and compares the model with that of a run in one go. Linux or macOS.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import open_clip
import torch
from hostile_files import Maker, picture
from provenance import provenance
from safetensors.torch import save_file

import trmml
from trmml.cli import main as run_command
from trmml.data.dataset import MultiLabelDataset
from trmml.data.readers.tables import read_dataset

CASES = {"photo": 500, "table": 500, "recipe": 140, "model": 280, "clip": 220}
MOST_SECONDS, MOST_GB = 10.0, 2.0
"""Of the processor, so that a busy machine finds no faults, and of memory."""
MOST_WAIT = 60.0
"""Seconds on the clock, after which a case waits for something that will not come."""
NO_END = "no end"
ABORTED = 70
"""Exit code of a case whose command ended by an exception."""


class Ending(NamedTuple):
    """How a case ended.

    Attributes:
        outcome: `ok`, `error` (one clear line) or `fault`.
        reason: Of a fault.
        code: Exit code, negative for a signal.
        seconds: Of the processor.
        gigabytes: By which the process grew.
        output: The end of what it wrote.
    """

    outcome: str
    reason: str
    code: int
    seconds: float
    gigabytes: float
    output: str


def write_base(folder: Path) -> None:
    """Write good photos, two tiny CLIPs and a tiny trained model."""
    rng = Random(0)
    (folder / "photos").mkdir(parents=True)
    for i in range(20):
        picture(rng).save(folder / "photos" / f"{i:02}.png")
    text = {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
    timm = {"timm_model_name": "resnet10t", "timm_model_pretrained": False, "timm_pool": "avg"}
    visions: dict[str, dict[str, Any]] = {
        "clip": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64},
        "clip-timm": timm | {"timm_proj": "linear", "image_size": 64},
    }
    for name, vision in visions.items():
        architecture = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
        torch.manual_seed(0)
        (folder / name).mkdir()
        state = open_clip.CLIP(**architecture).state_dict()
        tensors = {name: tensor.clone() for name, tensor in state.items()}
        save_file(tensors, folder / name / "open_clip_model.safetensors")
        prepared = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        config = {"model_cfg": architecture, "preprocess_cfg": prepared}
        (folder / name / "open_clip_config.json").write_text(json.dumps(config))
    trmml.finetune(
        _dataset(folder),
        backbone=f"local-dir:{folder / 'clip'}",
        config={"training.epochs": 1, "matching.num_heads": 2},
        output=folder / "model",
        progress=False,
    )


def _dataset(folder: Path) -> MultiLabelDataset:
    rows = [
        f"{p},{i % 2},{i // 2 % 2}" for i, p in enumerate(sorted((folder / "photos").iterdir()))
    ]
    table = folder / "labels.csv"
    table.write_text("image,dog,cat\n" + "\n".join(rows) + "\n")
    return read_dataset(table)


def ending_of(command: list[str], place: Path, kind: str) -> Ending:
    """Run a command in a process of its own, with limits, and say how it ended."""
    output, waited = place / "said", False
    child = os.fork()
    if child == 0:
        _run_and_leave(command, place)
    signal.setitimer(signal.ITIMER_REAL, MOST_WAIT)
    try:
        _, status, used = os.wait4(child, 0)
    except TimeoutError:
        waited = True
        os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds, code = used.ru_utime + used.ru_stime, os.waitstatus_to_exitcode(status)
    # The child says itself how large it began: of its parent's memory it has a part.
    begun = float((place / "begun").read_text() or "nan")
    grown = max(_peak_gb(used) - begun, 0)
    said = output.read_text(errors="replace") if output.exists() else ""
    reason = NO_END if waited else _fault(code, seconds, grown, said, kind)
    outcome = "fault" if reason else "ok" if code == 0 else "error"
    return Ending(outcome, reason, code, round(seconds, 2), round(grown, 2), said[-1500:])


def _run_and_leave(command: list[str], place: Path) -> None:
    """Run a command in this process, a copy of its parent, and end it."""
    code = ABORTED
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        (place / "begun").write_text(str(_now_gb()))
        handle = os.open(place / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        with contextlib.suppress(ValueError, OSError):
            most = int((MOST_GB + 6) * 1e9)  # addresses are not memory; this only ends the wildest
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
            resource.setrlimit(resource.RLIMIT_CPU, (int(2 * MOST_SECONDS),) * 2)
        run_command(command)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else ABORTED
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _peak_gb(used: resource.struct_rusage) -> float:
    return used.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def _now_gb() -> float:
    """Return the memory of this process."""
    if not Path("/proc/self/statm").exists():
        return _peak_gb(resource.getrusage(resource.RUSAGE_SELF))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def _fault(code: int, seconds: float, grown: float, said: str, kind: str) -> str:
    """Return what is wrong with an ending; nothing if it is as it should be."""
    errors = [line for line in said.splitlines() if line.startswith(("trmml: ", "skipped: "))]
    if seconds > MOST_SECONDS:
        return f"{seconds:.1f} s"
    if grown > MOST_GB:
        return f"{grown:.1f} GB"
    if code not in range(5):
        return "a signal" if code < 0 else "an exception"
    if "Traceback (most recent call last)" in said or "Usage: " in said:
        return "a traceback, or a usage"
    if code and not errors and "problem: " not in said:
        return "no word of why"
    if sum(line.startswith("trmml: ") for line in errors) > 1:
        return "more than one line"
    return _bad_scores(said, kind, code)


def _bad_scores(said: str, kind: str, code: int) -> str:
    found = []
    for line in said.splitlines():
        with contextlib.suppress(ValueError, AttributeError):
            found.append(json.loads(line)["scores"]) if line.startswith('{"source"') else None
    if any(not math.isfinite(score) for scores in found for score in scores.values()):
        return "a score that is no finite number"
    if kind == "photo" and code in (0, 1) and not found:
        return "the good photo has no scores"
    return "the good photo is lost" if kind == "photo" and code > 1 else ""


def run_cases(seed: int, cases: dict[str, int], base: Path) -> dict[str, Any]:
    """Run all cases and return counts by kind, and every fault."""
    maker, faults, again = Maker(base), [], 0
    slowest = largest = (0.0, "")
    counts: dict[str, Counter[str]] = {}
    for kind, number in cases.items():
        counts[kind] = Counter(dict.fromkeys(("ok", "error", "fault"), 0))
        for i in range(number):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
                folder = Path(name) / "case"
                folder.mkdir()
                command = maker.kinds[kind](folder, Random(f"{seed} {kind} {i}"))
                ending = ending_of(command, Path(name), kind)
                if ending.reason == NO_END:
                    # A copy of a process of several threads may wait for one that it lacks. A file
                    # that is waited for is waited for twice.
                    again += 1
                    ending = ending_of(command, Path(name), kind)
            counts[kind][ending.outcome] += 1
            slowest = max(slowest, (ending.seconds, f"{kind} {i}"))
            largest = max(largest, (ending.gigabytes, f"{kind} {i}"))
            if ending.outcome == "fault":
                faults.append({"kind": kind, "case": i, "command": command[:2], **ending._asdict()})
                print(f"FAULT {kind} {i}: {ending.reason}\n{ending.output[-600:]}", file=sys.stderr)
        print(f"{kind}: {dict(counts[kind])}", file=sys.stderr)
    most = {"seconds": slowest, "gigabytes": largest}
    total = sum(cases.values())
    return {"cases": total, "run_again": again, "counts": counts, "most": most, "faults": faults}


def run_kills(seed: int, number: int, base: Path) -> dict[str, Any]:
    """Kill a fine-tuning at random moments, resume it, and compare what is left in the end."""
    settings = {"training.epochs": 12, "matching.num_heads": 2, "training.batch_size": 4}
    table = _dataset(base).source
    command = [sys.executable, "-m", "trmml", "finetune", table, "--resume", "--quiet"]
    command += ["--backbone", f"local-dir:{base / 'clip'}"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run([*command, "-o", str(base / "straight")], check=True, capture_output=True)
    rng, kills, rounds, differing = Random(seed), 0, 0, 0
    expected, out = _digest(base / "straight"), base / "killed"
    while kills < number or not out.exists():
        process = subprocess.Popen(
            [*command, "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        working = base / "killed.run"
        while kills < number and process.poll() is None and not working.exists():
            time.sleep(0.01)
        if kills < number:
            time.sleep(rng.uniform(0, 1.5) if rounds % 2 else rng.uniform(0, 6))
            kills += process.poll() is None
            process.kill()
        process.wait()
        if out.exists() and not working.exists():
            # A killed one may have its model in place already; the next start makes it whole.
            subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
            rounds += 1
            differing += _digest(out) != expected
            if kills < number:
                shutil.rmtree(out)
    return {"kills": kills, "finished_runs": rounds, "differing": differing}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("model.safetensors", "config.json", "calibration.json"):
        digest.update((folder / name).read_bytes())
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    digest.update(json.dumps([(r["epoch"], r["val_mAP"], r["loss"]) for r in log]).encode())
    return digest.hexdigest()


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON of what was found")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the 1,640 cases")
    parser.add_argument("--only", choices=list(CASES), help="one kind of file")
    parser.add_argument("--part", choices=("files", "kills", "all"), default="all")
    parser.add_argument("--kills", type=int, default=25)
    chosen = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("ignore")  # of Pillow, which writes some of the files
    torch.set_num_threads(1)
    found: dict[str, Any] = {"provenance": provenance(), "seed": chosen.seed}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        base = Path(name)
        os.environ["TRMML_CACHE"] = str(base / "cache")
        write_base(base)
        if chosen.part != "kills":
            cases = {k: math.ceil(n * chosen.scale) for k, n in CASES.items()}
            cases = {k: n for k, n in cases.items() if chosen.only in (None, k)}
            found |= run_cases(chosen.seed, cases, base)
        if chosen.part != "files":
            found["kills"] = run_kills(chosen.seed, chosen.kills, base)
    if chosen.output is not None:
        chosen.output.write_text(json.dumps(found, indent=1, ensure_ascii=True) + "\n")
    print(
        json.dumps(
            {k: found[k] for k in ("cases", "run_again", "counts", "most", "kills") if k in found}
        )
    )
    failed = found.get("faults") or found.get("kills", {}).get("differing")
    return 1 if failed else 0


def _too_long(*_: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    sys.exit(main())
