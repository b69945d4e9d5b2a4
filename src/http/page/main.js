// The shell: which views there are, which one is shown, when it is drawn again, and what stands around it.

import { followChanges, onChange, onDenied, onState } from "./api.js";
import { denied, signIn, signOut } from "./commands.js";
import { announce, h, mounted } from "./dom.js";
import { empty, notice } from "./parts.js";
import { loadSession, loadStatus, parse, state, subscribe } from "./store.js";
import { alertList, audit, oneAlert } from "./views/alerts.js";
import { compare } from "./views/compare.js";
import { cycleList, oneCycle } from "./views/cycles.js";
import { datasetList, oneDataset } from "./views/datasets.js";
import { decisionList, oneDecision } from "./views/decisions.js";
import { modelList, oneModel } from "./views/models.js";
import { drift, performance } from "./views/monitoring.js";
import { overview } from "./views/overview.js";
import { oneRun, runList } from "./views/runs.js";
import { deploymentList, health, oneDeployment } from "./views/service.js";

/** Every view by the first part of its address: the list, and one of the things. */
const VIEWS = {
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
const NAVIGATION = [
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
    "Training",
    [
      ["models", "Models"],
      ["compare", "Compare"],
      ["runs", "Runs"],
      ["datasets", "Datasets"],
    ],
  ],
  [
    "Operations",
    [
      ["alerts", "Alerts"],
      ["audit", "Audit"],
    ],
  ],
];

/** Changes come in bursts; a view is asked for once per burst. */
const SETTLE_MS = 250;
/** Replicas and actors change without an event. */
const STATUS_MS = 15_000;
/** How long the first view waits for the session and the status. */
const FIRST_MS = 1_500;
/** Unreachable, too many requests, unavailable for a while. */
const PASSING = [0, 429, 502, 503, 504];

/** Changes after which the status may say something else. */
const TOLD_BY_STATUS = ["cycle", "step", "alias", "deployment", "setting", "drift", "metrics", "alert", "poll"];

const main = document.getElementById("main");
let shown = null;

function viewOf({ name, id }) {
  const views = VIEWS[name];
  if (!views) return null;
  return (id === null ? views.list : views.one) ?? null;
}

/** Shows what the address names; `quietly` draws the same view again. */
async function show(quietly) {
  const route = parse(location.hash);
  const view = viewOf(route);
  markNavigation(route.name);
  shown?.abort.abort();
  const turn = { view, route, abort: new AbortController(), text: quietly ? shown?.text : null };
  shown = turn;
  if (!view) {
    draw(turn, "Not found", [empty("This page does not exist.", "The navigation lists every page.")], quietly);
    return;
  }
  if (!quietly) {
    main.setAttribute("aria-busy", "true");
    main.replaceChildren(
      h("h1", { tabindex: "-1" }, view.title(route)),
      h("div", { class: "loading", role: "status" }, h("span", { class: "unseen" }, "Loading …")),
    );
  }
  try {
    const data = await view.load(route, turn.abort.signal);
    if (shown !== turn) return;
    // Drawn again only where something changed, so that nothing jumps under the reader.
    const text = JSON.stringify([data, view.needs?.()]);
    if (quietly && text === turn.text) return;
    turn.text = text;
    draw(turn, view.title(route, data), view.draw(data, route), quietly);
  } catch (error) {
    if (error.name === "AbortError" || shown !== turn) return;
    drawError(turn, error, quietly);
  }
}

function draw({ view, route }, title, content, quietly) {
  const before = quietly ? remember() : null;
  const heading = h("h1", { tabindex: "-1" }, title);
  main.replaceChildren(
    h("div", { class: "view-head" }, heading, view?.lead ? h("p", { class: "lead" }, view.lead) : null),
    ...[content].flat(9).filter((node) => node instanceof Node),
  );
  markStale();
  mounted(main);
  main.removeAttribute("aria-busy");
  document.title = `${title} · delayd`;
  if (before) restore(before);
  else {
    scrollTo(0, 0);
  }
}

function drawError(turn, error, quietly) {
  // What is shown stays while the daemon is unavailable or busy: the state of the connection says it already.
  if (quietly && PASSING.includes(error.status)) return;
  const again = h("button", { type: "button", on: { click: () => show(false) } }, "Try again");
  const enter = error.isAboutAccess
    ? h("button", { type: "button", class: "primary", on: { click: () => signIn() } }, "Sign in")
    : null;
  const id = error.requestId
    ? h("p", { class: "note" }, `Request ${error.requestId}: search the daemon's log for this id.`)
    : null;
  const missing = error.status === 404;
  const box = notice(
    missing ? "info" : "bad",
    h("p", {}, h("strong", {}, missing ? "Not found. " : `${error.title ?? "Something went wrong"}. `), error.message),
    id,
    h("div", { class: "row" }, enter, again),
  );
  turn.text = null;
  draw(turn, turn.view.title(turn.route), [box], quietly);
  if (!error.title) console.error(error);
}

/** What a reader has opened and where they are, across a redraw. */
function remember() {
  const active = document.activeElement;
  return {
    open: new Set([...main.querySelectorAll("details[open][data-keep]")].map((node) => node.dataset.keep)),
    focus: main.contains(active)
      ? (active.dataset.keep ??
        active.dataset.command ??
        active.closest("[data-keep]")?.dataset.keep ??
        active.getAttribute("href"))
      : null,
    at: scrollY,
  };
}

