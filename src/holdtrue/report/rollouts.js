"use strict";
// Shows the transcripts that fit the filters, and says how many do.
(() => {
  const form = document.getElementById("filters");
  const rows = [...document.querySelectorAll(".rollout")];
  const shown = document.getElementById("shown");
  const update = () => {
    const chosen = Object.fromEntries(new FormData(form));
    const words = chosen.words.toLowerCase();
    let count = 0;
    for (const row of rows) {
      const data = row.dataset;
      const fits =
        (!chosen.verdict || data.verdict === chosen.verdict) &&
        (!chosen.detector || data.detectors.split(" ").includes(chosen.detector)) &&
        (!chosen.policy || data.policy === chosen.policy) &&
        (!chosen.step || data.step === chosen.step) &&
        (!words || row.textContent.toLowerCase().includes(words));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} transcripts`;
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
