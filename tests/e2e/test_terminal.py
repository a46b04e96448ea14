"""What a run says while it goes: status from outside, a bar on a terminal, lines in a log, nothing with --quiet."""

import json
import os
import pty
import re
import signal
import subprocess
import time
import unittest

from program import ProgramTest, command, environment, quantize_arguments, run, start


class Terminal(ProgramTest):
    def setUp(self):
        super().setUp()
        self.save = self.directory / "run"

    def test_status_of_a_run(self):
        """Ranks with memory, place and the share of time in which they compute."""
        process = start(*quantize_arguments(self.save, samples=64, length=256), "--min-tokens", 100000,
                        "--stall-timeout", 2, ranks=3)
        self.addCleanup(lambda: os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None)
        figures, seen = self.directory / "status.json", {}
        while process.poll() is None and not seen:
            done = run("status", self.save, "--json", figures, threads=0)
            if done.returncode != 76:
                time.sleep(0.05)
                continue
            status = json.loads(figures.read_text())
            working = [rank for rank in status["ranks"] if "layer" in rank["at"]]
            if len(working) == 3 and status["last_fallback"]:
                seen = {**status, "text": done.stdout}
        output, _ = process.communicate(timeout=120)
        self.assertTrue(seen, output)
        self.assertEqual([rank["rank"] for rank in seen["ranks"]], [0, 1, 2])
        for rank in seen["ranks"]:
            self.assertGreater(rank["memory"], 1 << 20)
            self.assertLessEqual(0, rank["computes"])
            self.assertLessEqual(rank["computes"], 1)
            self.assertIn(rank["host"], seen["text"])
        self.assertRegex(seen["last_fallback"], r"^model\.layers\.\d+\.mlp\.experts\.\d+\.\w+_proj: starved")
        self.assertIn(seen["last_fallback"], seen["text"])
        done = run("status", self.save, "--json", figures, threads=0)
        self.assertEqual((done.returncode, json.loads(figures.read_text())["ranks"]), (0, []))

    def on_a_terminal(self, *arguments):
        """What the program writes to standard error when that is a terminal of 60 columns."""
        mine, theirs = pty.openpty()
        subprocess.run(["stty", "cols", "60", "-opost"], stdin=theirs, check=True)
        process = subprocess.Popen(command(*arguments), stderr=theirs, stdout=subprocess.DEVNULL, env=environment())
        os.close(theirs)
        text = b""
        try:
            while block := os.read(mine, 65536):
                text += block
        except OSError:  # the other end is closed
            pass
        os.close(mine)
        self.assertEqual(process.wait(), 0, text)
        return text.decode()

    def test_a_bar_on_a_terminal(self):
        text = self.on_a_terminal(*quantize_arguments(self.save))
        bars = re.findall(r"\r\x1b\[K([^\r\n]*)", text)
        self.assertTrue(all(len(bar) < 60 for bar in bars), bars)
        self.assertTrue([bar for bar in bars if re.match(r"\[#+\.+\] .*layer [2-4]/4", bar)], bars)
        lines = re.sub(r"\r\x1b\[K[^\r\n]*", "", text).splitlines()
        self.assertFalse([line for line in lines if line.startswith("layer")], "they stand in a log")
        self.assertLessEqual(len(lines), 2 * 24, "the table and the summary fit a screen each")

    def test_lines_in_a_log(self):
        done = self.succeed(*quantize_arguments(self.save))
        self.assertEqual(len(re.findall(r"^layer \d/4 ", done.stderr, re.MULTILINE)), 4)
        self.assertNotIn("\r", done.stderr)
        table = done.stderr[:done.stderr.index("layer 1/4")]
        self.assertNotIn("{", table)
        self.assertLessEqual(table.count("\n"), 20)

    def test_quiet(self):
        done = self.succeed(*quantize_arguments(self.save), "--quiet", "--export", self.directory / "out")
        self.assertEqual((done.stdout, done.stderr), ("", ""))
        self.assertEqual(run("status", self.save, threads=0).returncode, 0)
        self.assertIn("warning", run(*quantize_arguments(self.save, recipe=self.write_recipe(
            overrides=[{"pattern": "nothing", "wq": "int8"}])), "--quiet", "--resume", "never").stderr)


if __name__ == "__main__":
    unittest.main()
