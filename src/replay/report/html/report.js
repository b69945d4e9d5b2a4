// Draws a replay's report: puts each chart where the page has a place for it. The
// charts are those of the daemon's page; words and summary tables are in the file.

import { h, mounted } from "../../../http/page/dom.js";
import { drift } from "./drift.js";
import { reliability } from "./reliability.js";
import { timings } from "./timings.js";
import { weeks } from "./weeks.js";

const DRAWINGS = { drift, reliability, timings, weeks };

const report = JSON.parse(document.getElementById("report").textContent);
for (const place of document.querySelectorAll("[data-chart]"))
  place.replaceChildren(...DRAWINGS[place.dataset.chart](report).map(titled));
mounted(document);

/** Drawings are `{ title, caption, content }`. */
function titled({ title, caption, content }) {
  return h("div", { class: "titled" }, h("h3", {}, title), h("p", { class: "note" }, caption), content);
}

/** Charts fit what they stand on: for the time of printing that is a sheet of A4. */
function onPaper(is) {
  document.documentElement.classList.toggle("paper", is);
  mounted(document);
}
addEventListener("beforeprint", () => onPaper(true));
addEventListener("afterprint", () => onPaper(false));
