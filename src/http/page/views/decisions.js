// What was decided, from which inputs, by which tests, and why not otherwise.

import * as api from "../api.js";
import { h } from "../dom.js";
import { significant, time, words } from "../format.js";
import { flattened } from "../metrics.js";
import { badge, details, document_, empty, facts, link, linked, panel } from "../parts.js";
import { grid, pager, table } from "../table.js";
import { featureDifference, latencyTable } from "./gate.js";

const LIMIT = 50;

export const decisionList = {
  title: () => "Decisions",
  lead: "Each can be explained from what was known then.",
  kinds: ["decision"],
  load: ({ query }, signal) => api.list("decisions", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal),
  draw: ({ items, next_offset: next }, { query }) =>
    items.length === 0
      ? [
          empty(
            "Nothing has been decided yet.",
            "Decisions are noted when a cycle begins or is held back, and at every gate.",
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
        "What and why",
        { wide: true },
        facts([
          ["Outcome", h("strong", {}, words(decision.outcome))],
          ["Because", linked(decision.reason)],
          ["Sort", words(decision.kind)],
          ["When", time(decision.at, { seconds: true })],
          ["Cycle", decision.cycle ? link("cycles", decision.cycle) : null],
        ]),
      ),
      panel(
        "Alternatives",
        { wide: true, note: "What else could have been decided, and why it was not." },
        alternatives(decision.alternatives),
      ),
      panel(Array.isArray(decision.tests) ? "Tests" : "Rules in force", { wide: true }, tests(decision.tests)),
      latencyTable(decision) ? panel("Latency", { wide: true }, latencyTable(decision)) : null,
      featureDifference(decision)
        ? panel(
            "Inputs of the challenger",
            { wide: true, note: "What they differ in from the live model's." },
            featureDifference(decision),
          )
        : null,
      panel(
        "Inputs",
        { wide: true, note: "What it was decided from." },
        details("inputs", "Show all", document_(decision.inputs)),
      ),
    ),
  ],
};

function alternatives(found) {
  if (!Array.isArray(found) || found.length === 0) return empty("None were noted.");
  return table(
    "Alternatives",
    [
      { name: "Alternative", head: true, cell: (one) => words(one.trigger ?? one.name ?? "?") },
      {
        name: "Asked for it",
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
  if (found.length === 0) return empty("None were noted.");
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
      { name: "In words", cell: (one) => linked(one.reason) },
    ],
    found,
  );
}

export function decisionTable(decisions) {
  return table(
    "Decisions",
    [
      { name: "Decision", head: true, cell: (decision) => link("decisions", decision.id) },
      { name: "Sort", cell: (decision) => words(decision.kind) },
      { name: "Outcome", cell: (decision) => h("strong", {}, words(decision.outcome)) },
      { name: "Because", cell: (decision) => h("span", { class: "clip" }, linked(decision.reason)) },
      { name: "When", cell: (decision) => time(decision.at) },
    ],
    decisions,
  );
}
