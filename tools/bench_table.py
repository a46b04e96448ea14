"""The figures of tools/bench_peers.py as Markdown."""

NAMES = {"aq-dist": "aq-dist", "llmcompressor": "llm-compressor", "gptqmodel": "GPTQModel"}


def best(row):
    """The fastest of the runs that nobody disturbed, else of all; None where each failed."""
    runs = [run for run in row["runs"] if "error" not in run]
    return min([run for run in runs if not run["disturbed"]] or runs, key=lambda run: run["wall_seconds"], default=None)


def ratios(row, peers):
    """How many times as long as this row's process each peer takes: {tool: (to quantize, its process)}."""
    run = best(row)
    return {tool: (peer["quantize_seconds"] / run["wall_seconds"], peer["wall_seconds"] / run["wall_seconds"])
            for tool, peer in peers.items() if run and peer}


def line(row, peers):
    shape = f"{row['ranks']} x {row['threads']}"
    cells = [NAMES[row["tool"]], " ".join(filter(None, [row["settings"], row["compute"]])), shape]
    run = best(row)
    if run is None:
        return [*cells, f"failed: {row['runs'][-1]['error']}", *[""] * (5 + len(peers))]
    slowest = max(each["wall_seconds"] for each in row["runs"] if "error" not in each)
    quality = row.get("quality", {"error": "no result"})
    told = "not read: " + quality["error"] if "error" in quality else f"{quality['logit_error']:.5f}"
    loss = "" if "error" in quality else f"{quality['loss']:+.5f}"
    cells += [f"{run['wall_seconds']:.1f}{' (disturbed)' if run['disturbed'] else ''} to {slowest:.1f}",
              f"{run['quantize_seconds']:.1f}", f"{run['cpu_seconds']:.1f}", f"{run['peak_bytes'] / 2**20:.0f}", told, loss]
    own = ratios(row, peers) if row["tool"] == "aq-dist" else {}
    return cells + ["{:.2f} ({:.2f})".format(*own[tool]) if tool in own else "" for tool in peers]


def table(work):
    peers = {row["tool"]: best(row) for row in work["rows"] if row["tool"] != "aq-dist"}
    heads = ["tool", "settings", "ranks x threads", "process, s", "quantizing, s", "CPU s", "peak MiB", "logit error", "NLL",
             *[f"{NAMES[tool]} takes" for tool in peers]]
    rows = [heads, ["---"] * len(heads), *[line(row, peers) for row in work["rows"]]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def document(figures):
    """All works: a heading with what was run, and a table each."""
    machine = figures["machine"]
    versions = [f"{NAMES[tool]} {told if isinstance(told, str) else told[tool] + ' on torch ' + told['torch']}"
                for tool, told in figures["versions"].items()]
    parts = [f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['features'])}); {', '.join(versions)}; "
             f"the best of {figures['repeats']} runs each, to the slowest."]
    for work in figures["works"]:
        parts += [f"**{work['name']}**: {work['text']}.", table(work)]
    return "\n\n".join(parts) + "\n"
