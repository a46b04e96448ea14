"""Runs the program as a user does. AQ_DIST names it, AQ_SOURCE is the root of the source tree."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

PROGRAM = os.environ.get("AQ_DIST", "build/release/bin/aq-dist")
SOURCE = Path(os.environ.get("AQ_SOURCE", Path(__file__).resolve().parents[2]))
EXAMPLE = SOURCE / "examples" / "olmoe-tiny"
CALIBRATION = SOURCE / "examples" / "calibration.h5"
EVALUATION = SOURCE / "examples" / "evaluation.h5"
DEVICE = os.environ.get("AQ_TEST_DEVICE")  # of all quantizations: "emulated", "cuda"
ON_DEVICE = ["--device", DEVICE] if DEVICE else []
FIXTURES = SOURCE / "tests" / "golden" / "models"
RECIPE = SOURCE / "configs" / "gptq_example.json"
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}


def command(*arguments, ranks=0, threads=1):
    """The command line; ranks=0: without mpirun."""
    launcher = MPIRUN + ["-n", str(ranks)] if ranks else []
    line = launcher + [PROGRAM] + [str(argument) for argument in arguments]
    return line + (["--threads", str(threads)] if threads else [])


def environment(extra=None):
    return {**os.environ, **MPI_ENVIRONMENT, **(extra or {})}


def run(*arguments, ranks=0, threads=1, env=None, timeout=300):
    """Runs to the end; the result has returncode, stdout and stderr."""
    return subprocess.run(command(*arguments, ranks=ranks, threads=threads), env=environment(env),
                          capture_output=True, text=True, timeout=timeout, check=False)


def start(*arguments, ranks=0, threads=1):
    """Starts in the background, in a process group of its own."""
    return subprocess.Popen(command(*arguments, ranks=ranks, threads=threads), env=environment(),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def model_arguments(model):
    """--model, and --architecture where the model comes with a description of its own."""
    description = Path(model) / "architecture.json"
    return ["--model", model] + (["--architecture", description] if description.is_file() else [])


def quantize_arguments(save, model=EXAMPLE, recipe=RECIPE, calibration=CALIBRATION, samples=16,
                       length=64, compute="fp32", device=DEVICE):
    """Products in fp32, as oracles have them and every processor."""
    arguments = ["quantize", *model_arguments(model), "--config", recipe, "--calib", calibration, "--save", save,
                 "--compute", compute]
    if device:
        arguments += ["--device", device]
    if samples:
        arguments += ["--nsamples", samples]
    if length:
        arguments += ["--seqlen", length]
    return arguments


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def results(run_directory):
    """What must not depend on ranks, threads, time or host."""
    return digest(Path(run_directory) / "model.h5"), digest(Path(run_directory) / "quant_log.csv")


class ProgramTest(unittest.TestCase):
    """A test case with a directory of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="aq-dist-test-")
        self.addCleanup(folder.cleanup)
        self.directory = Path(folder.name)

    def succeed(self, *arguments, **keywords):
        done = run(*arguments, **keywords)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def quantize(self, name="run", *further, ranks=0, threads=1, **keywords):
        """Quantizes the example into a folder of this name; it and the finished process."""
        save = self.directory / name
        done = self.succeed(*quantize_arguments(save, **keywords), *further, ranks=ranks, threads=threads)
        return save, done

    def skip_without_bf16(self):
        """Ends the test where the processor has no instructions for bfloat16."""
        done = run(*quantize_arguments(self.directory / "trial", samples=1, compute="bf16"))
        if done.returncode == 2 and "no instructions" in done.stderr:
            self.skipTest("this processor has no instructions for bfloat16")
        self.assertEqual(done.returncode, 0, done.stderr)

    def write_recipe(self, name="recipe.json", default=None, overrides=(), gptq=None):
        path = self.directory / name
        path.write_text(json.dumps({"default": default or {"wq": "int4", "group_size": 32},
                                    "overrides": list(overrides), "gptq": gptq or {}}))
        return path
