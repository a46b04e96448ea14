#!/usr/bin/env python3
"""Make the tiny random checkpoints and golden outputs of tests/golden/models.

Each fixture is a directory with a checkpoint in published form (config.json and safetensors) and golden.h5:
tokens, logits, router choices and routing-weighted Hessians, computed by transformers in float32 (Hessians by
numpy in float64) from the weights as they are stored. The table of fixtures is fixtures/table.py.

    python3 tools/make_fixtures.py [--out tests/golden/models] [--only NAME ...]

Needs: pip install torch transformers safetensors h5py numpy
"""

import argparse
import pathlib

import h5py
import numpy as np
import torch
from transformers.utils import logging

from fixtures.checkpoint import build_model, write_checkpoint
from fixtures.golden import moe_layers, run, write_hessians, write_router
from fixtures.reader import read_model
from fixtures.table import DTYPE_NAMES, fixtures

KEPT = ("architecture.json",)   # written by hand


def check_written(fixture, directory, tokens, lengths, logits):
    """The files, read back by the independent reader and by transformers where it can, must give the same logits."""
    models = [read_model(fixture, directory)]
    if fixture.loads:
        models.append(fixture.model_class.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                          experts_implementation="eager").eval())
    for model in models:
        assert np.array_equal(logits, run(model, tokens, lengths)[0]), "the written checkpoint is another model"


def make(name, fixture, out):
    """Write one fixture and print one line about it."""
    directory = out / name
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        if old.name not in KEPT:
            old.unlink()
    model = build_model(fixture)
    count = write_checkpoint(fixture, model, directory)
    rng = np.random.default_rng(fixture.seed)
    tokens = rng.integers(0, fixture.config.vocab_size, (fixture.sequences, fixture.length), dtype=np.int32)
    lengths = fixture.lengths or [fixture.length] * fixture.sequences

    logits, nll, probe = run(model, tokens, lengths)
    check_written(fixture, directory, tokens, lengths, logits)
    exact = run(model.double(), tokens, lengths)[0]
    noise = np.abs(logits - exact).max() / np.abs(exact).max()
    assert noise < 1e-4, f"float32 is {noise:.1e} off: choose another seed"

    line = f"{name}: {count} parameters, {DTYPE_NAMES[fixture.dtype]}, " \
           f"mean NLL {nll:.6f}, logits std {logits.std():.3f}, float32 against float64 {noise:.1e} of the largest"
    with h5py.File(directory / "golden.h5", "w") as file:
        file["tokens"] = tokens
        if fixture.lengths:
            file["lengths"] = np.array(lengths, np.int32)
        file.create_dataset("logits", data=logits)
        file.attrs["mean_nll"] = nll
        file.attrs["predictions"] = sum(lengths) - len(lengths)
        if moe_layers(model):
            gap, used = write_router(file, fixture, model, probe)
            line += f", smallest router gap {gap:.1e}, tokens per expert {used.min()}..{used.max()}"
        if fixture.hessians:
            write_hessians(file, fixture, model, probe)
    for written in directory.iterdir():
        written.chmod(0o644)
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"{line}, {size} bytes", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests" / "golden" / "models")
    parser.add_argument("--only", nargs="+", help="make these fixtures alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name, fixture in fixtures().items():
        if arguments.only is None or name in arguments.only:
            make(name, fixture, arguments.out)


if __name__ == "__main__":
    main()
