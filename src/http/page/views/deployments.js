// Releases to the cluster, how each was verified, and the images they run.

import * as api from "../api.js";
import { buttons } from "../commands.js";
import { h } from "../dom.js";
import { bytes, counted, digest, number, time } from "../format.js";
import { badge, details, document_, empty, facts, figure, figures, link, panel } from "../parts.js";
import { state } from "../store.js";
import { pager, table } from "../table.js";
import { tests } from "./decisions.js";

const LIMIT = 25;

export const deploymentList = {
  title: () => "Deployments",
  lead: "What was rolled out, replica by replica, and what was taken back.",
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
        ? empty("Nothing was deployed yet.", "A cycle deploys a model that passed the gate.")
        : table(
            "Deployments, newest first",
            [
              { name: "Deployment", head: true, cell: (one) => link("deployments", one.id) },
              { name: "State", cell: (one) => badge(one.standing) },
              { name: "Model", cell: (one) => link("models", one.model) },
              { name: "Cycle", cell: (one) => (one.cycle ? link("cycles", one.cycle) : "asked for by hand") },
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

export function replicas() {
  const found = state.status?.replicas ?? [];
  if (state.status?.replicas_unknown) return empty("The cluster does not tell.", state.status.replicas_unknown);
  if (found.length === 0) return empty("No replica runs.");
  return table(
    "Replicas of the inference service",
    [
      { name: "Replica", head: true, cell: (one) => h("code", {}, one.name) },
      { name: "State", cell: (one) => badge(one.state) },
      { name: "Model", cell: (one) => link("models", one.model) },
      { name: "Deployment", cell: (one) => link("deployments", one.deployment) },
      { name: "Restarts", number: true, cell: (one) => number(one.restarts) },
      { name: "Memory", number: true, cell: (one) => bytes(one.memory_bytes) },
      { name: "Trouble", cell: (one) => one.reason ?? h("span", { class: "none" }, "none") },
    ],
    found,
  );
}

function imagesPanel(images) {
  return panel(
    "Images",
    { wide: true, note: "Pushed to the registry; of a new one only the model's layer is new." },
    images.length === 0
      ? empty("No image was pushed yet.")
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
              cell: ({ image }) => `${image.layers_pushed} new, ${image.layers_reused} there`,
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
        "Which deployment this is",
        {},
        facts([
          ["State", badge(standing)],
          ["Model", link("models", deployment.model)],
          ["Cycle", deployment.cycle ? link("cycles", deployment.cycle) : "asked for by hand"],
          ["Replicas", number(deployment.release?.replicas)],
          ["Image", h("code", { class: "long" }, deployment.release?.image)],
          ["Bundle", digest(deployment.release?.bundle)],
          ["Served before", deployment.previous ? link("deployments", deployment.previous) : "nothing"],
          ["Applied", time(deployment.created_at, { seconds: true })],
          ["Changed", time(deployment.changed_at, { seconds: true })],
        ]),
      ),
      verifications.length > 0
        ? verifications.toReversed().map(verificationPanel)
        : panel(
            "Verification",
            {},
            empty("It was not verified.", "A rollback goes to a release that was verified before."),
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
    details("verification-policy", "Limits in force", document_(report.policy)),
  );
}
