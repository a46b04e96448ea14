"""The page of `aq-dist report` against what lies in the run directory, read by h5py, numpy and csv alone."""

import csv
import json
import re
import shutil
import tempfile
import unittest
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np

from program import EXAMPLE, ProgramTest, quantize_arguments, run
from exported_checkpoint import read_checkpoint
from report_page import ReportPage
from synthetic_run import write_run

LIMIT = 2 * 10**6  # bytes of a page of 61 layers with 256 experts
MACHINE = {"name": "test", "cores": 2}


def kind_of(name, layer):
    """As module_kind: without the numbers of layer and expert."""
    return re.sub(r"\.\d+\.", ".*.", name.split(f".layers.{layer}.")[1])


def three_digits(value):
    return float(f"{value:.3g}")


class ReportTest(ProgramTest):
    def quantize(self, name, *further, recipe=None, ranks=2):
        save = self.directory / name
        recipe = recipe or self.write_recipe(f"{name}.json")
        self.succeed(*quantize_arguments(save, recipe=recipe), *further, ranks=ranks)
        return save

    def report(self, *runs, options=()):
        out = self.directory / "report.html"
        done = self.succeed("report", *runs, "--out", out, *options)
        self.assertIn(f"{out}: {len(runs)} run", done.stdout)
        return ReportPage(out)

    def refused(self, code, *arguments):
        done = run("report", *arguments, "--out", self.directory / "none.html")
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(list(self.directory.glob("none.html*")), [])
        return done.stderr


