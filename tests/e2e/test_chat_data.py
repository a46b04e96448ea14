#!/usr/bin/env python3
"""Tests of chats in tools/prepare_calibration.py: what a template makes of them, and the windows.

Rendering needs the Python package jinja2, windows also tokenizers, the comparison transformers; each is skipped where
its packages are missing (tools/test_peers.sh has them all).
"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "examples" / "olmoe-tiny" / "tokenizer.json"
sys.path.insert(0, str(ROOT / "tools"))
from calibration import BAD_DATA, Failure, chat, texts  # noqa: E402
from test_prepare_calibration import SCRIPT, missing  # noqa: E402

NO_JINJA, NO_PARQUET = missing("jinja2"), missing("jinja2", "pyarrow")
NO_TOKENIZERS = missing("jinja2", "numpy", "tokenizers")
NO_TRANSFORMERS = missing("jinja2", "numpy", "tokenizers", "transformers")

# In the styles of published models: ChatML with a system prompt of its own, [INST] that insists on turns, and headers
# with tools, dates and marked answers. Indented blocks and line ends test trim_blocks and lstrip_blocks.
CHATML = """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message.content + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
INST = """{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/...') }}{% endif %}
{% if m['role'] == 'user' %}[INST] {{ m['content'].strip() }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}
{% endfor %}"""
HEADERS = """{{- bos_token }}
{%- set state = namespace(day="26 Jul 2024", turns=0) %}
{%- if strftime_now is defined and fixed is defined %}{% set state.day = strftime_now("%d %b %Y") %}{% endif %}
{%- for message in messages %}
    {%- if state.turns == 3 %}{% break %}{% endif %}
    {%- set state.turns = state.turns + 1 %}
    {{- "<|start|>" + message.role + " (" + state.day + ")<|end|>\\n" }}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}{{ call.function | tojson }}{% endfor %}
    {%- elif message.role == "assistant" %}
        {%- generation %}{{ message.content | trim }}{{ eos_token }}{% endgeneration %}
    {%- else %}
        {{- message.content }}
    {%- endif %}
{%- endfor %}"""
TEMPLATES = {"chatml": CHATML, "inst": INST, "headers": HEADERS}

TURNS = [{"role": "user", "content": " Hi? "}, {"role": "assistant", "content": "<Hello> & \u00e4\n"}]
TOOL = [{"role": "user", "content": "12+5?"},
        {"role": "assistant", "content": None,
         "tool_calls": [{"function": {"name": "add", "arguments": {"a": 12, "b": "\u00fc<5"}}}]},
        {"role": "tool", "content": "17"}, {"role": "assistant", "content": "It is 17."}]
EXPECTED = {
    ("chatml", "turns"): "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n Hi? <|im_end|>\n"
                         "<|im_start|>assistant\n<Hello> & \u00e4\n<|im_end|>\n",
    ("inst", "turns"): "<s>[INST] Hi? [/INST] <Hello> & \u00e4\n</s>",
    ("headers", "turns"): "<s><|start|>user (26 Jul 2024)<|end|>\n Hi? <|start|>assistant (26 Jul 2024)<|end|>\n"
                          "<Hello> & \u00e4</s>",
    ("headers", "tool"): "<s><|start|>user (26 Jul 2024)<|end|>\n12+5?<|start|>assistant (26 Jul 2024)<|end|>\n"
                         '{"name": "add", "arguments": {"a": 12, "b": "\u00fc<5"}}'
                         "<|start|>tool (26 Jul 2024)<|end|>\n17",
}
CHATS = {"turns": TURNS, "tool": TOOL}


def write_tokenizer(folder, template, **config):
    """The example's tokenizer with <s>, </s> and the marks of TEMPLATES, which puts <s> before a text."""
    import tokenizers
    folder.mkdir(exist_ok=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(folder, template, tokenizer_class="PreTrainedTokenizerFast", **config)
    return tokenizer


def write_config(folder, template, **config):
    folder.mkdir(exist_ok=True)
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "__type": "AddedToken"}, "chat_template": template,
              **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


