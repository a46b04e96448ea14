"""The page of `aq-dist report` in headless Chromium: drawn without errors, light and dark, wide and narrow, and on paper.

Ends with 77 (skipped) when there is no Chromium: `apt-get install chromium`. AQ_DIST names the program;
AQ_SCREENSHOTS a directory where pictures and PDFs are kept to be looked at.
"""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from program import run
from synthetic_run import write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SKIPPED = 77
DARK, LIGHT = "--blink-settings=preferredColorScheme=0", "--blink-settings=preferredColorScheme=1"

# Runs behind the page's own script, and leaves what it has seen in the page.
PROBE = """<script>
const all = (query) => [...document.querySelectorAll(query)];
const cells = (map) => [...map.querySelectorAll(".cells path")].reduce((n, path) => n + path.getAttribute("d").split("M").length - 1, 0);
const column = (table, i) => [...table.tBodies[0].rows].map((row) => row.cells[i].textContent);
const seen = {
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  background: getComputedStyle(document.body).backgroundColor,
  maps: all("svg.map").map(cells),
  charts: all("#charts svg[role=img]").length,
  cut: all("main svg text").filter((text) => {
    const box = text.getBoundingClientRect(), view = text.closest("svg").getBoundingClientRect();
    return box.left < view.left - 2 || box.top < view.top - 3 || box.right > view.right + 2 || box.bottom > view.bottom + 3;
  }).map((text) => text.textContent),
  overlapping: all("svg.map, svg.legend").flatMap((svg) => {
    const boxes = [...svg.querySelectorAll("text:not([transform])")].map((text) => [text.getBBox(), text.textContent]);
    return boxes.flatMap(([a, one], i) => boxes.slice(i + 1).filter(([b]) =>
      a.x + a.width > b.x && b.x + b.width > a.x && a.y + a.height > b.y + 3 && b.y + b.height > a.y + 3).map(([, other]) => `${one} ${other}`));
  }),
};
const map = document.querySelector("svg.map"), tip = document.getElementById("tip");
map.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
map.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
seen.tip = tip.textContent;
map.dispatchEvent(new PointerEvent("pointerleave"));
seen.tipHidden = tip.hidden;
const fills = () => [...new Set([...map.ownerDocument.querySelector("svg.map").querySelectorAll(".cells path")].map((p) => p.getAttribute("fill")))].join();
const before = fills();
seen.choices = all(".choice label").map((label) => label.textContent);
all(".choice input")[2].click();
seen.redrawn = before !== fills() && all("svg.map").map(cells).join() === seen.maps.join();
all(".choice input")[0].click();
const table = document.querySelector("#error table"), sort = table.tHead.rows[table.tHead.rows.length - 1].cells[1].querySelector(".sort");
seen.unsorted = column(table, 1);
sort.click();
seen.down = column(table, 1);
sort.click();
seen.up = column(table, 1);
all("details").forEach((details) => { details.open = true; });
seen.overflowUnfolded = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
</script></body>"""


class Browser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="aq-dist-browser-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        write_run(cls.folder / "small", layers=4, dense=0, experts=4, ranks=2)
        write_run(cls.folder / "large")
        write_run(cls.folder / "other", seed=2)
        for name, runs in {"small": ["small"], "large": ["large"], "both": ["large", "other"]}.items():
            out = cls.folder / f"{name}.html"
            done = run("report", *(cls.folder / one for one in runs), "--out", out)
            assert done.returncode == 0, done.stderr
            (cls.folder / f"{name}-probe.html").write_text(out.read_text().replace("</body>", PROBE))

    def browse(self, page, *options, width=1280, height=2400):
        """Chromium's output; whatever it says on the page's console is an error."""
        done = subprocess.run(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars",
             f"--user-data-dir={self.folder / 'profile'}", f"--window-size={width},{height}", *options,
             f"file://{self.folder / page}.html"], capture_output=True, text=True, timeout=180, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([line for line in done.stderr.splitlines() if "CONSOLE" in line], [])
        return done.stdout

    def probe(self, page, *options, **size):
        found = re.search(r'<pre id="seen">(.*?)</pre>', self.browse(f"{page}-probe", "--dump-dom", *options, **size), re.DOTALL)
        self.assertTrue(found, "the script of the page did not come to its end")
        return json.loads(html.unescape(found[1]))

    def keep(self, *files):
        if target := os.environ.get("AQ_SCREENSHOTS"):
            Path(target).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, target)

    def check(self, seen, maps, charts):
        self.assertEqual(seen["maps"], maps, "every expert of every layer has a cell")
        self.assertEqual(seen["charts"], charts)
        self.assertEqual((seen["cut"], seen["overlapping"]), ([], []))
        self.assertEqual((seen["overflow"], seen["overflowUnfolded"]), (0, 0))
        self.assertTrue(seen["tip"].startswith("Layer "), seen["tip"])
        self.assertIn("expert 1\ntokens ", seen["tip"])
        self.assertTrue(seen["tipHidden"] and seen["redrawn"])
        self.assertEqual(seen["choices"], ["Tokens", "Routing weight", "Error", "Error ÷ nearest"])
        numbers = [float(text) for text in seen["unsorted"]]
        self.assertEqual([float(text) for text in seen["down"]], sorted(numbers, reverse=True))
        self.assertEqual([float(text) for text in seen["up"]], sorted(numbers))
        self.assertNotEqual(numbers, sorted(numbers))

    def test_what_is_drawn(self):
        self.check(self.probe("small"), [16], 8 + 3)
        self.check(self.probe("large"), [58 * 256], 5 + 9)
        self.check(self.probe("both"), [58 * 256] * 2, 5 + 9)

    def test_narrow_windows(self):
        for page in ("small", "both"):
            seen = self.probe(page, width=500)
            self.assertEqual((seen["overflow"], seen["overflowUnfolded"], seen["cut"]), (0, 0, []), page)

    def test_light_and_dark(self):
        shades = []
        for scheme, option in (("light", LIGHT), ("dark", DARK)):
            shades.append(sum(map(int, re.findall(r"\d+", self.probe("small", option)["background"])[:3])))
            for page in ("small", "large", "both"):
                picture = self.folder / f"{page}-{scheme}.png"
                self.browse(page, option, f"--screenshot={picture}")
                self.assertGreater(picture.stat().st_size, 20_000)
                self.keep(picture)
        self.assertGreater(shades[0], 700)
        self.assertLess(shades[1], 120)

    def test_paper(self):
        """Every section comes out on pages, of a dark screen too, and what is folded away is there."""
        for page in ("small", "large", "both"):
            pdf = self.folder / f"{page}.pdf"
            self.browse(page, DARK, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
            self.keep(pdf)
            if shutil.which("pdftotext"):
                text = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
                for words in ("Summary", "Tokens an expert, layer by layer", "What the run was made from", "Written by"):
                    self.assertIn(words, text)
                if page != "small":
                    heads = re.findall(r"Layer +Least +Median +Most", text)
                    self.assertGreater(len(heads), 1, "a heading on each page of a table")
            self.assertIn(b"%PDF", pdf.read_bytes()[:8])


if __name__ == "__main__":
    if CHROMIUM is None:
        print("skipped: there is no Chromium; `apt-get install chromium` on Debian")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
