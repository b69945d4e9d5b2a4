// Two distributions in the same bins: what the model learnt from, and what it
// sees. Numbers have bins with an order and stand side by side; categories are
// read line by line.

import { h, responsive, s } from "../dom.js";
import { percent } from "../format.js";
import { details } from "../parts.js";
import { grid } from "../table.js";
import { linear, tickDigits, ticks } from "./scale.js";

const MARGIN = { top: 22, right: 8, bottom: 74, left: 44 };
/** More categories than this are gathered at the end of the picture; the table has all. */
const MOST_CATEGORIES = 14;

export function distributions(signal, { key }) {
  const bins = signal.bins.map((name, index) => ({
    name,
    reference: signal.reference_shares[index] ?? 0,
    window: signal.window_shares[index] ?? 0,
  }));
  const category = signal.kind === "category";
  return h(
    "figure",
    { class: "chart" },
    h(
      "figcaption",
      { class: "legend" },
      swatch("reference", "Reference (what it learnt from)"),
      swatch("window", "Window (what it sees)"),
    ),
    category ? lines(bins, signal.input) : responsive((width) => columns(bins, width, signal.input)),
    details(
      `bins-${key}`,
      "As a table",
      grid(
        `${signal.input}: shares by bin`,
        ["Bin", "Reference", "Window", "Difference"],
        bins.map((bin) => [bin.name, percent(bin.reference), percent(bin.window), difference(bin)]),
      ),
    ),
  );
}

const difference = (bin) => {
  const points = 100 * (bin.window - bin.reference);
  return `${points > 0 ? "+" : ""}${points.toFixed(1)} pp`;
};

function swatch(kind, text) {
  return h("span", { class: "entry" }, h("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), text);
}

/** Bins that both leave empty say nothing; a leading or closing run of them is cut. */
function used(bins) {
  const filled = (bin) => bin.reference > 0 || bin.window > 0;
  const first = bins.findIndex(filled);
  return first < 0 ? bins.slice(0, 1) : bins.slice(first, bins.findLastIndex(filled) + 1);
}

function columns(all, width, name) {
  const bins = used(all);
  const height = 264;
  const most = Math.max(0.01, ...bins.flatMap((bin) => [bin.reference, bin.window]));
  const up = linear([0, most * 1.08], [height - MARGIN.bottom, MARGIN.top]);
  const slot = (width - MARGIN.left - MARGIN.right) / bins.length;
  const bar = Math.max(1, Math.min(22, slot * 0.4));
  const values = ticks(0, most * 1.08, 4);
  const digits = Math.max(0, tickDigits(values) - 2);
  const every = Math.ceil(30 / slot);
  return s(
    "svg",
    {
      class: "bars",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `${name}: shares of reference and window by bin; the table below has the numbers`,
    },
    values.map((value) => [
      s("line", { class: "rule", x1: MARGIN.left, x2: width - MARGIN.right, y1: up.at(value), y2: up.at(value) }),
      s("text", { class: "end middle", x: MARGIN.left - 6, y: up.at(value) }, percent(value, digits)),
    ]),
    s("text", { class: "unit", x: 2, y: 11 }, "Share of flights"),
    bins.map((bin, index) => {
      const middle = MARGIN.left + slot * (index + 0.5);
      const column = (kind, share, x) =>
        s("rect", {
          class: kind,
          x,
          width: bar,
          y: up.at(share),
          height: Math.max(0, height - MARGIN.bottom - up.at(share)),
        });
      return s(
        "g",
        { class: "bin" },
        s("title", {}, `${bin.name}: reference ${percent(bin.reference)}, window ${percent(bin.window)}`),
        s("rect", {
          class: "reach",
          x: middle - slot / 2,
          width: slot,
          y: MARGIN.top,
          height: height - MARGIN.top - MARGIN.bottom,
        }),
        column("reference", bin.reference, middle - bar),
        column("window", bin.window, middle),
        index % every === 0
          ? s(
              "text",
              {
                class: "bin-name end",
                transform: `translate(${middle + 3} ${height - MARGIN.bottom + 12}) rotate(-38)`,
              },
              shortBin(bin.name),
            )
          : null,
      );
    }),
    s("line", {
      class: "base",
      x1: MARGIN.left,
      x2: width - MARGIN.right,
      y1: height - MARGIN.bottom,
      y2: height - MARGIN.bottom,
    }),
  );
}

/** Long decimals of bin edges cut to what can be read. */
function shortBin(name) {
  return name.replace(/-?\d+\.\d{3,}/g, (digits) => Number(Number(digits).toPrecision(3)).toString());
}

function lines(all, name) {
  const bins = all
    .filter((bin) => bin.reference > 0 || bin.window > 0)
    .sort((a, b) => Math.max(b.reference, b.window) - Math.max(a.reference, a.window));
  const shown = bins.slice(0, MOST_CATEGORIES);
  const rest = bins.slice(MOST_CATEGORIES);
  if (rest.length > 0) {
    const sum = (kind) => rest.reduce((total, bin) => total + bin[kind], 0);
    shown.push({ name: `${rest.length} more`, reference: sum("reference"), window: sum("window") });
  }
  const most = Math.max(0.001, ...shown.flatMap((bin) => [bin.reference, bin.window]));
  const bar = (kind, share) => h("span", { class: `bar ${kind}`, style: { width: `${(100 * share) / most}%` } });
  return h(
    "ol",
    { class: "category-bars", "aria-label": `${name}: shares by value` },
    shown.map((bin) =>
      h(
        "li",
        {},
        h("span", { class: "name" }, bin.name),
        h("span", { class: "pair", "aria-hidden": "true" }, bar("reference", bin.reference), bar("window", bin.window)),
        h(
          "span",
          { class: "share" },
          percent(bin.reference),
          h("span", { class: "unseen" }, " in the reference, "),
          h("span", { "aria-hidden": "true" }, " → "),
          percent(bin.window),
          h("span", { class: "unseen" }, " in the window"),
        ),
      ),
    ),
  );
}
