// What the monitor measures: performance on flights that have landed, and drift by feature and time.

import * as api from "../api.js";
import { distributions, heatStrips } from "../charts/features.js";
import { lineChart, modelMarks } from "../charts/line.js";
import { counted, h, mounted, number, percent, significant, time, utcDay, words } from "../dom.js";
import { checks, estimatedSeries, realisedSeries, requestsOf, seriesOf, span, validationSeries } from "../metrics.js";
import { badge, details, document_, empty, facts, link, notice, panel, table } from "../parts.js";
import { amend } from "../store.js";

// ----------------------------------------------------------------
// How the live model performed: on flights that have landed, and as a service.

const RANGES = [7, 30, 90, 365];
const USUAL_DAYS = 90;

const plain = (value, digits = 3) => number(value, digits);
const share = (value, digits = 3) => percent(value, Math.max(0, digits - 2));

export const performance = {
  title: () => "Performance",
  lead:
    "How well the live model predicted landed flights, and how the service answered. " +
    "Dashed lines: another version went live.",
  kinds: [],
  load: ({ query }, signal) => checks(Number(query.get("days") ?? USUAL_DAYS), signal),
  draw: (seen) => {
    const { days, rows } = seen;
    const choice = h(
      "nav",
      { class: "choice", "aria-label": "How far back" },
      RANGES.map((range) =>
        h(
          "a",
          { href: `#/performance?days=${range}`, "aria-current": range === days ? "true" : null },
          range === 365 ? "1 year" : `${range} days`,
        ),
      ),
    );
    if (rows.length === 0)
      return [
        choice,
        empty(
          `The monitor has no checks of the last ${days} days.`,
          "It checks the replicas once a model is live. Choose a longer period, or wait for the next check.",
        ),
      ];
    const marks = modelMarks(rows);
    const chart = (name, axis, format, series, more = {}) =>
      panel(
        name,
        { note: more.note },
        lineChart({ name, axis, format, marks, series: series.filter((one) => one.points.length > 0), ...more }),
      );
    return [
      choice,
      seen.until ? notice("info", h("p", {}, `There are no recent checks; these are of ${span(seen)}.`)) : null,
      h(
        "div",
        { class: "panels" },
        performanceVerdict(rows),
        latencies(rows.at(-1)),
        chart(
          "Ranking (ROC-AUC)",
          "ROC-AUC",
          plain,
          [realisedSeries(rows, "auc"), validationSeries(rows, "auc"), estimatedSeries(rows, "auc")],
          { least: 0.1, note: "1 ranks every delayed flight above every punctual one; 0.5 is chance." },
        ),
        chart(
          "Log-loss skill",
          "Skill",
          plain,
          [
            realisedSeries(rows, "log_loss_skill"),
            validationSeries(rows, "log_loss_skill"),
            estimatedSeries(rows, "log_loss_skill"),
          ],
          { least: 0.1, note: "Compared with always predicting the average: 1 is perfect, 0 is no better." },
        ),
        chart(
          "Calibration error",
          "Percentage points",
          (value, digits = 3) => number(100 * value, Math.max(0, digits - 2)),
          [realisedSeries(rows, "calibration_error"), validationSeries(rows, "calibration_error")],
          { zero: true, note: "How far predicted probabilities are from what happened." },
        ),
        chart(
          "Recall",
          "Share of delayed flights found",
          share,
          [realisedSeries(rows, "recall"), validationSeries(rows, "recall")],
          { least: 0.1 },
        ),
        chart(
          "Flights evaluated",
          "Flights",
          (value) => number(value),
          [
            seriesOf(rows, "Flights with outcomes", (row) => row.metrics?.rows),
            seriesOf(rows, "Delayed among them", (row) => row.metrics?.delayed),
          ],
          { zero: true },
        ),
        chart(
          "Mean score",
          "Probability",
          plain,
          [
            seriesOf(rows, "Window", (row) => row.skew?.window_mean),
            seriesOf(rows, "Reference", (row) => row.skew?.reference_mean),
          ],
          { least: 0.05, note: "The average prediction, now and in training." },
        ),
        chart(
          "Latency",
          "Milliseconds",
          (value, digits = 2) => number(value, digits),
          [
            seriesOf(rows, "p50", (row) => row.latency?.overall?.p50.ms),
            seriesOf(rows, "p95", (row) => row.latency?.overall?.p95.ms),
            seriesOf(rows, "p99", (row) => row.latency?.overall?.p99.ms),
          ],
          { zero: true },
        ),
        chart(
          "Errors",
          "Share of requests",
          (value, digits = 4) => percent(value, Math.max(0, digits - 2)),
          [
            seriesOf(rows, "Now", (row) => row.errors?.share),
            seriesOf(rows, "Usual", (row) => row.errors?.baseline_share),
          ],
          { zero: true, least: 0.01 },
        ),
        chart(
          "Traffic",
          "Requests in the measured hours",
          (value) => number(value),
          [seriesOf(rows, "Requests", requestsOf)],
          { zero: true, least: 10 },
        ),
      ),
    ];
  },
};

