// The five charts of the last minutes, all nodes together. uPlot draws them; see uplot-LICENSE.txt.

import { byId, clock, count, element, milliseconds, rate, setText } from "./format.js";

const HEIGHT = 92;
const POINTS_MAX = 150;
const TILES = [
  { name: "Connections", series: [["connections", "--chart-1"]], perSecond: false, tell: ([n]) => count(n) },
  { name: "Connects", series: [["connects", "--chart-2"]], perSecond: true, tell: ([n]) => `${rate(n)}/s` },
  { name: "Deliveries", series: [["deliveries", "--chart-3"]], perSecond: true, tell: ([n]) => `${rate(n)}/s` },
  {
    name: "Limiter",
    series: [["allowed", "--chart-1"], ["denied", "--chart-bad"]],
    perSecond: true,
    tell: ([allowed, denied]) => `${rate(allowed)} admitted, ${rate(denied)} refused/s`,
  },
  { name: "Loop lag", series: [["lag_ms", "--chart-lag"]], perSecond: false, tell: ([n]) => milliseconds(n) },
];

const probe = document.head.appendChild(element("meta"));

/** Return a colour of the style sheet as the present theme has it, with an opacity. */
function colour(name, opacity = 1) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color.replace(/^rgb\((.*)\)$/, `rgba($1, ${opacity})`);
}

/** What happened in each step. It stays as it was told first: a node that ends takes its past out of later answers. */
class Steps {
  constructor() {
    this.told = new Map();
    this.stepMs = 2000;
  }

  add(history, stepMs) {
    this.stepMs = stepMs;
    const length = history.connections.length;
    for (let i = 0; i < length; i += 1) {
      const at = history.until - (length - 1 - i) * stepMs;
      if (this.told.has(at) && i < length - 2) continue;
      const step = {};
      for (const { series } of TILES) for (const [field] of series) step[field] = history[field][i];
      this.told.set(at, step);
    }
    const oldest = history.until - POINTS_MAX * stepMs;
    for (const at of this.told.keys()) if (at < oldest || at > history.until) this.told.delete(at);
  }

  columns(fields, perSecond) {
    const steps = [...this.told].sort(([a], [b]) => a - b);
    const scale = perSecond ? this.stepMs / 1000 : 1;
    return [steps.map(([at]) => at / 1000), ...fields.map((field) => steps.map(([, step]) => step[field] / scale))];
  }
}

class Tile {
  constructor(parent, { name, series, perSecond, tell }) {
    Object.assign(this, { name, series, perSecond, tell });
    this.at = element("p", { className: "at" });
    this.now = element("p", { className: "now" });
    this.plot = element("div", { className: "plot", role: "img" });
    parent.append(element("div", { className: "tile" }, element("header", {}, element("h2", {}, name), this.at), this.now, this.plot));
    this.data = [[], ...series.map(() => [])];
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  draw() {
    this.chart?.destroy();
    const width = this.plot.clientWidth;
    if (!width || !this.range) return; // hidden, or nothing was told yet
    const axis = { stroke: colour("--quiet"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: colour("--grid"), width: 1 };
    this.chart = new uPlot(
      {
        width,
        height: HEIGHT,
        padding: [6, 18, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
        hooks: { setCursor: [(chart) => this.point(chart.cursor.idx)] },
        scales: { x: { range: () => this.range }, y: { range: (_, __, max) => [0, Math.max(max * 1.08, 1)] } },
        axes: [
          { ...axis, size: 18, space: 80, grid: { show: false }, values: (_, ticks) => ticks.map((s) => clock(s * 1000).slice(0, 5)) },
          { ...axis, size: 36, space: 30, gap: 4, grid, values: (_, ticks) => ticks.map((n) => (n % 1 ? "" : count(n))) },
        ],
        series: [
          {},
          ...this.series.map(([, name]) => ({ stroke: colour(name), width: 1.6, fill: colour(name, 0.13), points: { show: false } })),
        ],
      },
      this.data,
      this.plot,
    );
  }

  resize() {
    if (!this.chart) this.draw();
    else if (this.plot.clientWidth) this.chart.setSize({ width: this.plot.clientWidth, height: HEIGHT });
  }

  show(data, until, stepMs, now) {
    this.data = data;
    this.range = [(until - (POINTS_MAX - 1) * stepMs) / 1000, until / 1000];
    if (this.chart) this.chart.setData(data);
    else this.draw();
    const text = this.tell(now);
    const small = /^(.*?)(\/s| ms)$/.exec(text);
    this.tellNow(now, text, small);
    this.plot.setAttribute("aria-label", `${this.name}, the last five minutes; now ${text}`);
  }

  tellNow(now, text, small) {
    if (this.series.length > 1) {
      const [allowed, denied] = now;
      const refused = element("span", { className: denied > 0 ? "bad" : "" }, rate(denied));
      this.now.replaceChildren(rate(allowed), element("small", {}, " admitted · "), refused, element("small", {}, " refused/s"));
    } else if (small) {
      this.now.replaceChildren(small[1], element("small", {}, small[2]));
    } else {
      setText(this.now, text);
    }
  }

  point(index) {
    const at = index === null || index === undefined ? undefined : this.data[0][index];
    const here = this.data.slice(1).map((column) => column[index]);
    setText(this.at, at === undefined ? "" : `${clock(at * 1000)} · ${here.map(rate).join(" / ")}`);
  }
}

export class Charts {
  constructor() {
    this.steps = new Steps();
    this.tiles = TILES.map((tile) => new Tile(byId("charts"), tile));
  }

  /** Show an overview. The big numbers are means of ten seconds, as in the tables. */
  show({ history, step_ms, rates, nodes }) {
    if (!history?.connections.length) return;
    this.steps.add(history, step_ms);
    const worst = Math.max(0, ...nodes.map((node) => node.lag_ms));
    const total = nodes.reduce((sum, node) => sum + (node.state === "silent" ? 0 : node.connections), 0);
    const now = { ...rates, connections: total, lag_ms: worst };
    for (const tile of this.tiles) {
      const fields = tile.series.map(([field]) => field);
      tile.show(this.steps.columns(fields, tile.perSecond), history.until, step_ms, fields.map((field) => now[field]));
    }
  }

  /** Draw again, in the colours of another theme. */
  redraw() {
    for (const tile of this.tiles) tile.draw();
  }
}
