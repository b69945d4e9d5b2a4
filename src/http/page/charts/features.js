// Drift by feature: how far each has shifted over time, and both distributions of one.

import { capital, h, number, percent, responsive, s, utcDay } from "../dom.js";
import { details, grid } from "../parts.js";
import { linear, tickDigits, ticks, timeTicks } from "./scale.js";

// ----------------------------------------------------------------
// Drift by feature over time: a strip per feature, a cell per report. A sign in
// the cell says what its colour says; a triangle above the cells is an alarm. One
// stop for the keyboard: up and down choose the feature, left and right the report.

/** What a cell shows. Steps of excess PSI, the usual ones: under 0.1 little, over 0.25 much. */
const EXCESS_PSI = {
  name: "excess PSI",
  of: (signal) => signal.excess_psi,
  steps: [0.02, 0.05, 0.1, 0.25],
  signs: ["● over its threshold", "▲ drifted"],
};
const ROW = 22;
/** Above the cells, where there are alarms. */
const ALARMS = 17;

/**
 * `reports` oldest first, each `{ at, model, signals: Map(name -> { exceeded?, drifted? }), alarm? }`,
 * `measure` what of a signal is shown, `dated` whether round dates stand below; `names` in the order of the rows.
 * `choose(name, index)` is called with the selection.
 */
export function heatStrips({ reports, names, importance, chosen, choose, measure = EXCESS_PSI, dated = false }) {
  let { name, index } = chosen;
  const rows = names.map((feature) =>
    h(
      "button",
      {
        type: "button",
        role: "option",
        class: "feature",
        data: { keep: `feature-${feature}` },
        on: { click: () => select(feature, index, true) },
      },
      featureName(feature),
      h("span", { class: "importance" }, importance.get(feature) === null ? "" : number(importance.get(feature), 2)),
    ),
  );
  const strips = responsive((width) => picture(width), "strips");
  const top = reports.some((report) => report.alarm) ? ALARMS : 0;
  const height = top + ROW * names.length;
  let cells = null;
  let frame = null;
  const picture = (width) => {
    const across = linear([0, reports.length], [0, width]);
    const cell = Math.max(1, width / reports.length - (width / reports.length > 5 ? 1 : 0));
    cells = s("svg", {
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      "aria-hidden": "true",
      class: "heat",
    });
    names.forEach((feature, row) => {
      const y = top + row * ROW;
      reports.forEach((report, column) =>
        cells.append(cellOf(report, feature, measure, { x: across.at(column), y, width: cell })),
      );
    });
    reports.forEach((report, column) => {
      if (report.alarm) cells.append(alarmAt(across.at(column) + cell / 2, Math.min(5, cell), report.alarm));
      if (column > 0 && report.model !== reports[column - 1].model) {
        cells.append(
          s(
            "line",
            {
              class: "model-change",
              x1: across.at(column) - 0.5,
              x2: across.at(column) - 0.5,
              y1: top,
              y2: height,
            },
            s("title", {}, report.model),
          ),
        );
      }
    });
    frame = s("rect", { class: "chosen", rx: 3, width: Math.max(5, cell + 2), height: ROW - 1 });
    cells.append(frame);
    cells.addEventListener("click", (event) => {
      const box = cells.getBoundingClientRect();
      const column = Math.floor(across.invert(event.clientX - box.left));
      const row = Math.floor((event.clientY - box.top - top) / ROW);
      if (names[row] !== undefined && reports[column]) select(names[row], column, false);
    });
    mark();
    return cells;
  };
  const mark = () => {
    frame?.setAttribute("x", (index * cells.viewBox.baseVal.width) / reports.length - 1);
    frame?.setAttribute("y", top + names.indexOf(name) * ROW);
  };
  const select = (feature, column, focus) => {
    name = feature;
    index = column;
    rows.forEach((row, place) => {
      const here = names[place] === name;
      row.tabIndex = here ? 0 : -1;
      row.setAttribute("aria-selected", String(here));
      if (here && focus) row.focus();
    });
    mark();
    choose(name, index);
  };
  const list = h(
    "div",
    {
      class: "features",
      role: "listbox",
      "aria-label": "Features; left and right arrows choose the report",
      style: { "padding-top": `${top}px` },
    },
    rows,
  );
  list.addEventListener("keydown", (event) => {
    const place = names.indexOf(name);
    const moves = {
      ArrowUp: [place - 1, index],
      ArrowDown: [place + 1, index],
      ArrowLeft: [place, index - 1],
      ArrowRight: [place, index + 1],
      Home: [0, index],
      End: [names.length - 1, index],
    };
    const move = moves[event.key];
    if (!move || names[move[0]] === undefined || !reports[move[1]]) return;
    event.preventDefault();
    select(names[move[0]], move[1], true);
  });
  rows.forEach((row, place) => {
    row.tabIndex = names[place] === name ? 0 : -1;
    row.setAttribute("aria-selected", String(names[place] === name));
  });
  return h(
    "div",
    { class: "heat-map" },
    list,
    h("div", { class: "strip-side" }, strips, dated ? dates(reports) : ends(reports)),
    heatLegend(measure),
  );
}

