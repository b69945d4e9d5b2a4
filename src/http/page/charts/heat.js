// Drift by feature over time: a strip per feature, a cell per report. A sign in
// the cell says what its colour says; a triangle above the cells is an alarm. One
// stop for the keyboard: up and down choose the feature, left and right the report.

import { h, s, responsive } from "../dom.js";
import { capital, number, utcDay } from "../format.js";
import { linear, timeTicks } from "./scale.js";

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
 * `choose(name, index)` hears the selection.
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
  const text = `${feature}, ${utcDay(report.at)}, ${report.model}: ${measure.name} ${number(value, 3)}${signal.drifted ? ", drifted" : signal.exceeded ? ", over its threshold" : ""}`;
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
    s("rect", { class: `cell h${measure.steps.filter((step) => value >= step).length}`, x, y: y + 1, width, height: ROW - 3 }),
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
