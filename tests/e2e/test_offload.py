"""quantize --offload: activations in files, the same bytes in less memory, and nothing left behind."""

import json
import resource
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from program import CALIBRATION, EXAMPLE, FIXTURES, PROGRAM, RECIPE, ProgramTest, command, environment, \
    quantize_arguments, results, run, start

IN_MEMORY = {"tmpfs", "ramfs"}


class Offload(ProgramTest):
    def setUp(self):
        super().setUp()
        # Beside the program: /tmp may lie in memory.
        self.disk = Path(tempfile.mkdtemp(prefix="offload-test-", dir=Path(PROGRAM).resolve().parent))
        self.addCleanup(shutil.rmtree, self.disk)
        kind = subprocess.run(["stat", "-f", "-c", "%T", self.disk], capture_output=True, text=True, check=True)
        if kind.stdout.strip() in IN_MEMORY:
            self.skipTest("the program lies in memory, where nothing is offloaded to")

    def quantize(self, name, *further, ranks=0, **keywords):
        figures = self.directory / "figures.json"
        done = self.succeed(*quantize_arguments(self.directory / name, **keywords), "--json", figures, *further,
                            ranks=ranks)
        return done, json.loads(figures.read_text()), results(self.directory / name)

    def plan(self, *further):
        figures = self.directory / "plan.json"
        done = self.succeed("plan", "--model", EXAMPLE, "--config", RECIPE, "--calib", CALIBRATION, "--compute",
                            "fp32", "--json", figures, *further)
        return done, json.loads(figures.read_text())

    def compare(self, *further, ranks=0, saves=0.9, **keywords):
        """With and without: the same bytes; memory planned and measured is less, and no more than planned."""
        _, plain, expected = self.quantize("plain", *further, ranks=ranks, **keywords)
        self.assertEqual((plain["offloaded_bytes"], plain["planned_offloaded"]), (0, 0))
        done, less, found = self.quantize("offloaded", "--offload", self.disk, *further, ranks=ranks, **keywords)
        self.assertEqual(found, expected)
        self.assertRegex(done.stderr, rf"offloaded +[0-9.]+ [KM]iB of activations a rank in {self.disk}")
        self.assertLess(less["planned_bytes"], saves * plain["planned_bytes"])
        if saves < 1:
            self.assertLess(max(less["peak_rss_bytes"]), saves * max(plain["peak_rss_bytes"]))
        self.assertLessEqual(max(less["peak_rss_bytes"]), less["planned_bytes"])
        self.assertLessEqual(less["offloaded_bytes"], less["planned_offloaded"])
        self.assertGreater(less["offloaded_bytes"], less["planned_offloaded"] / 3)
        self.assertEqual(list(self.disk.iterdir()), [])
        for name in ("plain", "offloaded"):
            shutil.rmtree(self.directory / name)
        return less

    def test_the_same_bytes_in_less_memory(self):
        everything = {"samples": 0, "length": 0}
        measured = self.compare(**everything)
        _, planned = self.plan("--offload", "a directory of the nodes")
        self.assertEqual(planned["memory"]["total"], measured["planned_bytes"])
        self.assertEqual(planned["offloaded_bytes"], measured["planned_offloaded"])
        self.compare("--tokens-to-experts", "reduce", ranks=3, **everything)
        self.compare("--tokens-to-experts", "dispatch", ranks=3, **everything)

    def test_other_orders_and_latents(self):
        self.compare("--sequential", "layer", samples=0, length=0)
        model = FIXTURES / "deepseek_v3"
        self.compare(model=model, calibration=model / "golden.h5", samples=0, length=0, saves=1)

    def test_a_run_goes_on_with_it_and_without(self):
        _, _, expected = self.quantize("whole")
        offload = ("--offload", self.disk)
        for first, second, kept in (((), offload, ("--save-activations", 1)), (offload, (), ())):
            save = self.directory / f"run-{len(first)}"
            self.succeed(*quantize_arguments(save), *first, *kept, ranks=2)
            manifest = json.loads((save / "manifest.json").read_text())
            del manifest["complete"][4 if kept else 2:]
            (save / "manifest.json").write_text(json.dumps(manifest))
            (save / "model.h5").unlink()
            done = self.succeed(*quantize_arguments(save), *second, *kept, "--resume", "require", ranks=3)
            self.assertIn("from the saved output of layer 4/4" if kept else "layer 2/4  from disk", done.stderr)
            self.assertEqual(results(save), expected)

    def test_nothing_is_left_by_a_kill(self):
        process = start(*quantize_arguments(self.directory / "run", samples=0, length=0), "--offload", self.disk)
        for line in process.stdout:
            if line.startswith("layer 1/4"):
                break
        self.assertTrue(any(f"{self.disk}/" in line for line in
                            Path(f"/proc/{process.pid}/maps").read_text().splitlines()))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGKILL)
        self.assertEqual(list(self.disk.iterdir()), [])

    def test_directories_that_cannot_be_used(self):
        (self.disk / "file").touch()
        save = self.directory / "run"
        places = [(self.disk / "none", "No such file"), (self.disk / "file", "Not a directory")]
        if Path("/dev/shm").is_dir():
            places.append(("/dev/shm", "lie in memory"))
        for place, reason in places:
            done = run(*quantize_arguments(save), "--offload", place, ranks=2)
            self.assertEqual(done.returncode, 3, done.stderr)
            for words in (str(place), reason, "offload activations"):
                self.assertIn(words, done.stderr)
            self.assertFalse(save.exists())
        done = run(*quantize_arguments(save), "--hessians", self.directory, "--offload", self.disk)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("--offload", done.stderr)

    def test_a_disk_without_room(self):
        """Told before the first layer; files that cannot be as large stand for it."""
        save = self.directory / "run"
        line = command(*quantize_arguments(save, samples=0, length=0), "--offload", self.disk)
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)))
        self.assertEqual(done.returncode, 3, done.stderr)
        for words in (str(self.disk), "MiB cannot be reserved", "ulimit -f"):
            self.assertIn(words, done.stderr)
        self.assertFalse(save.exists())

    def test_it_is_a_remedy_where_it_helps(self):
        done, figures = self.plan("--offload", self.disk)
        self.assertIn("offloaded:", done.stdout)
        self.assertIn("activations lie in files", done.stdout)
        self.assertEqual(figures["memory"]["activations"], 0)
        arguments = ["plan", "--model", EXAMPLE, "--config", RECIPE, "--calib", CALIBRATION, "--compute", "fp32"]
        refused = run(*arguments, "--memory", figures["memory"]["total"])
        self.assertEqual(refused.returncode, 4, refused.stderr)
        self.assertRegex(refused.stderr, r"use --offload DIR \([0-9.]+ MiB a rank in files\)")
        self.plan("--offload", self.disk, "--memory", figures["memory"]["total"])
        refused = run(*arguments, "--memory", "1MiB")
        self.assertEqual(refused.returncode, 4, refused.stderr)
        self.assertNotIn("--offload", refused.stderr)


if __name__ == "__main__":
    unittest.main()
