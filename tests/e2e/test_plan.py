"""plan: what it says before a run, against what the run measures."""

import json
import unittest

from program import CALIBRATION, EXAMPLE, RECIPE, SOURCE, ProgramTest, run

CONFIGS = SOURCE / "tests" / "golden" / "configs"
INT4 = SOURCE / "configs" / "int4_g128.json"


class PlanTest(ProgramTest):
    def plan(self, *arguments, threads=1):
        figures = self.directory / "plan.json"
        result = run("plan", *arguments, "--json", figures, threads=threads)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(figures.read_text()), result.stdout

    def refused(self, code, *arguments):
        result = run("plan", *arguments)
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stderr

    def quantize(self, ranks, threads, *arguments):
        figures = self.directory / "run.json"
        result = run("quantize", "--model", EXAMPLE, "--config", RECIPE, "--calib", CALIBRATION,
                     "--save", self.directory / "run", "--json", figures, *arguments, ranks=ranks,
                     threads=threads)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(figures.read_text())

    def test_memory_is_what_the_run_measures(self):
        self.memory_of("fp32", ((1, 2), (2, 1), (3, 1), (4, 1)))

    def test_memory_of_bfloat16(self):
        self.skip_without_bf16()
        self.memory_of("bf16", ((1, 1), (1, 2), (2, 1)))

    def memory_of(self, compute, jobs):
        for ranks, threads in jobs:
            with self.subTest(ranks=ranks, threads=threads):
                figures, _ = self.plan("--model", EXAMPLE, "--config", RECIPE, "--calib",
                                       CALIBRATION, "--ranks", ranks, "--ranks-per-node", ranks,
                                       "--compute", compute, threads=threads)
                measured = self.quantize(ranks, threads, "--resume", "never", "--compute", compute)
                planned = figures["memory"]["total"]
                self.assertEqual(planned, measured["planned_bytes"])
                peak = max(measured["peak_rss_bytes"])
                self.assertLessEqual(peak, planned)
                # Within 15 % (docs/scaling.md); sampling misses some of a peak under load, and what
                # MPI keeps, a sixth of all on four ranks, differs from run to run.
                self.assertGreater(peak * (1.2 if ranks < 4 else 1.25), planned)
                self.check_phases(figures, measured, ranks)

    def check_phases(self, figures, measured, ranks):
        phases = {phase["phase"]: phase for phase in measured["phases"]}
        for name, phase in phases.items():
            if "planned_peak_bytes" in phase and ranks < 3:
                self.assertLessEqual(phase["peak_bytes"], phase["planned_peak_bytes"], name)
        if ranks == 1:
            return
        # Sums travel as planned, on the fullest rank too; the counts of tokens before them are small.
        reduce = phases["reduce"]
        planned = figures["bytes"]
        self.assertAlmostEqual(reduce["sent"] / planned["reduce sent"]["all"], 1, delta=0.02)
        for way in ("sent", "received"):
            self.assertAlmostEqual(reduce[f"most_{way}"] / planned[f"reduce {way}"]["most"], 1, delta=0.02)
        self.assertEqual(phases["reduce"]["planned_sent"],
                         int(figures["bytes"]["reduce sent"]["all"]))

    def test_large_model_from_its_configuration(self):
        figures, text = self.plan("--model", CONFIGS / "deepseek-v3.json", "--config-only",
                                  "--config", INT4, "--nsamples", 512, "--seqlen", 4096,
                                  "--ranks", 1024, "--ranks-per-node", 8)
        self.assertEqual(figures["ranks"], 1024)
        self.assertEqual(figures["token_ranks"], 128)
        self.assertEqual(figures["matrices"], 45032)
        for word in ("Waves:", "Memory:", "Lanes:", "Tokens: those of routed experts travel", "Rows:",
                     "Limit:", "hessian", "time:", "files:"):
            self.assertIn(word, text)
        total = max(moment["total"] for moment in figures["memory_by_phase"])
        self.assertEqual(total, figures["memory"]["total"])
        self.assertAlmostEqual(sum(figures["seconds"].values()), figures["total_seconds"], places=3)

    def test_a_directory_with_config_json_alone(self):
        (self.directory / "config.json").write_text((CONFIGS / "olmoe-1b-7b.json").read_text())
        arguments = ["--model", self.directory, "--config", INT4, "--nsamples", 8, "--seqlen", 64]
        figures, _ = self.plan(*arguments, "--config-only")
        self.assertGreater(figures["parameters"], 6e9)
        self.assertIn("safetensors", self.refused(3, *arguments))

    def test_refusals_say_what_would_do(self):
        model = ["--model", EXAMPLE, "--config", RECIPE]
        self.assertIn("--nsamples", self.refused(2, *model))
        self.assertIn("--lanes", self.refused(2, *model, "--calib", CALIBRATION, "--lanes", 3))
        text = self.refused(4, *model, "--calib", CALIBRATION, "--memory", "1MiB")
        self.assertIn("raise --memory to", text)
        enough = text.split("raise --memory to ")[1].split("MiB")[0]
        self.plan(*model, "--calib", CALIBRATION, "--memory", enough + "MiB")
        machine = self.directory / "machine.json"
        machine.write_text('{"core": 3}')
        text = self.refused(2, *model, "--calib", CALIBRATION, "--machine", machine)
        self.assertIn("did you mean 'cores'", text)

    def test_flags_win_over_the_recipe(self):
        model = ["--model", EXAMPLE, "--config", RECIPE, "--calib", CALIBRATION]
        figures, _ = self.plan(*model, "--refine", 0)
        self.assertEqual(figures["flops"]["refine"]["all"], 0)
        figures, _ = self.plan(*model, "--refine", 1)
        self.assertGreater(figures["flops"]["refine"]["all"], 0)

    def test_measured_machine_is_a_machine(self):
        machine = self.directory / "machine.json"
        result = run("doctor", "--measure", machine)
        self.assertEqual(result.returncode, 0, result.stderr)
        described = json.loads(machine.read_text())
        self.assertTrue(all(value > 0 for key, value in described.items()
                            if key not in ("name", "gpus")))
        figures, _ = self.plan("--model", EXAMPLE, "--config", RECIPE, "--calib", CALIBRATION,
                               "--machine", machine)
        self.assertEqual(figures["machine"], described)


if __name__ == "__main__":
    unittest.main()
