// Two models side by side: metrics with their intervals, parameters, differences.

import * as api from "../api.js";
import { intervalPair } from "../charts/scale.js";
import { h, number, s, significant, time } from "../dom.js";
import { evaluationOf, flattened, metricRows } from "../metrics.js";
import { badge, details, empty, grid, link, linked, panel, table } from "../parts.js";
import { path } from "../store.js";
import { tests } from "./decisions.js";
import { standingBadges } from "./models.js";

const CHOICES = 200;

export const compare = {
  title: ({ query }) => (query.get("a") && query.get("b") ? `${query.get("a")} and ${query.get("b")}` : "Compare"),
  lead: "Two models side by side, by their metrics at registration.",
  kinds: ["model"],
  load: async ({ query }, signal) => {
    const { items } = await api.list("models", { limit: CHOICES }, signal);
    const [b, a] = [query.get("b") ?? items[0]?.version, query.get("a") ?? items[1]?.version];
    const whole = async (version) => {
      if (!version) return null;
      const model =
        items.find((item) => item.version === version) ?? (await api.get(`/models/${api.part(version)}`, signal));
      const [run, cycle] = await Promise.all([
        api.find(`/runs/${model.run}`, signal),
        api.find(`/cycles/${model.cycle}`, signal),
      ]);
      return { model, run, gate: cycle?.decisions.findLast((decision) => decision.kind === "gate") ?? null };
    };
    return { versions: items.map((item) => item.version), a: await whole(a), b: await whole(b) };
  },
  draw: ({ versions, a, b }) => {
    if (versions.length < 2)
      return [
        empty(
          versions.length === 0 ? "No model is registered yet." : "There is only one model.",
          "A comparison needs two.",
        ),
      ];
    return [
      choice(versions, a, b),
      h(
        "div",
        { class: "panels" },
        basics(a, b),
        gatePanel(a, b),
        metricsPanel(a, b),
        parametersPanel(a, b),
        slicesPanel(a, b),
      ),
    ];
  },
};

function choice(versions, a, b) {
  const select = (key, name, chosen) =>
    h(
      "label",
      { class: `choose ${key}` },
      swatch(key),
      `${name} `,
      h(
        "select",
        {
          data: { keep: `compare-${key}` },
          on: {
            change: (event) => {
              const versionsNow = { a: a?.model.version, b: b?.model.version, [key]: event.target.value };
              location.hash = path("compare", null, versionsNow);
            },
          },
        },
        versions.map((version) => h("option", { value: version, selected: version === chosen }, version)),
      ),
    );
  return h(
    "form",
    { class: "row choice", "aria-label": "Which models", on: { submit: (event) => event.preventDefault() } },
    select("a", "First", a?.model.version),
    select("b", "Second", b?.model.version),
  );
}

