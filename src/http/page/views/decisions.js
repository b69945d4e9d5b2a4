// What was decided, from which inputs, by which tests, and why nothing else was.

import * as api from "../api.js";
import { counted, h, number, significant, time, words } from "../dom.js";
import { flattened } from "../metrics.js";
import { badge, details, document_, empty, facts, grid, link, linked, pager, panel, table } from "../parts.js";

const LIMIT = 50;

export const decisionList = {
  title: () => "Decisions",
  lead: "Every decision of the loop, with its inputs, tests and alternatives.",
  kinds: ["decision"],
  load: ({ query }, signal) => api.list("decisions", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal),
  draw: ({ items, next_offset: next }, { query }) =>
    items.length === 0
      ? [
          empty(
            "Nothing has been decided yet.",
            "Decisions are recorded when a cycle starts or is held back, and at every gate.",
          ),
        ]
      : [
          h(
            "section",
            { class: "panel" },
            decisionTable(items),
            pager("decisions", Number(query.get("from") ?? 0), LIMIT, next),
          ),
        ],
};

export const oneDecision = {
  title: ({ id }) => id,
  kinds: [],
  load: ({ id }, signal) => api.get(`/decisions/${api.part(id)}`, signal),
  draw: (decision) => [
    h(
      "div",
      { class: "panels" },
      panel(
        "Outcome",
        { wide: true },
        facts([
          ["Outcome", h("strong", {}, words(decision.outcome))],
          ["Reason", linked(decision.reason)],
          ["Kind", words(decision.kind)],
          ["When", time(decision.at, { seconds: true })],
          ["Cycle", decision.cycle ? link("cycles", decision.cycle) : null],
        ]),
      ),
      panel(
        "Alternatives",
        { wide: true, note: "What else could have been decided, and why it was not." },
        alternatives(decision.alternatives),
      ),
      panel(Array.isArray(decision.tests) ? "Tests" : "Rules applied", { wide: true }, tests(decision.tests)),
      latencyTable(decision) ? panel("Latency", { wide: true }, latencyTable(decision)) : null,
      featureDifference(decision)
        ? panel(
            "Inputs of the challenger",
            { wide: true, note: "How they differ from those of the live model." },
            featureDifference(decision),
          )
        : null,
      panel(
        "Inputs",
        { wide: true, note: "What the decision was based on." },
        details("inputs", "Show all", document_(decision.inputs)),
      ),
    ),
  ],
};

function alternatives(found) {
  if (!Array.isArray(found) || found.length === 0) return empty("None were recorded.");
  return table(
    "Alternatives",
    [
      { name: "Alternative", head: true, cell: (one) => words(one.trigger ?? one.name ?? "?") },
      {
        name: "Triggered",
        cell: (one) => (one.fired === undefined ? h("span", { class: "none" }, "–") : one.fired ? "yes" : "no"),
      },
      { name: "Taken", cell: (one) => (one.taken ? badge("passed", "taken") : badge("skipped", "not taken")) },
      { name: "Why", cell: (one) => linked(one.why ?? "–") },
    ],
    found,
  );
}

export function tests(found) {
  if (!Array.isArray(found))
    return grid(
      "Rules",
      ["Rule", "Value"],
      flattened(found).map(([name, value]) => [words(name), String(value ?? "–")]),
    );
  if (found.length === 0) return empty("None were recorded.");
  return table(
    "Tests",
    [
      { name: "Test", head: true, cell: (one) => words(one.check ?? one.name ?? "?") },
      { name: "Result", cell: (one) => badge(one.outcome ?? (one.passed ? "passed" : "failed")) },
      { name: "Role", cell: (one) => (one.role ? words(one.role) : h("span", { class: "none" }, "–")) },
      { name: "Value", number: true, cell: (one) => significant(one.value) },
      {
        name: "Interval",
        number: true,
        cell: (one) => (one.interval ? `${significant(one.interval.low)} to ${significant(one.interval.high)}` : "–"),
      },
      { name: "Bound", number: true, cell: (one) => significant(one.bound) },
      { name: "Explanation", cell: (one) => linked(one.reason) },
    ],
    found,
  );
}

export function decisionTable(decisions) {
  return table(
    "Decisions",
    [
      { name: "Decision", head: true, cell: (decision) => link("decisions", decision.id) },
      { name: "Kind", cell: (decision) => words(decision.kind) },
      { name: "Outcome", cell: (decision) => h("strong", {}, words(decision.outcome)) },
      { name: "Reason", cell: (decision) => h("span", { class: "clip" }, linked(decision.reason)) },
      { name: "When", cell: (decision) => time(decision.at) },
    ],
    decisions,
  );
}

// ----------------------------------------------------------------
// What the gate's decision has besides its tests: latencies, and how the inputs differ.

const SHOWN = 12;

/** Both models' latency in the serving code, by flights per call; `null` where it was not recorded. */
export function latencyTable(gate) {
  const named = [
    ["challenger", gate.inputs?.latency?.challenger],
    [gate.inputs?.live ?? "live model", gate.inputs?.latency?.live],
  ];
  const rows = named.flatMap(([name, report]) => (report?.batches ?? []).map((batch) => ({ name, ...batch })));
  if (rows.length === 0) return null;
  return table(
    "Latency of the serving code, measured by the gate on its machine",
    [
      { name: "Latency of", head: true, cell: (row) => row.name },
      { name: "Flights per call", number: true, cell: (row) => number(row.batch) },
      { name: "p50 µs", number: true, cell: (row) => number(row.per_batch.p50_us, 1) },
      { name: "p95 µs", number: true, cell: (row) => number(row.per_batch.p95_us, 1) },
      { name: "p99 µs", number: true, cell: (row) => number(row.per_batch.p99_us, 1) },
      { name: "µs per flight", number: true, cell: (row) => number(row.p50_us_per_row, 2) },
      { name: "Calls", number: true, cell: (row) => number(row.per_batch.calls) },
    ],
    rows,
  );
}

/** How the challenger's inputs differ from the live model's, a line for each; `null` without a live model. */
function featureDifference(gate) {
  const difference = gate.inputs?.feature_difference;
  if (!difference) return null;
  const some = (names) =>
    `${names.slice(0, SHOWN).join(", ")}${names.length > SHOWN ? ` and ${number(names.length - SHOWN)} more` : ""}`;
  const lines = [];
  for (const [key, what] of [
    ["added_values", "new"],
    ["removed_values", "removed"],
  ]) {
    for (const [input, values] of Object.entries(difference[key] ?? {}))
      lines.push(`${words(input)}: ${number(values.length)} ${what}: ${some(values)}`);
  }
  if (difference.added_numerics?.length > 0) lines.push(`New inputs: ${some(difference.added_numerics)}`);
  if (difference.removed_numerics?.length > 0) lines.push(`Removed inputs: ${some(difference.removed_numerics)}`);
  const shifts = Object.entries(difference.mean_shift ?? {}).sort(([, x], [, y]) => Math.abs(y) - Math.abs(x));
  if (shifts.length > 0) {
    const named = shifts.map(([name, shift]) => `${name} ${shift > 0 ? "+" : ""}${number(shift, 2)}`);
    lines.push(`${counted(shifts.length, "mean")} moved by over 0.1 standard deviations: ${some(named)}`);
  }
  if (lines.length === 0)
    lines.push("None: the same values and inputs, and no mean moved by over 0.1 standard deviations.");
  return h(
    "ul",
    {},
    lines.map((line) => h("li", {}, line)),
  );
}
