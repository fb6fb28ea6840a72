// A line chart of the last two minutes, as SVG.

import { make } from "./markdown.js";

const POINTS = 120;
const WIDTH = 240;
const HEIGHT = 56;
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  element = make("figure", "chart");
  #rows = [];
  #lines;
  #values;
  #scale;
  #options;

  // least, most: bounds of the upper end of the scale; digits: of the numbers shown.
  constructor(title, names, { digits = 1, least = 1, most = Infinity, unit = "" } = {}) {
    this.#options = { digits, least, most, unit };
    const caption = make("figcaption");
    caption.append(make("span", "", title));
    this.#scale = make("span", "scale");
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": title });
    svg.append(draw("path", { class: "grid", d: `M0 ${HEIGHT / 2}H${WIDTH}M0 0.5H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }));
    this.#lines = names.map((_, i) => svg.appendChild(draw("path", { class: `line l${i}` })));
    const legend = make("p", "legend");
    this.#values = names.map((name, i) => {
      const entry = legend.appendChild(make("span", `l${i}`, `${names.length > 1 ? name : "now"} `));
      return entry.appendChild(make("b", "", "–"));
    });
    caption.append(legend);
    const plot = make("div", "plot");
    plot.append(svg, this.#scale);
    this.element.append(caption, plot);
  }

  // One value for each name; what is no number (a server without that metric) shows as a gap.
  add(row) {
    this.#rows = [...this.#rows, row].slice(-POINTS);
    const { digits, least, most, unit } = this.#options;
    const top = Math.min(most, nice(Math.max(least, ...this.#rows.flat().filter(Number.isFinite))));
    this.#scale.textContent = `${top}${unit}`;
    for (const [i, line] of this.#lines.entries()) {
      const value = row[i];
      this.#values[i].textContent = Number.isFinite(value) ? `${value.toFixed(digits)}${unit}` : "–";
      line.setAttribute("d", this.#path(i, top));
    }
  }

  #path(i, top) {
    let path = "";
    let pen = "M";
    const start = POINTS - this.#rows.length; // the newest at the right edge
    for (const [at, row] of this.#rows.entries()) {
      if (!Number.isFinite(row[i])) {
        pen = "M";
        continue;
      }
      const x = ((start + at) * WIDTH) / (POINTS - 1);
      const y = HEIGHT - 1.5 - (Math.min(row[i], top) / top) * (HEIGHT - 3);
      path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    }
    return path;
  }
}

// The next of 1, 2, 5, 10, 20, 50, ... at or over a value.
function nice(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= value * 0.999) ?? 10 * unit;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