class ChatData(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.directory = pathlib.Path(scratch.name)
        self.model = self.directory / "model"
        self.rows = self.directory / "rows.jsonl"
        self.out = self.directory / "tokens.safetensors"

    def write_rows(self, rows):
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def render(self, template, messages, has=lambda token: True):
        write_config(self.model, template)
        render, _ = chat.load_template(self.model / "tokenizer.json", has)
        return render(chat.messages_of({"messages": messages}, None))

    def run_script(self, *arguments):
        command = [sys.executable, str(SCRIPT), "--tokenizer", str(self.model), "--chat", "--out", str(self.out),
                   *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def tokens(self):
        import numpy
        whole = self.out.read_bytes()
        begin = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:begin])
        return (numpy.frombuffer(whole[begin:], "<i4").reshape(header["tokens"]["shape"]), header["__metadata__"])

    @unittest.skipIf(NO_JINJA, NO_JINJA)
    def test_renderings(self):
        for (template, messages), text in EXPECTED.items():
            self.assertEqual(self.render(TEMPLATES[template], CHATS[messages]), text, f"{template} {messages}")

    @unittest.skipIf(NO_JINJA, NO_JINJA)
    def test_dates_are_those_of_today(self):
        import datetime
        days = [datetime.date.today()]
        text = self.render("{{ strftime_now('%Y-%m-%d') }}", TURNS)
        days.append(datetime.date.today())
        self.assertIn(text, [str(day) for day in days])

    def test_rows(self):
        """role and content, ShareGPT's from and value, the first field that is there; all else is no chat."""
        said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        for row, field in (({"messages": said}, None), ({"conversations": shared}, None), ({"chat": said}, "chat"),
                           ({"messages": None, "conversations": said}, None),
                           ({"messages": [{**said[0], "tool_calls": None}, said[1]]}, None)):
            self.assertEqual(chat.messages_of(row, field), said, row)
        for row in ({"text": "a"}, {"messages": []}, {"messages": "a"}, {"messages": [{"role": "user"}]}, [said], "a",
                    {"messages": [*said, {"content": "b"}]}, {"messages": ["a"]}, {"messages": [{"from": "human"}]}):
            self.assertIsNone(chat.messages_of(row, None), row)
        self.assertIsNone(chat.messages_of({"messages": said}, "chat"))

    @unittest.skipIf(NO_JINJA, NO_JINJA)
    def test_where_the_template_is(self):
        def found():
            return chat.find_template(self.model)

        write_config(self.model, None)
        with self.assertRaises(Failure) as caught:
            found()
        self.assertIn("no chat template", str(caught.exception))
        write_config(self.model, [{"name": "tool_use", "template": "t"}])
        with self.assertRaises(Failure) as caught:
            found()
        self.assertIn("(tool_use)", str(caught.exception))
        write_config(self.model, [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}])
        self.assertEqual(found(), ("d", "tokenizer_config.json"))
        (self.model / "chat_template.jinja").write_text("own", encoding="utf-8")
        self.assertEqual(found(), ("own", "chat_template.jinja"))
        (self.model / "additional_chat_templates").mkdir()
        (self.model / "additional_chat_templates" / "tool_use.jinja").write_text("t", encoding="utf-8")
        self.assertEqual(found(), ("own", "chat_template.jinja"))

    @unittest.skipIf(NO_JINJA, NO_JINJA)
    def test_what_a_template_cannot_do(self):
        for template, messages, word in (("{% for %}", TURNS, "not a template that Jinja reads"),
                                         ("{{ bos_token }}", TURNS, "writes <s>, which is no token")):
            with self.assertRaises(Failure) as caught:
                self.render(template, messages, has=lambda token: False)
            self.assertIn(word, str(caught.exception))
        import jinja2
        with self.assertRaises(jinja2.exceptions.SecurityError):
            self.render("{{ messages.__class__.__mro__ }}", TURNS)
        with self.assertRaises(jinja2.exceptions.SecurityError):
            self.render("{{ messages.append(1) }}", TURNS)
        with self.assertRaises(Failure) as caught:
            chat.load_template(self.model / "tokenizer.model", None)
        self.assertIn("tokenizer.json", str(caught.exception))

    @unittest.skipIf(NO_JINJA, NO_JINJA)
    def test_what_is_left_out_is_counted(self):
        write_config(self.model, INST)
        render, _ = chat.load_template(self.model / "tokenizer.json", lambda token: True)
        self.write_rows([{"messages": TURNS}, {"text": "a"}, {"messages": TURNS[1:]}, {"messages": TURNS},
                         {"messages": [{"role": "user", "content": ["no", "text"]}]},
                         {"messages": [{"role": "user", "content": "\ud800"}]}])
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            chats = list(chat.render_rows(texts.read_chats([self.rows], None), render))
        self.assertEqual(chats, [EXPECTED["inst", "turns"]] * 2)
        self.assertIn("note: 4 of 6 rows were left out: 1 without messages, 3 refused by the chat template (first: "
                      f"{self.rows}: record 3: Roles must alternate user/assistant/...)", said.getvalue())
        self.write_rows([{"text": "a"}, {"messages": TURNS[1:]}])
        with self.assertRaises(Failure) as caught:
            list(chat.render_rows(texts.read_chats([self.rows], None), render))
        self.assertEqual(caught.exception.code, BAD_DATA)
        self.assertIn("none of 2 rows is a chat that can be used: 1 without messages, 1 refused", str(caught.exception))

    def test_chats_taken_for_text_get_a_hint(self):
        self.write_rows([{"messages": TURNS}])
        for field in (None, "text"):
            with self.assertRaises(Failure) as caught:
                list(texts.read_texts([self.rows], field))
            self.assertIn("its records are chats: give --chat", str(caught.exception))

    @unittest.skipIf(NO_PARQUET, NO_PARQUET)
    def test_parquet(self):
        import pyarrow
        from pyarrow import parquet
        file = self.directory / "data" / "a.parquet"
        file.parent.mkdir()
        (file.parent / "README.md").write_text("not a chat", encoding="utf-8")
        parquet.write_table(pyarrow.table({"id": [1, 2], "messages": [TURNS, TOOL]}), file)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            rows = list(texts.read_directory(file.parent, texts.chat_readers(None)))
        self.assertIn("README.md", said.getvalue())
        self.assertEqual([place for place, _ in rows], [f"{file}: row 1", f"{file}: row 2"])
        self.assertEqual(rows[0][1], TURNS)
        self.assertEqual([message["role"] for message in rows[1][1]], ["user", "assistant", "tool", "assistant"])
        with self.assertRaises(Failure) as caught:
            list(texts.read_directory(file.parent, texts.chat_readers("chats")))
        self.assertIn("no column 'chats', but id, messages", str(caught.exception))

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_windows_begin_with_a_chat_and_one_bos(self):
        tokenizer = write_tokenizer(self.model, INST)
        bos, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
        self.write_rows([{"messages": [{"role": "user", "content": f"What is {n}?"},
                                       {"role": "assistant", "content": f"The number {n}."}]} for n in range(200)])
        result = self.run_script("--text", self.rows, "--nsamples", 6, "--seqlen", 100)
        self.assertEqual(result.returncode, 0, result.stderr)
        tokens, said = self.tokens()
        self.assertEqual(tokens.shape, (6, 100))
        self.assertEqual(said["chat_template"], "tokenizer_config.json")
        chats = {f"[INST] What is {n}? [/INST] The number {n}." for n in range(200)}
        seen = set()
        for row in tokens.tolist():
            parts = tokenizer.decode(row, skip_special_tokens=False).split("<s>")
            self.assertEqual(parts[0], "", "a window begins with BOS")
            self.assertNotIn("", parts[1:], "no BOS follows another")
            for part in parts[1:-1]:
                self.assertTrue(part.endswith("</s>"))
                self.assertIn(part.removesuffix("</s>"), chats)
            self.assertTrue(any(text.startswith(parts[-1].removesuffix("</s>")) for text in chats))
            self.assertFalse(seen & set(parts[1:-1]), "a chat stands in one window")
            seen |= set(parts[1:-1])
            self.assertIn(bos, row)
            self.assertIn(end, row)

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_command_line(self):
        write_tokenizer(self.model, CHATML)
        self.write_rows([{"messages": TURNS}])
        for arguments, code, word in ((("--dataset", "c4"), 2, "--chat"), (("--bos", "never", "--text", self.rows), 2, "--bos"),
                                      (("--text", self.rows, "--field", "chats"), 3, "none of 1 rows"),
                                      (("--text", self.rows), 3, "the chats have")):
            result = self.run_script(*arguments)
            self.assertEqual(result.returncode, code, result.stderr)
            self.assertIn(word, result.stderr)
            self.assertFalse(self.out.exists())

    @unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
    def test_as_transformers(self):
        """Texts and token ids are those of apply_chat_template; an error there is one here."""
        import transformers
        for name, template in TEMPLATES.items():
            ours = write_tokenizer(self.model, template)
            theirs = transformers.AutoTokenizer.from_pretrained(str(self.model))
            render, _ = chat.load_template(self.model / "tokenizer.json", lambda token: True)
            for messages in (TURNS, TOOL, TOOL[:3], [{"role": "system", "content": "Be\n\nshort. "}, *TURNS], TURNS[:1]):
                try:
                    text = theirs.apply_chat_template(messages, tokenize=False)
                except Exception as error:
                    with self.assertRaises(type(error)):
                        render(chat.messages_of({"messages": messages}, None))
                    continue
                self.assertEqual(render(chat.messages_of({"messages": messages}, None)), text, name)
                self.assertEqual(ours.encode(text, add_special_tokens=False).ids,
                                 theirs.apply_chat_template(messages, return_dict=False), name)


if __name__ == "__main__":
    unittest.main()
