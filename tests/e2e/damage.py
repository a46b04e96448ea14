"""What damages a file, and the test that the program refuses it with one clear error."""

import json
import os

import h5py

from program import ProgramTest, run


# ---- what damages a file

def cut(length):
    """Keeps so many bytes (negative: all but so many)."""
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def replace(content):
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def append(content):
    return lambda path: path.write_bytes(path.read_bytes() + content)


def directory(path):
    path.unlink()
    path.mkdir()


def dangling(path):
    path.unlink()
    path.symlink_to("blobs/no-such-blob")


def circular(path):
    path.unlink()
    path.symlink_to(path.name)


def unreadable(path):
    path.chmod(0)


def keys(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without(key):
    def damage(path):
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))
    return damage


def raw_key(key, text):
    """A key with a value that json.dumps does not write."""
    return lambda path: path.write_text(path.read_text().rstrip()[:-1].rstrip() + f', "{key}": {text}}}')


def deep(levels):
    return "[" * levels + "]" * levels


def tokens(values, name="tokens", **more):
    def damage(path):
        with h5py.File(path, "w") as file:
            file[name] = values
            for key, content in more.items():
                file[key] = content
    return damage


def in_file(change):
    """Changes an HDF5 file in place."""
    def damage(path):
        with h5py.File(path, "r+") as file:
            change(file)
    return damage


def flip(place):
    """Flips a bit of the dataset or of the attribute of a matrix."""
    def damage(path):
        with h5py.File(path, "r") as file:
            offset = file[place].id.get_offset()
        whole = bytearray(path.read_bytes())
        whole[offset] ^= 4
        path.write_bytes(whole)
    return damage


class DamagedTest(ProgramTest):
    """A test of rows of a table: title, damage, words of the message beside the file's name."""

    rows = 0

    @classmethod
    def tearDownClass(cls):
        print(f"{cls.rows} damaged inputs refused", flush=True)

    def refuse(self, title, damage, path, code, words, *arguments):
        """`arguments` succeed without the damage (see the test of good input)."""
        with self.subTest(title):
            if damage is unreadable and os.geteuid() == 0:
                self.skipTest("root may read everything")
            damage(path)
            done = run(*arguments, threads=1)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            self.assertEqual(len(errors), 1, done.stderr)
            for word in words:
                self.assertIn(word, errors[0])
            self.assertLess(len(done.stderr), 4000)
            type(self).rows += 1
