// Runs before the first paint, so that a chosen theme does not flash up late.
// The choice is kept on this machine; without one the system's wish counts.
(() => {
  let wish = null;
  try {
    wish = localStorage.getItem("delayd.theme");
  } catch {
    // Storage is forbidden here: the system's wish counts.
  }
  if (wish === "dark" || wish === "light") document.documentElement.dataset.theme = wish;
})();
