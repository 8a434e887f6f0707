"""Kill a run three times at random moments after round 1, resume it, compare its hash: `python benchmarks/kill_resume.py`.

Prints where each kill hit, what the resumed run said it had, and whether the final hash is that of an undisturbed run.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "fedsim", "run", "configs/quickstart/feddm_digits.yaml", "compute.workers=2"]
QUIET = "controls.upload_real_subset=false"


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    """The demo run under `out`."""
    return subprocess.Popen(
        [*COMMAND, QUIET, "--out", str(out), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The final hash, and what the run said on resuming."""
    out, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed: {said}")
    result = json.loads((Path(out.strip().splitlines()[-1]) / "result.json").read_text())
    return result["model_sha256"], next(
        (line for line in said.splitlines() if "resuming" in line), "from the beginning"
    )


def main() -> None:
    """One undisturbed run, one that is killed three times."""
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, _ = finish(start(Path(folder) / "undisturbed"))
        print("undisturbed      ", undisturbed)
        out = Path(folder) / "killed"
        process = start(out)
        while not list(out.glob("*/*/checkpoints/round_0001.safetensors")):
            time.sleep(0.05)
        for number in range(3):
            after = random.uniform(0.1, 6.0)
            time.sleep(after)
            if process.poll() is not None:
                raise SystemExit("the run ended before it was killed; run this again")
            process.send_signal(signal.SIGKILL)
            process.wait()
            (run,) = out.glob("*/*")
            stored = sorted(path.stem for path in (run / "checkpoints").iterdir())
            uploads = len(list(run.glob("clients/*/*/upload.safetensors")))
            print(f"kill {number + 1} after {after:.1f} s: {stored[-1]} and {uploads} uploads stored")
            process = start(out, "--resume")
        resumed, said = finish(process)
        print("resumed          ", resumed, f"({said})")
        print("same hash" if resumed == undisturbed else "DIFFERENT HASH")
        sys.exit(resumed != undisturbed)


if __name__ == "__main__":
    main()
