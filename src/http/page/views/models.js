// Registered models: their metrics, where each comes from and where it stands.

import * as api from "../api.js";
import { lineageGraph, nodePanel } from "../charts/diagrams.js";
import { buttons } from "../commands.js";
import { announce, digest, h, number, percent, time } from "../dom.js";
import { baselineOf, evaluationOf, metricRows, perturbationText } from "../metrics.js";
import { badge, details, document_, empty, facts, grid, link, linked, pager, panel, table } from "../parts.js";
import { aliased, state } from "../store.js";
import { latencyTable } from "./decisions.js";

const LIMIT = 25;
const WEAKEST = 8;

/** Where a model stands now. */
export function standingBadges({ standing }) {
  return standing.map((name) => badge(name));
}

export const modelList = {
  title: () => "Models",
  lead: "Registered models never change. Choose two to compare.",
  kinds: ["model", "alias", "cycle", "deployment"],
  load: ({ query }, signal) => api.list("models", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal),
  draw: ({ items, next_offset: next }, { query }) => {
    if (items.length === 0)
      return [empty("No model is registered yet.", "A cycle registers a model that passes the gate.")];
    const metric = (name, format) => (model) => format(evaluationOf(model)?.model?.[name]);
    return [
      h(
        "section",
        { class: "panel" },
        table(
          "Models, newest first",
          [
            {
              name: "Model",
              head: true,
              cell: (model) => [link("models", model.version), " ", standingBadges(model)],
            },
            { name: "ROC-AUC", number: true, cell: metric("roc_auc", (value) => number(value, 3)) },
            { name: "Log-loss", number: true, cell: metric("log_loss", (value) => number(value, 4)) },
            { name: "Recall", number: true, cell: metric("recall", percent) },
            { name: "Precision", number: true, cell: metric("precision", percent) },
            {
              name: "Reason",
              cell: (model) =>
                h("span", { class: "clip" }, linked(model.reason ?? "–")),
            },
            { name: "Registered", cell: (model) => time(model.registered_at) },
            {
              name: "Compare",
              cell: (model) =>
                model.parent
                  ? h("a", { href: `#/compare?a=${model.parent}&b=${model.version}` }, `with ${model.parent}`)
                  : h("span", { class: "none" }, "–"),
            },
          ],
          items,
          { key: (model) => model.version },
        ),
        pager("models", Number(query.get("from") ?? 0), LIMIT, next),
      ),
    ];
  },
};

export const oneModel = {
  title: ({ id }) => id,
  kinds: ["model", "alias", "image", "cycle", "deployment"],
  needs: () => [state.status?.aliases, state.status?.commands],
  load: async ({ id }, signal) => {
    const model = await api.get(`/models/${api.part(id)}`, signal);
    const [lineage, cycle] = await Promise.all([
      api.get(`/models/${api.part(id)}/lineage`, signal),
      api.find(`/cycles/${model.cycle}`, signal),
    ]);
    const gate = cycle?.decisions.findLast((decision) => decision.kind === "gate") ?? null;
    return { model, lineage, gate };
  },
  draw: ({ model, lineage, gate }) => {
    const isLive = model.standing.includes("live");
    const other = isLive ? model.parent : aliased("live")?.model;
    return [
      h(
        "div",
        { class: "panels" },
        panel(
          "Details",
          { tools: h("span", { class: "row" }, standingBadges(model)) },
          facts([
            ["Bundle", digest(model.bundle)],
            ["Registered", time(model.registered_at)],
            ["Created by", [link("cycles", model.cycle), ", ", link("runs", model.run)]],
            ["Trained on", link("datasets", model.dataset, model.dataset.slice(7, 19))],
            ["Reason", model.reason ? linked(model.reason) : null],
            ["Live model at that time", model.parent ? link("models", model.parent) : "none"],
            ["Bundle key", h("code", {}, model.bundle_key)],
            ["Compare", other ? h("a", { href: `#/compare?a=${other}&b=${model.version}` }, `with ${other}`) : null],
          ]),
          isLive ? buttons("rollback") : null,
        ),
        panel(
          "Metrics",
          { wide: true, note: "On held-out rows, before registration; 95 % intervals where there are any." },
          measured(model),
        ),
        gate ? gatePanel(gate) : null,
        robustnessPanel(model),
        slicesPanel(model),
        lineagePanel(lineage),
        panel("All metrics", { wide: true }, details("metrics", "Show the whole document", document_(model.metrics))),
      ),
    ];
  },
};

function measured(model) {
  const rows = metricRows(model);
  if (rows.length === 0) return empty("It was registered without metrics.");
  return table(
    "Metrics",
    [
      { name: "Metric", head: true, cell: (row) => row.name },
      { name: "Value", number: true, cell: (row) => row.format(row.value) },
      {
        name: "Interval",
        number: true,
        cell: (row) =>
          row.low === undefined
            ? h("span", { class: "none" }, "–")
            : `${row.format(row.low)} to ${row.format(row.high)}`,
      },
      { name: "Lookup table", number: true, cell: (row) => baselineOf(model, "lookup", row) },
      { name: "Always the base rate", number: true, cell: (row) => baselineOf(model, "majority", row) },
    ],
    rows,
  );
}

function gatePanel(gate) {
  return panel(
    "The gate",
    { wide: true, note: "Both models on the same rows, paired." },
    h("p", {}, linked(gate.reason), " ", link("decisions", gate.id, "Every test")),
    latencyTable(gate),
  );
}

function robustnessPanel(model) {
  const found = evaluationOf(model)?.robustness ?? [];
  if (found.length === 0) return null;
  return panel(
    "Robustness",
    { note: "The same flights with faults in their inputs." },
    table(
      "Robustness",
      [
        { name: "Inputs", head: true, cell: (one) => perturbationText(one.perturbation) },
        { name: "ROC-AUC", number: true, cell: (one) => number(one.roc_auc, 4) },
        {
          name: "Change",
          number: true,
          cell: (one) => `${one.roc_auc_change > 0 ? "+" : ""}${number(one.roc_auc_change, 4)}`,
        },
        { name: "Log-loss", number: true, cell: (one) => number(one.log_loss, 4) },
      ],
      found,
    ),
  );
}

function slicesPanel(model) {
  const found = (evaluationOf(model)?.slices ?? []).filter((slice) => slice.roc_auc);
  if (found.length === 0) return null;
  const rows = found
    .toSorted((x, y) => x.roc_auc.value - y.roc_auc.value)
    .map((slice) => [
      `${slice.by} ${slice.value}`,
      number(slice.roc_auc.value, 3),
      `${number(slice.roc_auc.low, 3)} to ${number(slice.roc_auc.high, 3)}`,
      number(slice.rows),
      number(slice.positives),
    ]);
  const heads = ["Slice", "ROC-AUC", "Interval", "Flights", "Delayed"];
  return panel(
    "By slice",
    { note: "Weakest first." },
    grid("The weakest slices", heads, rows.slice(0, WEAKEST)),
    rows.length > WEAKEST ? details("slices", `All ${rows.length} slices`, grid("All slices", heads, rows)) : null,
  );
}

function lineagePanel(lineage) {
  const about = h("div", { "aria-live": "polite" });
  const choose = (node) => {
    about.replaceChildren(nodePanel(node, document_(node.attributes, `node-${node.id}`)));
    announce(`${node.kind} ${node.id}`);
  };
  return panel(
    "Lineage",
    { wide: true, note: "What it was made from, and what was made from it. Choose a part to see its details." },
    lineageGraph(lineage, choose),
    about,
  );
}
