#!/usr/bin/env python3
"""Writes the tables of docs/scaling.md that `plan` computes, between their markers.

    tools/make_scaling_tables.py [--program build/release/bin/aq-dist]

A marker is a line `<!-- table NAME -->`; the table behind it is replaced. The node is the one that the page describes.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/scaling.md"
MODELS = {"DeepSeek-V3": "deepseek-v3", "Kimi-K2": "kimi-k2", "Qwen3-235B": "qwen3-235b-a22b"}
WAYS = ("dispatch", "reduce")


class Planner:
    def __init__(self, program):
        self.program = program
        self.folder = tempfile.TemporaryDirectory()
        self.machine = Path(self.folder.name) / "node.json"
        self.machine.write_text(re.search(r"```json\n(.*?)```", PAGE.read_text(), re.S).group(1))

    def __call__(self, model, *arguments, ranks=1024, per_node=8, target="own", output_factor="none"):
        figures = Path(self.folder.name) / "plan.json"
        command = [self.program, "plan", "--model", ROOT / f"tests/golden/configs/{model}.json", "--config-only",
                   "--config", ROOT / "configs/int4_g128.json", "--nsamples", 512, "--seqlen", 4096, "--ranks", ranks,
                   "--ranks-per-node", per_node, "--machine", self.machine, "--json", figures, "--target", target,
                   "--output-factor", output_factor, *arguments]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        return json.loads(figures.read_text())


def minutes(figures, phase=None):
    seconds = figures["seconds"].get(phase, 0) if phase else figures["total_seconds"]
    return f"{seconds / 60:.1f} min"


def gib(size):
    return f"{size / 2 ** 30:.1f} GiB"


def tib(size):
    return f"{size / 2 ** 40:.1f} TiB"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
                      *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def models_table(plan):
    """Each model in the faster way; in brackets what the other way takes where it differs."""
    chosen, other = {}, {}
    for name, model in MODELS.items():
        plans = sorted((plan(model, "--compute", "fp32", "--tokens-to-experts", way) for way in WAYS),
                       key=lambda figures: figures["total_seconds"])
        chosen[name], other[name] = plans

    def both(text):
        def cell(name):
            first, second = text(chosen[name]), text(other[name])
            return first if first == second else f"{first} ({second.split()[0]})"
        return cell

    def flops(*kinds):
        return lambda name: f"{sum(chosen[name]['flops'][kind]['all'] for kind in kinds) / 1e15:.1f} PFLOP"

    def moved(kind, of, unit):
        return both(lambda figures: unit(figures["bytes"][kind][of]))

    rows = [("way of the tokens", lambda n: "dispatch" if chosen[n]["bytes"]["dispatch sent"]["all"] else "reduce"),
            ("memory of the fullest rank", both(lambda f: gib(f["memory"]["total"]))),
            ("matrices to quantize", lambda n: f"{chosen[n]['matrices']:,}"),
            ("forward with attention, all ranks", flops("forward", "attention"))]
    rows += [(f"{kind}, all ranks", flops(kind)) for kind in ("hessian", "factor", "solve", "refine")]
    rows += [("read, all ranks", lambda n: gib(chosen[n]["bytes"]["read"]["all"])),
             ("partial sums sent, all ranks", moved("reduce sent", "all", tib)),
             ("partial sums received, most of a rank", moved("reduce received", "most", gib)),
             ("inputs and outputs of experts sent, all ranks", moved("dispatch sent", "all", tib)),
             ("results and factors received, most of a rank", moved("exchange received", "most", gib)),
             ("packed results, and model.h5 as large", lambda n: gib(chosen[n]["files"]["model_bytes"]))]
    rows += [(f"time of {phase}", both(lambda f, phase=phase: minutes(f, phase)))
             for phase in ("forward", "hessian", "reduce", "dispatch", "solve", "exchange", "factor", "merge")]
    rows.append(("time in all", both(minutes)))
    return table(["", *MODELS], [[title, *(cell(name) for name in MODELS)] for title, cell in rows])


def lanes_table(plan):
    rows = []
    for lanes in (32, 64, 128, 256, 512):
        options = ("--lanes", lanes, "--memory", "8TiB")
        dispatch, reduce = (plan("deepseek-v3", "--compute", "fp32", "--tokens-to-experts", way, *options)
                            for way in WAYS)
        bf16 = plan("deepseek-v3", "--compute", "bf16", *options)
        rows.append([f"{lanes}{' (default)' if lanes == 128 else ''}",
                     *(minutes(dispatch, phase) for phase in ("forward", "hessian", "reduce", "dispatch")),
                     gib(dispatch["memory"]["total"]), minutes(dispatch), minutes(reduce), minutes(bf16)])
    return table(["lanes", "forward", "hessian", "reduce", "dispatch", "memory", "time in all", "with `reduce`",
                  "`--compute bf16`"], rows)


def ranks_table(plan):
    rows = []
    for ranks in (16, 64, 128, 256, 512, 1024):
        dispatch, reduce = (plan("deepseek-v3", "--compute", "fp32", "--tokens-to-experts", way, "--memory", "8TiB",
                                 ranks=ranks) for way in WAYS)
        rows.append([f"{ranks:,}", gib(dispatch["memory"]["total"]),
                     *(minutes(dispatch, phase) for phase in
                       ("solve", "factor", "reduce", "dispatch", "exchange", "forward", "hessian")),
                     minutes(dispatch), f"{minutes(reduce)}, {gib(reduce['memory']['total'])}"])
    return table(["ranks", "memory", "solve", "factor", "reduce", "dispatch", "exchange", "forward", "hessian",
                  "time in all", "with `reduce`"], rows)


def targets_table(plan):
    rows = []
    for name, model in MODELS.items():
        for target, factor in (("own", "none"), ("original", "none"), ("original", "layer")):
            figures = plan(model, "--compute", "fp32", "--memory", "8TiB", target=target, output_factor=factor)
            work = {kind: f"{figures['flops'][kind]['all'] / 1e15:.1f} PFLOP"
                    for kind in ("forward", "attention", "hessian", "solve")}
            rows.append([name, f"`{target}`, `{factor}`", gib(figures["memory"]["total"]), *work.values(),
                         *(tib(figures["bytes"][f"{kind} sent"]["all"]) for kind in ("reduce", "dispatch")),
                         minutes(figures)])
    return table(["", "target, output factor", "memory", "forward", "attention", "sums", "solve", "sums sent", "dispatched", "time in all"], rows)


TABLES = {"models": models_table, "targets": targets_table, "lanes": lanes_table, "ranks": ranks_table}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/aq-dist")
    plan = Planner(parser.parse_args().program)
    text = PAGE.read_text()
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- table {name} -->\n)(?:\|.*\n)*")
        assert pattern.search(text), f"{PAGE}: no marker of {name}"
        made = make(plan)
        text = pattern.sub(lambda match, made=made: match.group(1) + made, text)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