function performanceVerdict(rows) {
  const last = rows.at(-1);
  const changes = table(
    "Realised metrics compared with validation",
    [
      { name: "Metric", head: true, cell: (change) => words(change.metric) },
      { name: "Validation", number: true, cell: (change) => significant(change.baseline) },
      { name: "Realised", number: true, cell: (change) => significant(change.realised) },
      {
        name: "Interval",
        number: true,
        cell: (change) =>
          change.interval ? `${significant(change.interval.low)} to ${significant(change.interval.high)}` : "–",
      },
      { name: "Loss", number: true, cell: (change) => significant(change.loss) },
      { name: "Tolerated", number: true, cell: (change) => significant(change.tolerated) },
      {
        name: "Verdict",
        cell: judgement,
      },
    ],
    last.changes,
  );
  return panel(
    "Current verdict",
    { wide: true },
    h("p", {}, badge(last.verdict ?? "undecided"), " ", last.reason),
    last.changes.length > 0 ? changes : null,
  );
}

/** A metric without a tolerated loss is shown, but not judged. */
function judgement(change) {
  if (change.tolerated === null) return badge("unjudged", "not judged");
  return change.worse
    ? badge("degraded", `worse on ${counted(change.windows_worse, "day")}`)
    : badge("passed", "holds");
}

/** Which replica is slow: all of them, and each by itself, over this day and the one before. */
function latencies({ latency }) {
  const ms = (quantile) => (quantile ? `${quantile.at_least ? "≥ " : ""}${number(quantile.ms, 2)}` : "–");
  const all = [["all replicas", latency?.overall ?? null], ...(latency?.replicas ?? [])];
  const rows = table(
    "Latency by replica",
    [
      { name: "Replica", head: true, cell: ([name]) => name },
      { name: "Requests", number: true, cell: ([, own]) => number(own?.requests ?? 0) },
      { name: "p50, ms", number: true, cell: ([, own]) => ms(own?.p50) },
      { name: "p95, ms", number: true, cell: ([, own]) => ms(own?.p95) },
      { name: "p99, ms", number: true, cell: ([, own]) => ms(own?.p99) },
      {
        name: "Verdict",
        cell: ([name]) => (latency?.slow_replicas.includes(name) ? badge("failed", "slower than the others") : ""),
      },
    ],
    all,
  );
  return panel(
    "Latency by replica",
    { wide: true, note: latency?.reason },
    latency?.overall ? rows : empty("No requests.", "There were none on this day or the one before."),
  );
}

// ----------------------------------------------------------------
// Drift by feature and time: which input has shifted from training, when, and how its distribution looks now.

const REPORTS = 60;
/** This many rows are read at a glance; a link shows the others. */
const ROWS = 16;

export const drift = {
  title: ({ id }) => (id ? `Drift, ${id}` : "Drift"),
  lead:
    "Every input, report by report, ordered by how much the model relies on it. " +
    "Choose a feature to see its distributions.",
  kinds: ["drift"],
  load: async ({ id, query }, signal) => {
    const { items } = await api.list("drift/features", { limit: REPORTS }, signal);
    const chosen = query.get("report") ?? id ?? items[0]?.id;
    const record = chosen ? await api.get(`/drift/${api.part(chosen)}`, signal) : null;
    return { items, record };
  },
  draw: ({ items, record }, { query }) => {
    if (record === null)
      return [
        empty("No drift report yet.", "The first one is made once the live model has served whole days of traffic."),
      ];
    const reports = items.toReversed().map(withSignals);
    // A report older than those in the picture is shown alone.
    if (!reports.some((report) => report.id === record.id))
      reports.splice(0, reports.length, withSignals(brief(record)));
    const index = reports.findIndex((report) => report.id === record.id);
    const asked = query.get("feature");
    const every = ordered(reports);
    const names = query.has("all") ? every : mostImportant(every, record.report, asked);
    const name = names.includes(asked) ? asked : leading(record.report, names);
    const importance = new Map(names.map((one) => [one, importanceOf(reports[index], one)]));
    const about = h("div", { class: "panels", id: "drift-selection" });
    const shown = { record };
    const choose = (feature, place) => chooseReport(about, shown, reports, feature, place);
    fillSelection(about, reports, record, name);
    return [
      h(
        "section",
        { class: "panel" },
        h(
          "div",
          { class: "panel-head" },
          h("h2", {}, "Features over time"),
          h("span", { class: "note" }, "Numbers: importance"),
        ),
        heatStrips({ reports, names, importance, chosen: { name, index }, choose }),
        moreOrFewer(names.length, every.length),
      ),
      about,
    ];
  },
};

