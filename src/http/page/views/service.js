// The service: how the live model, its replicas and the daemon are doing, its releases and their images.

import * as api from "../api.js";
import { sparkline } from "../charts/scale.js";
import { buttons } from "../commands.js";
import { ago, bytes, counted, digest, h, number, percent, time, utcClock, words } from "../dom.js";
import { checks, requestsOf } from "../metrics.js";
import { badge, details, document_, empty, facts, figure, figures, link, pager, panel, table } from "../parts.js";
import { aliased, found, state } from "../store.js";
import { tests } from "./decisions.js";

// ----------------------------------------------------------------
// How the live model, its replicas and the daemon are doing.

const RECENT = 60;
const HOUR_MS = 3_600_000;
/** How far back the figures' small charts go. */
const LOOK_BACK_DAYS = 30;

/** What the figures show: the monitor's checks and its newest report on drift. */
export async function measured(signal) {
  const [seen, drift] = await Promise.all([
    checks(LOOK_BACK_DAYS, signal),
    api.list("drift", { limit: 1 }, signal),
  ]);
  return { seen, drift: drift.items[0] ?? null };
}

export const health = {
  title: () => "Health",
  lead: "The live model, the replicas that serve it, and the daemon that monitors both.",
  kinds: ["alias", "deployment", "drift", "metrics"],
  needs: statusThatMatters,
  load: (_, signal) => measured(signal),
  draw: (data) => {
    const { status, statusError } = state;
    if (!status) return [empty(statusError ? statusError.message : "The daemon's status is not known yet.")];
    return [
      h(
        "div",
        { class: "panels" },
        liveModelPanel(data, status),
        panel("Replicas", { wide: true }, replicas()),
        lastCheck(data.seen.rows.at(-1)),
        daemonPanel(status),
      ),
    ];
  },
};

/** The status without what changes at every moment. */
export function statusThatMatters() {
  const { status, session } = state;
  if (!status) return null;
  const actors = status.actors.map(({ last_beat_secs: _, ...actor }) => actor);
  return { ...status, now: null, actors, role: session?.role, error: state.statusError?.message };
}

/** Every check's own reason, with its numbers. */
function lastCheck(last) {
  if (!last) return panel("The monitor's last check", {}, empty("The live model has not been checked yet."));
  const { replicas: read, trainServe, latency, errors, traffic, skew } = last;
  return panel(
    "The monitor's last check",
    { tools: ago(new Date(last.at).toISOString()) },
    facts([
      ["Golden rows", trainServe?.report.reason ?? "not sent to a replica yet"],
      ["Replicas read", read ? number(read.answered) : null],
      ["Replicas not read", read?.silent.join("; ")],
      ["Predictions lost", read ? number(read.predictions_lost) : null],
      ["Latency", latency?.reason],
      ["Errors", errors?.reason],
      ["Traffic", traffic.at(-1)?.reason],
      ["Scores", skew?.reason],
      ["Performance", last.reason],
    ]),
  );
}

