#!/usr/bin/env python3
"""Perplexity of a model, original and quantized in several ways: the table of README.md.

    tools/compare_methods.py [--program FILE] [--model DIR] [--calib FILE] [--tokens FILE]
                             [--formats int4 int3 int2] [--group-size 32] [--ranks 2]

Every line comes from a run of the program: `quantize` with a recipe of its own, then `eval`. The column
"loss" is the mean NLL (nats a token) above the original model's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Name, method of the recipe, exponent p of H = sum of s^p x x'.
METHODS = [("round to nearest", "rtn", 1), ("GPTQ, p = 0", "gptq", 0), ("GPTQ, p = 1", "gptq", 1),
           ("GPTQ, p = 2", "gptq", 2)]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=ROOT / "build/release/bin/aq-dist", type=Path)
    parser.add_argument("--model", default=ROOT / "examples/olmoe-tiny", type=Path)
    parser.add_argument("--calib", default=ROOT / "examples/calibration.h5", type=Path)
    parser.add_argument("--tokens", default=ROOT / "examples/evaluation.h5", type=Path)
    parser.add_argument("--window", default=2048, type=int)
    parser.add_argument("--formats", default=["int4", "int3", "int2"], nargs="+")
    parser.add_argument("--group-size", default=32, type=int)
    parser.add_argument("--ranks", default=2, type=int)
    return parser.parse_args()


def run(arguments, *command, figures):
    """Runs the program on the ranks and returns the object that it writes with --json."""
    line = ["mpirun", "-n", str(arguments.ranks), str(arguments.program), *map(str, command), "--json",
            str(figures), "--log-level", "error"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(line)}\n{done.stdout}{done.stderr}")
    return json.loads(figures.read_text())


def evaluate(arguments, folder, *further):
    return run(arguments, "eval", "--model", arguments.model, "--tokens", arguments.tokens, "--window",
               arguments.window, *further, figures=folder / "eval.json")


def quantize(arguments, folder, number_format, method, exponent):
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({
        "default": {"wq": number_format, "group_size": arguments.group_size, "method": method},
        "gptq": {"routing_exponent": exponent}}))
    return run(arguments, "quantize", "--model", arguments.model, "--config", recipe, "--calib",
               arguments.calib, "--save", folder / "run", "--resume", "never",
               figures=folder / "quantize.json")


def main():
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(dir=ROOT) as name:
        folder = Path(name)
        original = evaluate(arguments, folder)
        print("| format | method | bits | perplexity | loss |\n|---|---|---|---|---|")
        print(f"| as published | - | - | {original['perplexity']:.4f} | - |")
        for number_format in arguments.formats:
            for title, method, exponent in METHODS:
                run_figures = quantize(arguments, folder, number_format, method, exponent)
                figures = evaluate(arguments, folder, "--quantized", folder / "run")
                print(f"| {number_format} g{arguments.group_size} | {title} | {run_figures['mean_bits']:.2f} "
                      f"| {figures['perplexity']:.4f} | {figures['mean_nll'] - original['mean_nll']:.4f} |",
                      flush=True)


if __name__ == "__main__":
    main()
