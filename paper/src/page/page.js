"use strict";
(() => {
  const root = document.documentElement;
  addEventListener("error", (event) => { root.dataset.error = event.message; });
  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, strings, groups } = data;
  const STEP = 200;
  const DECADES = 8;
  const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 73, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]];
  const hasCurves = groups.some((group) => group.curves.some((curve) => curve.length));
  const collator = new Intl.Collator("en", { numeric: true });
  const state = { sort: "", order: "ascending", measure: data.measure, filter: "", chosen: { group: null, rows: [] } };

  // Everything is made of nodes and text: no name can become markup.
  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const draw = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const show = (value) => {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  };
  const viridis = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
    const i = Math.min(Math.floor(place), VIRIDIS.length - 2);
    return VIRIDIS[i].map((low, c) => Math.round(low + (place - i) * (VIRIDIS[i + 1][c] - low)));
  };
  const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  const css = (color) => `rgb(${color.join(",")})`;
  const indexOf = (id) => columns.findIndex((column) => column.id === id);
  const cell = (group, c, row) => {
    const value = group.values[c][row];
    return columns[c].text ? strings[value] : value;
  };
  const rowsOf = (group) => {
    let rows = group.values[0].map((_, row) => row);
    const wanted = state.filter.toLowerCase();
    if (wanted) {
      const texts = columns.flatMap((column, c) => (column.text ? [c] : []));
      rows = rows.filter((row) => texts.some((c) => cell(group, c, row).toLowerCase().includes(wanted)));
    }
    return rows;
  };
  // What is missing comes last in either direction.
  const compare = (x, y, sign) => {
    const [noX, noY] = [x === null || x === "", y === null || y === ""];
    if (noX || noY) return noX - noY;
    return sign * (typeof x === "number" ? x - y : collator.compare(x, y));
  };
  const sorted = (group, rows) => {
    const c = indexOf(state.sort);
    if (c < 0) return rows;
    const sign = state.order === "descending" ? -1 : 1;
    return rows.slice().sort((x, y) => compare(cell(group, c, x), cell(group, c, y), sign) || x - y);
  };
  const toggled = (isSame) => (isSame && state.order === "descending" ? "ascending" : "descending");

  const mini = (group, row) => {
    const curve = group.curves[row];
    const svg = draw("svg", { class: "mini", viewBox: "0 0 84 22", role: "img" });
    if (!curve || !curve.length) return svg;
    const top = curve[0] ?? 0;
    const x = (i) => (curve.length > 1 ? 2 + (80 * i) / (curve.length - 1) : 42);
    const y = (value) => 2 + (18 * Math.min((top - value) / 1000, DECADES)) / DECADES;
    const points = curve.flatMap((value, i) => (value === null ? [] : [`${x(i).toFixed(1)},${y(value).toFixed(1)}`]));
    svg.append(draw("title", {}, `${data.curve}: ${curve.length} values over ${((top - Math.min(...curve.filter((v) => v !== null))) / 1000).toFixed(1)} decades`));
    if (points.length === 1) {
      const [cx, cy] = points[0].split(",");
      svg.append(draw("circle", { cx, cy, r: 2, class: "spark" }));
    } else {
      svg.append(draw("polyline", { class: "spark", points: points.join(" ") }));
    }
    return svg;
  };

  // A cell of a heat map stands for some rows: their curves stand out until others are chosen.
  const chosenIn = (group) => (state.chosen.group === group ? state.chosen.rows : []);
  const choose = (group, td) => {
    state.chosen = { group, rows: td.dataset.rows.split(",").map(Number) };
    const index = groups.indexOf(group);
    renderGroup(index);
    document.querySelector(`#group-${index} td[aria-selected]`)?.focus();
  };
  const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const onKey = (group, event) => {
    const td = event.target.closest("td[data-rows]");
    if (!td) return;
    if (event.key === "Enter" || event.key === " ") choose(group, td);
    else if (event.key in ARROWS) {
      const [down, right] = ARROWS[event.key];
      const lines = td.closest("tbody").rows;
      // Past the cells for which there is no module.
      let [y, x] = [td.parentNode.sectionRowIndex + down, td.cellIndex + right];
      while (lines[y]?.cells[x] && !lines[y].cells[x].dataset.rows) [y, x] = [y + down, x + right];
      const next = lines[y]?.cells[x];
      if (next?.dataset.rows) {
        td.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      }
    } else return;
    event.preventDefault();
  };

  const heatMap = (group, rows) => {
    const c = indexOf(state.measure);
    const cells = new Map();
    const layers = new Set();
    for (const row of rows) {
      const layer = group.layer[row];
      layers.add(layer);
      const role = strings[group.role[row]];
      if (!cells.has(role)) cells.set(role, new Map());
      const own = cells.get(role);
      if (!own.has(layer)) own.set(layer, []);
      own.get(layer).push(row);
    }
    const order = [...layers].sort((x, y) => (x === null) - (y === null) || x - y);
    const means = new Map();
    for (const own of cells.values()) {
      for (const list of own.values()) {
        const values = list.map((row) => group.values[c][row]).filter((value) => value !== null);
        means.set(list, values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
      }
    }
    const all = [...means.values()].filter((value) => value !== null);
    const [low, high] = all.length ? [all.reduce((x, y) => Math.min(x, y)), all.reduce((x, y) => Math.max(x, y))] : [0, 0];
    const isLog = columns[c].log && low > 0 && high / low > 100;
    const share = (value) => {
      if (high === low) return 0.5;
      return isLog ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    };
    const dense = order.length > 24;
    const table = make("table", { class: dense ? "heat dense" : "heat", role: "grid" });
    table.addEventListener("click", (event) => {
      const td = event.target.closest("td[data-rows]");
      if (td) choose(group, td);
    });
    table.addEventListener("keydown", (event) => onKey(group, event));
    table.append(make("caption", {}, `${columns[c].label} by role and layer`));
    table.append(make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "layer"), ...order.map((layer) => make("th", { scope: "col" }, layer === null ? "–" : String(layer))))));
    const body = make("tbody");
    for (const [role, own] of cells) {
      const line = make("tr", {}, make("th", { scope: "row", class: "t" }, role));
      for (const layer of order) {
        const list = own.get(layer);
        const value = list ? means.get(list) : null;
        const td = make("td");
        if (list) {
          const names = list.length === 1 ? cell(group, 0, list[0]) : `mean of ${list.length}: ${cell(group, 0, list[0])}, …`;
          td.dataset.rows = list.join(",");
          td.tabIndex = -1;
          if (list.some((row) => chosenIn(group).includes(row))) td.setAttribute("aria-selected", "true");
          td.title = `${names}\n${columns[c].label}: ${value === null ? "not defined" : show(value)}`;
          td.textContent = show(value === null ? null : Number(value.toPrecision(3)));
          if (value === null) td.className = "none";
          else {
            const color = viridis(share(value));
            td.dataset.value = value;
            td.style.background = css(color);
            td.style.color = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 120 ? "#000" : "#fff";
          }
        }
        line.append(td);
      }
      body.append(line);
    }
    // One cell is reached by the tabulator, the others from there by the arrows.
    const entry = body.querySelector("td[aria-selected]") || body.querySelector("td[data-rows]");
    if (entry) entry.tabIndex = 0;
    table.append(body);
    const legend = make("div", { class: "legend" }, `${columns[c].label}:`, make("span", {}, show(low)), make("span", { class: "ramp" }), make("span", {}, show(high)), isLog ? "(logarithmic)" : "", "hatched: not defined");
    return [make("div", { class: "wide" }, table), legend];
  };

  const chart = (group, rows) => {
    const shown = rows.slice(0, 2000).filter((row) => group.curves[row] && group.curves[row].some((value) => value !== null));
    const chosen = chosenIn(group).filter((row) => rows.includes(row) && group.curves[row]);
    if (!shown.length) return [];
    const [w, h, left, bottom] = [720, 280, 52, 36];
    const start = (row) => (data.relative ? group.curves[row][0] : 0);
    let [top, low, longest] = [-Infinity, Infinity, 1];
    for (const row of [...shown, ...chosen]) {
      const curve = group.curves[row];
      const last = group.at ? group.at[row][curve.length - 1] : curve.length - 1;
      longest = Math.max(longest, last);
      for (const value of curve) {
        if (value === null) continue;
        top = Math.max(top, value - start(row));
        low = Math.min(low, value - start(row));
      }
    }
    top = Math.ceil(top / 1000);
    low = Math.max(Math.min(Math.floor(low / 1000), top - 1), top - DECADES);
    const x = (i) => left + ((w - left - 12) * i) / longest;
    const y = (value) => 10 + ((h - 10 - bottom) * (top * 1000 - Math.max(value, low * 1000))) / ((top - low) * 1000);
    const svg = draw("svg", { class: "chart", viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": `${data.curve} of ${shown.length} modules` });
    for (let decade = low; decade <= top; decade += 1) {
      svg.append(draw("line", { class: "grid", x1: left, x2: w - 12, y1: y(decade * 1000), y2: y(decade * 1000) }));
      svg.append(draw("text", { x: left - 6, y: y(decade * 1000) + 4, "text-anchor": "end" }, decade === 0 ? "1" : `1e${decade}`));
    }
    const step = Math.max(1, Math.ceil(longest / 8));
    for (let i = 0; i <= longest; i += step) svg.append(draw("text", { x: x(i), y: h - bottom + 16, "text-anchor": "middle" }, String(i + data.first)));
    svg.append(draw("text", { x: (left + w) / 2, y: h - 4, "text-anchor": "middle" }, data.axis));
    const line = (row) => {
      let [path, pen] = ["", "M"];
      group.curves[row].forEach((value, i) => {
        if (value === null) return;
        const place = group.at ? group.at[row][i] : i;
        path += `${pen}${x(place).toFixed(1)} ${y(value - start(row)).toFixed(1)}`;
        pen = "L";
      });
      return path;
    };
    const layers = [...new Set(shown.map((row) => group.layer[row]))].sort((a, b) => a - b);
    for (const layer of layers) {
      let path = "";
      let floors = "";
      for (const row of shown.filter((r) => group.layer[r] === layer)) {
        path += line(row);
        if (group.floor && group.floor[row] !== null) floors += `M${left} ${y(group.floor[row]).toFixed(1)}H${w - 12}`;
      }
      const share = layers.length > 1 ? layers.indexOf(layer) / (layers.length - 1) : 0.4;
      const own = shown.length < 60 ? 0.75 : 0.4;
      // Viridis's dark end does not show on a dark page, nor its light end on a light one.
      const tone = isDark() ? 0.3 + 0.7 * share : 0.9 * share;
      svg.append(draw("path", { d: path, fill: "none", stroke: css(viridis(tone)), "stroke-opacity": own }));
      if (floors) svg.append(draw("path", { d: floors, class: "floor", "stroke-opacity": 0.5 }));
    }
    for (const row of chosen) svg.append(draw("path", { class: "chosen", d: line(row), "data-chosen": row }));
    const names = chosen.map((row) => cell(group, 0, row)).slice(0, 5).join(", ");
    const note = [`${shown.length} of ${rows.length} shown; layers:`];
    return [svg, make("div", { class: "legend" }, note[0], make("span", {}, String(layers[0] ?? "–")), make("span", { class: isDark() ? "ramp light" : "ramp dark" }), make("span", {}, String(layers[layers.length - 1] ?? "–")), group.floor ? "dashed: the rounding's floor" : "", chosen.length ? `thick: ${names}` : "choose a cell above to follow a curve")];
  };

  const moduleTable = (group, rows, count) => {
    const table = make("table", { class: "modules" });
    const head = make("tr");
    columns.forEach((column) => {
      const button = make("button", { type: "button" }, column.label);
      const th = make("th", { scope: "col", class: column.text ? "t" : "", "data-id": column.id }, button);
      if (state.sort === column.id) th.setAttribute("aria-sort", state.order);
      button.addEventListener("click", () => {
        state.order = toggled(state.sort === column.id);
        state.sort = column.id;
        remember();
        const index = groups.indexOf(group);
        renderAll();
        document.querySelector(`#group-${index} th[data-id="${column.id}"] button`)?.focus();
      });
      head.append(th);
      if (column === columns[0] && hasCurves) head.append(make("th", { scope: "col", class: "t" }, data.curve));
    });
    const body = make("tbody");
    const more = make("button", { type: "button", class: "more" });
    const add = (from, to) => {
      for (const row of rows.slice(from, to)) {
        const line = make("tr", { "data-row": row });
        columns.forEach((column, c) => {
          const value = cell(group, c, row);
          const text = column.text ? value : show(value);
          const td = make("td", { class: c === 0 ? "name" : column.text ? "t" : "" }, text);
          if (c === 0) td.title = value;
          line.append(td);
          if (c === 0 && hasCurves) line.append(make("td", {}, mini(group, row)));
        });
        body.append(line);
      }
      more.textContent = `${Math.min(to, rows.length)} of ${rows.length} shown: show more`;
      more.hidden = to >= rows.length;
      count = to;
    };
    add(0, count);
    more.addEventListener("click", () => add(count, count + 5 * STEP));
    table.append(make("thead", {}, head), body);
    return [make("div", { class: "wide" }, table), more];
  };

  const renderGroup = (index) => {
    const place = document.getElementById(`group-${index}`);
    if (!place || !place.open) return;
    const group = groups[index];
    let body = place.querySelector(".body");
    if (!body.dataset.made) {
      body.dataset.made = "yes";
      const filter = make("input", { type: "search", "aria-label": "filter", placeholder: "filter by name, kind, finding", class: "filter" });
      filter.addEventListener("input", () => { state.filter = filter.value; remember(); renderAll(); });
      const select = make("select", { class: "measure" }, ...columns.filter((column) => column.heat).map((column) => make("option", { value: column.id }, column.label)));
      select.addEventListener("change", () => { state.measure = select.value; remember(); renderAll(); });
      body.append(make("div", { class: "controls" }, make("label", {}, "Filter ", filter), make("label", {}, "Colour by ", select)), make("div", { class: "content" }));
    }
    const filter = body.querySelector(".filter");
    if (filter.value !== state.filter) filter.value = state.filter;
    body.querySelector(".measure").value = state.measure;
    const rows = rowsOf(group);
    const content = body.querySelector(".content");
    content.replaceChildren();
    if (!rows.length) content.append(make("p", { class: "soft" }, "Nothing has this in its name, kind or findings."));
    else content.append(...heatMap(group, rows), ...(hasCurves ? [make("h3", {}, data.overlay), ...chart(group, rows)] : []), make("h3", {}, "Every one"), ...moduleTable(group, sorted(group, rows), STEP));
  };
  const renderAll = () => groups.forEach((_, index) => renderGroup(index));

  // The address says what is open and how it is sorted: links add to the history, settings do not.
  const sections = [...document.querySelectorAll("details[id]")];
  const atFirst = sections.filter((place) => place.open);
  const address = () => {
    const parameters = new URLSearchParams();
    if (state.sort) { parameters.set("sort", state.sort); parameters.set("order", state.order); }
    if (state.measure !== data.measure) parameters.set("measure", state.measure);
    if (state.filter) parameters.set("filter", state.filter);
    const open = sections.filter((place) => place.open);
    const isOther = open.length !== atFirst.length || open.some((place) => !atFirst.includes(place));
    if (isOther) parameters.set("open", open.map((place) => place.id.replace(/^group-/, "")).join(","));
    return `#${parameters}`;
  };
  const remember = (isNew) => {
    const next = address();
    if (next === (location.hash || "#")) return;
    try { history[isNew ? "pushState" : "replaceState"](null, "", next); } catch { /* A page from a sandbox keeps its address. */ }
  };
  const recall = () => {
    // A link that was opened elsewhere names its section alone.
    const alone = sections.find((place) => `#${place.id}` === location.hash);
    const parameters = new URLSearchParams(alone ? "" : location.hash.slice(1));
    const sort = parameters.get("sort") || "";
    state.sort = indexOf(sort) >= 0 ? sort : "";
    state.order = parameters.get("order") === "descending" ? "descending" : "ascending";
    const measure = columns.find((column) => column.heat && column.id === parameters.get("measure"));
    state.measure = measure ? measure.id : data.measure;
    state.filter = parameters.get("filter") || "";
    const wanted = parameters.has("open") ? parameters.get("open").split(",") : null;
    for (const place of sections) {
      const isNamed = wanted && (wanted.includes(place.id) || wanted.includes(place.id.replace(/^group-/, "")));
      place.open = place === alone || (wanted ? isNamed : atFirst.includes(place));
    }
  };

  // Tables that are in the page from the start.
  for (const table of document.querySelectorAll("table.plain")) {
    [...table.tHead.rows[0].cells].forEach((th, c) => {
      const button = make("button", { type: "button" }, th.textContent);
      th.replaceChildren(button);
      button.addEventListener("click", () => {
        const order = th.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        th.setAttribute("aria-sort", order);
        const key = (line) => {
          const value = line.cells[c].dataset.v;
          return value === undefined ? line.cells[c].textContent : value === "" ? null : Number(value);
        };
        const lines = [...table.tBodies[0].rows].sort((x, y) => compare(key(x), key(y), order === "descending" ? -1 : 1));
        table.tBodies[0].append(...lines);
      });
    });
  }
  for (const input of document.querySelectorAll("input.overview")) {
    input.closest(".controls").hidden = false;
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const line of document.getElementById("overview").tBodies[0].rows) line.hidden = !line.textContent.toLowerCase().includes(wanted);
      groups.forEach((group, index) => { document.getElementById(`group-${index}`).hidden = !group.title.toLowerCase().includes(wanted); });
    });
  }
  // Findings past those in the page are added when they are looked at.
  for (const [kind, items] of Object.entries(data.findings)) {
    const place = document.getElementById(`finding-${kind}`);
    const more = make("button", { type: "button", class: "more" });
    let next = 0;
    const label = () => { more.textContent = `show more of ${items.length - next} others`; more.hidden = next >= items.length; };
    more.addEventListener("click", () => {
      for (const item of items.slice(next, next + 5 * STEP)) {
        place.querySelector("tbody").append(make("tr", {}, ...item.map((text) => make("td", { class: "t wrap" }, strings[text]))));
      }
      next += 5 * STEP;
      label();
    });
    label();
    place.append(more);
  }
  groups.forEach((_, index) => document.getElementById(`group-${index}`).addEventListener("toggle", () => renderGroup(index)));
  for (const place of sections) place.addEventListener("toggle", () => remember());
  for (const link of document.querySelectorAll("a[data-open]")) {
    link.addEventListener("click", (event) => {
      // With a key held down the browser opens a tab or window of its own.
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      const place = document.getElementById(`group-${link.dataset.open}`);
      event.preventDefault();
      place.open = true;
      remember(true);
      renderGroup(Number(link.dataset.open));
      place.scrollIntoView();
    });
  }
  addEventListener("hashchange", () => { recall(); renderAll(); });
  addEventListener("beforeprint", () => { if (groups.length <= 20) groups.forEach((_, index) => { document.getElementById(`group-${index}`).open = true; renderGroup(index); }); });
  recall();
  renderAll();
  root.dataset.ready = "yes";
})();