export function liveModelPanel({ seen, drift }, status) {
  const last = seen.rows.at(-1);
  const recent = seen.rows.slice(-RECENT);
  return panel(
    "Live model",
    { id: "health", wide: true },
    figures(
      live(),
      replicaCount(status, last),
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
    `${name}, recent checks`,
  );

/** Findings are about the live model: a check of the one before it is shown without a verdict. */
const ofLive = (last) => Boolean(last) && last.model === aliased("live")?.model;
const judged = (last, kind) => (ofLive(last) ? (found(kind) ?? "passed") : null);

function live() {
  const alias = aliased("live");
  return figure("Live", alias?.model ?? "none", {
    about: alias ? ["went live ", ago(alias.moved_at)] : "no model is live",
    state: found("no_live_model", "first_model", "live_model_not_served") ?? "live",
    href: alias ? `#/models/${alias.model}` : null,
  });
}

function replicaCount({ replicas: all, replicas_unknown: unknown }, last) {
  // A draining replica has already been replaced.
  const wanted = all.filter((replica) => replica.state !== "draining");
  const ready = wanted.filter((replica) => replica.state === "ready").length;
  const memory = all.reduce((sum, replica) => sum + (replica.memory_bytes ?? 0), 0);
  const silent = last?.replicas?.silent.length ?? 0;
  const about = silent > 0 ? `${silent} could not be read` : memory > 0 ? `${bytes(memory)} of memory` : "";
  const wrong = found("cluster_unreachable", "no_ready_replica", "replica_failed", "replicas_unread");
  return figure("Replicas ready", unknown ? "?" : `${ready} of ${wanted.length}`, {
    about: unknown ?? about,
    state: wrong ?? (ready > 0 ? "ready" : null),
    href: "#/deployments",
  });
}

function latency(last, recent) {
  const overall = last?.latency?.overall;
  if (!overall) return figure("Latency p95", "–", { about: "too few requests" });
  const { p95 } = overall;
  return figure("Latency p95", `${p95.at_least ? "≥ " : ""}${number(p95.ms, p95.ms < 10 ? 2 : 0)}`, {
    unit: "ms",
    about: `over ${counted(overall.requests, "request")}`,
    picture: spark(recent, (row) => row.latency?.overall?.p95.ms, "Latency p95"),
    state: judged(last, "latency"),
  });
}

function errors(last, recent) {
  if (!last?.errors) return figure("Errors", "–", { about: "no requests yet" });
  // That none of no requests failed is not good news.
  if (requestsOf(last) === 0) return figure("Errors", "–", { about: "no requests" });
  return figure("Errors", percent(last.errors.share, 2), {
    about: `usually ${percent(last.errors.baseline_share, 2)}`,
    picture: spark(recent, (row) => row.errors?.share, "Error share"),
    state: judged(last, "error_rate"),
  });
}

function traffic(last, recent) {
  if (!last?.errors) return figure("Traffic", "–", { about: "no requests yet" });
  const since = Math.floor(last.at / HOUR_MS - 1) * HOUR_MS;
  const hour = last.traffic.at(-1);
  return figure("Traffic", number(requestsOf(last)), {
    unit: "requests",
    about: `since ${utcClock(since)} UTC${hour?.expected ? `; ${number(hour.expected)} an hour is usual` : ""}`,
    picture: spark(recent, requestsOf, "Requests"),
    state: found("traffic"),
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

/** What the verdict is about: the first signal that raised an alarm, or all inputs together. */
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
    state: ofLive(last) ? last.verdict : null,
    href: "#/performance",
  });
}

export function daemonPanel(status) {
  const rows = table(
    "Actors of the daemon",
    [
      { name: "Actor", head: true, cell: (actor) => actor.name },
      { name: "State", cell: (actor) => badge(actor.state) },
      {
        name: "Current work",
        cell: (actor) => [actor.current_work ?? h("span", { class: "none" }, "idle"), lastFailure(actor)],
      },
      { name: "Waiting senders", number: true, cell: (actor) => number(actor.waiting_senders) },
      { name: "Restarts", number: true, cell: (actor) => number(actor.restarts) },
    ],
    status.actors,
  );
  const service = h("a", { href: `${status.service_url}/docs`, rel: "noreferrer" }, status.service_url);
  return panel("The daemon", { note: [`delayd ${status.version}; the inference service is at `, service] }, rows);
}

function lastFailure(actor) {
  return actor.last_failure ? h("p", { class: "note" }, `Last failure: ${actor.last_failure}`) : null;
}

// ----------------------------------------------------------------
// Releases to the cluster, how each was verified, and the images they run.

const LIMIT = 25;

export const deploymentList = {
  title: () => "Deployments",
  lead: "Every release to the cluster, how it was verified, and the images.",
  kinds: ["deployment", "verification", "image"],
  needs: () => [state.status?.replicas, state.status?.replicas_unknown, state.status?.commands],
  load: async ({ query }, signal) => {
    const offset = Number(query.get("from") ?? 0);
    const [deployments, verifications, images] = await Promise.all([
      api.list("deployments", { limit: LIMIT, offset }, signal),
      api.list("verifications", { limit: 200 }, signal),
      api.list("images", { limit: LIMIT }, signal),
    ]);
    const verdicts = verifications.items.map(({ deployment, at, passed, report }) => ({
      deployment,
      at,
      passed,
      reason: report.reason,
    }));
    return { deployments: deployments.items, next: deployments.next_offset, verdicts, images: images.items };
  },
  draw: ({ deployments, next, verdicts, images }, { query }) => {
    const verdict = (id) => verdicts.find((one) => one.deployment === id);
    const list =
      deployments.length === 0
        ? empty("Nothing has been deployed yet.", "A cycle deploys a model that passed the gate.")
        : table(
            "Deployments, newest first",
            [
              { name: "Deployment", head: true, cell: (one) => link("deployments", one.id) },
              { name: "State", cell: (one) => badge(one.standing) },
              { name: "Model", cell: (one) => link("models", one.model) },
              { name: "Cycle", cell: (one) => (one.cycle ? link("cycles", one.cycle) : "requested by an operator") },
              {
                name: "Verification",
                cell: (one) =>
                  verdict(one.id)
                    ? badge(verdict(one.id).passed ? "passed" : "failed")
                    : h("span", { class: "none" }, "none"),
              },
              { name: "Replicas", number: true, cell: (one) => number(one.release?.replicas) },
              { name: "Applied", cell: (one) => time(one.created_at) },
              { name: "Changed", cell: (one) => time(one.changed_at) },
            ],
            deployments,
            { key: (one) => one.id },
          );
    return [
      h(
        "div",
        { class: "panels" },
        panel("Replicas now", { wide: true }, replicas(), buttons("rollback")),
        panel("Deployments", { wide: true }, list, pager("deployments", Number(query.get("from") ?? 0), LIMIT, next)),
        imagesPanel(images),
      ),
    ];
  },
};

function replicas() {
  const found = state.status?.replicas ?? [];
  if (state.status?.replicas_unknown) return empty("The cluster cannot be asked.", state.status.replicas_unknown);
  if (found.length === 0) return empty("No replica is running.");
  return table(
    "Replicas of the inference service",
    [
      { name: "Replica", head: true, cell: (one) => h("code", {}, one.name) },
      { name: "State", cell: (one) => badge(one.state) },
      { name: "Model", cell: (one) => link("models", one.model) },
      { name: "Deployment", cell: (one) => link("deployments", one.deployment) },
      { name: "Restarts", number: true, cell: (one) => number(one.restarts) },
      { name: "Memory", number: true, cell: (one) => bytes(one.memory_bytes) },
      { name: "Problem", cell: (one) => one.reason ?? h("span", { class: "none" }, "none") },
    ],
    found,
  );
}

function imagesPanel(images) {
  return panel(
    "Images",
    { wide: true, note: "Pushed to the registry. A new image adds only the layer of its model." },
    images.length === 0
      ? empty("No image has been pushed yet.")
      : table(
          "Images, newest first",
          [
            { name: "Tag", head: true, cell: ({ image }) => h("code", {}, image.tag) },
            { name: "Digest", cell: ({ image }) => digest(image.digest) },
            { name: "Model", cell: ({ model }) => link("models", model) },
            { name: "Size", number: true, cell: ({ image }) => bytes(image.size_bytes) },
            {
              name: "Layers",
              number: true,
              cell: ({ image }) => `${image.layers_pushed} new, ${image.layers_reused} reused`,
            },
            { name: "Pushed", cell: ({ pushed_at: at }) => time(at) },
          ],
          images,
        ),
  );
}

export const oneDeployment = {
  title: ({ id }) => id,
  kinds: ["deployment", "verification"],
  load: ({ id }, signal) => api.get(`/deployments/${api.part(id)}`, signal),
  draw: ({ deployment, standing, verifications }) => [
    h(
      "div",
      { class: "panels" },
      panel(
        "Details",
        {},
        facts([
          ["State", badge(standing)],
          ["Model", link("models", deployment.model)],
          ["Cycle", deployment.cycle ? link("cycles", deployment.cycle) : "requested by an operator"],
          ["Replicas", number(deployment.release?.replicas)],
          ["Image", h("code", { class: "long" }, deployment.release?.image)],
          ["Bundle", digest(deployment.release?.bundle)],
          ["Replaced", deployment.previous ? link("deployments", deployment.previous) : "nothing"],
          ["Applied", time(deployment.created_at, { seconds: true })],
          ["Changed", time(deployment.changed_at, { seconds: true })],
        ]),
      ),
      verifications.length > 0
        ? verifications.toReversed().map(verificationPanel)
        : panel(
            "Verification",
            {},
            empty("It was not verified.", "A rollback deploys a release that has been verified before."),
          ),
    ),
  ],
};

export function verificationPanel(record) {
  const { report } = record;
  const measured = report.measured;
  return panel(
    "Verification",
    { wide: true, tools: badge(record.passed ? "passed" : "failed") },
    h("p", {}, report.reason, " ", time(record.at)),
    report.rows ? h("p", { class: "note" }, `Replayed: ${report.rows}.`) : null,
    measured
      ? figures(
          figure("Requests", number(measured.requests), { about: `${counted(measured.errors, "error")}` }),
          figure("p50", number(measured.p50_ms, 2), { unit: "ms" }),
          figure("p95", number(measured.p95_ms, 2), {
            unit: "ms",
            about: report.baseline ? `before: ${number(report.baseline.p95_ms, 2)} ms` : "",
          }),
          figure("p99", number(measured.p99_ms, 2), { unit: "ms" }),
        )
      : null,
    tests(report.checks ?? []),
    details("verification-policy", "Limits applied", document_(report.policy)),
  );
}
