#!/usr/bin/env python3
"""Checkpoints that llm-compressor and GPTQModel write, scored by eval and by the library itself. Run by test_peers.sh.

    tools/peer_checkpoints.py --library llmcompressor|gptqmodel --program AQ_DIST

Quantizes the example with the library's own GPTQ and formats, loads the result with it in float32, and compares the mean
NLL of both. Exit code 1 where they differ."""

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
LENGTH, SEQUENCES = 64, 32
# The libraries round weights to bf16 when they decode them, which moves the NLL of the example by up to 2e-4.
TOLERANCE = 5e-4


def tokens(name):
    with h5py.File(SOURCE / "examples" / f"{name}.h5") as file:
        return torch.from_numpy(file["tokens"][:SEQUENCES, :LENGTH].astype(np.int64))


def mean_nll(network, rows):
    with torch.no_grad():
        logits = network(rows).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten()).item()


def llmcompressor(scratch):
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
        run_llmcompressor(EXAMPLE, tokens("calibration"), recipe, out)
        yield name, out, load


def gptqmodel(scratch):
    for name, settings in {"int4 g32": {}, "int4 g32 desc_act": {"desc_act": True}, "int8": {"bits": 8},
                           "int3": {"bits": 3}, "int4 zeros": {"sym": False}}.items():
        out = scratch / name.replace(" ", "-")
        run_gptqmodel(EXAMPLE, tokens("calibration"), {"bits": 4, "group_size": 32, **settings}, out)
        yield name, out, load_gptq


def score(program, directory, scratch):
    figures, file = scratch / "eval.json", scratch / "tokens.h5"
    with h5py.File(file, "w") as h5:
        h5["tokens"] = tokens("evaluation").numpy().astype(np.int32)
    done = subprocess.run([program, "eval", "--model", directory, "--tokens", file, "--window", str(LENGTH), "--json", figures],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(figures.read_text())["mean_nll"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, choices=["llmcompressor", "gptqmodel"])
    parser.add_argument("--program", required=True)
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
        print(f"{'the example':30} eval {score(options.program, EXAMPLE, scratch):.6f}")
        for name, directory, load in {"llmcompressor": llmcompressor, "gptqmodel": gptqmodel}[options.library](scratch):
            ours = score(options.program, directory, scratch)
            try:
                theirs = mean_nll(load(directory), tokens("evaluation"))
            except Exception as error:  # written, but not read again by the library
                print(f"{name:30} eval {ours:.6f}, the library does not load it: {short(error)}")
                continue
            remark = ""
            if abs(ours - theirs) > TOLERANCE:
                limit = known_limit(ExportedCheckpoint(directory)) if options.library == "llmcompressor" else None
                remark = f" ({limit})" if limit else "  DIFFERENT"
                bad += not limit
            print(f"{name:30} eval {ours:.6f}, the library {theirs:.6f}{remark}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
