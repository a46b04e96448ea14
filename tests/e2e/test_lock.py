"""One job at a time on a run directory, and a status that tells how a run ended."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import unittest

from program import ProgramTest, quantize_arguments, results, run, start


class Lock(ProgramTest):
    def setUp(self):
        super().setUp()
        self.save = self.directory / "run"
        self.arguments = quantize_arguments(self.save, samples=128, length=256)

    def start_and_wait(self, ranks=0):
        process = start(*self.arguments, ranks=ranks)
        for _ in range(1000):
            try:
                if json.loads((self.save / "status.json").read_text())["state"] == "running":
                    return process
            except (OSError, ValueError):
                pass
            time.sleep(0.01)
        self.fail("the run did not start")

    @contextlib.contextmanager
    def held(self, process, holder):
        """The job cannot end meanwhile: its other rank is suspended. The first one counts on in the lock."""
        listed = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(process.pid)], text=True,
                                capture_output=True, check=True).stdout.splitlines()
        ranks = [int(line.split()[0]) for line in listed if "aq-dist" in line]
        self.assertIn(holder["process"], ranks)
        others = [rank for rank in ranks if rank != holder["process"]]
        for rank in others:
            os.kill(rank, signal.SIGSTOP)
        try:
            yield
        finally:
            for rank in others:
                os.kill(rank, signal.SIGCONT)

    def status(self):
        done = run("status", self.save, threads=0)
        return done.returncode, done.stdout.split()[0]

    def test_a_second_job_is_refused_and_the_first_goes_on(self):
        process = self.start_and_wait(ranks=2)
        holder = json.loads((self.save / "run.lock").read_text())
        with self.held(process, holder):
            second = run(*self.arguments, ranks=2)
            self.assertEqual(self.status(), (76, "running"))
            copy = self.directory / "copy"
            shutil.copytree(self.save, copy)
            told = run("status", copy, threads=0)
        self.assertEqual((told.returncode, told.stdout.split()[0]), (1, "died"))
        self.assertIn(f"this is a copy of the run in {self.save.resolve()}, made while process {holder['process']}",
                      told.stdout)
        self.assertEqual(second.returncode, 3, second.stderr)
        self.assertIn(f"another job is at work on it: process {holder['process']} on {holder['host']}", second.stderr)
        output, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, output)
        self.assertEqual(self.status(), (0, "done"))
        left = {path.name for path in self.save.iterdir()}
        self.assertFalse(left & {"run.lock", ".heartbeat"}, left)

    def test_a_killed_run_died_and_its_lock_is_taken_over(self):
        process = self.start_and_wait()
        process.kill()
        process.communicate(timeout=60)
        self.assertEqual(self.status(), (1, "died"))
        self.assertTrue((self.save / "run.lock").exists())
        done = self.succeed(*self.arguments)
        self.assertIn("is taken over: its process is gone", done.stderr)
        self.assertFalse((self.save / "run.lock").exists())

    def test_merge_is_refused_while_a_job_is_at_work(self):
        process = self.start_and_wait(ranks=2)
        holder = json.loads((self.save / "run.lock").read_text())
        with self.held(process, holder):
            merged = run("merge", self.save)
        self.assertEqual(merged.returncode, 3, merged.stderr)
        self.assertIn(f"another job is at work on it: process {holder['process']} on {holder['host']}", merged.stderr)
        output, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, output)
        before = results(self.save)
        self.succeed("merge", self.save)
        self.assertEqual(results(self.save), before)
        self.assertFalse((self.save / "run.lock").exists())

    def test_merge_takes_over_the_lock_of_a_killed_run(self):
        process = self.start_and_wait()
        process.kill()
        process.communicate(timeout=60)
        merged = run("merge", self.save)
        self.assertEqual(merged.returncode, 3, merged.stderr)
        self.assertIn("is taken over: its process is gone", merged.stderr)
        self.assertIn("is not complete", merged.stderr)
        self.assertFalse((self.save / "run.lock").exists())

    def test_merge_leaves_no_lock_where_there_is_no_run(self):
        self.assertEqual(run("merge", self.directory).returncode, 3)
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_the_lock_of_another_machine_is_waited_for(self):
        process = self.start_and_wait()
        holder = json.loads((self.save / "run.lock").read_text())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(self.status(), (75, "stopped"))
        lock = self.save / "run.lock"
        ended = threading.Event()

        def count(hours):
            """The holder is another host, whose clock is not this one's."""
            for number in range(10_000):
                text = json.dumps({**holder, "machine": "elsewhere", "host": "elsewhere", "count": number})
                (self.save / "new.lock").write_text(text)
                os.utime(self.save / "new.lock", (time.time() + 3600 * hours,) * 2)
                (self.save / "new.lock").rename(lock)
                if ended.wait(0.5):
                    return

        for hours in (1, -1):
            ended.clear()
            holding = threading.Thread(target=count, args=(hours,))
            holding.start()
            time.sleep(0.1)
            try:
                self.assertEqual(self.status(), (76, "running"))
            finally:
                ended.set()
                holding.join()
        self.assertEqual(self.status(), (75, "stopped"))
        (self.save / "status.json").write_text(json.dumps(
            {**json.loads((self.save / "status.json").read_text()), "state": "running",
             "updated": int(time.time()) + 3600}))
        os.utime(self.save / "status.json", (time.time() + 3600,) * 2)
        told = run("status", self.save, threads=0)
        self.assertEqual((told.returncode, told.stdout.split()[0]), (1, "died"))
        self.assertNotIn("-", told.stdout.split("updated")[1].split("ago")[0])
        done = self.succeed(*self.arguments)
        self.assertIn("is taken over: it gave no sign of life", done.stderr)

    def test_a_stop_that_comes_twice_at_once_is_one_stop(self):
        process = self.start_and_wait()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, output)
        self.assertEqual(self.status(), (75, "stopped"))

    def test_a_signal_to_any_one_rank_stops_all(self):
        process = self.start_and_wait(ranks=3)
        ranks = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True,
                               check=True).stdout.split()
        os.kill(int(ranks[-1]), signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(self.status(), (75, "stopped"))


if __name__ == "__main__":
    unittest.main()
