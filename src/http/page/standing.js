// Where a model or a release stands now: its own record says only what became of it then.

import { aliased } from "./store.js";

/** The release that serves: of those approved, the newest. */
export function servingOf(newestFirst) {
  return newestFirst.find((one) => one.state === "approved")?.id ?? null;
}

/** The state of a release, told apart where several were approved. */
export function deploymentStanding(deployment, serving) {
  if (deployment.state !== "approved") return deployment.state;
  return deployment.id === serving ? "serving" : "superseded";
}

/** The names that point at a model; without any, what became of it. */
export function modelStanding(model, { cycles, deployments }) {
  const names = ["live", "previous", "candidate"].filter((name) => aliased(name)?.model === model.version);
  if (names.length > 0) return names;
  const released = deployments.find((one) => one.model === model.version)?.state;
  const ended = cycles.find((one) => one.id === model.cycle)?.outcome;
  if (released === "rolled_back") return ["rolled_back"];
  if (ended && ended !== "deployed") return [ended];
  return released === "approved" ? ["served before"] : [];
}
