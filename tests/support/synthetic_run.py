"""A run directory of any size with made-up statistics, in the format of a real one; nothing is quantized.

    synthetic_run.py DIRECTORY [--layers 61] [--dense 3] [--experts 256] [--ranks 64] [--seed 1]

The linears are those of DeepSeek-V3. Some experts starve, some matrices fall back.
"""

import argparse
import json
from pathlib import Path

import numpy as np

HIDDEN, WIDTH, DENSE_WIDTH = 7168, 2048, 18432
ATTENTION = {"q_a_proj": (1536, HIDDEN), "q_b_proj": (24576, 1536), "kv_a_proj_with_mqa": (576, HIDDEN),
             "kv_b_proj": (32768, 512), "o_proj": (HIDDEN, 16384)}
PHASES = ["embed", "hessian", "reduce", "factor", "read", "solve", "exchange", "dispatch", "forward", "write", "merge"]
HEADER = ("name,layer,expert,method,format,symmetric,group_size,scale_dtype,rows,columns,bits,tokens,weight_sum,"
          "damping,error,error_rtn,weight_error,fallback")
MIN_TOKENS, SEQUENCES, LENGTH, TOP_K = 512, 512, 4096, 8


def mlp(prefix, width):
    return [(f"{prefix}.gate_proj", width, HIDDEN), (f"{prefix}.up_proj", width, HIDDEN), (f"{prefix}.down_proj", HIDDEN, width)]


def linears(layer, dense, experts):
    """(name, rows, columns, expert) of a layer, in the order of the model."""
    prefix = f"model.layers.{layer}"
    yield from ((f"{prefix}.self_attn.{name}", rows, columns, -1) for name, (rows, columns) in ATTENTION.items())
    if layer < dense:
        yield from ((*linear, -1) for linear in mlp(f"{prefix}.mlp", DENSE_WIDTH))
        return
    for expert in range(experts):
        yield from ((*linear, expert) for linear in mlp(f"{prefix}.mlp.experts.{expert}", WIDTH))
    yield from ((*linear, -1) for linear in mlp(f"{prefix}.mlp.shared_experts", WIDTH))


def routed_tokens(random, experts):
    """Tokens an expert: a few get most, and some almost none."""
    share = random.lognormal(0, 1.1, experts)
    share[random.random(experts) < 0.01] *= 1e-4
    return np.floor(share / share.sum() * SEQUENCES * LENGTH * TOP_K).astype(int)


def row(random, name, rows, columns, layer, expert, tokens, exact):
    """A line of quant_log.csv."""
    bits = 8 if expert < 0 else 4
    stored = bits + 16 / 128
    starved = expert >= 0 and tokens < MIN_TOKENS
    fallback = "starved_all_tokens" if starved else "none"
    if random.random() < 2e-4:
        fallback = str(random.choice(["more_damping", "float64"]))
    nearest = (6e-3 if bits == 4 else 4e-5) * (1 + layer / 40) * random.lognormal(0, 0.25)
    error = nearest * (0.35 + 0.2 * exact) * random.lognormal(0, 0.1)
    damping = 0.1 if fallback == "more_damping" else 0.01
    seen = SEQUENCES * LENGTH if starved or expert < 0 else int(tokens)
    weight = float(seen) if starved or expert < 0 else round(seen * 0.31, 3)
    return (f"{name},{layer},{expert},gptq,int{bits},true,128,bf16,{rows},{columns},{stored:g},{seen},{weight!r},{damping},"
            f"{float(error)!r},{float(nearest)!r},{float(2 * nearest)!r},{fallback}")


def session(random, parts, ranks):
    """A line of sessions.jsonl."""
    milliseconds = {phase: (random.lognormal(0, 0.08, ranks) * 4e4 * (1 + i % 5)).astype(int).tolist()
                    for i, phase in enumerate(PHASES)}
    phases = [{"phase": phase, "seconds": max(times) / 1e3, "peak_bytes": 40 << 30, "read": 7 << 38, "written": 1 << 38,
               "sent": 3 << 40, "received": 3 << 40, "planned_seconds": 38.0, "planned_peak_bytes": 44 << 30}
              for phase, times in milliseconds.items()]
    return {"matrices": 0, "untouched": 60, "by_method": {}, "fallbacks": {}, "starved": 0, "scales_above": 0,
            "scales_below": 0, "mean_bits": 4.13, "error": 0, "error_rtn": 0, "hessians_reused": False, "parts": parts,
            "total_seconds": 2154.0, "planned_seconds": 1900.0, "seconds": {}, "peak_rss_bytes": [40 << 30] * ranks,
            "planned_bytes": 44 << 30, "planned_read": 7 << 38, "planned_written": 1 << 39, "phases": phases,
            "ranks": {"hosts": [f"node{rank // 8:04d}" for rank in range(ranks)], "milliseconds": milliseconds}}


def write_run(directory, layers=61, dense=3, experts=256, ranks=64, seed=1, model="DeepSeek-V3", recipe="made-up.json"):
    """Writes the run and returns the rows of its log."""
    directory = Path(directory)
    directory.mkdir(parents=True)
    random = np.random.default_rng(seed)
    rows, complete, metrics = [], [], []
    for layer in range(layers):
        tokens = routed_tokens(random, experts) if layer >= dense else []
        names = list(linears(layer, dense, experts))
        rows += [row(random, name, m, n, layer, expert, tokens[expert] if expert >= 0 else 0, layer % 3 == 0)
                 for name, m, n, expert in names]
        complete.append({"layer": layer, "shards": [], "matrices": [name for name, *_ in names], "sources": []})
        line = {"layer": layer, "resumed": False, "seconds": round(30 + 4 * random.random(), 3)}
        metrics.append(line | ({"expert_tokens": [int(count) for count in tokens]} if layer >= dense else {}))
    complete.append({"layer": layers, "shards": [], "matrices": [], "sources": []})
    settings = {"damping": 0.01, "scale_search": "mse", "sequential": "stage", "routing_exponent": 1.0,
                "starved": "all_tokens", "min_tokens": MIN_TOKENS, "expert_tokens": "routed"}
    manifest = {"program": "aq-dist", "version": 1,
                "fingerprint": {"model": "0011223344556677", "architecture": "deepseek_v3 8899aabbccddeeff",
                                "tokens": "fedcba9876543210", "sequences": str(SEQUENCES), "sequence_length": str(LENGTH),
                                "lanes": "64", "settings": json.dumps(settings), "recipe": "0123456789abcdef",
                                "numerics": "made up"},
                "configuration": {"model": model, "recipe_file": recipe, "recipe": '{"default": {"wq": "int4"}}',
                                  "calibration": "calibration.safetensors", "ranks": str(ranks), "threads": "8",
                                  "planned_bytes": str(44 << 30)},
                "files": [["model.safetensors", f"{688 << 30} bytes of 1"]], "layers": layers, "complete": complete}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "quant_log.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (directory / "sessions.jsonl").write_text(json.dumps(session(random, layers + 1, ranks)) + "\n")
    status = {"state": "done", "message": "", "layer": layers, "layers": layers, "elapsed_seconds": 2154.0,
              "remaining_seconds": 0.0, "ranks": ranks, "host": "node0000", "process": 1, "updated": 1}
    (directory / "status.json").write_text(json.dumps(status))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    for name, value in (("layers", 61), ("dense", 3), ("experts", 256), ("ranks", 64), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    write_run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
