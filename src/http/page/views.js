// Every view by the first part of its address: the list, and one of the things.

import { alertList, oneAlert } from "./views/alerts.js";
import { audit } from "./views/audit.js";
import { compare } from "./views/compare.js";
import { cycleList, oneCycle } from "./views/cycles.js";
import { datasetList, oneDataset } from "./views/datasets.js";
import { decisionList, oneDecision } from "./views/decisions.js";
import { deploymentList, oneDeployment } from "./views/deployments.js";
import { drift } from "./views/drift.js";
import { health } from "./views/health.js";
import { modelList, oneModel } from "./views/models.js";
import { overview } from "./views/overview.js";
import { performance } from "./views/performance.js";
import { oneRun, runList } from "./views/runs.js";

export const VIEWS = {
  "": { list: overview },
  cycles: { list: cycleList, one: oneCycle },
  decisions: { list: decisionList, one: oneDecision },
  health: { list: health },
  performance: { list: performance },
  drift: { list: drift, one: drift },
  deployments: { list: deploymentList, one: oneDeployment },
  models: { list: modelList, one: oneModel },
  compare: { list: compare },
  runs: { list: runList, one: oneRun },
  datasets: { list: datasetList, one: oneDataset },
  alerts: { list: alertList, one: oneAlert },
  audit: { list: audit },
};

/** Groups of links: `[address, text]`. */
export const NAVIGATION = [
  [null, [["", "Overview"]]],
  [
    "Loop",
    [
      ["cycles", "Cycles"],
      ["decisions", "Decisions"],
    ],
  ],
  [
    "Production",
    [
      ["health", "Health"],
      ["performance", "Performance"],
      ["drift", "Drift"],
      ["deployments", "Deployments"],
    ],
  ],
  [
    "Learning",
    [
      ["models", "Models"],
      ["compare", "Compare"],
      ["runs", "Runs"],
      ["datasets", "Datasets"],
    ],
  ],
  [
    "People",
    [
      ["alerts", "Alerts"],
      ["audit", "Audit"],
    ],
  ],
];
