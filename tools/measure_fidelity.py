#!/usr/bin/env python3
"""What each step of the quantizer is worth on held-out text: the tables of docs/fidelity.md.

    tools/measure_fidelity.py NAME=MODEL,CALIBRATION.h5,EVALUATION.h5 ... [--formats int2 int3 ...] [--draws 3] [--steps TEXT ...]
                              [--sequences 64] [--ranks 1] [--threads 2] [--into docs/fidelity.md]
    tools/measure_fidelity.py NAME=... --allocate 3.0 3.5 4.0 [--formats int2:32 int3:32 ...] [--draws 3] ...

Every figure comes from runs of the program: `quantize` with a recipe of its own, then `eval` beside the original. A
draw is a random choice of --sequences rows of the calibration file. "KL" is KL(original || quantized) a token, the mean
over the draws with its standard error; "of plain" its ratio to plain weighted GPTQ in the same format; "loss" the mean
NLL (nats a token) above the original's, likewise; "top-1" how often both find the same token likeliest; "error" the
mean of the matrices' relative squared errors in the norm of their Hessians; "seconds" the whole run's.
With --allocate: what recipes of `allocate` with so many stored bits a weight are worth, by each sensitivity; the same of
all linears in one of the formats; "bits" are those that were taken. Needs h5py and numpy. --into replaces what stands between the marks <!-- tables --> of a file.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BY_ROW = {"output_factor": "none"}
OWN = {**BY_ROW, "target": "own", "few_tokens_damping": 0}
PLAIN = {**OWN, "scale_search": "absmax", "refine": 0}
INTEGERS = ("int2", "int3", "int4")
# Name, keys of "default", settings, formats it makes sense for (empty: all).
STEPS = [
    ("round to nearest", {"method": "rtn"}, PLAIN, ()),
    ("GPTQ, p = 0", {}, {**PLAIN, "routing_exponent": 0}, ()),
    ("GPTQ weighted by routing (plain)", {}, PLAIN, ()),
    ("plain + static act-order", {}, {**PLAIN, "act_order": "static"}, ()),
    ("plain + mse search", {}, {**OWN, "scale_sign": "positive", "refine": 0}, ()),
    ("+ scales of either sign", {}, {**OWN, "refine": 0}, INTEGERS),
    ("+ 1 sweep", {}, {**OWN, "refine": 1}, ()),
    ("+ 4 sweeps", {}, OWN, ()),
    ("+ damping by tokens", {}, {**BY_ROW, "target": "own"}, ()),
    ("+ targets of the original model", {}, BY_ROW, ()),
    ("+ rows of q, k, v together (the defaults)", {}, {}, ()),
    ("defaults, 8 sweeps", {}, {"refine": 8}, ()),
    ("defaults, one damping", {}, {"few_tokens_damping": 0}, ()),
    ("defaults, positive scales", {}, {"scale_sign": "positive"}, INTEGERS),
    ("defaults, hessian search", {}, {"scale_search": "hessian"}, ()),
    ("defaults, static act-order", {}, {"act_order": "static"}, ()),
    ("defaults, experts on all tokens", {}, {"expert_tokens": "all"}, ()),
    ("defaults, sequential layer", {}, {"sequential": "layer"}, ()),
    ("defaults, sequential none", {}, {"sequential": "none"}, ()),
]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL,CALIBRATION,EVALUATION")
    parser.add_argument("--program", default=ROOT / "build/release/bin/aq-dist", type=Path)
    parser.add_argument("--formats", nargs="+", default=["int2", "int3", "int4", "mxfp4", "nvfp4"])
    parser.add_argument("--steps", nargs="+", default=[""], help="only steps whose name holds one of these texts")
    parser.add_argument("--allocate", type=float, nargs="+", metavar="BITS")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--sequences", type=int, nargs="+", default=[64], help="of each draw; a table for each")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--into", type=Path)
    return parser.parse_args()


class Model:
    """One model with its draws of calibration data in a folder."""

    def __init__(self, arguments, folder, text, sequences):
        self.arguments, self.folder = arguments, folder
        self.name, paths = text.split("=", 1)
        self.directory, calibration, self.evaluation = paths.split(",")
        with h5py.File(calibration) as file:
            rows = file["tokens"][:]
        self.draws = []
        for number in range(arguments.draws):
            chosen = np.random.default_rng(number).permutation(len(rows))[:sequences]
            self.draws.append(folder / f"{self.name}-{sequences}-{number}.h5")
            with h5py.File(self.draws[-1], "w") as file:
                file["tokens"] = rows[np.sort(chosen)]
        self.original = self.run("eval", "--tokens", self.evaluation)

    def run(self, command, *further):
        """Runs the program and returns the object that it writes with --json."""
        figures = self.folder / "figures.json"
        line = ["mpirun", "-n", str(self.arguments.ranks)] if self.arguments.ranks > 1 else []
        line += [str(self.arguments.program), command, "--model", self.directory, *map(str, further), "--json",
                 str(figures), "--log-level", "error", "--threads", str(self.arguments.threads)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(line)}\n{done.stdout}{done.stderr}")
        return json.loads(figures.read_text())

    def measure(self, number_format, keys, settings):
        """Figures of all draws, a row each: KL, loss, top-1, error, seconds."""
        default = {"wq": number_format, **({"group_size": 32} if number_format in INTEGERS else {}), **keys}
        recipe = self.recipe({"default": default, "gptq": settings})
        measured = []
        for draw in self.draws:
            done, scored = self.score(recipe, draw)
            measured.append((scored["kl"], scored["loss"], scored["same_top1"], done.get("error", 0.0),
                             sum(done["seconds"].values())))
        return np.array(measured)

    def recipe(self, content):
        path = self.folder / "recipe.json"
        path.write_text(json.dumps(content))
        return path

    def score(self, recipe, draw):
        """Figures of a quantization and of its evaluation."""
        done = self.run("quantize", "--config", recipe, "--calib", draw, "--save", self.folder / "run", "--resume",
                        "never")
        return done, self.run("eval", "--tokens", self.evaluation, "--quantized", self.folder / "run", "--against",
                              "original")

    def allocated(self, formats, further):
        """KL and mean bits of all draws, of recipes that `allocate` writes."""
        measured = []
        for draw in self.draws:
            recipe = self.folder / "allocated.json"
            self.run("allocate", "--calib", draw, "--formats", ",".join(formats), "--save",
                     self.folder / f"{draw.stem}-runs", "--out", recipe, *further)
            done, scored = self.score(recipe, draw)
            measured.append((scored["kl"], done["mean_bits"]))
        return np.array(measured)

    def uniform(self, text):
        """The same of all linears in one format."""
        number_format, _, group = text.partition(":")
        recipe = self.recipe({"default": {"wq": number_format, **({"group_size": int(group) if group.isdigit() else group} if group else {})}})
        both = [self.score(recipe, draw) for draw in self.draws]
        return np.array([(scored["kl"], done["mean_bits"]) for done, scored in both])


def with_error(values):
    """Mean and standard error over the draws."""
    spread = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0
    return f"{values.mean():.5f} ± {spread:.5f}"


def table(model, number_format):
    group = " g32" if number_format in INTEGERS else ""
    lines = [f"**{model.name}, {number_format}{group}**", "",
             "| step | KL | of plain | loss | top-1 | error | seconds |", "|---|---|---|---|---|---|---|"]
    wanted = ("(plain)", *model.arguments.steps)
    measured = {name: model.measure(number_format, keys, settings) for name, keys, settings, formats in STEPS
                if (not formats or number_format in formats) and any(text in name for text in wanted)}
    plain = next(values for name, values in measured.items() if "(plain)" in name)[:, 0].mean()
    for name, values in measured.items():
        kl, loss, top1, error, seconds = values.T
        solved = "-" if name.startswith("round") else f"{error.mean():.5f}"
        lines.append(f"| {name} | {with_error(kl)} | {kl.mean() / plain:.2f} | {with_error(loss)} | "
                     f"{100 * top1.mean():.1f} % | {solved} | {seconds.mean():.1f} |")
    return "\n".join(lines) + "\n"


def allocation_table(model):
    formats, budgets = model.arguments.formats, model.arguments.allocate
    lines = ["| | bits | KL |", "|---|---|---|"]

    def add(name, measured):
        lines.append(f"| {name} | {measured[:, 1].mean():.3f} | {with_error(measured[:, 0])} |")

    for text in formats:
        add(f"all in {text}", model.uniform(text))
    for bits, sensitivity in itertools.product(budgets, ("measured", "error", "alpha-hill", "uniform")):
        add(f"at most {bits:g} bits, {sensitivity}",
            model.allocated(formats, ("--mean-bits", bits, "--sensitivity", sensitivity)))
    return "\n".join(lines) + "\n"


def main():
    arguments = parse_arguments()
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    tables = []
    with tempfile.TemporaryDirectory(prefix="aq-dist-fidelity-") as name:
        for text, sequences in itertools.product(arguments.models, arguments.sequences):
            model = Model(arguments, Path(name), text, sequences)
            tables.append(f"{model.name}: original perplexity {model.original['perplexity']:.4f} over "
                          f"{model.original['predictions']} held-out tokens; {arguments.draws} draws of "
                          f"{sequences} calibration sequences.\n")
            print(tables[-1], flush=True)
            for number_format in arguments.formats if not arguments.allocate else [None]:
                tables.append(table(model, number_format) if number_format else allocation_table(model))
                print(tables[-1], flush=True)
    if arguments.into:
        before, _, after = arguments.into.read_text().split("<!-- tables -->")
        middle = "\n" + "\n".join(tables)
        arguments.into.write_text("<!-- tables -->".join([before, middle, after]))


if __name__ == "__main__":
    main()
