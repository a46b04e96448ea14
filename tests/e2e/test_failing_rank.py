"""A failure of one rank alone ends the job, and `status` tells of it whichever rank it was."""

import json
import time
import unittest

from program import ProgramTest, quantize_arguments, results, run


class FailingRank(ProgramTest):
    def setUp(self):
        super().setUp()
        self.save = self.directory / "run"
        self.arguments = quantize_arguments(self.save)

    def block(self, layer, rank):
        """A directory where the rank is to create its shard: it alone cannot go on."""
        blocked = self.save / "shards" / f"layer-{layer:04}.rank-{rank:04}.h5.partial"
        blocked.mkdir(parents=True)
        return blocked

    def status(self):
        """Once no process of the job is left: the launcher may end before them."""
        for _ in range(100):
            done = run("status", self.save, threads=0)
            if done.returncode != 76:
                break
            time.sleep(0.1)
        state, text = done.stdout.split("\n")[:2]
        return done.returncode, state.split()[0], text

    def test_every_rank_leaves_its_error(self):
        for rank in (0, 1, 2):
            blocked = self.block(1, rank)
            done = run(*self.arguments, ranks=3)
            self.assertEqual(done.returncode, 3, done.stderr)
            code, state, text = self.status()
            self.assertEqual((code, state), (1, "failed"))
            self.assertIn(f"layer-0001.rank-000{rank}.h5", text)
            self.assertIn("Is a directory", text)
            self.assertEqual(text.startswith(f"rank {rank} on "), rank > 0)
            self.assertEqual(json.loads((self.save / "status.json").read_text())["layers"], 4)
            self.assertEqual(bool((self.save / "failure.json").read_text().strip()), rank > 0)
            self.assertEqual([path.name for path in self.save.rglob("failure.rank*")], [])
            blocked.rmdir()

    def test_the_run_goes_on_when_the_cause_is_gone(self):
        blocked = self.block(2, 1)
        run(*self.arguments, ranks=2)
        self.assertEqual(self.status()[1], "failed")
        self.assertTrue((self.save / "failure.json").exists())
        blocked.rmdir()
        self.succeed(*self.arguments, ranks=2)
        self.assertEqual(run("status", self.save, threads=0).returncode, 0)
        self.assertFalse((self.save / "failure.json").exists())
        other = self.directory / "other"
        self.succeed(*quantize_arguments(other), ranks=2)
        self.assertEqual(results(self.save), results(other))

    def test_before_the_first_layer_is_done(self):
        """The first rank writes its first status at about the same moment."""
        for _ in range(5):
            blocked = self.block(0, 1)
            run(*self.arguments, ranks=2)
            code, state, text = self.status()
            self.assertEqual((code, state), (1, "failed"))
            self.assertIn("layer-0000.rank-0001.h5", text)
            blocked.rmdir()

    def test_a_word_that_cannot_be_read_is_an_error(self):
        run(*self.arguments)
        (self.save / "failure.json").write_text("{")
        done = run("status", self.save, threads=0)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("failure.json", done.stderr)


if __name__ == "__main__":
    unittest.main()