/** A name that is too long loses its middle: those of one group differ at their ends. */
function featureName(feature) {
  const tail = Math.min(14, Math.floor(feature.length / 2));
  return h(
    "span",
    { class: "name", title: feature },
    h("span", { class: "head" }, feature.slice(0, -tail)),
    h("span", {}, feature.slice(-tail)),
  );
}

function cellOf(report, feature, measure, { x, y, width }) {
  const signal = report.signals.get(feature);
  if (!signal) return s("rect", { class: "cell none", x, y: y + 1, width, height: ROW - 3 });
  const value = measure.of(signal);
  const verdict = signal.drifted ? ", drifted" : signal.exceeded ? ", over its threshold" : "";
  const text = `${feature}, ${utcDay(report.at)}, ${report.model}: ${measure.name} ${number(value, 3)}${verdict}`;
  const level = measure.steps.filter((step) => value >= step).length;
  const middle = x + width / 2;
  const sign = signal.drifted
    ? s("path", { class: "sign", d: `M${middle - 3.5} ${y + 14}h7l-3.5-7z` })
    : signal.exceeded
      ? s("circle", { class: "sign", cx: middle, cy: y + ROW / 2 - 0.5, r: 2 })
      : null;
  return s(
    "g",
    {},
    s("title", {}, text),
    s("rect", { class: `cell h${level}`, x, y: y + 1, width, height: ROW - 3 }),
    width >= 5 ? sign : null,
  );
}

function alarmAt(x, half, text) {
  return s("path", { class: "alarm", d: `M${x - half} 3h${2 * half}l${-half} 9z` }, s("title", {}, text));
}

/** Round dates below the columns in which they fall. */
function dates(reports) {
  const [first, last] = [reports[0].at, reports.at(-1).at];
  const label = ({ at, text }) => {
    const column = reports.findIndex((report) => report.at >= at);
    return h("span", { style: { left: `${(100 * column) / reports.length}%` } }, text);
  };
  return responsive((width) => h("div", { class: "dates" }, timeTicks(first, last, width / 40).map(label)));
}

function ends(reports) {
  if (reports.length === 0) return null;
  return h("div", { class: "ends" }, h("span", {}, utcDay(reports[0].at)), h("span", {}, utcDay(reports.at(-1).at)));
}

function heatLegend({ name, steps, signs }) {
  const entry = (level, text) =>
    h(
      "span",
      { class: "entry" },
      s(
        "svg",
        { class: "heat", width: 14, height: 14, "aria-hidden": "true" },
        s("rect", { class: `cell h${level}`, width: 14, height: 14 }),
      ),
      text,
    );
  return h(
    "p",
    { class: "legend heat-legend" },
    h("span", { class: "entry" }, `${capital(name)}:`),
    entry(0, `under ${steps[0]}`),
    steps.map((step, place) =>
      entry(place + 1, place + 1 < steps.length ? `${step} to ${steps[place + 1]}` : `${step} and more`),
    ),
    signs.map((sign) => h("span", { class: "entry" }, sign)),
  );
}

// ----------------------------------------------------------------
// Two distributions in the same bins: what the model was trained on, and what it sees now. Numbers have ordered bins
// and stand side by side; categories are read line by line.

const MARGIN = { top: 22, right: 8, bottom: 74, left: 44 };
/** More categories than this are summed up at the end of the picture; the table has all. */
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
      swatch("reference", "Reference (training)"),
      swatch("window", "Window (recent flights)"),
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