class ExampleRun(ReportTest):
    """One mixed recipe: starved experts, 8 bits for o_proj, some experts rounded without a Hessian."""

    RECIPE = {"default": {"wq": "int4", "group_size": 32},
              "overrides": [{"pattern": "*.o_proj", "wq": "int8"}, {"pattern": "*.2.mlp.experts.3.*", "method": "rtn"},
                            {"pattern": "*.experts.7.up_proj", "skip": True}],
              "gptq": {"min_tokens": 180, "routing_exponent": 1}}

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="aq-dist-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.original, cls.recipe = Path(folder.name) / "run", Path(folder.name) / "recipe.json"
        cls.recipe.write_text(json.dumps(cls.RECIPE))
        done = run(*quantize_arguments(cls.original, recipe=cls.recipe), ranks=2)
        assert done.returncode == 0, done.stderr

    def setUp(self):
        super().setUp()
        self.run = self.directory / "run"
        shutil.copytree(self.original, self.run)
        with (self.run / "quant_log.csv").open() as file:
            self.log = list(csv.DictReader(file))
        with h5py.File(self.run / "model.h5") as file:
            self.stats = {name: json.loads(group.attrs["stats"]) for name, group in file["matrices"].items()}
        self.metrics = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]

    def measured(self):
        return {name: stats for name, stats in self.stats.items() if stats["error_rtn"] > 0}

    def test_data_and_tables_are_those_of_the_run(self):
        page = self.report(self.run)
        self.check_experts(page)
        self.check_errors(page)
        self.check_starved(page)
        self.check_sizes(page)
        self.check_recipe(page)
        self.check_times(page)
        self.check_servers(page)

    def check_experts(self, page):
        experts = page.data["runs"][0]["experts"]
        self.assertEqual([layer["layer"] for layer in experts], [0, 1, 2, 3])
        for layer, metrics in zip(experts, self.metrics):
            number = layer["layer"]
            self.assertEqual(layer["tokens"], metrics["expert_tokens"])
            own = {e: [s for s in self.stats.values() if (s["layer"], s["expert"]) == (number, e)] for e in range(16)}
            starved = [e for e in own if any(s["fallback"].startswith("starved") for s in own[e])]
            self.assertEqual(layer["starved"], starved)
            for e, stats in own.items():
                errors = [s["error"] for s in stats if s["error_rtn"] > 0]
                nearest = [s["error_rtn"] for s in stats if s["error_rtn"] > 0]
                self.assertEqual(layer["error"][e], three_digits(np.mean(errors)) if errors else None)
                self.assertEqual(layer["nearest"][e], three_digits(np.mean(nearest)) if nearest else None)
                known = e not in starved and stats[0]["weight_sum"] > 0
                self.assertEqual(layer["weight"][e], three_digits(stats[0]["weight_sum"]) if known else None, (number, e))
        rows = page.rows("experts")
        for metrics in self.metrics:
            tokens = sorted(metrics["expert_tokens"])
            self.assertEqual(rows[str(metrics["layer"])][:5],
                             [str(tokens[0]), str(tokens[8]), str(tokens[-1]), f"{tokens[-1] / np.mean(tokens):.2f}",
                              str(tokens.count(0))])

    def check_errors(self, page):
        kinds = defaultdict(list)
        for name, stats in self.measured().items():
            kinds[kind_of(name, stats["layer"])].append(stats)
        rows = page.rows("error")
        for kind, all_stats in kinds.items():
            error, nearest = (np.mean([s[key] for s in all_stats]) for key in ("error", "error_rtn"))
            self.assertAlmostEqual(float(rows[kind][0]) / error, 1, delta=5e-3)
            self.assertAlmostEqual(float(rows[kind][1]) / nearest, 1, delta=5e-3)
            self.assertEqual(rows[kind][2], f"{error / nearest:.3f}")
            self.assertAlmostEqual(float(rows[kind][3]) / max(s["error"] for s in all_stats), 1, delta=5e-3)
            self.assertEqual(rows[kind][4], str(len(all_stats)))
        curves = {curve["kind"]: curve for curve in page.data["runs"][0]["errors"]}
        self.assertEqual(set(curves), set(kinds))
        for kind, curve in curves.items():
            for layer, error in zip(curve["layers"], curve["error"]):
                own = [s["error"] for s in kinds[kind] if s["layer"] == layer]
                self.assertEqual(error, three_digits(np.mean(own)), (kind, layer))
        worst = max(self.measured(), key=lambda name: self.stats[name]["error"])
        self.assertEqual(page.tables["error"][2][1][0], worst)
        self.assertEqual(len(page.tables["error"][2]), 21)

    def check_starved(self, page):
        rows = page.rows("starved")
        for metrics in self.metrics:
            few = [f"{e} ({count})" for e, count in enumerate(metrics["expert_tokens"])
                   if count < 180 and not (metrics["layer"], e) == (2, 3)]
            self.assertEqual(rows.get(str(metrics["layer"]), ["0", "", ""])[:2], [str(len(few)), ", ".join(few)])
        count = len({(s["layer"], s["expert"]) for s in self.stats.values() if s["fallback"] == "starved_all_tokens"})
        self.assertGreater(count, 0)
        self.assertIn(f"{count} of 64 experts were starved: fewer than 180 tokens", page.sections["summary"])
        matrices = sum(row["fallback"] == "starved_all_tokens" for row in self.log)
        self.assertEqual(page.rows("fallbacks")["starved_all_tokens"][1], str(matrices))
        self.assertIn("3 matrices without a Hessian", page.sections["summary"])

    def check_sizes(self, page):
        tensors = read_checkpoint(EXAMPLE)
        before = sum(len(tensors[f"{row['name']}.weight"].data) for row in self.log)
        weights = sum(int(row["rows"]) * int(row["columns"]) for row in self.log)
        bits = sum(float(row["bits"]) * int(row["rows"]) * int(row["columns"]) for row in self.log)
        total = page.rows("size")["All quantized"]
        self.assertEqual(total[:2], [str(len(self.log)), f"{bits / weights:.3f}"])
        self.assertEqual(total[4:], [f"{bits / 8 / before * 100:.1f} %", f"{weights:,}"])
        self.assertEqual(total[2], f"{before / 2**20:.1f} MiB")

    def check_recipe(self, page):
        rows = {(row[0], row[1]): row[2] for row in page.tables["recipe"][0][1:]}
        self.assertEqual(rows["self_attn.o_proj", "gptq int8 g128, scales bf16"], "4")
        self.assertEqual(rows["mlp.experts.*.up_proj", "untouched"], "4")
        self.assertEqual(rows["mlp.experts.*.down_proj", "rtn int4 g32, scales bf16"], "1")
        self.assertEqual(rows["lm_head", "untouched"], "1")
        self.assertEqual(page.rows("recipe", 1)["min_tokens"], ["180"])

    def check_times(self, page):
        lines = (self.run / "sessions.jsonl").read_text().splitlines()
        self.assertEqual(len(lines), 1)
        session = json.loads(lines[0])
        self.assertEqual((session["parts"], len(session["ranks"]["hosts"])), (5, 2))
        totals, ranks = page.rows("time"), page.tables["time"][2]
        self.assertEqual([totals[key][0] for key in ("Ranks", "Layers quantized, head included", "Time, planned")],
                         ["2", "5", "–"])
        self.assertEqual(totals["Peak memory, planned"][0], f"{session['planned_bytes'] / 2**20:.1f} MiB")
        self.assertEqual([row[0] for row in ranks], ["Rank", "0", "1"])
        solve = ranks[0].index("solve")
        for rank in (0, 1):
            self.assertEqual(ranks[rank + 1][solve], f"{session['ranks']['milliseconds']['solve'][rank]} ms")
        recorded = {phase["phase"]: phase["seconds"] for phase in session["phases"]}
        for phase, times in session["ranks"]["milliseconds"].items():
            self.assertAlmostEqual(max(times) / 1e3, recorded[phase], delta=6e-4)

    def check_servers(self, page):
        listed = self.succeed("inspect", EXAMPLE, "--recipe", self.recipe).stdout
        found = re.findall(r"^  (vllm|vllm-gptq|transformers|sglang) +(yes|no)", listed, re.MULTILINE)
        self.assertEqual(len(found), 4)
        rows = page.rows("servers")
        for target, verdict in found:
            self.assertTrue(rows[target][0].startswith(verdict), (target, rows[target]))

    def test_two_runs_side_by_side(self):
        other = self.quantize("other", "--damping", 0.02, ranks=1)
        page = self.report(self.run, other)
        self.assertEqual(page.title, "run · other – quantization report")
        self.assertEqual([entry["label"] for entry in page.data["runs"]], ["run", "other"])
        head = page.tables["error"][0]
        self.assertEqual([cell for cell in head[0] if cell], ["run", "other"])
        self.assertEqual(head[1], ["Linear"] + ["GPTQ", "Nearest", "Ratio", "Worst", "Measured"] * 2)
        alone = self.report(other)
        both, one = page.rows("error"), alone.rows("error")
        for kind in (kind for kind in one if kind != "Linear"):
            self.assertEqual(both[kind][5:], one[kind])
        self.assertEqual(page.rows("recipe", 1)["damping"], ["0.01", "0.02"])
        self.assertEqual(page.data["runs"][1], alone.data["runs"][0])
        marked = re.findall(r'<td class="run different">([^<]*)</td>', page.source)
        self.assertIn("0.02", marked)
        self.assertNotIn("mse", marked)

    def test_a_run_that_is_not_finished(self):
        manifest = json.loads((self.run / "manifest.json").read_text())
        manifest["complete"] = manifest["complete"][:2]
        (self.run / "manifest.json").write_text(json.dumps(manifest))
        whole = {row["name"]: row for row in self.log}
        page = self.report(self.run)
        self.assertIn("Not finished: 2 of 4 layers on disk", page.sections["summary"])
        self.assertEqual([layer["layer"] for layer in page.data["runs"][0]["experts"]], [0, 1])
        names = sum((part["matrices"] for part in manifest["complete"]), [])
        errors = [float(whole[name]["error"]) for name in names if float(whole[name]["error_rtn"]) > 0]
        self.assertAlmostEqual(float(page.rows("error")["All"][0]) / np.mean(errors), 1, delta=5e-3)
        manifest["complete"] = []
        (self.run / "manifest.json").write_text(json.dumps(manifest))
        page = self.report(self.run)
        self.assertIn("Not finished: 0 of 4 layers on disk", page.sections["summary"])
        self.assertIn("No matrix is on disk yet", page.sections["error"])

    def status(self, **changes):
        path = self.run / "status.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def test_a_run_that_is_not_merged(self):
        self.assertIn("and the head are on disk", self.report(self.run).sections["summary"])
        self.assertNotIn("start the same command again", self.report(self.run).sections["summary"])
        for state in ("failed", "died", "stopped"):
            self.status(state=state, message="the disk is full")
            page = self.report(self.run)
            self.assertIn("Do not use it before this is understood", page.sections["summary"])
            self.assertIn(f"the state written last is “{state}”: the disk is full", page.sections["summary"])
        self.status(state="done", message="")
        (self.run / "model.h5").unlink()
        page = self.report(self.run)
        self.assertIn('<li class="note"><span class="sign">!</span>Finished:', page.source)
        self.assertIn("model.h5 is not written: start the same command again", page.sections["summary"])
        (self.run / "quant_log.csv").unlink()
        self.assertIn("model.h5 and quant_log.csv are not written", self.report(self.run).sections["summary"])

    def test_a_torn_line_of_the_records_is_replaced(self):
        sorted((self.run / "shards").glob("layer-0002.*"))[0].unlink()
        for name in ("metrics.jsonl", "sessions.jsonl"):
            with (self.run / name).open("a") as file:
                file.write('{"layer": 2, "resu')
        self.succeed(*quantize_arguments(self.run, recipe=self.recipe), ranks=1)
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["layer"] for line in lines], [0, 1, 2, 3, 2, 3])
        self.assertEqual(len((self.run / "sessions.jsonl").read_text().splitlines()), 2)
        self.report(self.run)

    def test_a_run_is_done_without_its_line_of_sessions(self):
        sorted((self.run / "shards").glob("layer-0002.*"))[0].unlink()
        (self.run / "sessions.jsonl").unlink()
        (self.run / "sessions.jsonl").mkdir()
        done = self.succeed(*quantize_arguments(self.run, recipe=self.recipe), ranks=1)
        self.assertIn("this start is not in sessions.jsonl", done.stderr)
        self.assertEqual(json.loads((self.run / "status.json").read_text())["state"], "done")

    def test_records_that_are_not_there(self):
        for name in ("metrics.jsonl", "sessions.jsonl", "status.json"):
            (self.run / name).unlink()
        page = self.report(self.run)
        self.assertIn("phases and memory are not recorded", page.sections["time"])
        self.assertNotIn("several starts", page.sections["time"])
        self.assertIn("is not recorded", page.sections["experts"])
        layer = page.data["runs"][0]["experts"][0]
        for e, tokens in enumerate(layer["tokens"]):  # what calibrated an expert, where that is its own
            self.assertEqual(tokens, None if e in layer["starved"] else self.metrics[0]["expert_tokens"][e])

    def test_checkpoint_and_records_elsewhere(self):
        moved = self.directory / "moved"
        shutil.copytree(EXAMPLE, moved)
        manifest = json.loads((self.run / "manifest.json").read_text())
        manifest["configuration"]["model"] = "/nowhere/model"
        (self.run / "manifest.json").write_text(json.dumps(manifest))
        page = self.report(self.run)
        self.assertIn("the checkpoint was not read", page.sections["servers"])
        self.assertEqual(page.rows("size")["All quantized"][2], "–")
        self.assertEqual(page.rows("servers")["vllm"], ["–"])
        page = self.report(self.run, options=("--model", moved))
        self.assertNotIn("–", page.rows("size")["All quantized"])
        config = json.loads((moved / "config.json").read_text())
        (moved / "config.json").write_text(json.dumps(config | {"rope_theta": 12345.0}))
        page = self.report(self.run, options=("--model", moved))
        self.assertIn("made from another checkpoint", page.sections["servers"])

    def test_what_cannot_be_read_is_an_error(self):
        self.assertIn("not the directory of a run", self.refused(3, self.directory))
        self.assertIn("--out is required", run("report", self.run).stderr)
        log = (self.run / "quant_log.csv").read_text()
        (self.run / "quant_log.csv").write_text(log[:-20])
        self.assertIn(f"line {log.count(chr(10))} is cut off", self.refused(3, self.run))
        (self.run / "quant_log.csv").write_text(log)
        (self.run / "sessions.jsonl").write_text('{"parts": "x"}\n')
        self.assertIn("sessions.jsonl", self.refused(3, self.run))
        nowhere = run("report", EXAMPLE.parent, "--out", self.directory / "a" / "b.html")
        self.assertEqual(nowhere.returncode, 3)

    def test_a_session_is_recorded_for_each_start_that_did_something(self):
        lines = lambda: (self.run / "sessions.jsonl").read_text().splitlines()
        arguments = quantize_arguments(self.run, recipe=self.recipe)
        self.succeed(*arguments, ranks=1)
        self.assertEqual(len(lines()), 1)
        sorted((self.run / "shards").glob("layer-0002.*"))[0].unlink()
        machine = self.directory / "machine.json"
        machine.write_text(json.dumps(MACHINE))
        self.succeed(*arguments, "--machine", machine, ranks=1)
        self.assertEqual([json.loads(line)["parts"] for line in lines()], [5, 3])
        self.assertGreater(json.loads(lines()[1])["planned_seconds"], 0)
        page = self.report(self.run)
        self.assertEqual(page.rows("time")["Ranks"], ["2"])
        self.assertNotIn("parts", page.rows("summary")["Time"][0])
        (self.run / "sessions.jsonl").write_text(lines()[1] + "\n")  # the first start was killed
        page = self.report(self.run)
        self.assertRegex(page.rows("summary")["Time"][0], "on 1 rank for 3 of 5 parts$")
        self.assertIn("of the starts that came to their end, the one that quantized most, 3 layers of 4 and the head",
                      page.sections["time"])
        self.succeed(*arguments, "--machine", machine, "--resume", "never", ranks=1)
        self.assertEqual([json.loads(line)["parts"] for line in lines()], [5])
        page = self.report(self.run)
        self.assertNotIn("–", page.rows("time")["Time, planned"])


