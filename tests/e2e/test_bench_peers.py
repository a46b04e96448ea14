"""tools/bench_peers.py: the work that it makes, what it measures, its tables; the other libraries are no part of this."""

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

import h5py
import numpy as np

from program import PROGRAM, SOURCE, ProgramTest, environment, run

sys.path.insert(0, str(SOURCE / "tools"))
from bench_peers import what_is_missing  # noqa: E402
from bench_table import document  # noqa: E402
from exported_checkpoint import read_safetensors, write_safetensors  # noqa: E402
from measured_process import measure  # noqa: E402
from random_checkpoint import WORKS, linears, untouched, write_model, write_tokens  # noqa: E402

TOOL = SOURCE / "tools" / "bench_peers.py"
CPUS = sorted(os.sched_getaffinity(0))[:2]
WORKERS = """
import os, time
if os.fork() == 0:
    held, end = bytearray(100 << 20), time.process_time() + 0.5
    while time.process_time() < end: pass
    time.sleep(1.5)
    os._exit(0)
held, end = bytearray(50 << 20), time.process_time() + 0.5
while time.process_time() < end: pass
os.wait()
print("done")
raise SystemExit(3)
"""


class BenchTest(ProgramTest):
    def bench(self, program, *arguments):
        """The finished process and its figures."""
        line = [sys.executable, TOOL, "--program", program, "--work", "tiny", "--tools", "aq-dist", "--threads",
                str(len(CPUS)), "--repeats", "1", "--out", self.directory / "out", *arguments]
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False, timeout=300)
        figures = self.directory / "out" / "performance.json"
        return done, json.loads(figures.read_text()) if figures.exists() else done.stderr

    def test_tiny(self):
        done, figures = self.bench(PROGRAM)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = figures["works"][0]["rows"]
        self.assertEqual({(row["settings"], row["ranks"], row["threads"]) for row in rows},
                         {(settings, *shape) for settings in ("equal", "default")
                          for shape in ((1, len(CPUS)), (len(CPUS), 1))})
        errors = {}
        for row in rows:
            timed = row["runs"][0]
            self.assertNotIn("error", timed)
            self.assertLess(0, timed["quantize_seconds"])
            self.assertLess(timed["quantize_seconds"], timed["wall_seconds"])
            self.assertGreater(timed["peak_bytes"], row["ranks"] * 20e6)  # the libraries alone
            errors.setdefault((row["settings"], row["compute"]), set()).add(row["quality"]["logit_error"])
        for settings, found in errors.items():
            self.assertEqual(len(found), 1, settings)  # the same bytes for every number of ranks
            self.assertLess(1e-4, min(found))
            self.assertLess(max(found), 0.05)  # 4 bits
        for compute in {row["compute"] for row in rows}:
            self.assertLess(min(errors["default", compute]), min(errors["equal", compute]))
        text = (self.directory / "out" / "performance.md").read_text()
        self.assertEqual(text.count("\n| aq-dist | "), len(rows))
        self.assertIn(text, done.stdout)

    def test_program_that_fails(self):
        program = self.directory / "program"
        program.write_text(f'#!/bin/sh\nif [ "$1 $2" = "quantize --config" ]; then echo "error: full disk" >&2; exit 1; fi\n'
                           f'exec {Path(PROGRAM).resolve()} "$@"\n')
        program.chmod(0o755)
        done, figures = self.bench(program, "--settings", "equal")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(figures["works"][0]["rows"][0]["runs"][0]["error"], "error: full disk")
        self.assertIn("| failed: error: full disk |", done.stdout)

    def test_wrong_arguments(self):
        for arguments, words in ((["--work", "S,X"], "'X' is none of tiny, S, W"), (["--repeats", "0"], "--repeats is 1"),
                                 (["--program", "nowhere"], "nowhere is no program")):
            done, _ = self.bench(PROGRAM, *arguments)
            self.assertEqual(done.returncode, 2)
            self.assertIn(words, done.stderr)


