#!/usr/bin/env python3
"""Checkpoints that llm-compressor and GPTQModel write, scored by eval and by the library itself. Run by test_peers.sh.

    tools/peer_checkpoints.py --library llmcompressor|gptqmodel --program AQ_DIST [--sequences 32] [--length 64]

Quantizes the example with the library's own GPTQ and formats, loads the result with it in float32, and compares the mean
NLL of both. Beside it KL(original || quantized), and that of aq-dist on the same tokens and in as many bits. Exit code 1
where the NLL differ."""

import argparse
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "tests" / "support"))
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from exported_checkpoint import ExportedCheckpoint  # noqa: E402
from peer_libraries import known_limit, load, load_gptq, short  # noqa: E402
from peer_quantize import UNTOUCHED, gptq_recipe, run_gptqmodel, run_llmcompressor  # noqa: E402

EXAMPLE = SOURCE / "examples" / "olmoe-tiny"
# The libraries round weights to bf16 when they decode them, which moves the NLL of the example by up to 2e-4.
TOLERANCE = 5e-4


INT4 = {"wq": "int4", "group_size": 32}
# What aq-dist is asked for where a library writes this.
SAME = {"int4 g32": INT4, "int4 g32 desc_act": INT4, "int4 g32 zeros": {**INT4, "symmetric": False},
        "int4 zeros": {**INT4, "symmetric": False}, "int3": {**INT4, "wq": "int3"}, "int8": {**INT4, "wq": "int8"},
        "int8 channel": {"wq": "int8", "group_size": "channel"}, "FP8_DYNAMIC": {"wq": "fp8", "group_size": "channel"},
        "NVFP4A16": {"wq": "nvfp4"}}


class Tokens:
    """Calibration and evaluation rows of the example, of one length."""

    def __init__(self, options, scratch):
        self.length, self.rows, self.files = options.length, {}, {}
        for name in ("calibration", "evaluation"):
            with h5py.File(SOURCE / "examples" / f"{name}.h5") as file:
                rows = file["tokens"][:options.sequences, :options.length]
            self.rows[name] = torch.from_numpy(rows.astype(np.int64))
            self.files[name] = scratch / f"{name}.h5"
            with h5py.File(self.files[name], "w") as file:
                file["tokens"] = rows.astype(np.int32)


def mean_nll(network, rows):
    with torch.no_grad():
        logits = network(rows).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten()).item()


def llmcompressor(calibration, scratch):
    """Of each format its name, the directory, and what loads it in float32."""
    from llmcompressor.modifiers.quantization import QuantizationModifier
    recipes = {
        "int4 g32": gptq_recipe(num_bits=4, group_size=32, strategy="group", symmetric=True),
        "int4 g32 zeros": gptq_recipe(num_bits=4, group_size=32, strategy="group", symmetric=False),
        "int8 channel": gptq_recipe(num_bits=8, strategy="channel", symmetric=True),
        "FP8_DYNAMIC": QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=UNTOUCHED),
        "NVFP4A16": QuantizationModifier(targets="Linear", scheme="NVFP4A16", ignore=UNTOUCHED),
    }
    for name, recipe in recipes.items():
        out = scratch / name.replace(" ", "-")
        run_llmcompressor(EXAMPLE, calibration, recipe, out)
        yield name, out, load


def gptqmodel(calibration, scratch):
    for name, settings in {"int4 g32": {}, "int4 g32 desc_act": {"desc_act": True}, "int8": {"bits": 8},
                           "int3": {"bits": 3}, "int4 zeros": {"sym": False}}.items():
        out = scratch / name.replace(" ", "-")
        run_gptqmodel(EXAMPLE, calibration, {"bits": 4, "group_size": 32, **settings}, out)
        yield name, out, load_gptq


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def score(program, tokens, *arguments):
    """What eval says of the evaluation rows."""
    figures = tokens.files["evaluation"].with_name("eval.json")
    run(program, "eval", "--tokens", tokens.files["evaluation"], "--window", tokens.length, "--json", figures, *arguments)
    return json.loads(figures.read_text())


def own_kl(program, tokens, keys, scratch):
    """Of aq-dist with its defaults."""
    recipe = scratch / "recipe.json"
    recipe.write_text(json.dumps({"default": keys}))
    run(program, "quantize", "--model", EXAMPLE, "--config", recipe, "--calib", tokens.files["calibration"], "--save",
        scratch / "run", "--resume", "never")
    return score(program, tokens, "--model", EXAMPLE, "--quantized", scratch / "run", "--against", "original")["kl"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, choices=["llmcompressor", "gptqmodel"])
    parser.add_argument("--program", required=True)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in (options.library, "torch", "transformers", "compressed-tensors"):
        try:
            print(f"{name:20} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name:20} not installed")
    bad = 0
    with tempfile.TemporaryDirectory(prefix="aq-dist-peers-") as folder:
        scratch = Path(folder)
        tokens = Tokens(options, scratch)
        print(f"{'the example':20} eval {score(options.program, tokens, '--model', EXAMPLE)['mean_nll']:.6f}")
        write = {"llmcompressor": llmcompressor, "gptqmodel": gptqmodel}[options.library]
        for name, directory, load in write(tokens.rows["calibration"], scratch):
            scored = score(options.program, tokens, "--model", directory, "--against", EXAMPLE)
            line = (f"{name:20} KL {scored['kl']:.6f}, aq-dist {own_kl(options.program, tokens, SAME[name], scratch):.6f}"
                    f"  NLL by eval {scored['mean_nll']:.6f}")
            try:
                theirs = mean_nll(load(directory), tokens.rows["evaluation"])
            except Exception as error:  # written, but not read again by the library
                print(f"{line}, the library does not load it: {short(error)}")
                continue
            remark = ""
            if abs(scored["mean_nll"] - theirs) > TOLERANCE:
                limit = known_limit(ExportedCheckpoint(directory)) if options.library == "llmcompressor" else None
                remark = f" ({limit})" if limit else "  DIFFERENT"
                bad += not limit
            print(f"{line}, by the library {theirs:.6f}{remark}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
