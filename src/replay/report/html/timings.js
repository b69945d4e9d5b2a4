// Where the time of each cycle went: its steps one after the other, as long as they took.

import { duration, h, number } from "../../../http/page/dom.js";
import { badge, details, grid } from "../../../http/page/parts.js";

/** How many colours of steps the style sheet has. */
const COLOURS = 10;

export function timings({ cycles }) {
  // In the order in which they were first seen.
  const steps = [...new Set(cycles.flatMap((cycle) => Object.keys(cycle.seconds_by_step)))];
  const colour = (step) => `step step-${steps.indexOf(step) % COLOURS}`;
  const longest = Math.max(0.001, ...cycles.map(stacked));
  const bar = (cycle) =>
    Object.entries(cycle.seconds_by_step).map(([step, secs]) =>
      h("span", {
        class: colour(step),
        title: `${cycle.id}, ${step}: ${duration(1000 * secs)}`,
        style: { width: `${(100 * secs) / longest}%` },
      }),
    );
  const line = (cycle) =>
    h(
      "li",
      {},
      h("span", { class: "name" }, cycle.id),
      h("span", { class: "track", "aria-hidden": "true" }, bar(cycle)),
      h("span", { class: "number" }, duration(1000 * cycle.total_secs)),
      badge(cycle.outcome),
    );
  return [
    {
      title: "Where the time of each cycle went",
      caption: "Wall time by step, in the order in which they ran; a bar ends where its cycle ended.",
      content: [
        h(
          "p",
          { class: "legend" },
          steps.map((step) => h("span", { class: "entry" }, h("span", { class: `swatch ${colour(step)}` }), step)),
        ),
        h("ol", { class: "timings" }, cycles.map(line)),
        details("timings", "As a table", table(cycles, steps)),
      ],
    },
  ];
}

const stacked = (cycle) => Object.values(cycle.seconds_by_step).reduce((sum, secs) => sum + secs, 0);

function table(cycles, steps) {
  return grid(
    "Seconds of each cycle by step",
    ["Cycle", ...steps, "Total"],
    cycles.map((cycle) => [
      cycle.id,
      ...steps.map((step) => number(cycle.seconds_by_step[step], 1)),
      number(cycle.total_secs, 1),
    ]),
  );
}