function swatch(key) {
  const mark =
    key === "a"
      ? s("circle", { class: "dot", cx: 6, cy: 6, r: 4 })
      : s("path", { class: "dot", d: "M6 1l5 5l-5 5l-5 -5z" });
  return s(
    "svg",
    { class: `series s${key === "a" ? 0 : 1}`, viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
    mark,
  );
}

function basics(a, b) {
  const rows = [
    ["Model", ({ model }) => [link("models", model.version), " ", standingBadges(model)]],
    ["Registered", ({ model }) => time(model.registered_at)],
    ["Reason", ({ model }) => linked(model.reason ?? "–")],
    ["Cycle", ({ model }) => link("cycles", model.cycle)],
    ["Run", ({ model }) => link("runs", model.run)],
    ["Dataset", ({ model }) => link("datasets", model.dataset, model.dataset.slice(7, 19))],
    ["Evaluated on", ({ model }) => judged(evaluationOf(model))],
  ];
  return panel("Details", { wide: true }, sideBySide("The two models", rows, a, b));
}

function judged(evaluation) {
  if (!evaluation) return "–";
  const span = evaluation.from
    ? [", ", time(evaluation.from, { day: true }), " to ", time(evaluation.until, { day: true })]
    : [];
  return [`${number(evaluation.model.rows)} flights, ${number(evaluation.model.positives)} delayed`, span];
}

function sideBySide(caption, rows, a, b) {
  return table(
    caption,
    [
      { name: "", head: true, cell: ([name]) => name },
      { name: a?.model.version ?? "–", cell: ([, cell]) => (a ? cell(a) : "–") },
      { name: b?.model.version ?? "–", cell: ([, cell]) => (b ? cell(b) : "–") },
    ],
    rows,
  );
}

function metricsPanel(a, b) {
  const [ofA, ofB] = [a, b].map((one) => new Map((one ? metricRows(one.model) : []).map((row) => [row.key, row])));
  const keys = [...new Set([...ofA.keys(), ...ofB.keys()])];
  const overlap = (one, other) =>
    one.low !== undefined && other.low !== undefined && one.low <= other.high && other.low <= one.high;
  const rows = keys.map((key) => {
    const [x, y] = [ofA.get(key), ofB.get(key)];
    const shape = x ?? y;
    const change = x && y ? y.value - x.value : null;
    const better = change === null || change === 0 || shape.more === null ? null : change > 0 === shape.more;
    return { shape, x, y, change, better, unsure: x && y ? overlap(x, y) : false };
  });
  const value = (one) => (one ? one.format(one.value) : "–");
  return panel(
    "Metrics",
    {
      wide: true,
      note: sameRows(a, b)
        ? "Both were evaluated on the same held-out rows. Bars are 95 % intervals."
        : "They were evaluated on different rows, so these numbers do not say which is better" +
          `${pairedGate(a, b) ? "; the gate's paired test above does" : ""}. Bars are 95 % intervals.`,
    },
    rows.length === 0
      ? empty("Neither was registered with metrics.")
      : table(
          "Metrics of both models",
          [
            { name: "Metric", head: true, cell: (row) => row.shape.name },
            { name: a?.model.version ?? "–", number: true, cell: (row) => value(row.x) },
            { name: b?.model.version ?? "–", number: true, cell: (row) => value(row.y) },
            {
              name: "Change",
              number: true,
              cell: (row) =>
                row.change === null ? "–" : `${row.change > 0 ? "+" : ""}${row.shape.change(row.change)}`,
            },
            {
              name: "The second is",
              cell: (row) =>
                row.better === null || !sameRows(a, b)
                  ? h("span", { class: "none" }, row.better === null ? "–" : "different rows")
                  : badge(
                      row.better ? "passed" : "suspected",
                      `${row.better ? "better" : "worse"}${row.unsure ? ", intervals overlap" : ""}`,
                    ),
            },
            {
              name: "Intervals",
              cell: (row) =>
                intervalPair(
                  [
                    { ...row.x, name: a?.model.version },
                    { ...row.y, name: b?.model.version },
                  ],
                  row.shape.format,
                ),
            },
          ],
          rows,
        ),
  );
}

/** The paired test, where one of the two was the other's challenger: it outweighs any comparison of own metrics. */
function pairedGate(a, b) {
  const challenged = (one, other) => one?.gate && other && one.gate.inputs?.live === other.model.version;
  if (challenged(b, a)) return { gate: b.gate, challenger: b, incumbent: a };
  return challenged(a, b) ? { gate: a.gate, challenger: a, incumbent: b } : null;
}

function gatePanel(a, b) {
  const found = pairedGate(a, b);
  if (!found) return null;
  const { gate, challenger, incumbent } = found;
  const paired = (Array.isArray(gate.tests) ? gate.tests : []).filter((test) => test.interval);
  return panel(
    "The gate's paired test",
    {
      wide: true,
      note:
        `${challenger.model.version} was the challenger of ${incumbent.model.version}: both on the same ` +
        `${number(gate.inputs?.rows?.all)} flights. Positive values: the challenger is better.`,
    },
    h("p", {}, linked(gate.reason), " ", link("decisions", gate.id, "Every test")),
    tests(paired),
  );
}

/** Whether both were evaluated on the same rows: only then does a difference of their metrics say which is better. */
function sameRows(a, b) {
  const [x, y] = [a, b].map((one) => evaluationOf(one?.model ?? {}));
  return Boolean(x?.from && y?.from) && x.from === y.from && x.until === y.until && x.model.rows === y.model.rows;
}

function parametersPanel(a, b) {
  const [ofA, ofB] = [a, b].map(
    (one) =>
      new Map(
        flattened(one?.run?.parameters ?? {}).concat(
          one?.run
            ? [
                ["seed", one.run.seed],
                ["device", one.run.device],
              ]
            : [],
        ),
      ),
  );
  const names = [...new Set([...ofA.keys(), ...ofB.keys()])].filter(Boolean).sort();
  const text = (value) => (value === undefined ? "–" : typeof value === "number" ? significant(value) : String(value));
  const rows = names.map((name) => [name, text(ofA.get(name)), text(ofB.get(name))]);
  const differing = rows.filter(([, x, y]) => x !== y);
  const heads = ["Parameter", a?.model.version ?? "–", b?.model.version ?? "–"];
  return panel(
    "Parameters",
    { note: `${number(differing.length)} of ${number(rows.length)} differ.` },
    differing.length > 0
      ? grid("Parameters that differ", heads, differing)
      : empty("Both were trained with the same parameters."),
    details("all-parameters", "All parameters", grid("All parameters", heads, rows)),
  );
}

function slicesPanel(a, b) {
  const slices = (one) =>
    new Map((evaluationOf(one?.model ?? {})?.slices ?? []).map((slice) => [`${slice.by}: ${slice.value}`, slice]));
  const [ofA, ofB] = [slices(a), slices(b)];
  const names = [...new Set([...ofA.keys(), ...ofB.keys()])];
  if (names.length === 0) return null;
  const auc = (slice) => (slice?.roc_auc ? number(slice.roc_auc.value, 3) : "–");
  const rows = names.map((name) => {
    const [x, y] = [ofA.get(name), ofB.get(name)];
    const change = x?.roc_auc && y?.roc_auc ? y.roc_auc.value - x.roc_auc.value : null;
    return {
      cells: [
        name,
        auc(x),
        auc(y),
        change === null ? "–" : `${change > 0 ? "+" : ""}${number(change, 3)}`,
        number(y?.rows ?? x?.rows),
      ],
      change: change ?? 0,
    };
  });
  rows.sort((x, y) => x.change - y.change);
  const cells = rows.map((row) => row.cells);
  const heads = ["Slice", a?.model.version ?? "–", b?.model.version ?? "–", "Change", "Flights"];
  return panel(
    "ROC-AUC by slice",
    { note: "The second model's largest losses first." },
    grid("ROC-AUC by slice", heads, cells.slice(0, 12)),
    cells.length > 12 ? details("all-slices", `All ${cells.length} slices`, grid("All slices", heads, cells)) : null,
  );
}
