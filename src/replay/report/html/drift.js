// The report's drift: the features that matter most, stretch by stretch of time.

import { heatStrips } from "../../../http/page/charts/features.js";
import { h, number, percent, utc, utcDay } from "../../../http/page/dom.js";
import { details, grid } from "../../../http/page/parts.js";

/** The features that moved most where the model looks most. */
const MOST_FEATURES = 16;
/** More columns than this cannot be told apart; evaluations next to each other share one. */
const MOST_COLUMNS = 75;
/** Below 0.1 is usually called stable, above 0.25 a shift (Siddiqi 2006). */
const PSI = { name: "PSI", of: (signal) => signal.psi, steps: [0.05, 0.1, 0.25, 0.5, 1], signs: ["▼ alarm"] };
const SHIFTED_PSI = 0.25;

export function drift({ drift: evaluations }) {
  const features = ranked(evaluations);
  const reports = columns(evaluations);
  const names = features.map((feature) => feature.name);
  const importance = new Map(features.map((feature) => [feature.name, feature.importance]));
  const about = h("p", { class: "chosen", role: "status" });
  const choose = (name, index) => about.replaceChildren(...told(name, reports[index]));
  const worst = reports.findIndex((report) => report.signals.get(names[0])?.psi === features[0].psi);
  choose(names[0], worst);
  return [
    {
      title: "Drift by feature",
      caption: `Population stability index against the live model’s reference, largest of each stretch of time. The ${names.length} features that matter most: largest PSI times importance, which is the number beside the name. Choose a cell to read it.`,
      content: [
        heatStrips({
          reports,
          names,
          importance,
          chosen: { name: names[0], index: worst },
          choose,
          measure: PSI,
          dated: true,
        }),
        about,
        details("drift", "As a table", table(features, evaluations.length)),
      ],
    },
  ];
}

/** Each feature at its largest PSI, the most important first. */
function ranked(evaluations) {
  const found = new Map();
  for (const { at, features } of evaluations) {
    for (const { name, psi, importance } of features) {
      const one = found.get(name) ?? { name, psi: -Infinity, importance: 0, shifted: 0 };
      found.set(name, one);
      if (psi > one.psi) Object.assign(one, { psi, at });
      one.importance = Math.max(one.importance, importance);
      if (psi >= SHIFTED_PSI) one.shifted += 1;
    }
  }
  return [...found.values()].sort((a, b) => b.psi * b.importance - a.psi * a.importance).slice(0, MOST_FEATURES);
}

/** Evaluations as columns of the heat map, each feature at its largest PSI in the column. */
function columns(evaluations) {
  const size = Math.ceil(evaluations.length / MOST_COLUMNS);
  const found = [];
  for (let first = 0; first < evaluations.length; first += size) {
    const together = evaluations.slice(first, first + size);
    const signals = new Map();
    for (const { at, model, features } of together) {
      for (const feature of features) {
        if (!(signals.get(feature.name)?.psi >= feature.psi)) signals.set(feature.name, { ...feature, at, model });
      }
    }
    const alarm = together.find((evaluation) => evaluation.drifted);
    found.push({
      at: Date.parse(together[0].at),
      model: together[0].model,
      signals,
      alarm: alarm && `Alarm, ${utc(alarm.at)}: ${alarm.reason}`,
    });
  }
  return found;
}

function told(name, { at, signals, alarm }) {
  const signal = signals.get(name);
  const text = signal
    ? `, ${utcDay(signal.at)}, ${signal.model}: PSI ${number(signal.psi, 3)}, Jensen-Shannon distance ${number(signal.js_distance, 3)}, importance ${percent(signal.importance)}. `
    : `, ${utcDay(at)}: not among the foremost. `;
  return [h("b", {}, name), text, alarm ?? ""];
}

function table(features, evaluations) {
  return grid(
    "Drift by feature",
    ["Feature", "Importance", "Largest PSI", "When", `Evaluations from ${SHIFTED_PSI} on`],
    features.map(({ name, importance, psi, at, shifted }) => [
      name,
      percent(importance),
      number(psi, 2),
      utcDay(at),
      `${number(shifted)} of ${number(evaluations)}`,
    ]),
  );
}
