#!/usr/bin/env python3
"""Time, memory and quality of aq-dist beside llm-compressor and GPTQModel, on this machine's CPU, in one call.

    tools/bench_peers.py [--work S,W] [--tools aq-dist,llmcompressor,gptqmodel] [--settings equal,default] [--threads N]
                         [--repeats 2] [--program build/release/bin/aq-dist] [--out DIR]

Each work is an OLMoE of random weights, whose numbers stand in the heading of its table: S (minutes), W (wider, half an
hour), tiny (seconds, to try this tool). Each tool runs as a process of its own on the same N cores (default: all), in turn,
--repeats times; a run during which others used more than 3 % of these cores is repeated once, and marked where that did
not help. From a checkpoint to one that servers load: aq-dist with `quantize --export`, the others with load, quantize and
save. `equal` is the same GPTQ on all sides, `default` aq-dist as it comes. docs/performance.md says how to read the tables.

Prints Markdown; --out also writes it as performance.md, and all figures as performance.json. The libraries are installed
under build/ by tools/peer_environments.py, which can also be told to use others. Needs h5py and numpy, and up to 4 GB under
TMPDIR. Exit code 1 where a run failed or left its result incomplete."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from bench_table import document
from measured_process import measure
from peer_environments import python_of
from random_checkpoint import WORKS, linears, untouched, write_model, write_tokens

ROOT = Path(__file__).resolve().parents[1]
DISTURBED = 0.03  # share of the cores
BF16 = {"avx512_bf16", "amx_bf16"}  # instructions of processors on which aq-dist multiplies bfloat16
HELD_OUT = 8  # sequences
EQUAL = ["--scale-search", "absmax", "--scale-sign", "positive", "--act-order", "none", "--refine", "0", "--damping", "0.01",
         "--few-tokens-damping", "0", "--target", "own", "--routing-exponent", "0", "--expert-tokens", "routed"]
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n"]
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
       "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}


@dataclass(frozen=True)
class Contender:
    """One row of the table."""
    tool: str
    settings: str = "equal"
    ranks: int = 1
    threads: int = 1
    compute: str = ""  # of aq-dist

    def command(self, bench, folder, result, figures):
        calibration = ["--calib", folder / "calibration.h5", "--json", figures, "--model", folder / "model"]
        if self.tool != "aq-dist":
            return [bench.pythons[self.tool], ROOT / "tools" / "peer_quantize.py", "--library", self.tool, "--save", result,
                    *calibration]
        line = [*MPIRUN, str(self.ranks)] if self.ranks > 1 else []
        line += [bench.program, "quantize", "--config", ROOT / "configs" / "int4_g128.json", "--save", result.parent / "run",
                 "--resume", "never", "--export", f"{result}:compressed-tensors", "--threads", str(self.threads),
                 "--log-level", "warning", *calibration]
        return line + (EQUAL if self.settings == "equal" else []) + (["--compute", self.compute] if self.compute else [])

    def environment(self):
        threads = str(self.threads)
        return {**MPI, **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}


class Bench:
    """What all runs share."""

    def __init__(self, options, scratch):
        self.options, self.scratch, self.program = options, scratch, options.program.resolve()
        self.pythons = {tool: python_of(tool) for tool in options.tools if tool != "aq-dist"}
        self.cpus = sorted(os.sched_getaffinity(0))[:options.threads]
        self.versions, self.failures = {"aq-dist": self.ask("--version").split()[-1]}, 0
        self.machine = machine(self.cpus)
        computes = ["fp32"] + ["bf16"] * bool(BF16 & set(self.machine["features"]))
        shapes = dict.fromkeys([(1, options.threads), (options.threads, 1)])
        self.contenders = [Contender("aq-dist", settings, *shape, compute) for settings in options.settings
                           for compute in computes for shape in shapes if "aq-dist" in options.tools]
        self.contenders += [Contender(tool, threads=options.threads) for tool in self.pythons]

    def ask(self, *arguments):
        return subprocess.run([self.program, *arguments], capture_output=True, text=True, check=True).stdout

    def run_once(self, contender, work, folder):
        """One measured run; its result is in folder/result. A run that failed has an `error`."""
        result, figures, log = folder / "result", folder / "figures.json", folder / "log"
        for path in (result, folder / "run"):
            shutil.rmtree(path, ignore_errors=True)
        figures.unlink(missing_ok=True)
        run = measure(contender.command(self, folder, result, figures), log, self.cpus, contender.environment(), folder)
        if run["exit"] or not figures.is_file():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            return {**run, "error": lines[-1] if lines else f"exit code {run['exit']}"}
        told = json.loads(figures.read_text())
        run["quantize_seconds"] = told["total_seconds" if contender.tool == "aq-dist" else "seconds"]
        self.versions |= {contender.tool: told["versions"]} if "versions" in told else {}
        missing = what_is_missing(work, result)
        return {**run, "error": missing} if missing else run

    def run(self, contender, work, folder):
        """One run, or the better one of two where others disturbed it."""
        run = self.run_once(contender, work, folder)
        if run["others"] > DISTURBED and "error" not in run:
            run = min(run, self.run_once(contender, work, folder), key=lambda tried: ("error" in tried, tried["others"]))
        run["disturbed"] = run["others"] > DISTURBED
        self.failures += "error" in run
        print(f"{work.name}: {contender.tool} {contender.settings} {contender.compute} {contender.ranks} x {contender.threads}: "
              f"{run['wall_seconds']:.1f} s, others {run['others']:.1%} {run.get('error', '')}", file=sys.stderr, flush=True)
        return run

    def logits(self, model, folder):
        """Logits float32 [tokens, vocabulary] and the mean NLL of a checkpoint on tokens that calibrated nothing."""
        trace, figures = folder / "trace.h5", folder / "eval.json"
        done = subprocess.run([self.program, "eval", "--model", model, "--tokens", folder / "held-out.h5", "--window", "64",
                               "--max-windows", str(HELD_OUT), "--trace", trace, "--json", figures],
                              capture_output=True, text=True, check=False, env={**MPI, **os.environ})
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        with h5py.File(trace) as file:
            return file["logits"][:].reshape(-1, file["logits"].shape[-1]), json.loads(figures.read_text())["mean_nll"]

    def quality(self, folder, original):
        """Of folder/result: error of the logits, relative to the original's, squared; and the loss in NLL."""
        try:
            logits, nll = self.logits(folder / "result", folder)
        except RuntimeError as error:
            return {"error": str(error)}
        return {"logit_error": float(np.square(logits - original[0]).sum() / np.square(original[0]).sum()),
                "mean_nll": nll, "loss": nll - original[1]}

    def measure_work(self, work):
        """Runs all contenders in turn; a row each."""
        folder = self.scratch / work.name
        write_model(work, folder / "model")
        write_tokens(work, folder / "calibration.h5", work.sequences, seed=1)
        write_tokens(work, folder / "held-out.h5", HELD_OUT, seed=2)
        original = self.logits(folder / "model", folder)
        rows = {contender: {**vars(contender), "runs": []} for contender in self.contenders}
        for repeat in range(self.options.repeats):
            for contender, row in rows.items():
                row["runs"].append(self.run(contender, work, folder))
                if repeat == 0 and (folder / "result").is_dir():
                    row["quality"] = self.quality(folder, original)
        shutil.rmtree(folder)
        return {"name": work.name, "text": work.text(), "original_nll": original[1], "rows": list(rows.values())}


