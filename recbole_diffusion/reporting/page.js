"use strict";
(() => {
  const data = JSON.parse(document.getElementById("plots").textContent);
  const said = document.getElementById("said");
  const SVG = "http://www.w3.org/2000/svg";
  const words = new Intl.Collator("en", { numeric: true });

  // Tables ------------------------------------------------------------------------------------------------------------

  /* A row and the lines below it are one <tbody>; rows without a value come last whichever way a column is sorted. */
  function makeSortable(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    const groups = Array.from(table.tBodies);
    heads.forEach((head, column) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.dataset.first || "descending";
        const second = first === "descending" ? "ascending" : "descending";
        const now = head.getAttribute("aria-sort");
        const next = !now ? first : now === first ? second : "";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        table.append(...(next ? sorted(groups, column, head.dataset.sort === "number", next === "ascending") : groups));
        said.textContent = next ? `sorted by ${button.textContent.trim()}, ${next}` : "in the suite's order";
      });
    });
  }

  function sorted(groups, column, numbers, ascending) {
    const value = (group) => group.rows[0].cells[column].dataset.value || "";
    const order = numbers ? (one, other) => Number(one) - Number(other) : words.compare;
    return groups.slice().sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return ascending ? order(a, b) : order(b, a);
    });
  }

  // Drawing -----------------------------------------------------------------------------------------------------------

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  const ruler = document.createElement("canvas").getContext("2d");

  function textWidth(text, size) {
    ruler.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
    return ruler.measureText(text).width;
  }

  function shortened(text, size, width) {
    if (textWidth(text, size) <= width) return text;
    let end = text.length;
    while (end > 1 && textWidth(text.slice(0, end) + "…", size) > width) end -= 1;
    return text.slice(0, end).trimEnd() + "…";
  }

  /* Round numbers from at most `low` to at least `high`, about `count` of them, and their decimals. */
  function ticks(low, high, count, whole) {
    const span = high - low || Math.abs(high) || 1;
    const rough = Math.max(span / count, whole ? 1 : 0);
    const power = 10 ** Math.floor(Math.log10(rough));
    const steps = whole ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10];
    const step = steps.find((factor) => factor * power >= rough * (1 - 1e-9)) * power;
    let decimals = 0;
    while (decimals < 8 && Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-6) decimals += 1;
    const values = [];
    for (let place = Math.floor(low / step + 1e-9); ; place += 1) {
      values.push(place * step);
      if (place * step >= high - 1e-9 * span && values.length > 1) break;
    }
    return { values, decimals };
  }

  const SHAPES = [
    (r) => `M${-r},0A${r},${r} 0 1 1 ${r},0A${r},${r} 0 1 1 ${-r},0Z`,
    (r) => `M${-r * 0.9},${-r * 0.9}H${r * 0.9}V${r * 0.9}H${-r * 0.9}Z`,
    (r) => `M0,${-r * 1.15}L${r * 1.1},${r * 0.85}H${-r * 1.1}Z`,
    (r) => `M0,${-r * 1.25}L${r * 1.25},0L0,${r * 1.25}L${-r * 1.25},0Z`,
    (r) => `M0,${r * 1.15}L${r * 1.1},${-r * 0.85}H${-r * 1.1}Z`,
    (r) => `M${-r * 0.4},${-r * 1.1}H${r * 0.4}V${-r * 0.4}H${r * 1.1}V${r * 0.4}H${r * 0.4}V${r * 1.1}H${-r * 0.4}V${r * 0.4}H${-r * 1.1}V${-r * 0.4}H${-r * 0.4}Z`,
  ];

  const classes = (label) => `c${data.styles[label][0]} d${data.styles[label][1]}`;
  const shape = (label, radius) => SHAPES[data.styles[label][2]](radius);
  const nameOf = (section) => section.metrics.find((metric) => metric.key === section.metric) || { name: "", unit: "" };

  function canvas(box, width, height, about) {
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": about });
    box.replaceChildren(svg);
    return svg;
  }

  function say(box, text) {
    const line = document.createElement("p");
    line.textContent = text;
    box.replaceChildren(line);
  }

  function drawBars(box, section, table) {
    const { name, unit } = nameOf(section);
    const rows = table.rows.filter((row) => !section.hidden.has(row.label) && row.cells[section.metric]);
    const caption = box.parentElement.querySelector("figcaption");
    caption.querySelector(".if-interval").textContent = rows.some((row) => row.cells[section.metric].interval)
      ? ` Whisker: ${table.level} interval over users.`
      : "";
    const printed = rows.flatMap((row) => row.printed[section.metric] || []);
    caption.querySelector(".if-printed").textContent = printed.length
      ? ` Diamond: printed in ${Array.from(new Set(printed.map(([source]) => source))).join(", ")}.`
      : "";
    if (!rows.length) return say(box, `No ${name} to show here.`);
    const width = Math.max(260, Math.floor(box.clientWidth));
    const text = (row) => {
      const cell = row.cells[section.metric];
      const spread = cell.deviation === null ? "" : ` ± ${cell.deviation.toFixed(table.decimals)}`;
      return cell.mean.toFixed(table.decimals) + spread;
    };
    const right = Math.max(...rows.map((row) => textWidth(text(row), 13))) + 12;
    const above = width < 520;
    const left = above ? 6 : Math.min(width * 0.36, Math.max(...rows.map((row) => textWidth(row.label, 13))) + 14);
    const step = Math.max(above ? 48 : 36, Math.min(64, 220 / rows.length));
    const numbers = rows.flatMap((row) => {
      const cell = row.cells[section.metric];
      const figures = (row.printed[section.metric] || []).map(([, value]) => value);
      return [cell.mean, ...(cell.interval || []), ...cell.seeds.map(([, value]) => value), ...figures];
    });
    const axis = ticks(Math.min(0, ...numbers), Math.max(0, ...numbers), above ? 4 : 5, false);
    const [low, high] = [axis.values[0], axis.values[axis.values.length - 1]];
    const x = (value) => left + ((value - low) / (high - low || 1)) * (width - left - right);
    const bottom = 6 + rows.length * step;
    const svg = canvas(box, width, bottom + 40, `Bars of ${name} by model; the figures stand in the table above.`);
    for (const value of axis.values) {
      element("line", { class: value === 0 ? "base" : "grid", x1: x(value), x2: x(value), y1: 4, y2: bottom }, svg);
      const anchor = { class: "tick", x: x(value), y: bottom + 16, "text-anchor": "middle" };
      element("text", anchor, svg, value.toFixed(axis.decimals));
    }
    const axisName = { class: "axis", x: (x(low) + x(high)) / 2, y: bottom + 34, "text-anchor": "middle" };
    element("text", axisName, svg, unit ? `${name}, ${unit}` : name);
    rows.forEach((row, place) => {
      const cell = row.cells[section.metric];
      const group = element("g", { class: classes(row.label) }, svg);
      const top = 6 + place * step + (above ? 22 : 8);
      const middle = top + 10;
      const label = above
        ? { x: left, y: top - 6 }
        : { x: left - 10, y: middle + 4, "text-anchor": "end" };
      const shown = element("text", label, group, shortened(row.label, 13, above ? width - left : left - 12));
      if (shown.textContent !== row.label) element("title", {}, shown, row.label);
      const [from, to] = [Math.min(x(0), x(cell.mean)), Math.max(x(0), x(cell.mean))];
      element("rect", { class: "bar", x: from, y: top, width: to - from, height: 20 }, group);
      element("line", { class: "end", x1: x(cell.mean), x2: x(cell.mean), y1: top, y2: top + 20 }, group);
      if (cell.interval) {
        const [begin, end] = cell.interval.map(x);
        const y = top + 15;
        element("path", { class: "whisker", d: `M${begin},${y - 3}V${y + 3}M${begin},${y}H${end}M${end},${y - 3}V${y + 3}` }, group);
      }
      for (const [seed, value] of cell.seeds) {
        const point = element("circle", { class: "point", cx: x(value), cy: top + 6, r: 4 }, group);
        element("title", {}, point, `${row.label}, seed ${seed}: ${value.toFixed(table.decimals)}`);
      }
      for (const [source, value] of row.printed[section.metric] || []) {
        const move = `translate(${x(value)},${middle})`;
        const mark = element("path", { class: "diamond", d: SHAPES[3](5), transform: move }, group);
        element("title", {}, mark, `${source}: ${value.toFixed(table.decimals)}`);
      }
      element("text", { x: width - 2, y: middle + 4, "text-anchor": "end" }, group, text(row));
    });
  }

  function drawCurves(box, section) {
    const { name, unit } = nameOf(section);
    const readout = box.parentElement.querySelector(".readout");
    readout.textContent = "";
    const lines = section.lines.filter((line) => !section.hidden.has(line.label) && line.values[section.metric]);
    if (!lines.length) return say(box, `No validation of ${name} to show here.`);
    const width = Math.max(260, Math.floor(box.clientWidth));
    const height = Math.round(Math.min(380, Math.max(240, width * 0.62)));
    const points = [];
    for (const line of lines) {
      line.values[section.metric].forEach((value, place) => {
        const epoch = typeof line.epochs === "number" ? place + 1 : line.epochs[place];
        if (value !== null) points.push({ line, epoch, value });
      });
    }
    if (!points.length) return say(box, `No validation of ${name} to show here.`);
    const extent = (key) => [
      points.reduce((least, point) => Math.min(least, point[key]), Infinity),
      points.reduce((most, point) => Math.max(most, point[key]), -Infinity),
    ];
    const [firstEpoch, lastEpoch] = extent("epoch");
    const vertical = ticks(...extent("value"), 5, false);
    const [low, high] = [vertical.values[0], vertical.values[vertical.values.length - 1]];
    const left = 12 + Math.max(...vertical.values.map((value) => textWidth(value.toFixed(vertical.decimals), 12)));
    const [right, top, bottom] = [width - 10, 26, height - 44];
    const x = (epoch) => left + ((epoch - firstEpoch) / (lastEpoch - firstEpoch || 1)) * (right - left);
    const y = (value) => bottom - ((value - low) / (high - low || 1)) * (bottom - top);
    const svg = canvas(box, width, height, `Lines of validation ${name} by epoch, one a run; tested epochs are marked.`);
    for (const value of vertical.values) {
      element("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }, svg);
      const anchor = { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" };
      element("text", anchor, svg, value.toFixed(vertical.decimals));
    }
    const across = ticks(firstEpoch, lastEpoch, width < 420 ? 4 : 7, true);
    for (const epoch of across.values.filter((value) => value >= firstEpoch && value <= lastEpoch)) {
      element("line", { class: "base", x1: x(epoch), x2: x(epoch), y1: bottom, y2: bottom + 4 }, svg);
      element("text", { class: "tick", x: x(epoch), y: bottom + 18, "text-anchor": "middle" }, svg, String(epoch));
    }
    element("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }, svg);
    element("text", { class: "axis", x: (left + right) / 2, y: bottom + 38, "text-anchor": "middle" }, svg, "epoch");
    element("text", { class: "axis", x: 0, y: 12 }, svg, unit ? `${name}, ${unit}` : name);
    const groups = new Map();
    for (const line of lines) {
      const group = element("g", { class: `series ${classes(line.label)}` }, svg);
      groups.set(line, group);
      const own = points.filter((point) => point.line === line);
      if (own.length > 1) {
        const path = own.map((point, place) => `${place ? "L" : "M"}${x(point.epoch).toFixed(1)},${y(point.value).toFixed(1)}`);
        element("path", { class: "curve", d: path.join("") }, group);
      }
      const marked = own.find((point) => point.epoch === line.best) || (own.length === 1 ? own[0] : null);
      if (marked) {
        const move = `translate(${x(marked.epoch)},${y(marked.value)})`;
        element("path", { class: "marker", d: shape(line.label, 5), transform: move }, group);
      }
    }
    const cross = element("circle", { class: "cross", r: 7, visibility: "hidden" }, svg);
    const leave = () => {
      svg.classList.remove("chosen-among");
      groups.forEach((group) => group.classList.remove("near"));
      cross.setAttribute("visibility", "hidden");
      readout.textContent = "";
    };
    const look = (event) => {
      const place = svg.getBoundingClientRect();
      const scale = width / place.width;
      const [px, py] = [(event.clientX - place.left) * scale, (event.clientY - place.top) * scale];
      let nearest = null;
      let distance = 60 ** 2;
      for (const point of points) {
        const away = (x(point.epoch) - px) ** 2 + (y(point.value) - py) ** 2;
        if (away < distance) [nearest, distance] = [point, away];
      }
      if (!nearest) return leave();
      svg.classList.add("chosen-among");
      groups.forEach((group, line) => group.classList.toggle("near", line === nearest.line));
      cross.setAttribute("cx", x(nearest.epoch));
      cross.setAttribute("cy", y(nearest.value));
      cross.setAttribute("visibility", "visible");
      const { label, seed, finished } = nearest.line;
      const whose = seed === null ? label : `${label}, seed ${seed}`;
      const figure = `${nearest.value.toFixed(2)}${unit && ` ${unit}`}`;
      readout.textContent = `${whose}${finished ? "" : " (unfinished)"}: epoch ${nearest.epoch}, ${figure}`;
    };
    svg.addEventListener("pointermove", look);
    svg.addEventListener("pointerdown", look);
    svg.addEventListener("pointerleave", leave);
  }

  // Sections ----------------------------------------------------------------------------------------------------------

  const sections = data.sections.map((section) => ({ ...section, hidden: new Set() }));
  const of = (box) => sections.find((section) => section.number === Number(box.dataset.section));

  function draw(section) {
    const own = `[data-section="${section.number}"]`;
    const { name } = nameOf(section);
    document.querySelectorAll(`.plot${own}`).forEach((box) => {
      box.parentElement.querySelector(".metric-name").textContent = name;
      if (box.classList.contains("bars")) drawBars(box, section, section.bars[Number(box.dataset.table)]);
      else drawCurves(box, section);
    });
  }

  function makeControls(controls) {
    const section = of(controls);
    const select = controls.querySelector("select");
    for (const metric of section.metrics) {
      select.append(new Option(metric.name, metric.key, false, metric.key === section.metric));
    }
    section.select = select;
    select.addEventListener("change", () => {
      for (const other of sections) {
        if (!other.metrics.some((metric) => metric.key === select.value)) continue;
        other.metric = select.value;
        if (other.select) other.select.value = select.value;
        draw(other);
      }
    });
    const legend = controls.querySelector(".legend");
    const drawn = section.bars.flatMap((table) => table.rows).concat(section.lines);
    for (const label of new Set(drawn.map((row) => row.label))) {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      const key = element("svg", { width: 28, height: 12, viewBox: "0 0 28 12", "aria-hidden": "true", class: classes(label) }, button);
      element("line", { class: "key-line curve", x1: 0, x2: 28, y1: 6, y2: 6 }, key);
      element("path", { class: "key-mark", d: shape(label, 4.5), transform: "translate(14,6)" }, key);
      button.append(label);
      button.addEventListener("click", () => {
        const shown = section.hidden.delete(label);
        if (!shown) section.hidden.add(label);
        button.setAttribute("aria-pressed", String(shown));
        draw(section);
      });
      legend.append(button);
    }
    if (!section.metrics.length) controls.hidden = true;
  }

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll(".controls").forEach(makeControls);
  sections.forEach(draw);

  let width = document.documentElement.clientWidth;
  let waiting = false;
  window.addEventListener("resize", () => {
    if (waiting || document.documentElement.clientWidth === width) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      width = document.documentElement.clientWidth;
      sections.forEach(draw);
    });
  });

  // A link to what is folded unfolds it; on paper everything is unfolded.
  function unfold() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const details = target && target.closest("details");
    if (details) {
      details.open = true;
      target.scrollIntoView();
    }
  }
  window.addEventListener("hashchange", unfold);
  unfold();
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = Array.from(document.querySelectorAll("details:not([open])"));
    folded.forEach((details) => { details.open = true; });
  });
  window.addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));
})();
