#!/usr/bin/env python3
"""A campaign of killed runs: each is hurt at random moments, resumed on random ranks until it is done,
and must then hold the same bytes as the run that nobody touched.

    AQ_DIST=build/release/bin/aq-dist /usr/bin/python3 tests/e2e/chaos.py --runs 50 --seed 1

What happens to a run: SIGKILL to one rank, SIGKILL to all, SIGTERM or SIGUSR1 to one rank or to mpirun, a
full disk (as root: a small tmpfs, given space again before the resume), a truncated or flipped shard.
Prints one line a run and the table at the end; exit code 1 when a result differs or a run does not end.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from program import FIXTURES, command, environment, quantize_arguments, results

MOST_ATTEMPTS = 40
ATTEMPT_SECONDS = 120
MODELS = {  # name -> (model, calibration, samples, length, further arguments)
    "example": (None, None, 64, 128, ()),
    "example, dispatched": (None, None, 64, 128, ("--tokens-to-experts", "dispatch")),
    "deepseek_v3": ("deepseek_v3", None, 0, 0, ("--min-tokens", "4", "--refine", "64")),
}


def send(pid, number):
    """Whether there was still a process for the signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Chaos:
    def __init__(self, random_numbers, directory):
        self.random = random_numbers
        self.directory = directory
        self.happened = collections.Counter()

    def arguments(self, name, save):
        model, _, samples, length, further = MODELS[name]
        keywords = {"samples": samples, "length": length}
        if model is not None:
            keywords |= {"model": FIXTURES / model, "calibration": FIXTURES / model / "golden.h5"}
        return [*quantize_arguments(save, **keywords), *further]

    def start(self, arguments, ranks):
        # a name of its own, so that all ranks can be found
        return subprocess.Popen(command(*arguments, ranks=ranks), env=environment(),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                start_new_session=True)

    def reference(self, name):
        save = self.directory / "reference"
        begin = time.monotonic()
        process = self.start(self.arguments(name, save), 2)
        output, _ = process.communicate(timeout=ATTEMPT_SECONDS)
        assert process.returncode == 0, output
        found = results(save)
        shutil.rmtree(save)
        return found, time.monotonic() - begin

    def ranks_of(self, process):
        listed = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(process.pid)], text=True,
                                capture_output=True, check=False).stdout.split("\n")
        return [int(line.split()[0]) for line in listed if "aq-dist" in line]

    def hurt(self, process):
        """Does one bad thing to a running job; its name."""
        kind = self.random.choice(["kill one", "kill all", "term one", "usr1 one", "usr1 mpirun", "term mpirun"])
        targets = self.ranks_of(process)
        if kind == "kill all":
            for pid in targets:
                send(pid, signal.SIGKILL)
            send(-process.pid, signal.SIGKILL)  # the group, where mpirun is
            return kind
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "usr1": signal.SIGUSR1}[kind.split()[0]]
        target = process.pid if kind.endswith("mpirun") else (self.random.choice(targets) if targets else None)
        if target is None:
            return "came too early"
        return kind if send(target, number) else "came too late"

    def damage(self, save):
        """Between two attempts: a file of the run is cut or flipped."""
        files = sorted((save / "shards").glob("*.h5")) if (save / "shards").is_dir() else []
        if not files or self.random.random() < 0.7:
            return None
        path = self.random.choice(files)
        size = path.stat().st_size
        if self.random.random() < 0.5:
            with path.open("r+b") as file:
                file.truncate(self.random.randrange(size))
            return "cut shard"
        with path.open("r+b") as file:
            at = self.random.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << self.random.randrange(8))]))
        return "flipped shard"

    def attempt(self, name, save, seconds):
        """One start that is hurt after a random time; what happened, or None when it was done first."""
        process = self.start(self.arguments(name, save), self.random.randint(1, 4))
        kind = None
        try:
            process.wait(timeout=self.random.uniform(0, 1.3 * seconds))
        except subprocess.TimeoutExpired:
            kind = self.hurt(process)
        try:
            output, _ = process.communicate(timeout=ATTEMPT_SECONDS)
        except subprocess.TimeoutExpired:
            send(-process.pid, signal.SIGKILL)
            raise RuntimeError(f"after '{kind}' the job did not end in {ATTEMPT_SECONDS} s") from None
        if kind is None and process.returncode != 0:
            raise RuntimeError(f"nobody touched it, but it ended with {process.returncode}:\n{output}")
        return kind, process.returncode

    def full_disk(self, name, save, seconds):
        """An attempt in a file system that is too small; then it gets space and keeps what is there."""
        save.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", save],
                                               capture_output=True, check=False).returncode != 0:
            return None
        self.attempt_until_end(name, save)
        subprocess.run(["mount", "-o", "remount,size=256m", save], check=True)
        return "full disk"

    def attempt_until_end(self, name, save):
        process = self.start(self.arguments(name, save), self.random.randint(1, 4))
        output, _ = process.communicate(timeout=ATTEMPT_SECONDS)
        if process.returncode == 0:
            raise RuntimeError("a full disk was not noticed")
        if "Traceback" in output or "No space left" not in output and "space" not in output:
            raise RuntimeError(f"a full disk is not told as such:\n{output}")

    def run(self, name, number):
        """One run until it is done; the things that happened to it."""
        expected, seconds = self.reference(name)
        save = self.directory / f"run-{number}"
        history = []
        mounted = False
        if self.random.random() < 0.2:
            kind = self.full_disk(name, save, seconds)
            mounted = kind is not None
            history += [kind] if kind else []
        try:
            for _ in range(MOST_ATTEMPTS):
                kind, code = self.attempt(name, save, seconds)
                if code == 0:
                    break
                history += [kind]
                hurt = self.damage(save)
                history += [hurt] if hurt else []
            else:
                raise RuntimeError(f"not done after {MOST_ATTEMPTS} attempts: {history}")
            if results(save) != expected:
                raise RuntimeError(f"other bytes after {history}")
        finally:
            if mounted:
                subprocess.run(["umount", save], check=False)
            shutil.rmtree(save, ignore_errors=True)
        self.happened.update(history)
        return history


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what happened")
    arguments = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory(prefix="aq-dist-chaos-") as folder:
        chaos = Chaos(random.Random(arguments.seed), Path(folder))
        for number in range(arguments.runs):
            name = list(MODELS)[number % len(MODELS)]
            try:
                history = chaos.run(name, number)
                print(f"run {number:3} {name}: same bytes after {len(history)}: {', '.join(history)}", flush=True)
            except RuntimeError as error:
                failures += 1
                print(f"run {number:3} {name}: FAILED: {error}", flush=True)
        print(f"{arguments.runs} runs, {failures} failed; " +
              ", ".join(f"{kind} {count}" for kind, count in sorted(chaos.happened.items())))
        if arguments.json:
            arguments.json.write_text(json.dumps({"runs": arguments.runs, "failed": failures,
                                                  "happened": chaos.happened}, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
