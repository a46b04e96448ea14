#!/usr/bin/env python3
"""Exports read by the libraries that serve them: compressed-tensors, transformers, GPTQModel. Run by test_peers.sh.

For each model and recipe: every weight, decompressed by the library and by numpy, against model.h5 bit by bit; the
logits of transformers against those of eval; the files of 1, 2 and 4 ranks against each other. Exit code 1 where
something differs; what a library cannot load is named with its reason."""

import argparse
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "tests" / "support"))
from exported_checkpoint import EMBEDDINGS, ExportedCheckpoint, to_bf16  # noqa: E402
from matrix_file import dequantize  # noqa: E402
from peer_libraries import (CompressedTensors, FusedExperts, GptqLayers, Mismatch, NotLoadable, TorchLinear,  # noqa: E402
                            known_limit, load, load_gptq, same, short)
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

COMPRESSED, GPTQ, GPT_OSS, BF16 = "compressed-tensors", "gptq", "gpt-oss", "bf16"
EXAMPLE = SOURCE / "examples" / "olmoe-tiny"
LENGTH, SEQUENCES = 32, 8
TOLERANCE = 1e-3  # of the largest logit
NARROW = 8  # divides the rows of all fixtures; 32 where the model is wide enough
WIDE = ("olmoe-tiny", "dense")
# name -> default rule, overrides
RECIPES = {
    "example": None,  # configs/gptq_example.json
    "int4 group": ({"wq": "int4", "group_size": NARROW}, []),
    "int4 g128": ({"wq": "int4", "group_size": 128}, []),
    "int8 channel": ({"wq": "int8", "group_size": "channel"}, []),
    "int2 channel": ({"wq": "int2", "group_size": "channel"}, []),
    "int3 group": ({"wq": "int3", "group_size": NARROW}, []),
    "int4 zeros": ({"wq": "int4", "group_size": NARROW, "symmetric": False}, []),
    "mxfp4": ({"wq": "mxfp4"}, []),
    "mxfp8": ({"wq": "mxfp8"}, []),
    "nvfp4": ({"wq": "nvfp4"}, []),
    "fp8 channel": ({"wq": "fp8", "group_size": "channel"}, []),
    "mixed": ({"wq": "int8", "group_size": "channel"},
              [{"pattern": "*.experts.*", "wq": "int4", "group_size": NARROW}]),
    GPT_OSS: ({"wq": "bf16"}, [{"pattern": "*.mlp.experts.*", "wq": "mxfp4"}]),
}
INTEGERS = [name for name in RECIPES if name.startswith(("example", "int", "mixed"))]
RANKS_OF = ("example", "int4 group", "mixed", GPT_OSS)  # recipes whose files are compared on more ranks; of the example: all


