// What somebody with a screen reader, a keyboard or weak eyes would stumble over,
// as a list of sentences. Runs within the page.
const faults = [];
const told = (element) => {
  const text = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
  return `<${element.tagName.toLowerCase()} class="${element.getAttribute("class") ?? ""}"> “${text}”`;
};
const visible = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) && !element.closest(".unseen, .skip, [hidden]");

// Names.
const nameOf = (element) => {
  const by = (element.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
  const labels = [...(element.labels ?? [])].map((label) => label.textContent);
  return [element.getAttribute("aria-label"), ...by.map((id) => document.getElementById(id)?.textContent), ...labels, element.tagName === "SELECT" ? "" : element.textContent, element.title]
    .find((text) => text && text.trim());
};
for (const element of document.querySelectorAll("button, a[href], input, select, textarea, summary, dialog[open], nav, [role=region], [role=group], [role=listbox], progress")) {
  if (visible(element) && !nameOf(element)) faults.push(`no name: ${told(element)}`);
}
for (const picture of document.querySelectorAll("svg, img")) {
  const hidden = picture.closest("[aria-hidden=true]");
  const named = picture.getAttribute("aria-label") || picture.getAttribute("alt");
  if (!hidden && !named) faults.push(`a picture without a text: ${told(picture)}`);
}
// Structure.
for (const landmark of ["header", "nav", "main"]) {
  if (document.querySelectorAll(landmark).length === 0) faults.push(`no <${landmark}>`);
}
if (document.querySelectorAll("main h1").length !== 1) faults.push(`${document.querySelectorAll("main h1").length} headings of level 1`);
let before = 0;
for (const heading of document.querySelectorAll("main :is(h1, h2, h3, h4, h5, h6)")) {
  const level = Number(heading.tagName[1]);
  if (level > before + 1) faults.push(`heading of level ${level} after ${before}: ${told(heading)}`);
  before = level;
}
for (const table of document.querySelectorAll("table")) {
  if (!table.caption?.textContent) faults.push(`a table without a caption: ${told(table)}`);
  if (table.querySelector("th:not([scope])")) faults.push(`a table's header without its scope: ${told(table)}`);
}
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
ids.filter((id, place) => ids.indexOf(id) !== place).forEach((id) => faults.push(`two elements have the id ${id}`));
for (const attribute of ["aria-labelledby", "aria-describedby", "aria-controls"]) {
  for (const element of document.querySelectorAll(`[${attribute}]`)) {
    for (const id of element.getAttribute(attribute).split(" ")) {
      if (!document.getElementById(id)) faults.push(`${attribute} names ${id}, which is not there: ${told(element)}`);
    }
  }
}
if (!document.documentElement.lang) faults.push("the page does not say its language");

// Contrast of text, by WCAG 2's formula: 4.5, or 3 where letters are large.
const channels = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const groundOf = (element) => {
  for (let node = element; node; node = node.parentElement) {
    const [r, g, b, alpha = 1] = channels(getComputedStyle(node).backgroundColor);
    if (r !== undefined && alpha > 0.99) return [r, g, b];
  }
  return [255, 255, 255];
};
let measured = 0;
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
  // What stands on a shape of a picture has that for its ground, and is not measured here.
  if (!own || !visible(element) || element.closest(".sign, [aria-hidden=true], option, title, noscript, script, style")) continue;
  const style = getComputedStyle(element);
  const inPicture = element instanceof SVGElement;
  const [one, other] = [luminance(channels(inPicture ? style.fill : style.color)), luminance(groundOf(element))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const size = parseFloat(style.fontSize);
  const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
  measured += 1;
  if (ratio < needed) faults.push(`contrast ${ratio.toFixed(2)} of ${needed}: ${told(element)}`);
}
if (measured < 6) faults.push(`only ${measured} texts could be measured`);

// Nothing sticks out on the right.
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth > width) {
  const out = [...document.querySelectorAll("body *")].filter((element) => element.getBoundingClientRect().right > width + 1 && !element.closest(".scroll, .log"));
  faults.push(`${document.documentElement.scrollWidth} px on a screen of ${width}: ${out.slice(0, 3).map(told).join(", ")}`);
}
return faults;