class Pages(ReportTest):
    def test_hostile_names(self):
        evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'{{data}}"
        model = self.directory / evil.replace("/", "∕")
        shutil.copytree(EXAMPLE, model)
        recipe = self.directory / "<svg onload=alert(3)>.json"
        recipe.write_text(json.dumps({"default": {"wq": "int4", "group_size": 32, "comment": evil}}))
        plain = self.quantize("plain")
        save = self.directory / ("<b>\udcff" + "x" * 100 + "</td></title>").replace("/", "∕")
        self.succeed(*quantize_arguments(self.directory / "evil", model=model, recipe=recipe))
        (self.directory / "evil").rename(save)
        manifest = json.loads((save / "manifest.json").read_text())
        manifest["configuration"]["calibration"] = evil
        manifest["configuration"]["threads"] = "</table></section>"
        (save / "manifest.json").write_text(json.dumps(manifest))
        page, expected = self.report(save, plain), self.report(plain, plain)
        for tag in ("script", "img", "svg", "b", "style", "title", "section"):
            self.assertEqual(page.tags.get(tag, 0), expected.tags.get(tag, 0), tag)
        self.assertEqual(page.rows("provenance")["Calibration tokens"][0], evil)
        self.assertEqual(page.rows("provenance")["Threads a rank"][0], "</table></section>")
        self.assertIn(json.dumps(evil), page.sections["recipe"])
        self.assertTrue(page.data["runs"][0]["label"].startswith("<b>\ufffd"))
        self.report(save)

    def test_nothing_is_fetched(self):
        page = self.report(self.quantize("run"))
        self.assertTrue(all(link.startswith(("#", "--s:")) for link in page.links), page.links)
        self.assertEqual(set(re.findall(r"https?://[^\"'\s]*", page.source)), {"http://www.w3.org/2000/svg"})
        self.assertNotIn("@import", page.source)
        self.assertNotIn("url(", page.source.replace("url(#", ""))

    def test_a_large_run_stays_small(self):
        rows = write_run(self.directory / "large", ranks=1024)
        self.assertEqual(len(rows), 3 * 8 + 58 * (5 + 3 * 256 + 3))
        page = self.report(self.directory / "large")
        self.assertLess(len(page.source.encode()), LIMIT)
        experts = page.data["runs"][0]["experts"]
        self.assertEqual({len(layer[key]) for layer in experts for key in ("tokens", "weight", "error", "nearest")}, {256})
        self.assertEqual(len(experts), 58)
        self.assertEqual(len(page.tables["time"][2]), 65, "the ranks that took longest")
        starved = {row.rsplit(",", 17)[0].split(".mlp.")[0] for row in rows if row.endswith("starved_all_tokens")}
        self.assertEqual(len(page.tables["starved"][0]) - 1, len(starved))

    def test_a_small_one_has_everything_unfolded(self):
        write_run(self.directory / "small", layers=4, dense=0, experts=4, ranks=2)
        page = self.report(self.directory / "small")
        self.assertEqual([len(layer["tokens"]) for layer in page.data["runs"][0]["experts"]], [4] * 4)


if __name__ == "__main__":
    unittest.main()