class Program:
    def __init__(self, path):
        self.path = path
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
        self.environment = {**os.environ, **root, "OMP_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
                            "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}

    def __call__(self, *arguments, ranks=0, allowed=(0,)):
        launcher = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"] if ranks else []
        done = subprocess.run([*launcher, self.path, *map(str, arguments), "--threads", "1"], env=self.environment,
                              capture_output=True, text=True, check=False)
        if done.returncode not in allowed:
            raise Mismatch(f"{arguments[0]} ended with {done.returncode}: {done.stderr.strip()[:300]}")
        return done


class Model:
    def __init__(self, path, scratch):
        self.path, self.name = path, path.name
        description = path / "architecture.json"
        self.description = ["--architecture", description] if description.is_file() else []
        self.arguments = ["--model", path, *self.description]
        config = json.loads((path / "config.json").read_text())
        vocabulary = config.get("vocab_size", config.get("n_vocab"))
        with h5py.File(SOURCE / "examples" / "calibration.h5") as file:
            self.tokens = file["tokens"][:SEQUENCES, :LENGTH] % vocabulary
        self.token_file = scratch / f"{self.name}.tokens.h5"
        with h5py.File(self.token_file, "w") as file:
            file["tokens"] = self.tokens.astype(np.int32)

    def evaluate(self, program, scratch, *which):
        """Logits and mean NLL as eval computes them."""
        trace, figures = scratch / "trace.h5", scratch / "eval.json"
        trace.unlink(missing_ok=True)
        program("eval", *which, "--tokens", self.token_file, "--window", LENGTH, "--trace", trace, "--json", figures)
        with h5py.File(trace) as file:
            return file["logits"][:].reshape(SEQUENCES, LENGTH, -1), json.loads(figures.read_text())["mean_nll"]


def check_weights(out, matrices):
    exported = ExportedCheckpoint(out)
    if not exported.quantization:
        fused = [name for name in matrices if exported.get(name, "weight") is None]  # read by transformers below
        for name in set(matrices) - set(fused):
            if exported.get(name, "weight").data != to_bf16(matrices[name]).tobytes():
                raise Mismatch(f"{name} is not the value rounded to bf16")
        return f"{len(matrices) - len(fused)} of {len(matrices)}"
    if exported.quantized() != set(matrices):
        raise Mismatch("other linears are quantized than in model.h5")
    method = exported.quantization["quant_method"]
    peer = {GPTQ: GptqLayers if TorchLinear else lambda _: None, "mxfp4": FusedExperts}.get(method, CompressedTensors)(exported)
    for name, values in matrices.items():
        for who, decode in [("numpy", exported.decode)] + ([("the library", peer.decode)] if peer else []):
            try:
                found = decode(name)
            except Exception as error:
                raise Mismatch(f"{name} {list(values.shape)}: {who} cannot decode it: {short(error)}") from error
            if not same(found, values):
                raise Mismatch(f"{name}: {who} finds other values")
    for name in exported.plain():
        if peer and not name.endswith(EMBEDDINGS) and peer.scheme(name):
            raise Mismatch(f"{name} is not quantized, but the configuration says so")
    return len(matrices)


def with_rounded_experts(out, exported, scratch):
    """The export as plain float32 tensors, its quantized experts rounded to bf16, as transformers decompresses them."""
    plain = scratch / "rounded"
    shutil.rmtree(plain, ignore_errors=True)
    plain.mkdir()
    tensors, quantized = {}, exported.quantized()
    for name, tensor in exported.tensors.items():
        if name.rsplit(".", 1)[0] not in quantized or name.endswith(".bias"):
            tensors[name] = torch.from_numpy(tensor.values().astype(np.float32))
    for name in quantized:
        values = torch.from_numpy(exported.decode(name))
        tensors[name + ".weight"] = values.bfloat16().float() if ".experts." in name else values
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in exported.config.items() if key != "quantization_config"}
    (plain / "config.json").write_text(json.dumps(config))
    return plain


def check_logits(out, model, expected, program, scratch):
    tokens = torch.from_numpy(model.tokens.astype(np.int64))
    exported = ExportedCheckpoint(out)
    method = (exported.quantization or {}).get("quant_method")
    limit = known_limit(exported) if method == COMPRESSED else None
    try:
        decoded = {"quantization_config": transformers.Mxfp4Config(dequantize=True)} if method == "mxfp4" else {}
        network = load_gptq(out) if method == GPTQ else load(out, **decoded)
        with torch.no_grad():
            logits = network(tokens).logits.float()
    except Exception as error:
        text = str(error) if isinstance(error, (NotLoadable, Mismatch)) else "forward: " + short(error)
        if not limit and not isinstance(error, NotLoadable):
            raise Mismatch(text) from error
        raise NotLoadable(f"{limit}: {text}" if limit else text) from error
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()

    def differs(wanted, mean_nll):
        difference = np.abs(logits.numpy() - wanted).max() / np.abs(wanted).max()
        text = f"logits differ by {difference:.0e} of the largest, NLL {nll:.4f} and {mean_nll:.4f}"
        return difference > TOLERANCE or abs(nll - mean_nll) > 5e-5, text

    wrong, text = differs(*expected)
    if wrong and limit:
        raise NotLoadable(f"{limit}: {text}")
    if wrong and method == COMPRESSED and any(".experts." in name for name in exported.quantized()):
        plain = with_rounded_experts(out, exported, scratch)
        wrong, rounded = differs(*model.evaluate(program, scratch, "--model", plain, *model.description))
        text = f"with experts rounded to bf16, as transformers does: {rounded}; else {text}"
    if wrong:
        raise Mismatch(text)
    return text


# ---- the campaign ----

