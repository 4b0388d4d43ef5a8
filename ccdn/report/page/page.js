"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const colors = ["#1f77b4", "#e8710a", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17a2b8", "#9a9a20"];
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);

  function make(parent, name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }

  function options(select, values, label) {
    select.replaceChildren(...values.map((value, i) => new Option(label ? label(value) : value, i)));
  }

  // ---- tables that sort -------------------------------------------------------------------------
  function sortBy(table, column, button) {
    const head = button.closest("th");
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.trim();
    };
    const rank = (value) => (value === "-" ? 2 : typeof value === "string" ? 1 : 0);
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (rank(x) !== rank(y)) return rank(x) - rank(y); // what is missing stays at the end
      const order = typeof x === "number" ? x - y : x.localeCompare(y);
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("thead button").forEach((button, column) => {
      button.addEventListener("click", () => sortBy(table, column, button));
    });
  }

  // ---- line charts ------------------------------------------------------------------------------
  function ticks(low, high, count) {
    const raw = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) found.push(v);
    return found;
  }

  function powers(low, high) {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
      for (const m of [1, 2, 5]) if (m * 10 ** p >= low && m * 10 ** p <= high) found.push(m * 10 ** p);
    return found.length > 1 ? found : [low, high];
  }

  const shown = (v) => (v !== 0 && Math.abs(v) < 0.01 ? v.toExponential(1) : String(+v.toPrecision(3)));

  // series: [{name, color, dashed, points: [[x, y], ...]}], in order of x.
  function chart(holder, given) {
    const wide = holder.clientWidth > 640;
    const W = wide ? 900 : 400, H = given.tall ? (wide ? 400 : 300) : wide ? 300 : 230;
    const L = 46, R = 12, T = 24, B = 36;
    holder.replaceChildren();
    const svg = make(holder, "svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": given.title });
    const all = given.series.flatMap((s) => s.points);
    const xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
    const least = (v) => v.reduce((a, b) => Math.min(a, b), Infinity);
    const most = (v) => v.reduce((a, b) => Math.max(a, b), -Infinity);
    const [x0, x1] = given.x || [0, most(xs)];
    let [y0, y1] = given.y || [least(ys), most(ys)];
    const log = !given.y && y0 > 0 && y1 > 4 * y0;
    if (!given.y && !log) [y0, y1] = [Math.min(0, y0), y1 || 1];
    const up = (v) => (log ? (Math.log(v) - Math.log(y0)) / (Math.log(y1) - Math.log(y0)) : (v - y0) / (y1 - y0));
    const px = (x) => L + ((x - x0) / (x1 - x0 || 1)) * (W - L - R);
    const py = (y) => H - B - up(y) * (H - T - B);
    make(svg, "text", { x: L, y: 14, class: "title" }, given.title);
    for (const v of log ? powers(y0, y1) : ticks(y0, y1, 5)) {
      make(svg, "line", { x1: L, x2: W - R, y1: py(v), y2: py(v), class: "axis" });
      make(svg, "text", { x: L - 5, y: py(v) + 4, "text-anchor": "end" }, shown(v));
    }
    for (const v of ticks(x0, x1, wide ? 10 : 5)) {
      make(svg, "line", { x1: px(v), x2: px(v), y1: T, y2: H - B, class: "axis" });
      make(svg, "text", { x: px(v), y: H - B + 15, "text-anchor": "middle" }, shown(v));
    }
    make(svg, "text", { x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle" }, given.label);
    for (const s of given.series) {
      const path = s.points.map((p, i) => `${i ? "L" : "M"}${px(p[0]).toFixed(1)} ${py(p[1]).toFixed(1)}`).join("");
      // A curve of one point is a dot.
      const lone = s.points.length === 1;
      make(svg, "path", { d: lone ? `${path}h0` : path, stroke: s.color, class: lone ? "dot" : "", "stroke-dasharray": s.dashed ? "6 4" : "none" });
    }
    if ((given.legend || []).length) {
      const key = document.createElement("p");
      key.className = "key";
      for (const s of given.legend) {
        const name = document.createElement("span");
        name.textContent = s.name;
        name.style.color = s.color;
        key.append(name, " ");
      }
      holder.append(key);
    }
    const cursor = make(svg, "line", { y1: T, y2: H - B, class: "cursor", visibility: "hidden" });
    const at = (x) => {
      cursor.setAttribute("x1", px(x));
      cursor.setAttribute("x2", px(x));
      cursor.setAttribute("visibility", "visible");
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const inside = (((event.clientX - box.left) / box.width) * W - L) / (W - L - R);
      const x = x0 + Math.min(1, Math.max(0, inside)) * (x1 - x0);
      at(x);
      given.read(x);
    });
    return { at };
  }

  // ---- CED --------------------------------------------------------------------------------------
  // A curve of every run and method that has the chosen subset and norm.
  function startCed() {
    const names = new Map();
    for (const run of data.runs) for (const set of run.sets)
      for (const split in set.subsets) names.set(split, true);
    const splits = [...names.keys()];
    const norms = data.norms.filter(([key]) => data.runs.some((r) => r.sets.some((s) => s.errors[key])));
    const ends = [0.05, 0.08, 0.1, 0.2, 0.5];
    options(byId("ced-split"), splits);
    options(byId("ced-norm"), norms, (n) => n[1]);
    options(byId("ced-end"), ends, (e) => `${Math.round(100 * e)} %`);
    const drawers = (split) => data.runs.flatMap((run) => run.sets).filter((set) => split in set.subsets)
      .reduce((sum, set) => sum + Object.keys(Object.values(set.errors)[0]).length, 0);
    byId("ced-split").value = splits.indexOf(splits.reduce((a, b) => (drawers(b) > drawers(a) ? b : a)));
    let curves = [], drawn = null;

    const value = (sorted, x) => { // the share of errors <= x
      let low = 0, high = sorted.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (sorted[middle] <= x + 1e-12) low = middle + 1; else high = middle;
      }
      return low / sorted.length;
    };

    const end = () => ends[byId("ced-end").value];
    const read = (x) => {
      if (drawn) drawn.at(100 * x);
      byId("ced-at").value = (1000 * x) / end();
      byId("ced-read").textContent = `NME ${(100 * x).toFixed(2)} %`;
      byId("ced-values").tBodies[0].replaceChildren(...curves.map((c) => {
        const row = document.createElement("tr");
        const mean = c.sorted.reduce((a, b) => a + b, 0) / c.sorted.length;
        const n = c.sorted.length, median = (c.sorted[(n - 1) >> 1] + c.sorted[n >> 1]) / 2;
        const cells = [null, c.name, n, (100 * value(c.sorted, x)).toFixed(2), (100 * mean).toFixed(2), (100 * median).toFixed(2)];
        cells.forEach((text, i) => {
          const cell = row.insertCell();
          if (i === 0) {
            const swatch = document.createElement("span");
            swatch.className = c.dashed ? "swatch dashed" : "swatch";
            swatch.style.borderTopColor = c.color;
            cell.append(swatch);
          } else cell.textContent = text;
          if (i > 1) cell.className = "number";
        });
        return row;
      }));
    };

    const draw = (fit) => {
      const split = splits[byId("ced-split").value], norm = norms[byId("ced-norm").value][0];
      curves = [];
      for (const run of data.runs) for (const set of run.sets) {
        const indices = set.subsets[split], errors = set.errors[norm];
        if (indices === undefined || !errors) continue;
        for (const method in errors) {
          const own = indices === null ? errors[method] : indices.map((i) => errors[method][i]);
          const dashed = method === data.mean_shape;
          curves.push({
            name: data.runs.length > 1 ? `${run.name}: ${method}` : method,
            sorted: own.map((e) => e / data.scale).sort((a, b) => a - b),
            color: colors[curves.length % colors.length], dashed,
          });
        }
      }
      if (fit) {
        const medians = curves.filter((c) => !c.dashed).map((c) => c.sorted[c.sorted.length >> 1]);
        const wanted = Math.max(0.1, 2 * Math.max(0, ...medians));
        const fits = ends.findIndex((e) => e >= wanted - 1e-9);
        byId("ced-end").value = fits < 0 ? ends.length - 1 : fits;
      }
      const series = curves.map((c) => {
        const points = [[0, 100 * value(c.sorted, 0)]];
        for (let i = 1; i <= 400; i++) points.push([(100 * end() * i) / 400, 100 * value(c.sorted, (end() * i) / 400)]);
        return { ...c, points };
      });
      drawn = chart(byId("ced-chart"), {
        title: `${split}: faces [%]`, label: `NME, ${norms[byId("ced-norm").value][1]} [%]`,
        series, x: [0, 100 * end()], y: [0, 100], tall: true, read: (x) => read(x / 100),
      });
      read((end() * byId("ced-at").value) / 1000);
    };

    for (const id of ["ced-split", "ced-norm"]) byId(id).addEventListener("change", () => draw(true));
    byId("ced-end").addEventListener("change", () => draw(false));
    byId("ced-at").addEventListener("input", () => read((end() * byId("ced-at").value) / 1000));
    redraw.push(() => draw(false));
    draw(true);
  }

  // ---- training curves --------------------------------------------------------------------------
  const CURVES = {
    loss: ["objective", [["loss", "objective"], ["landmarks", "landmarks"]], "steps"],
    nme: ["NME [%]", [["nme", "training crops"], ["holdout_nme", "held out"]], "epochs"],
    cocs: ["COCS", [["cocs_t", "T"], ["cocs_t1", "T-1"], ["cocs_g", "G"]], "steps"],
    lr: ["learning rate", [["lr", "learning rate"]], "steps"],
  };

  function drawCurve(holder) {
    const [title, keys, part] = CURVES[holder.dataset.curve];
    const series = [];
    data.runs.forEach((run) => {
      if (!run.curves) return;
      for (const [key, label] of keys) {
        const rows = run.curves[part];
        const points = rows.filter((r) => typeof r[key] === "number").map((r) => [r.at, r[key]]);
        if (points.length)
          series.push({ name: data.runs.length > 1 ? `${run.name}: ${label}` : label, color: colors[series.length % colors.length], points });
      }
    });
    if (!series.length) { holder.hidden = true; return; }
    const tip = document.createElement("div");
    tip.className = "tip";
    const read = (x) => {
      tip.textContent = [`epoch ${x.toFixed(1)}`, ...series.map((s) => {
        const near = s.points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
        return `${s.name}: ${shown(near[1])}`;
      })].join("\n");
      tip.hidden = false;
    };
    chart(holder, { title, legend: series.length > 1 || data.runs.length > 1 ? series : [], label: "epoch", series, read });
    tip.hidden = true;
    holder.append(tip);
  }

  // ---- gallery ----------------------------------------------------------------------------------
  function startGallery() {
    const PAGE = 24;
    const runs = data.runs.filter((run) => run.gallery.length);
    let most = PAGE;
    options(byId("gallery-run"), runs, (run) => run.name);
    const run = () => runs[byId("gallery-run").value];
    const splits = () => [...new Set(run().gallery.flatMap((face) => face.subsets))];
    const fill = () => options(byId("gallery-split"), splits());
    const at = (points) => points.map((p) => p.join(" ")).join(" L");

    function tile(face) {
      const figure = document.createElement("figure");
      const svg = make(figure, "svg", { viewBox: "0 0 1000 1000", role: "img", "aria-label": face.name });
      make(svg, "image", { href: face.image, width: 1000, height: 1000 });
      for (const [key, points] of [["truth", face.truth], ["pred", face.pred]]) {
        if (!byId(`gallery-${key}`).checked) continue;
        for (const part of run().parts) make(svg, "path", { d: `M${at(part.map((i) => points[i]))}`, class: key });
        if (key === "pred" || !run().parts.length)
          for (const [x, y] of points) make(svg, "circle", { cx: x, cy: y, r: 9, class: key === "pred" ? "dots" : "dots white" });
      }
      const caption = document.createElement("figcaption");
      caption.textContent = `${(100 * face.error).toFixed(2)} %  ${face.name}`;
      caption.title = face.name;
      figure.append(caption);
      return figure;
    }

    function draw() {
      const split = splits()[byId("gallery-split").value];
      const low = Number(byId("gallery-low").value) / 100 || 0;
      const high = Number(byId("gallery-high").value) / 100 || Infinity;
      const order = byId("gallery-order").value;
      const found = run().gallery.filter((f) => f.subsets.includes(split) && f.error >= low && f.error <= high);
      found.sort((a, b) => order === "name" ? a.name.localeCompare(b.name) : order === "best" ? a.error - b.error : b.error - a.error);
      byId("gallery-grid").replaceChildren(...found.slice(0, most).map(tile));
      byId("gallery-count").textContent =
        `${Math.min(most, found.length)} of ${found.length} faces shown here that fit; the page holds ${run().gallery.length} of ${run().faces}`;
      byId("gallery-more").hidden = found.length <= most;
    }

    byId("gallery-run").addEventListener("change", () => { fill(); most = PAGE; draw(); });
    for (const id of ["split", "order", "low", "high", "pred", "truth"])
      byId(`gallery-${id}`).addEventListener("input", () => { most = PAGE; draw(); });
    byId("gallery-more").addEventListener("click", () => { most += PAGE; draw(); });
    fill();
    draw();
  }

  for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (e) => e.preventDefault());
  const redraw = [];
  if (byId("ced")) startCed();
  if (byId("gallery")) startGallery();
  const curves = () => document.querySelectorAll("[data-curve]").forEach(drawCurve);
  curves();
  redraw.push(curves);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's bars come and go
    width = innerWidth;
    redraw.forEach((draw) => draw());
  });
})();
