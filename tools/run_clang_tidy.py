#!/usr/bin/env python3
"""Runs clang-tidy over the .cpp files under src, several at once, and only over those that changed since they passed.

    tools/run_clang_tidy.py --build build/dev [--jobs N] [FILE ...]

A file has changed when its text, the text of a project header that it includes (also through other headers), its
compile command, .clang-tidy or clang-tidy itself has. FILE... limits the run to these files. Exits 1 on any finding.
Files that include LibTorch are left out: clang 14 does not compile its headers as C++20.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INCLUDE_DIRECTORIES = [ROOT / "include", ROOT / "src", ROOT / "tests"]
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
LIBTORCH = re.compile(r"^\s*#\s*include\s*<(ATen|c10|torch)/", re.MULTILINE)


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


# What g++ understands and clang 14 does not: its own headers such as omp.h (searched last, so that clang's headers win)
# with malloc attributes that name the matching free, names of CPU levels, and pragmas.
EXTRA_ARGUMENTS = [
    "-idirafter" + output_of("g++", "-print-file-name=include"),
    "-D__malloc__(...)=__malloc__",
    "-D__builtin_cpu_supports(name)=true",
    "-Wno-unknown-pragmas",
]


def is_checked(file):
    """True for the sources that clang can compile; tests are compiled with all warnings, and that is enough."""
    own = file.is_file() and ROOT / "src" in file.parents
    return own and not LIBTORCH.search(file.read_text(encoding="utf-8"))


def compile_commands(build):
    """Compile command by file, of those that are checked."""
    entries = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    commands = {Path(e["directory"], e["file"]).resolve(): e.get("command", "") for e in entries}
    return {f: c for f, c in commands.items() if is_checked(f)}


def with_headers(file):
    """`file` and every project header that it includes, directly or not."""
    found, waiting = set(), [file]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        for name in INCLUDE.findall(current.read_text(encoding="utf-8")):
            candidates = [directory / name for directory in [current.parent, *INCLUDE_DIRECTORIES]]
            waiting += [c.resolve() for c in candidates if c.is_file()][:1]
    return sorted(found)


class Tidy:
    def __init__(self, build):
        self.build = build
        self.stamps = build / "clang-tidy"
        self.common = output_of("clang-tidy", "--version") + (ROOT / ".clang-tidy").read_text(encoding="utf-8")
        self.extra = ["--extra-arg=" + argument for argument in EXTRA_ARGUMENTS]

    def key(self, file, command):
        """What a pass of `file` depends on."""
        digest = hashlib.sha256((self.common + command).encode())
        for part in with_headers(file):
            digest.update(part.read_bytes())
        return digest.hexdigest()

    def stamp(self, file):
        return self.stamps / (str(file.relative_to(ROOT)).replace("/", "_") + ".passed")

    def check(self, file, key):
        """Findings as text (empty when it passed), and the seconds it took."""
        start = time.monotonic()
        done = subprocess.run(["clang-tidy", "-p", str(self.build), "--quiet", *self.extra, str(file)],
                              capture_output=True, text=True)
        if done.returncode == 0:
            self.stamps.mkdir(parents=True, exist_ok=True)
            self.stamp(file).write_text(key)
            return "", time.monotonic() - start
        return done.stdout or done.stderr, time.monotonic() - start


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="directory with compile_commands.json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("files", nargs="*", type=Path)
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    commands = compile_commands(arguments.build.resolve())
    if arguments.files:
        wanted = {f.resolve() for f in arguments.files}
        commands = {f: c for f, c in commands.items() if f in wanted}
    tidy = Tidy(arguments.build.resolve())
    keys = {f: tidy.key(f, c) for f, c in sorted(commands.items())}
    todo = [f for f, key in keys.items() if not tidy.stamp(f).is_file() or tidy.stamp(f).read_text() != key]

    failed, start = 0, time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(tidy.check, f, keys[f]): f for f in todo}
        for done in concurrent.futures.as_completed(running):
            findings, seconds = done.result()
            if findings:
                failed += 1
                print(f"{running[done].relative_to(ROOT)} ({seconds:.0f} s):\n{findings}", flush=True)
    print(f"clang-tidy: {len(keys)} files, {len(todo)} of them new or changed, {failed} with findings, "
          f"{time.monotonic() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
