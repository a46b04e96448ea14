"""--tokens-to-experts dispatch: the same bytes as with reduce, whatever happens on the way."""

import json
import unittest

from program import FIXTURES, ProgramTest, model_arguments, quantize_arguments, results, run


class Dispatch(ProgramTest):
    def quantize(self, name, *further, ranks=0, threads=1, **keywords):
        save = self.directory / name
        done = self.succeed(*quantize_arguments(save, **keywords), *further, ranks=ranks, threads=threads)
        return results(save), done

    def check(self, *further, ranks=(2, 3, 4), **keywords):
        """The bytes of one rank alone, and of dispatch on several."""
        expected, _ = self.quantize("alone", *further, **keywords)
        for count in ranks:
            found, done = self.quantize(f"dispatch-{count}", *further, "--tokens-to-experts", "dispatch",
                                        ranks=count, threads=1 + count % 2, **keywords)
            self.assertIn("tokens travel to them; it was asked for", done.stderr)
            self.assertEqual(found, expected, f"{count} ranks, {further}")

    def test_ranks(self):
        self.check()

    def test_more_threads_than_experts_of_an_owner(self):
        expected, _ = self.quantize("alone")
        found, _ = self.quantize("threads", "--tokens-to-experts", "dispatch", ranks=3, threads=8)
        self.assertEqual(found, expected)

    def test_orders(self):
        for order in ("layer", "none"):
            with self.subTest(order):
                self.directory.mkdir(exist_ok=True)
                expected, _ = self.quantize(f"alone-{order}", "--sequential", order)
                found, _ = self.quantize(f"dispatch-{order}", "--sequential", order,
                                         "--tokens-to-experts", "dispatch", ranks=3)
                self.assertEqual(found, expected)

    def test_starved_experts_are_summed_everywhere(self):
        for policy in ("all_tokens", "rtn"):
            with self.subTest(policy):
                self.check("--min-tokens", 230, "--starved", policy, "--resume", "never", ranks=(3,))

    def test_ranks_without_lanes(self):
        self.check(samples=2, ranks=(4,))

    def test_waves(self):
        figures = self.directory / "whole.json"
        many = {"samples": 64, "length": 256}  # so many that experts need the most
        self.quantize("whole", "--tokens-to-experts", "dispatch", "--json", figures, ranks=2, **many)
        limit = json.loads(figures.read_text())["planned_bytes"] - (2 << 20)
        found, done = self.quantize("waves", "--tokens-to-experts", "dispatch", "--memory", limit, ranks=2,
                                    **many)
        self.assertRegex(done.stderr, "experts in [2-9] waves")
        self.assertEqual(found, results(self.directory / "whole"))

    def test_shared_experts_and_dense_layers(self):
        for name in ("deepseek_v2", "qwen2_moe"):
            self.check("--resume", "never", model=FIXTURES / name, samples=0, length=0,
                       calibration=FIXTURES / name / "golden.h5", ranks=(3,))

    def test_resume_from_disk_on_other_ranks(self):
        """Layers from disk run with dispatched tokens too, and the rest is the same."""
        expected, _ = self.quantize("whole")
        for first, then in (("dispatch", "dispatch"), ("reduce", "dispatch"), ("dispatch", "reduce")):
            save = self.directory / f"{first}-{then}"
            self.succeed(*quantize_arguments(save), "--tokens-to-experts", first, ranks=3)
            manifest = json.loads((save / "manifest.json").read_text())
            manifest["complete"] = manifest["complete"][:2]
            (save / "manifest.json").write_text(json.dumps(manifest))
            (save / "model.h5").unlink()
            self.succeed(*quantize_arguments(save), "--tokens-to-experts", then, "--resume", "require",
                         ranks=4)
            self.assertEqual(results(save), expected, f"{first}, then {then}")

    def test_kept_hessians_are_the_same(self):
        expected, _ = self.quantize("reduce", "--sequential", "none", "--keep-hessians", ranks=2)
        self.quantize("dispatch", "--sequential", "none", "--keep-hessians", "--tokens-to-experts",
                      "dispatch", ranks=3)
        save = self.directory / "again"
        self.succeed("quantize", *model_arguments(quantize_arguments(save)[2]), "--config",
                     quantize_arguments(save)[4], "--hessians", self.directory / "dispatch", "--save", save)
        self.assertEqual(results(save)[0], expected[0])

    def test_more_ranks_than_experts(self):
        self.check(model=FIXTURES / "mixtral", samples=0, length=0,
                   calibration=FIXTURES / "mixtral" / "golden.h5", ranks=(9,))

    def test_a_dense_model_is_refused(self):
        done = run(*quantize_arguments(self.directory / "run", model=FIXTURES / "llama", samples=0, length=0,
                                       calibration=FIXTURES / "llama" / "golden.h5"),
                   "--tokens-to-experts", "dispatch", ranks=2)
        self.assertEqual(done.returncode, 4)
        self.assertIn("the model has no routed experts", done.stderr)

    def test_planned_memory_and_bytes(self):
        figures = self.directory / "figures.json"
        for ranks in (2, 3):
            for order in ("stage", "layer"):
                self.quantize(f"{order}-{ranks}", "--sequential", order, "--tokens-to-experts", "dispatch",
                              "--json", figures, ranks=ranks, samples=64, length=256)
                measured = json.loads(figures.read_text())
                self.assertLessEqual(max(measured["peak_rss_bytes"]), measured["planned_bytes"])
                phase = next(phase for phase in measured["phases"] if phase["phase"] == "dispatch")
                if order == "layer":  # the second pass counts as "forward"
                    self.assertNotIn("planned_sent", phase)
                    continue
                # A token that several experts of one owner need travels once; the plan counts it each time.
                self.assertLess(phase["sent"], phase["planned_sent"])
                self.assertGreater(phase["sent"], 0.5 * phase["planned_sent"])


if __name__ == "__main__":
    unittest.main()
