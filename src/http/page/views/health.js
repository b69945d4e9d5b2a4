// How the live model does, in seven figures.

import { sparkline } from "../charts/line.js";
import { ago, bytes, counted, number, percent, utcClock, words } from "../format.js";
import { figure, figures, panel } from "../parts.js";
import { aliased } from "../store.js";
import { requestsOf } from "../windows.js";

const RECENT = 60;
const HOUR_MS = 3_600_000;

export function health({ seen, drift }, status) {
  const last = seen.rows.at(-1);
  const recent = seen.rows.slice(-RECENT);
  return panel(
    "Live model",
    { id: "health", wide: true },
    figures(
      live(),
      replicas(status, last),
      latency(last, recent),
      errors(last, recent),
      traffic(last, recent),
      driftOf(drift),
      performance(last),
    ),
  );
}

const spark = (rows, pick, name) =>
  sparkline(
    rows.map((row) => pick(row) ?? NaN),
    `${name} lately`,
  );

function live() {
  const alias = aliased("live");
  return figure("Live", alias?.model ?? "none", {
    about: alias ? ["since ", ago(alias.moved_at)] : "no model serves",
    state: alias ? "live" : "failed",
    href: alias ? `#/models/${alias.model}` : null,
  });
}

function replicas({ replicas: found, replicas_unknown: unknown }, last) {
  // What drains makes room for what is ready, and is missed by nobody.
  const wanted = found.filter((replica) => replica.state !== "draining");
  const ready = wanted.filter((replica) => replica.state === "ready").length;
  const memory = found.reduce((sum, replica) => sum + (replica.memory_bytes ?? 0), 0);
  const silent = last?.replicas?.silent.length ?? 0;
  const about = silent > 0 ? `${silent} did not tell their counts` : memory > 0 ? `${bytes(memory)} of memory` : "";
  const well = ready === wanted.length && ready > 0;
  return figure("Replicas ready", unknown ? "?" : `${ready} of ${wanted.length}`, {
    about: unknown ?? about,
    state: well && silent > 0 ? "warning" : well ? "ready" : "failed",
    href: "#/deployments",
  });
}

function latency(last, recent) {
  const overall = last?.latency?.overall;
  if (!overall) return figure("Latency p95", "–", { about: "not enough requests" });
  const { p95 } = overall;
  return figure("Latency p95", `${p95.at_least ? "≥ " : ""}${number(p95.ms, p95.ms < 10 ? 2 : 0)}`, {
    unit: "ms",
    about: `over ${counted(overall.requests, "request")}`,
    picture: spark(recent, (row) => row.latency?.overall?.p95.ms, "Latency p95"),
    state: last.latency.too_slow ? "failed" : "passed",
  });
}

function errors(last, recent) {
  if (!last?.errors) return figure("Errors", "–", { about: "nothing was asked yet" });
  // Of no requests none failed, and that is no good news.
  if (requestsOf(last) === 0) return figure("Errors", "–", { about: "no requests" });
  return figure("Errors", percent(last.errors.share, 2), {
    about: `usually ${percent(last.errors.baseline_share, 2)}`,
    picture: spark(recent, (row) => row.errors?.share, "Error share"),
    state: last.errors.spike ? "failed" : "passed",
  });
}

function traffic(last, recent) {
  if (!last?.errors) return figure("Traffic", "–", { about: "nothing was asked yet" });
  const since = Math.floor(last.at / HOUR_MS - 1) * HOUR_MS;
  const hour = last.traffic.at(-1);
  return figure("Traffic", number(requestsOf(last)), {
    unit: "requests",
    about: `since ${utcClock(since)} UTC${hour?.expected ? `; ${number(hour.expected)} an hour are usual` : ""}`,
    picture: spark(recent, requestsOf, "Requests"),
    state: hour?.anomalous ? "warning" : null,
  });
}

function driftOf(drift) {
  const mine = drift && drift.model === aliased("live")?.model;
  return figure("Drift", mine ? words(drift.report.status) : "–", {
    about: mine ? [`${effect(drift.report)}, `, ago(drift.at)] : "no report yet",
    state: mine ? drift.report.status : null,
    href: "#/drift",
  });
}

/** What the verdict is about: the first signal that alarms, or all inputs together. */
function effect({ alarms, features, score, dataset_psi: all }) {
  const alarming = [...features, score].find((feature) => feature.input === alarms[0]);
  return alarming
    ? `${alarming.input}: PSI ${number(alarming.distances.excess_psi, 3)}`
    : `all inputs: PSI ${number(all, 3)}`;
}

function performance(last) {
  return figure("Performance", last?.verdict ? words(last.verdict) : "–", {
    about: last?.metrics
      ? `AUC ${number(last.metrics.auc, 3)}, ${counted(last.metrics.rows, "flight")}`
      : "no outcomes yet",
    state: last?.verdict,
    href: "#/performance",
  });
}