function restore({ open, focus, at }) {
  main.querySelectorAll("details[data-keep]").forEach((node) => {
    if (open.has(node.dataset.keep)) node.open = true;
  });
  if (focus) {
    const name = CSS.escape(focus);
    const found = main.querySelector(`[data-keep="${name}"], [data-command="${name}"], a[href="${name}"]`);
    (found?.tagName === "DETAILS" ? found.querySelector("summary") : found)?.focus({ preventScroll: true });
  }
  scrollTo(0, at);
}

function markNavigation(name) {
  for (const link of document.querySelectorAll("#navigation a")) {
    const here = link.dataset.view === name;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function buildNavigation() {
  const groups = NAVIGATION.map(([title, links]) =>
    h(
      "div",
      { class: "group" },
      title ? h("h2", {}, title) : null,
      h(
        "ul",
        {},
        links.map(([name, text]) => h("li", {}, h("a", { href: `#/${name}`, data: { view: name } }, text))),
      ),
    ),
  );
  const navigation = document.getElementById("navigation");
  navigation.replaceChildren(...groups);
  const menu = document.getElementById("menu");
  const open = (wanted) => {
    menu.setAttribute("aria-expanded", String(wanted));
    navigation.toggleAttribute("data-open", wanted);
  };
  menu.addEventListener("click", () => open(menu.getAttribute("aria-expanded") !== "true"));
  navigation.addEventListener("click", (event) => event.target.closest("a") && open(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") {
      open(false);
      menu.focus();
    }
  });
}

/** The address after the # names views here, so the skip link moves the focus itself. */
function buildSkipLink() {
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
}

function buildTheme() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const order = ["system", "light", "dark"];
  const label = () => (button.textContent = `Theme: ${root.dataset.theme ?? "system"}`);
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(root.dataset.theme ?? "system") + 1) % order.length];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (next === "system") localStorage.removeItem("delayd.theme");
      else localStorage.setItem("delayd.theme", next);
    } catch {
      // Storage is forbidden here: the choice lasts as long as the page.
    }
    label();
    announce(button.textContent);
  });
  label();
}

const clock = (at) => at.toISOString().slice(11, 19);

function watchConnection() {
  const box = document.getElementById("live");
  onState(({ name, since }) => {
    const text = { connecting: "Connecting", live: "Live", lost: `Not live since ${since ? clock(since) : ""} UTC` }[
      name
    ];
    if (box.dataset.state !== name && name !== "connecting") announce(name === "live" ? "The page is live." : text);
    box.dataset.state = name;
    box.querySelector(".text").textContent = text;
    box.title =
      name === "lost"
        ? "The event stream is lost; the page reconnects, and until then polls the daemon every 5 seconds."
        : "";
  });
}

/** A replay lives in the past: every view says so beside the state of the connection. */
function showReplay() {
  const replay = state.status?.replay;
  const box = document.getElementById("live");
  let label = document.getElementById("replay");
  if (!replay) return label?.remove();
  if (!label) {
    label = h("span", { id: "replay", class: "badge warn" });
    box.before(label);
  }
  label.textContent = `Replay of ${replay.from} to ${replay.until}`;
}

/** While the daemon does not answer, what is shown is old, and looks so. */
function markStale() {
  const stale = Boolean(state.statusError && PASSING.includes(state.statusError.status));
  main.toggleAttribute("data-stale", stale);
  const shownAlready = document.getElementById("stale");
  if (!stale) shownAlready?.remove();
  else if (!shownAlready) {
    const asOf = state.status?.now ? ` Data as of ${clock(new Date(state.status.now))} UTC.` : "";
    const box = notice("warn", h("p", {}, h("strong", {}, "The daemon is not answering."), asOf));
    box.id = "stale";
    main.prepend(box);
  }
}

function showSession() {
  const { session } = state;
  const button = document.getElementById("session");
  const signedIn = session?.via === "token";
  button.textContent = signedIn
    ? `${session.name || "signed in"} (${session.role}): sign out`
    : session?.role === "operator"
      ? `${session.name || "here"} (operator)`
      : "Sign in";
  button.onclick = () => (signedIn ? signOut() : signIn());
}

let settling = null;
function soon(kind) {
  const kinds = shown?.view?.kinds;
  if (kind !== "poll" && !kinds?.includes(kind)) return;
  clearTimeout(settling);
  settling = setTimeout(() => show(true), SETTLE_MS);
}

function begin() {
  buildSkipLink();
  buildNavigation();
  buildTheme();
  onDenied(denied);
  subscribe(showSession);
  subscribe(showReplay);
  subscribe(markStale);
  watchConnection();
  let lastNeeds = "";
  subscribe(() => {
    const needs = JSON.stringify([shown?.view?.needs?.(), state.session?.role]);
    if (needs !== lastNeeds && shown?.view?.needs) soon("poll");
    lastNeeds = needs;
  });
  onChange(({ kind }) => {
    if (TOLD_BY_STATUS.includes(kind)) loadStatus();
    soon(kind);
  });
  addEventListener("delayd:session", () => show(false));
  addEventListener("hashchange", () => {
    show(false).then(() => main.querySelector("h1")?.focus({ preventScroll: true }));
  });
  setInterval(loadStatus, STATUS_MS);
  // A slow answer to these delays no view: they draw it again.
  const known = Promise.all([loadSession(), loadStatus()]);
  Promise.race([known, new Promise((resolve) => setTimeout(resolve, FIRST_MS))]).then(() => {
    show(false);
    followChanges();
  });
}

begin();
