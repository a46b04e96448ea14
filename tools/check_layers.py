#!/usr/bin/env python3
"""Checks that modules include each other in one direction only, and third-party headers only where they belong.

    tools/check_layers.py [ROOT]

Reads include/aq/<module> and src/<module> under ROOT (default: this repository). A module includes modules of lower
rank and itself, never its own rank. Prints one line a violation, "file:line: what"; exits 1 when there is any.
Files longer than 400 lines are named as warnings.
"""
import re
import sys
from pathlib import Path

RANKS = {
    "core": 0,
    "comm": 1, "formats": 1, "model": 1,
    "quant": 2,
    "io": 3, "recipe": 3, "runtime": 3,
    "plan": 4, "export": 4, "verify": 4,
    "forward": 5, "report": 5, "allocate": 5,
    "run": 6, "page": 6,
    "eval": 7,
    "pipeline": 8,
    "app": 9,
}

# (what, pattern of the included header, modules that may include it)
THIRD_PARTY = [
    ("LibTorch", r"(torch|ATen|c10|caffe2)/", {"runtime"}),
    ("MPI", r"mpi\w*\.h$", {"comm"}),
    ("NCCL", r"nccl\w*\.h$", {"comm"}),
    ("HDF5", r"(hdf5\w*|H5\w+)\.h$", {"io"}),
    ("BLAS", r"(cblas|lapacke|lapack|f77blas|openblas\w*)\.h$", {"quant"}),
    ("CUDA", r"(cuda|cublas|cusolver|nvtx)\w*(\.h$|/)", {"quant"}),
    ("CLI11", r"CLI/", {"app"}),
    ("OpenMP", r"omp\.h$", {"core"}),
    ("xxHash", r"xxhash\w*\.h$", {"core"}),
    ("nlohmann-json", r"nlohmann/", {"core", "model", "io", "recipe", "plan", "export", "allocate", "report", "page", "app"}),
]

# For the modules alone: tools/cmake/AqInstall.cmake leaves them out, so that they may include third-party headers.
NOT_INSTALLED = {"include/aq/core/json.h"}

SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
LONG_FILE = 400
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
CONDITIONAL = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b\s*(.*?)\s*$")
PRAGMA = re.compile(r"^\s*#\s*pragma\s+(.*?)\s*$")


def included_module(path):
    """The module that an include path names, or None: "aq/io/file.h" and "io/hdf5.h" are both of io."""
    parts = path.split("/")
    if parts[0] == "aq" and len(parts) > 2:
        return parts[1]
    return parts[0] if len(parts) > 1 and parts[0] in RANKS else None


def check_module_include(module, path):
    """What is wrong with `module` including the project's header `path`, or None."""
    other = included_module(path)
    if path.startswith("..") or "/../" in path:
        return f"'{path}' climbs out of its directory; name it from src/ or include/"
    if other is None:
        return None
    if other not in RANKS:
        return f"'{path}' is of '{other}', which is no module"
    if other == module:
        return None
    if not path.startswith("aq/"):
        return f"'{path}' is a private header of {other}"
    if RANKS[other] >= RANKS[module]:
        return f"{module} (rank {RANKS[module]}) includes '{path}' of {other} (rank {RANKS[other]})"
    return None


def check_third_party(module, path, installed):
    """What is wrong with a file of `module`, which is `installed` or not, including the third-party header `path`."""
    for what, pattern, allowed in THIRD_PARTY:
        if not re.match(pattern, path):
            continue
        if module not in allowed:
            return f"'{path}': {what} belongs to {', '.join(sorted(allowed))} only"
        if installed:
            return f"'{path}': {what} in a public header"
    return None


def check_public_header(lines):
    """Violations of what holds for headers under include/: `#pragma once` and no conditional parts.

    `#ifdef __CUDACC__` alone is allowed: it asks which compiler reads the header, not what was built.
    """
    if not any(re.match(r"\s*#\s*pragma\s+once\s*$", line) for line in lines):
        yield 1, "no '#pragma once'"
    for number, line in enumerate(lines, 1):
        if (match := CONDITIONAL.match(line)) and match[2] != "__CUDACC__":
            yield number, f"conditional part in a public header: #{match[1]} {match[2]}"
        if (match := PRAGMA.match(line)) and match[1] != "once":
            yield number, f"pragma in a public header: {match[1]}"


def check_file(module, lines, public, installed):
    """Violations of one file as (line number, text)."""
    for number, line in enumerate(lines, 1):
        if match := INCLUDE.match(line):
            problem = check_module_include(module, match[2]) or check_third_party(module, match[2], installed)
            if problem:
                yield number, problem
    if public:
        yield from check_public_header(lines)


def module_files(root):
    """(module or None, is public, path) of every source file."""
    for base, public in ((root / "include" / "aq", True), (root / "src", False)):
        for path in sorted(base.rglob("*")):
            if path.suffix in SUFFIXES:
                parts = path.relative_to(base).parts
                yield (parts[0] if len(parts) > 1 else None), public, path


def check_tree(root):
    """(violations, warnings, number of files) of a whole tree."""
    violations, warnings, files = [], [], 0
    for module, public, path in module_files(root):
        files += 1
        name = path.relative_to(root)
        lines = path.read_text(encoding="utf-8").splitlines()
        if module not in RANKS:
            violations.append(f"{name}:1: '{module}' is no module; the table of tools/check_layers.py names them")
            continue
        installed = public and name.as_posix() not in NOT_INSTALLED
        violations += [f"{name}:{number}: {text}" for number, text in check_file(module, lines, public, installed)]
        if len(lines) > LONG_FILE:
            warnings.append(f"{name}: warning: {len(lines)} lines, more than {LONG_FILE}")
    return violations, warnings, files


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    violations, warnings, files = check_tree(root)
    for line in warnings + violations:
        print(line)
    if files == 0:
        print(f"{root}: no source files", file=sys.stderr)
        return 1
    print(f"check_layers: {files} files, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
