"""Killed and stopped runs: they end soon, say so, and go on to the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import time
import unittest

from program import ProgramTest, quantize_arguments, results, run, start


class Resume(ProgramTest):
    def setUp(self):
        super().setUp()
        self.save = self.directory / "run"
        self.arguments = quantize_arguments(self.save, samples=64, length=256)
        whole = self.directory / "whole"
        self.succeed(*quantize_arguments(whole, samples=64, length=256), ranks=2)
        self.expected = results(whole)

    def wait_for_layer(self, process, layer=1):
        """Until so many layers are complete."""
        for _ in range(3000):
            try:
                if len(json.loads((self.save / "manifest.json").read_text())["complete"]) >= layer:
                    return
            except (OSError, ValueError):
                pass
            self.assertIsNone(process.poll(), "the run ended before it could be stopped")
            time.sleep(0.01)
        self.fail("no layer was completed")

    def children(self, process):
        text = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True,
                              text=True, check=False).stdout
        return [int(pid) for pid in text.split()]

    def kill_after(self, process, layer=1):
        """All ranks and mpirun at once: ranks that only missed mpirun could end the run first."""
        self.wait_for_layer(process, layer)
        for pid in (*self.children(process), process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)

    def finish(self, ranks):
        done = self.succeed(*self.arguments, "--resume", "require", ranks=ranks)
        self.assertIn("from disk", done.stderr)
        self.assertEqual(results(self.save), self.expected)
        status = run("status", self.save, threads=0)
        self.assertEqual((status.returncode, status.stdout[:4]), (0, "done"))

    def test_saved_activations(self):
        """A resume starts from the newest saved output, on other ranks too, or repeats all."""
        options = ("--save-activations", 2)
        self.succeed(*self.arguments, *options, ranks=3)
        self.assertEqual(results(self.save), self.expected)
        folder = self.save / "activations"
        self.assertEqual({path.name.split(".")[0] for path in folder.iterdir()}, {"layer-0003"})
        manifest_path = self.save / "manifest.json"

        # Layer 4 complete and its output kept: only the head is left.
        shutil.rmtree(self.save)
        self.succeed(*self.arguments, *options, ranks=2)
        manifest = json.loads(manifest_path.read_text())
        del manifest["complete"][4:]
        manifest_path.write_text(json.dumps(manifest))
        (self.save / "model.h5").unlink()
        done = self.succeed(*self.arguments, *options, "--resume", "require", ranks=4)
        self.assertIn("resumed from the saved output of layer 4/4", done.stderr)
        self.assertEqual(results(self.save), self.expected)
        # A damaged file is told, and the layers run again.
        del manifest["complete"][4:]
        manifest_path.write_text(json.dumps(manifest))
        (self.save / "model.h5").unlink()
        path = sorted(folder.iterdir())[0]
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
        done = self.succeed(*self.arguments, *options, "--resume", "require", ranks=2)
        self.assertIn("the layers before are run again", done.stderr)
        self.assertNotIn("resumed from the saved output", done.stderr)
        self.assertEqual(results(self.save), self.expected)

    def test_killed_with_saved_activations(self):
        self.arguments += ["--save-activations", "1"]
        process = start(*self.arguments, ranks=2)
        self.kill_after(process, layer=2)
        done = self.succeed(*self.arguments, "--resume", "require", ranks=3)
        self.assertIn("resumed from the saved output of layer", done.stderr)
        self.assertEqual(results(self.save), self.expected)

    def test_kill_of_one_rank(self):
        process = start(*self.arguments, ranks=2)
        self.wait_for_layer(process)
        os.kill(self.children(process)[-1], signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        self.assertNotEqual(process.returncode, 0, output)
        self.assertNotEqual(run("status", self.save, threads=0).returncode, 0)
        self.finish(ranks=3)

    def test_kill_of_everything(self):
        process = start(*self.arguments, ranks=3)
        self.kill_after(process)
        for _ in range(100):  # a killed process ends when its memory is given back
            status = run("status", self.save, threads=0).returncode
            if status == 1:
                break
            time.sleep(0.1)
        self.assertEqual(status, 1)
        self.finish(ranks=0)

    def test_orderly_stop(self):
        for number in (signal.SIGUSR1, signal.SIGTERM):
            shutil.rmtree(self.save, ignore_errors=True)
            process = start(*self.arguments, ranks=0)
            self.wait_for_layer(process)
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 75, output)
            status = run("status", self.save, threads=0)
            self.assertEqual((status.returncode, status.stdout.split()[0]), (75, "stopped"))
        self.finish(ranks=2)

    def test_stop_through_mpirun(self):
        process = start(*self.arguments, ranks=2)
        self.wait_for_layer(process)
        process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=60)
        self.assertEqual(run("status", self.save, threads=0).returncode, 75)
        self.finish(ranks=2)


class Identity(ProgramTest):
    def test_another_run_is_refused_and_the_field_named(self):
        save = self.directory / "run"
        self.succeed(*quantize_arguments(save))
        before = results(save)
        other = self.write_recipe(default={"wq": "int3", "group_size": 32})
        for further, field in ((["--nsamples", 8], "tokens"), (["--damping", 0.02], "settings"),
                               (["--lanes", 4], "lanes")):
            done = run(*quantize_arguments(save, samples=0 if "--nsamples" in further else 16), *further)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn(field + ": '", done.stderr)
        done = run(*quantize_arguments(save, recipe=other))
        self.assertEqual(done.returncode, 3)
        self.assertIn("recipe: '", done.stderr)
        self.assertEqual(results(save), before)

    def test_finished_run_is_not_repeated(self):
        save = self.directory / "run"
        self.succeed(*quantize_arguments(save))
        before = results(save)
        time_of_shard = (save / "shards" / "layer-0000.rank-0000.h5").stat().st_mtime_ns
        (save / ".heartbeat").mkdir()
        (save / ".heartbeat" / "rank-7").touch()  # of a start with more ranks that was killed
        self.succeed(*quantize_arguments(save), ranks=2)
        self.assertFalse((save / ".heartbeat").exists())
        self.assertEqual(results(save), before)
        self.assertEqual((save / "shards" / "layer-0000.rank-0000.h5").stat().st_mtime_ns, time_of_shard)

    def test_a_missing_shard_is_made_again(self):
        save = self.directory / "run"
        self.succeed(*quantize_arguments(save), ranks=2)
        before = results(save)
        (save / "shards" / "layer-0002.rank-0001.h5").unlink()
        (save / "model.h5").unlink()
        done = self.succeed(*quantize_arguments(save))
        self.assertIn("a shard of layer 2 is missing", done.stderr)
        self.assertEqual(results(save), before)

    def test_nothing_to_resume(self):
        done = run(*quantize_arguments(self.directory / "none"), "--resume", "require")
        self.assertEqual(done.returncode, 3)
        self.assertIn("no run to resume", done.stderr)


class Unreadable(ProgramTest):
    """What cannot be read now is not damaged, and nothing good is removed before its replacement is whole."""

    def setUp(self):
        super().setUp()
        self.save = self.directory / "run"
        self.arguments = quantize_arguments(self.save)
        self.succeed(*self.arguments, ranks=2)
        self.before = results(self.save)
        self.shard = self.save / "shards" / "layer-0001.rank-0001.h5"

    def written(self):
        """Times and sizes of everything that a resume could write anew, but for the shard in question."""
        paths = [self.save / "model.h5", *(self.save / "shards").iterdir()]
        return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths if path != self.shard}

    def complete(self):
        return json.loads((self.save / "manifest.json").read_text())["complete"]

    def test_what_can_be_read_after_a_while_is_whole(self):
        before = self.written()
        content = self.shard.with_name("content")
        self.shard.rename(content)
        self.shard.symlink_to("/proc/self/mem")  # whose first byte cannot be read: EIO
        process = start(*self.arguments, ranks=2)
        told = []
        for line in process.stdout:
            told.append(line)
            if "it is tried again" in line:
                content.rename(self.shard)
        output = "".join(told)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, output)
        self.assertIn(f"{self.shard}: Input/output error (errno 5)", output)
        self.assertNotIn("damaged", output)
        self.assertEqual(self.written(), before)
        self.assertEqual(results(self.save), self.before)

    def test_an_input_error_ends_the_resume_and_removes_nothing(self):
        before, complete = self.written(), self.complete()
        content = self.shard.read_bytes()
        self.shard.unlink()
        self.shard.symlink_to("/proc/self/mem")
        done = run(*self.arguments, ranks=2)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(f"{self.shard}: Input/output error (errno 5)", done.stderr)
        self.assertEqual(self.complete(), complete)
        self.assertEqual(self.written(), before)
        self.assertEqual(run("status", self.save, threads=0).returncode, 0)
        self.shard.unlink()
        self.shard.write_bytes(content)
        self.succeed(*self.arguments)
        self.assertEqual(self.written(), before)
        self.assertEqual(results(self.save), self.before)

    def test_a_good_model_stays_until_the_next_one_is_whole(self):
        recipe = self.write_recipe(default={"wq": "int3", "group_size": 32})
        other = quantize_arguments(self.save, recipe=recipe)
        self.assertEqual(run(*other).returncode, 3)
        self.assertEqual(results(self.save), self.before)
        content = bytearray(self.shard.read_bytes())
        content[-100] ^= 1
        self.shard.write_bytes(content)
        inode = (self.save / "model.h5").stat().st_ino
        for options in ((), ("--resume", "never")):  # its own model stays in place, another's aside
            process = start(*self.arguments, *options)
            self.wait_for(lambda: json.loads((self.save / "status.json").read_text())["process"] == process.pid)
            process.kill()
            process.communicate(timeout=60)
            self.assertEqual((self.save / "model.h5").stat().st_ino, inode)
        process = start(*other, "--resume", "never")
        self.wait_for((self.save / "model.h5.previous").exists)
        process.kill()
        process.communicate(timeout=60)
        self.assertEqual((self.save / "model.h5.previous").stat().st_ino, inode)
        self.assertFalse((self.save / "model.h5").exists())
        self.succeed(*other, "--resume", "never")
        self.assertFalse((self.save / "model.h5.previous").exists())
        self.assertNotEqual(results(self.save), self.before)

    def wait_for(self, condition):
        for _ in range(6000):
            if condition():
                return
            time.sleep(0.005)
        self.fail("it did not come to that")


if __name__ == "__main__":
    unittest.main()