const withSignals = (item) => ({
  ...item,
  at: Date.parse(item.at),
  signals: new Map(item.signals.map((signal) => [signal.input, signal])),
});

/** A report as the listing has it. */
function brief({ id, at, model, report }) {
  const signals = [report.score, ...report.features].map((signal) => ({
    ...signal,
    excess_psi: signal.distances.excess_psi,
  }));
  return { id, at, model, status: report.status, signals };
}

function importanceOf(report, name) {
  const signal = report.signals.get(name);
  return signal?.kind === "score" ? null : (signal?.importance ?? 0);
}

/** The score first, then by how much the model relies on each. */
function ordered(reports) {
  const names = new Set(reports.toReversed().flatMap((report) => [...report.signals.keys()]));
  const weight = (name) => importanceOf(reports.at(-1), name) ?? Infinity;
  return [...names].sort((a, b) => weight(b) - weight(a) || a.localeCompare(b));
}

/** The most important inputs, with those that raised an alarm and the one asked for. */
function mostImportant(names, { alarms }, asked) {
  return names.filter((name, place) => place < ROWS || alarms.includes(name) || name === asked);
}

function moreOrFewer(shown, all) {
  if (all <= ROWS) return null;
  const [text, query] = shown < all ? [`Show all ${all} features`, "?all=1"] : ["Show only the most important", ""];
  return h("p", {}, h("a", { href: `#/drift${query}` }, text));
}

/** What a reader wants to see first: what raised an alarm, or what contributes most. */
function leading({ alarms, features }, names) {
  return [...alarms, features[0]?.input].find((name) => names.includes(name)) ?? names[0];
}

/** Another feature is here already; another report has to be fetched first. */
async function chooseReport(about, shown, reports, name, place) {
  const { id } = reports[place];
  amend({ feature: name, report: id });
  shown.wanted = id;
  if (shown.record.id !== id) {
    about.setAttribute("aria-busy", "true");
    const record = await api.get(`/drift/${api.part(id)}`).catch((error) => error);
    if (shown.wanted !== id) return;
    about.removeAttribute("aria-busy");
    if (record instanceof Error) {
      about.replaceChildren(notice("bad", h("p", {}, record.message)));
      return;
    }
    shown.record = record;
  }
  fillSelection(about, reports, shown.record, name);
}

function fillSelection(about, reports, record, name) {
  about.replaceChildren(selection(record, name), driftVerdict(record));
  mounted(about);
}

function driftVerdict(record) {
  const { report } = record;
  return panel(
    `Report of ${utcDay(record.at)}`,
    { tools: badge(report.status) },
    h("p", {}, report.reason),
    facts([
      ["Report", link("drift", record.id)],
      ["Model", link("models", record.model)],
      [
        "Window",
        [
          time(record.window_from, { day: true }),
          " to ",
          time(record.window_until, { day: true }),
          `, ${number(report.days)} days, ${number(report.rows)} flights`,
        ],
      ],
      ["Reference", `${number(report.reference_rows)} flights`],
      ["Dataset PSI", `${number(report.dataset_psi, 3)} (alarm at ${significant(report.policy.dataset_psi)})`],
      ["Alarms", report.alarms.length > 0 ? report.alarms.join(", ") : "none"],
    ]),
    details("drift-policy", "Thresholds applied", document_(report.policy)),
  );
}

function selection(record, name) {
  const { report } = record;
  const signal = [report.score, ...report.features].find((one) => one.input === name);
  if (!signal) return panel(name, {}, empty(`${record.model} does not use this input.`));
  const { distances } = signal;
  return panel(
    name,
    { note: `${utcDay(record.at)}, ${record.id}, ${record.model}` },
    h(
      "p",
      {},
      signal.drifted ? badge("drifted") : signal.exceeded ? badge("suspected", "over its threshold") : badge("stable"),
      " ",
      signal.reason,
    ),
    distributions(signal, { key: name }),
    facts([
      ["Excess PSI", significant(distances.excess_psi)],
      ["PSI", `${significant(distances.psi)} (${significant(distances.expected_psi)} expected without a change)`],
      ["Jensen-Shannon", significant(distances.jensen_shannon)],
      [
        "Kolmogorov-Smirnov",
        distances.kolmogorov_smirnov === null
          ? null
          : `${significant(distances.kolmogorov_smirnov)} (p ${significant(distances.kolmogorov_smirnov_p)})`,
      ],
      ["Chi-square", `p ${significant(distances.chi_square_p)}`],
      ["Cramér's V", significant(distances.cramers_v)],
      ["Importance", signal.kind === "score" ? null : number(signal.importance, 3)],
      ["Windows over the threshold", `${number(signal.windows_exceeded)} recently`],
    ]),
  );
}