class PartsTest(ProgramTest):
    def test_measure(self):
        log = self.directory / "log"
        found = measure([sys.executable, "-c", WORKERS], log, CPUS, environment(), self.directory)
        self.assertEqual((found["exit"], log.read_text()), (3, "done\n"))
        self.assertGreater(found["cpu_seconds"], 1.0)
        self.assertLess(found["cpu_seconds"], 2.0)
        self.assertGreater(found["wall_seconds"], 1.0)
        self.assertGreater(found["peak_bytes"], 150 << 20)
        self.assertLess(found["peak_bytes"], 250 << 20)

    def test_others(self):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"],
                                 preexec_fn=lambda: os.sched_setaffinity(0, CPUS[:1]))
        try:
            found = measure(["sleep", "2"], self.directory / "log", CPUS[:1], environment(), self.directory)
        finally:
            other.kill()
            other.wait()
        self.assertGreater(found["others"], 0.8)
        self.assertLess(found["others"], 1.1)

    def test_work(self):
        """The program finds what the tool says that it writes; weights and tokens are as drawn."""
        work, model = WORKS["tiny"], self.directory / "model"
        write_model(work, model)
        tensors = read_safetensors(model / "model.safetensors")
        expected = {f"{name}.weight": shape for name, shape in linears(work).items()} | untouched(work)
        self.assertEqual({name: tensor.shape for name, tensor in tensors.items()}, expected)
        self.assertAlmostEqual(tensors["lm_head.weight"].values().std(), 0.02, places=3)
        done = run("inspect", model, threads=0)
        self.assertEqual(done.returncode, 0, done.stderr)
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            write_tokens(work, self.directory / name, 4, seed)
        rows = [h5py.File(self.directory / name)["tokens"][:] for name in "abc"]
        self.assertEqual((rows[0].dtype, rows[0].shape), (np.int32, (4, work.length)))
        self.assertTrue((rows[0] == rows[1]).all() and (rows[0] != rows[2]).any() and rows[0].max() < work.vocabulary)

    def test_what_is_missing(self):
        work, one = WORKS["tiny"], ("U8", np.zeros(1, np.uint8))
        for ending in (".weight_scale", ".scales"):
            tensors = {name + ending: one for name in linears(work)} | {name: one for name in untouched(work)}
            file = self.directory / "model.safetensors"
            write_safetensors(file, tensors)
            self.assertEqual(what_is_missing(work, self.directory), "")
            for name in ("lm_head.weight", f"model.layers.1.mlp.experts.7.down_proj{ending}"):
                write_safetensors(file, {other: one for other in tensors if other != name})
                self.assertIn(f"1 of its matrices are missing, such as {name.removesuffix(ending)}",
                              what_is_missing(work, self.directory))
            write_safetensors(file, tensors)
            file.write_bytes(file.read_bytes()[:-1])
            self.assertEqual(what_is_missing(work, self.directory), "model.safetensors is cut")
            file.unlink()
            self.assertIn("matrices are missing", what_is_missing(work, self.directory))

    def test_table(self):
        """Ratios are those of undisturbed runs; what failed says why."""
        def row(tool, *runs, **keys):
            runs = [{"wall_seconds": wall, "quantize_seconds": wall / 2, "cpu_seconds": 2 * wall, "peak_bytes": 3 << 20,
                     "disturbed": disturbed} for wall, disturbed in runs]
            return {"tool": tool, "settings": "equal", "ranks": 1, "threads": 2, "compute": "", "runs": runs,
                    "quality": {"logit_error": 0.25, "loss": 0.5}, **keys}
        rows = [row("aq-dist", (10.0, True), (12.5, False), (20.0, False)), row("llmcompressor", (50.0, False)),
                row("gptqmodel", (80.0, False), runs=[{"error": "killed", "wall_seconds": 1.0}])]
        figures = {"machine": {"cpu": "Z80", "cores": 2, "features": []}, "repeats": 3, "works": [
            {"name": "S", "text": "small", "rows": rows}], "versions": {"aq-dist": "1", "gptqmodel": {"gptqmodel": "7", "torch": "2"}}}
        lines = document(figures).splitlines()
        self.assertIn("| aq-dist | equal | 1 x 2 | 12.5 to 20.0 | 6.2 | 25.0 | 3 | 0.25000 | +0.50000 | 2.00 (4.00) |  |", lines)
        self.assertIn("| llm-compressor | equal | 1 x 2 | 50.0 to 50.0 | 25.0 | 100.0 | 3 | 0.25000 | +0.50000 |  |  |", lines)
        self.assertIn("| GPTQModel | equal | 1 x 2 | failed: killed |  |  |  |  |  |  |  |", lines)
        self.assertIn("GPTQModel 7 on torch 2", lines[0])


if __name__ == "__main__":
    unittest.main()
