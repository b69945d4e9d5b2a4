// Drift by feature and time: which input moved away from what the model learnt
// from, when, and how its distribution looks now.

import * as api from "../api.js";
import { distributions } from "../charts/bars.js";
import { heatStrips } from "../charts/heat.js";
import { h, mounted } from "../dom.js";
import { number, significant, time, utcDay } from "../format.js";
import { badge, details, document_, empty, facts, link, notice, panel } from "../parts.js";
import { amend } from "../router.js";

const REPORTS = 60;
/** So many rows are read at a glance; the others are one step away. */
const ROWS = 16;

export const drift = {
  title: ({ id }) => (id ? `Drift, ${id}` : "Drift"),
  lead: "Every input, report by report, weighed by how much the model uses it. Choose a feature to see its distributions.",
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
        empty("No drift report yet.", "The first one is made when the live model has served whole days of traffic."),
      ];
    const reports = items.toReversed().map(withSignals);
    // An older one than those in the picture is shown alone.
    if (!reports.some((report) => report.id === record.id))
      reports.splice(0, reports.length, withSignals(brief(record)));
    const index = reports.findIndex((report) => report.id === record.id);
    const asked = query.get("feature");
    const every = ordered(reports);
    const names = query.has("all") ? every : foremost(every, record.report, asked);
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

/** What the listing tells of a report. */
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

/** The score first, then by how much the model leans on each. */
function ordered(reports) {
  const names = new Set(reports.toReversed().flatMap((report) => [...report.signals.keys()]));
  const weight = (name) => importanceOf(reports.at(-1), name) ?? Infinity;
  return [...names].sort((a, b) => weight(b) - weight(a) || a.localeCompare(b));
}

/** The inputs that weigh most, with those that raised the alarm and the one asked for. */
function foremost(names, { alarms }, asked) {
  return names.filter((name, place) => place < ROWS || alarms.includes(name) || name === asked);
}

function moreOrFewer(shown, all) {
  if (all <= ROWS) return null;
  const [text, query] = shown < all ? [`Show all ${all} features`, "?all=1"] : ["Show the foremost only", ""];
  return h("p", {}, h("a", { href: `#/drift${query}` }, text));
}

/** What a reader wants to see first: what raised the alarm, or what contributes most. */
function leading({ alarms, features }, names) {
  return [...alarms, features[0]?.input].find((name) => names.includes(name)) ?? names[0];
}

/** Another feature is at hand; another report is asked for first. */
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
  about.replaceChildren(selection(record, name), verdict(record));
  mounted(about);
}

function verdict(record) {
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
    details("drift-policy", "Thresholds in force", document_(report.policy)),
  );
}

function selection(record, name) {
  const { report } = record;
  const signal = [report.score, ...report.features].find((one) => one.input === name);
  if (!signal) return panel(name, {}, empty(`${record.model} does not know this input.`));
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
      ["PSI", `${significant(distances.psi)} (${significant(distances.expected_psi)} were expected without a change)`],
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
      ["Windows over it", `${number(signal.windows_exceeded)} lately`],
    ]),
  );
}