def digests(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def check_ranks(program, run, model, name, scratch):
    found = []
    for ranks in (1, 2, 4):
        out = scratch / f"ranks-{ranks}"
        program("export", run, *model.description, "--out", out, "--format", name, "--shard-size", "20KB", ranks=ranks)
        found.append(digests(out))
        shutil.rmtree(out)
    if found[1:] != found[:1] * 2:
        raise Mismatch("other files on other ranks")
    return f"{len(found[0])} files"


class Campaign:
    def __init__(self, program, scratch):
        self.program, self.scratch, self.rows, self.failed = program, scratch, [], 0

    def attempt(self, check, *arguments):
        try:
            return f"ok ({check(*arguments)})"
        except NotLoadable as error:
            return f"not loadable ({error})"
        except Exception as error:
            self.failed += 1
            if not isinstance(error, Mismatch):
                traceback.print_exc()
            return f"MISMATCH ({error})"

    def report(self, model, recipe, what, weights, logits, ranks=""):
        self.rows.append((model, recipe, what, weights, logits, ranks))
        print(f"{model:20} {recipe:13} {what:18} weights {weights}; library {logits}; ranks {ranks or '-'}", flush=True)

    def quantize(self, model, recipe):
        run, file = self.scratch / "run", self.scratch / "recipe.json"
        if RECIPES[recipe] is None:
            file = SOURCE / "configs" / "gptq_example.json"
        else:
            default, overrides = RECIPES[recipe]
            text = json.dumps({"default": default, "overrides": overrides, "gptq": {}})
            file.write_text(text.replace(f": {NARROW}", ": 32") if model.name in WIDE else text)
        shutil.rmtree(run, ignore_errors=True)
        self.program("quantize", *model.arguments, "--config", file, "--calib", model.token_file, "--save", run,
                     "--min-tokens", 4)
        with h5py.File(run / "model.h5") as h5:
            return run, {name: dequantize(group) for name, group in h5["matrices"].items()}

    def one(self, model, recipe):
        run, matrices = self.quantize(model, recipe)
        wanted = [GPT_OSS] if recipe == GPT_OSS else [COMPRESSED] + ([GPTQ] if recipe in INTEGERS else [])
        wanted += [BF16] if recipe in ("example", "int4 group", "mixed") else []
        refused = ""
        evaluated = model.evaluate(self.program, self.scratch, *model.arguments, "--quantized", run)
        while wanted:
            name = wanted.pop(0)
            out = self.scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            done = self.program("export", run, *model.description, "--out", out, "--format", name, allowed=(0, 2))
            if done.returncode:
                refused = " ".join(done.stderr.split("matrices do not fit: ")[-1].split(";")[0].split())
                self.report(model.name, recipe, name, "refused", f"- ({refused})")
                wanted += [] if BF16 in wanted else [BF16]
                continue
            weights = self.attempt(check_weights, out, matrices)
            if name == BF16:  # its weights are rounded once more: compared with what eval makes of the same files
                evaluated = model.evaluate(self.program, self.scratch, "--model", out, *model.description)
            logits = self.attempt(check_logits, out, model, evaluated, self.program, self.scratch)
            compared = recipe in RANKS_OF or model.path == EXAMPLE
            ranks = self.attempt(check_ranks, self.program, run, model, name, self.scratch) if compared else ""
            self.report(model.name, recipe, name, weights, logits, ranks)

    def table(self):
        print("\nmodel                recipe        format             weights   library\n" + "-" * 100)
        for model, recipe, what, weights, logits, ranks in self.rows:
            print(f"{model:20} {recipe:13} {what:18} {weights.split(' (')[0]:9} {logits}")
        for title, column in (("weights", 3), ("libraries", 4), ("ranks", 5)):
            counts = Counter(row[column].split(" (")[0] for row in self.rows if row[column])
            print(f"{title}: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))


def make_dense(path):
    """A model without experts, wide enough for GPTQ's layout."""
    config = transformers.Qwen2Config(vocab_size=128, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2)
    torch.manual_seed(1)
    transformers.Qwen2ForCausalLM(config).bfloat16().save_pretrained(path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--models", nargs="*", help="only these")
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), help="only these")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in ("torch", "transformers", "compressed-tensors", "safetensors", "numpy", "h5py", "gptqmodel", "optimum"):
        try:
            print(f"{name:20} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name:20} not installed")
    fixtures = SOURCE / "tests" / "golden" / "models"
    with tempfile.TemporaryDirectory(prefix="aq-dist-peers-") as folder:
        campaign = Campaign(Program(options.program), Path(folder))
        dense = make_dense(Path(folder) / "dense")
        for path in [EXAMPLE, dense] + sorted(path for path in fixtures.iterdir() if path.is_dir()):
            if options.models and path.name not in options.models:
                continue
            model = Model(path, Path(folder))
            for recipe in options.recipes or RECIPES:
                if {"example": path == EXAMPLE, GPT_OSS: path.name.startswith("gpt_oss")}.get(recipe, True):
                    campaign.one(model, recipe)
        campaign.table()
    return 1 if campaign.failed else 0


if __name__ == "__main__":
    sys.exit(main())