def what_is_missing(work, result):
    """What a result lacks, from the headers of its files alone; an empty text where it is complete. Quantized linears have
    scales, all other tensors are there, and no file is cut."""
    names = set()
    for path in result.glob("*.safetensors"):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        if path.stat().st_size != 8 + size + max(entry["data_offsets"][1] for entry in header.values()):
            return f"{path.name} is cut"
        names |= set(header)
    stored = {re.sub(r"\.(weight_scale|scales)$", "", name) for name in names if name.endswith((".weight_scale", ".scales"))}
    absent = sorted(set(linears(work)) - stored) + sorted(set(untouched(work)) - names)
    return f"{len(absent)} of its matrices are missing, such as {absent[0]}" if absent else ""


def machine(cpus):
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", described)
    flags = set(re.search(r"flags\s*: (.*)", described)[1].split()) if "flags" in described else set()
    return {"cpu": model[1] if model else os.uname().machine, "cores": len(cpus),
            "features": sorted(flags & (BF16 | {"avx2", "avx512f"}))}


def listed(choices):
    def parse(text):
        for name in text.split(","):
            if name not in choices:
                raise argparse.ArgumentTypeError(f"'{name}' is none of {', '.join(choices)}")
        return text.split(",")
    return parse


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tools, settings, cores = ("aq-dist", "llmcompressor", "gptqmodel"), ("equal", "default"), len(os.sched_getaffinity(0))
    parser.add_argument("--work", type=listed(WORKS), default=["S", "W"], metavar="NAMES", help="of S, W, tiny")
    parser.add_argument("--tools", type=listed(tools), default=list(tools), metavar="NAMES")
    parser.add_argument("--settings", type=listed(settings), default=list(settings), metavar="NAMES")
    parser.add_argument("--threads", type=int, choices=range(1, cores + 1), default=cores, metavar="N")
    parser.add_argument("--repeats", type=int, default=2, metavar="N")
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/aq-dist")
    parser.add_argument("--out", type=Path, metavar="DIR")
    options = parser.parse_args()
    if not os.access(options.program, os.X_OK):
        parser.error(f"{options.program} is no program: build it, or name it with --program")
    if options.repeats < 1:
        parser.error("--repeats is 1 or more")
    return options


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as for SIGINT: the run is ended, the scratch removed
    with tempfile.TemporaryDirectory(prefix="aq-dist-bench-") as scratch:
        bench = Bench(options, Path(scratch))
        works = [bench.measure_work(WORKS[name]) for name in options.work]
    figures = {"machine": bench.machine, "versions": bench.versions, "repeats": options.repeats, "works": works}
    text = document(figures)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "performance.md").write_text(text)
        (options.out / "performance.json").write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
