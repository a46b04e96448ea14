"""Reads the page of `aq-dist report` with the parser of Python alone."""

import json
from html.parser import HTMLParser
from pathlib import Path


class ReportPage(HTMLParser):
    """sections: id -> its text; tables: id -> tables as rows of cells' texts; counts of tags; the embedded data."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = Path(path).read_text(encoding="utf-8")
        self.sections, self.tables, self.tags, self.links = {}, {}, {}, []
        self.title, self.script = "", []
        self._section, self._row, self._inside = None, None, []
        self.feed(self.source)
        self.close()
        data = self.source.split('<script type="application/json" id="data">')[1].split("</script>")[0]
        self.data = json.loads(data)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.links += [value for key, value in attributes.items() if key in ("src", "href", "action", "style")]
        if any(key.startswith("on") for key in attributes):
            raise ValueError(f"{tag} with a handler: {attributes}")
        if tag not in ("meta", "link", "br", "img", "input"):
            self._inside.append(tag)
        if tag == "section":
            self._section = attributes["id"]
            self.sections[self._section], self.tables[self._section] = "", []
        elif tag == "table":
            self.tables[self._section].append([])
        elif tag == "tr":
            self._row = []
            self.tables[self._section][-1].append(self._row)
        elif tag in ("td", "th"):
            self._row.append("")
            self._row += [None] * (int(attributes.get("colspan", 1)) - 1)

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag, tag
        if tag == "section":
            self._section = None

    def handle_data(self, data):
        if "script" in self._inside or "style" in self._inside:
            return
        if "title" in self._inside:
            self.title += data
        if self._section is not None:
            self.sections[self._section] += data
        if "td" in self._inside or "th" in self._inside:
            place = max(i for i, cell in enumerate(self._row) if cell is not None)
            self._row[place] += data

    def rows(self, section, table=0):
        """The table as {first cell: the others}."""
        return {row[0]: row[1:] for row in self.tables[section][table]}
