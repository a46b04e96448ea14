"use strict";
(() => {
  const { runs } = JSON.parse(document.getElementById("data").textContent);

  // --- Elements -------------------------------------------------------------------------------

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const draw = (name, attributes = {}, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const label = (text, x, y, attributes = {}) => draw("text", { x, y, ...attributes }, text);

  const known = (value) => value !== null && value !== undefined;
  const short = (value) => {
    if (!known(value)) return "not known";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const rounded = Number(value.toPrecision(3));
    return rounded !== 0 && Math.abs(rounded) < 1e-4 ? rounded.toExponential() : String(rounded);
  };

  // --- The tip at the pointer -----------------------------------------------------------------

  const tip = document.getElementById("tip");
  const hideTip = () => { tip.hidden = true; };
  const showTip = (text, x, y) => {  // x, y: of the window
    tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.max(4, x + 14 + width > document.documentElement.clientWidth ? x - 14 - width : x + 14);
    const top = y + 14 + height > window.innerHeight ? y - 14 - height : y + 14;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${top + window.scrollY}px`;
  };

  // --- Scales ---------------------------------------------------------------------------------

  // viridis: even steps of lightness, for every kind of colour vision and in grey.
  const kStops = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"];
  const kLevels = 40;
  const channel = (stop, i) => parseInt(kStops[stop].slice(2 * i, 2 * i + 2), 16);
  const colour = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (kStops.length - 1);
    const stop = Math.min(Math.floor(place), kStops.length - 2);
    const mix = (i) => Math.round(channel(stop, i) + (channel(stop + 1, i) - channel(stop, i)) * (place - stop));
    return `rgb(${mix(0)},${mix(1)},${mix(2)})`;
  };

  const scaleOf = (values, log) => {
    const used = values.filter((value) => known(value) && (!log || value > 0));
    if (used.length === 0) return null;
    const least = used.reduce((a, b) => Math.min(a, b)), most = used.reduce((a, b) => Math.max(a, b));
    const place = (value) => (log ? Math.log10(value) : value);
    const span = place(most) - place(least);
    return { log, least, most, share: (value) => (span > 0 ? (place(value) - place(least)) / span : 0.5) };
  };

  // Round numbers inside the scale, few of them.
  const ticksOf = ({ log, least, most }) => {
    if (least === most) return [least];
    const ticks = [];
    if (log) {
      const decades = Math.log10(most / least);
      const steps = decades < 1 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : decades < 2.5 ? [1, 2, 5] : [1];
      for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); ++power)
        for (const step of steps) {
          const tick = Number((step * 10 ** power).toPrecision(3));
          if (tick >= least && tick <= most) ticks.push(tick);
        }
    } else {
      const raw = (most - least) / 4, power = 10 ** Math.floor(Math.log10(raw));
      const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= raw);
      for (let tick = Math.ceil(least / step) * step; tick <= most; tick += step) ticks.push(Number(tick.toPrecision(6)));
    }
    const every = Math.ceil(ticks.length / 8);
    return ticks.length ? ticks.filter((_, i) => i % every === 0) : [least, most];
  };

  // --- Heat maps: layers down, experts across -------------------------------------------------

  const ratio = (layer, e) =>
    known(layer.error[e]) && layer.nearest[e] > 0 ? layer.error[e] / layer.nearest[e] : null;
  const weightTitle = runs.every((run) => Number(run.exponent) === 1)
    ? "Routing weight" : "Routing weight, to the power of the recipe";
  const kMetrics = [
    { title: "Tokens", unit: "tokens that the router sent", log: true, value: (layer, e) => layer.tokens[e] },
    { title: weightTitle, unit: "sum of the router’s scores", log: true, value: (layer, e) => layer.weight[e] },
    { title: "Error", unit: "mean relative error of the expert’s matrices", log: true, value: (layer, e) => layer.error[e] },
    { title: "Error ÷ nearest", unit: "error of GPTQ ÷ error of rounding to nearest", log: true, value: ratio },
    { title: "Bits", unit: "bits a weight", log: false, value: (layer, e) => layer.bits[e], differs: true },
  ];
  const kLeft = 52, kTop = 4, kBottom = 40;

  const valuesOf = (metric) =>
    runs.flatMap((run) => run.experts.flatMap((layer) => layer.tokens.map((_, e) => metric.value(layer, e))));
  const isShown = (metric) => {
    const scale = scaleOf(valuesOf(metric), metric.log);
    return scale && (!metric.differs || scale.least < scale.most);
  };

  const describe = (run, layer, e) => [
    `Layer ${layer.layer}, expert ${e}`,
    `tokens ${short(layer.tokens[e])}`,
    `routing weight ${short(layer.weight[e])}`,
    `error ${short(layer.error[e])}`,
    `rounded to nearest ${short(layer.nearest[e])}`,
    `bits a weight ${short(layer.bits[e])}`,
    ...(layer.starved.includes(e) ? ["starved"] : []),
  ].join("\n");

  const hatch = (id) => draw("pattern", { id, width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    draw("line", { x1: 0, y1: 0, x2: 0, y2: 4, class: "hatch" }));

  const cellPath = (cells, width, height) =>
    cells.map(([x, y]) => `M${+(kLeft + x * width).toFixed(2)} ${+(kTop + y * height).toFixed(2)}h${width}v${height}h${-width}z`).join("");

  const mapOf = (run, number, metric, scale, room) => {
    const experts = Math.max(...run.experts.map((layer) => layer.tokens.length));
    const layers = run.experts.length;
    const width = +Math.min(30, (room - kLeft - 12) / experts).toFixed(2);
    const height = +Math.min(30, Math.max(7, Math.min(width * 2, 420 / layers))).toFixed(2);
    const wide = experts * width, high = layers * height;
    const svg = draw("svg", {
      class: "map", width: kLeft + Math.max(wide, 60) + 12, height: kTop + high + kBottom, tabindex: 0, role: "img",
      viewBox: `0 0 ${kLeft + Math.max(wide, 60) + 12} ${kTop + high + kBottom}`,
      "aria-label": `${run.label}: ${metric.unit}, by layer and expert. The table below has the figures of each layer.`,
    }, draw("defs", {}, hatch(`hatch${number}`)));
    const levels = new Map(), none = [], starved = [];
    run.experts.forEach((layer, y) => layer.tokens.forEach((_, x) => {
      const value = metric.value(layer, x);
      if (known(value) && (!metric.log || value > 0)) {
        const level = Math.round(scale.share(value) * kLevels);
        if (!levels.has(level)) levels.set(level, []);
        levels.get(level).push([x, y]);
      } else if (known(value)) none.push([x, y]);
      if (layer.starved.includes(x)) starved.push([x, y]);
    }));
    const group = draw("g", { class: "cells" });
    for (const [level, cells] of levels)
      group.append(draw("path", { d: cellPath(cells, width, height), fill: colour(level / kLevels) }));
    if (none.length) group.append(draw("path", { d: cellPath(none, width, height), fill: `url(#hatch${number})` }));
    svg.append(group, draw("rect", { x: kLeft - 0.5, y: kTop - 0.5, width: wide + 1, height: high + 1, class: "axis" }));
    const size = Math.max(2.4, Math.min(width, height) * 0.4);
    const dots = starved.map(([x, y]) => {
      const left = kLeft + (x + 0.5) * width - size / 2, top = kTop + (y + 0.5) * height - size / 2;
      return `M${left.toFixed(2)} ${top.toFixed(2)}h${size}v${size}h${-size}z`;
    });
    if (dots.length) svg.append(draw("path", { d: dots.join(""), fill: "#fff", stroke: "#000", "stroke-width": size > 4 ? 1 : 0.5 }));
    addAxes(svg, run, experts, width, height);
    followPointer(svg, run, width, height);
    return svg;
  };

  const roundStep = (least) => [1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256, 512].find((step) => step >= least) ?? 1024;

  const addAxes = (svg, run, experts, width, height) => {
    const bottom = kTop + run.experts.length * height;
    const across = roundStep(34 / width), down = Math.ceil(14 / height);
    for (let e = 0; e < experts; e += across)
      svg.append(label(e, kLeft + (e + 0.5) * width, bottom + 15, { "text-anchor": "middle" }));
    svg.append(label("Expert", kLeft, bottom + 33));
    run.experts.forEach((layer, y) => {
      if (y % down === 0)
        svg.append(label(layer.layer, kLeft - 7, kTop + (y + 0.5) * height + 4, { "text-anchor": "end" }));
    });
    svg.append(label("Layer", 12, kTop + 2, { transform: `rotate(-90 12 ${kTop + 2})`, "text-anchor": "end" }));
  };

  // The pointer, or the arrow keys, choose a cell.
  const followPointer = (svg, run, width, height) => {
    const cursor = draw("rect", { class: "cursor", width, height, visibility: "hidden" });
    svg.append(cursor);
    let at = [0, 0];
    const choose = (x, y) => {
      const layer = run.experts[y];
      if (!layer || x < 0 || x >= layer.tokens.length) return leave();
      at = [x, y];
      cursor.setAttribute("x", kLeft + x * width);
      cursor.setAttribute("y", kTop + y * height);
      cursor.setAttribute("visibility", "visible");
      const box = cursor.getBoundingClientRect();
      showTip(describe(run, layer, x), box.right, box.bottom);
    };
    const leave = () => {
      cursor.setAttribute("visibility", "hidden");
      hideTip();
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), zoom = box.width / svg.viewBox.baseVal.width;
      choose(Math.floor(((event.clientX - box.left) / zoom - kLeft) / width), Math.floor(((event.clientY - box.top) / zoom - kTop) / height));
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const y = Math.min(Math.max(at[1] + step[1], 0), run.experts.length - 1);
      choose(Math.min(Math.max(at[0] + step[0], 0), run.experts[y].tokens.length - 1), y);
    });
  };

  const legendOf = (metric, scale) => {
    const wide = 300, left = kLeft;
    const anyNone = metric.log && valuesOf(metric).some((value) => value === 0);
    const anyStarved = runs.some((run) => run.experts.some((layer) => layer.starved.length));
    const anyUnknown = valuesOf(metric).some((value) => !known(value));
    const svg = draw("svg", { class: "legend", width: 720, height: 52, viewBox: "0 0 720 52", role: "img",
      "aria-label": `Scale: ${metric.unit}, from ${short(scale.least)} to ${short(scale.most)}` }, draw("defs", {}, hatch("hatch-legend")));
    const group = draw("g", { class: "cells" });
    const shares = scale.least === scale.most ? [scale.share(scale.least)] : Array.from({ length: kLevels + 1 }, (_, i) => i / kLevels);
    shares.forEach((share, i) => group.append(draw("rect", {
      x: left + (wide / shares.length) * i, y: 18, width: wide / shares.length + 0.5, height: 12, fill: colour(share) })));
    svg.append(label(`${metric.unit}${metric.log ? ", logarithmic" : ""}`, left, 11), group);
    let end = -Infinity;  // of the label before
    for (const tick of ticksOf(scale)) {
      const x = left + wide * scale.share(tick), text = short(tick), half = text.length * 3.6;
      if (x - half < end + 6) continue;
      end = x + half;
      svg.append(draw("line", { x1: x, x2: x, y1: 30, y2: 34, class: "axis" }), label(text, x, 47, { "text-anchor": "middle" }));
    }
    let x = left + wide + 48;
    const key = (text, ...marks) => {
      svg.append(draw("rect", { x, y: 18, width: 12, height: 12, class: "axis" }),
        ...marks.map(([name, more]) => draw(name, { x, y: 18, width: 12, height: 12, ...more })), label(text, x + 18, 29));
      x += 30 + text.length * 7;
    };
    if (anyNone) key("none", ["rect", { fill: "url(#hatch-legend)" }]);
    if (anyStarved) key("starved", ["rect", { fill: colour(0) }], ["rect", { x: x + 3.5, y: 21.5, width: 5, height: 5, fill: "#fff", stroke: "#000" }]);
    if (anyUnknown) key("not known");
    return svg;
  };

  const drawMaps = (place) => {
    const metrics = kMetrics.filter(isShown);
    if (metrics.length === 0) return;
    const maps = make("div"), choice = make("fieldset", { class: "choice", "aria-label": "Shown in the heat map" });
    const show = (metric) => {
      const scale = scaleOf(valuesOf(metric), metric.log);
      const room = Math.max(560, place.clientWidth);
      maps.replaceChildren(legendOf(metric, scale));
      runs.forEach((run, number) => {
        if (run.experts.length === 0) return;
        if (runs.length > 1) maps.append(make("h3", {}, run.label));
        maps.append(mapOf(run, number, metric, scale, room));
      });
    };
    metrics.forEach((metric, i) => {
      const input = make("input", { type: "radio", name: "metric" });
      input.checked = i === 0;
      input.addEventListener("change", () => show(metric));
      choice.append(make("label", {}, input, make("span", {}, metric.title)));
    });
    place.append(choice, maps);
    show(metrics[0]);
  };

  // --- Errors by layer, a chart for each kind of linear ---------------------------------------

  const kChart = { width: 260, height: 150, left: 54, right: 8, top: 22, bottom: 34 };
  const runColour = (number) => `var(--run${number % 5})`;

  const chartOf = (kind, curves, scale, layers) => {
    const { width, height, left, right, top, bottom } = kChart;
    const x = (layer) => left + ((width - left - right) * (layer + 0.5)) / layers;
    const y = (value) => height - bottom - (height - top - bottom) * (scale.least === scale.most ? 0.5 : scale.share(value));
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${kind}: relative error by layer` }, label(kind, 0, 12, { class: "title" }));
    for (const tick of ticksOf(scale)) {
      svg.append(draw("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick), class: "axis" }),
        label(short(tick), left - 6, y(tick) + 4, { "text-anchor": "end" }));
    }
    const step = roundStep(layers / 6);
    for (let layer = 0; layer < layers; layer += step)
      svg.append(label(layer, x(layer), height - bottom + 15, { "text-anchor": "middle" }));
    svg.append(label("Layer", width - right, height - 4, { "text-anchor": "end" }));
    const line = (curve, name, number) => {
      const points = curve.layers.map((layer, i) => [x(layer), y(curve[name][i])]);
      svg.append(draw("path", { d: points.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join(""),
        class: `curve ${name}`, stroke: runColour(number) }));
      if (points.length <= 12)
        for (const [a, b] of points) svg.append(draw("circle", { cx: a, cy: b, r: 2.4, fill: runColour(number) }));
    };
    for (const { curve, number } of curves) {
      line(curve, "nearest", number);
      line(curve, "error", number);
    }
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), zoom = box.width / width;
      const layer = Math.floor((((event.clientX - box.left) / zoom - left) / (width - left - right)) * layers);
      const lines = curves.flatMap(({ curve, number }) => {
        const i = curve.layers.indexOf(layer);
        if (i < 0) return [];
        return [`${runs.length > 1 ? `${runs[number].label}: ` : ""}GPTQ ${short(curve.error[i])}, nearest ${short(curve.nearest[i])}`];
      });
      if (lines.length) showTip([`${kind}, layer ${layer}`, ...lines].join("\n"), event.clientX, event.clientY);
      else hideTip();
    });
    svg.addEventListener("pointerleave", hideTip);
    return svg;
  };

  const sampleOf = (text, number, dashed) => make("span", {},
    draw("svg", { width: 28, height: 8, viewBox: "0 0 28 8" },
      draw("line", { x1: 0, x2: 28, y1: 4, y2: 4, class: `curve${dashed ? " nearest" : ""}`, stroke: runColour(number) })), text);

  const drawCharts = (place) => {
    const kinds = [...new Set(runs.flatMap((run) => run.errors.map((curve) => curve.kind)))];
    const all = runs.flatMap((run) => run.errors.flatMap((curve) => [...curve.error, ...curve.nearest]));
    const scale = scaleOf(all, true);
    const layers = 1 + Math.max(-1, ...runs.flatMap((run) => run.errors.flatMap((curve) => curve.layers)));
    if (!scale || layers < 2) return;
    const keys = make("p", { class: "keys" });
    runs.forEach((run, number) => {
      const whose = runs.length > 1 ? `${run.label}: ` : "";
      keys.append(sampleOf(`${whose}GPTQ`, number, false), sampleOf(`${whose}rounded to nearest`, number, true));
    });
    keys.append(make("span", {}, "relative error, logarithmic"));
    const charts = make("div", { class: "charts" });
    for (const kind of kinds) {
      const curves = runs.map((run, number) => ({ curve: run.errors.find((curve) => curve.kind === kind), number }))
        .filter(({ curve }) => curve);
      for (const { curve } of curves)  // a logarithm has no place for 0
        curve.error = curve.error.map((value) => Math.max(value, scale.least));
      charts.append(chartOf(kind, curves, scale, layers));
    }
    place.append(keys, charts);
  };

  // --- Tables are sorted by a click on a heading ----------------------------------------------

  const keyOf = (cell) => (cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent);
  const compare = (a, b) => {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
    return typeof a === "number" ? -1 : 1;  // what is missing comes last
  };
  const makeSortable = (table) => {
    const body = table.tBodies[0], headings = table.tHead?.rows[table.tHead.rows.length - 1].cells;
    if (!body || !headings || body.rows.length < 3) return;
    [...headings].forEach((heading, column) => {
      const text = heading.textContent;
      if (!text) return;
      // No <button>: on paper those are left out where a heading is repeated on the next page.
      const button = make("span", { class: "sort", role: "button", tabindex: 0 }, text);
      heading.replaceChildren(button);
      button.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        button.click();
      });
      button.addEventListener("click", () => {
        // Numbers begin with the largest.
        const before = heading.getAttribute("aria-sort");
        const up = before ? before === "descending" : !heading.classList.contains("n");
        for (const other of headings) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [keyOf(row.cells[column]), row]);
        const [known_, missing] = [rows.filter(([key]) => key !== "–"), rows.filter(([key]) => key === "–")];
        known_.sort((a, b) => (up ? compare(a[0], b[0]) : compare(b[0], a[0])));
        body.append(...[...known_, ...missing].map(([, row]) => row));
      });
    });
  };

  const maps = document.getElementById("maps"), charts = document.getElementById("charts");
  if (maps) drawMaps(maps);
  if (charts) drawCharts(charts);
  document.querySelectorAll("table").forEach(makeSortable);
})();
