"use strict";
// The slider: counts of every step are there, so that a move is a look-up. All text comes in as
// textContent, never as markup.

(() => {
  const { load, element } = clipgap;
  const SHOWN = 24;
  const state = { about: null, counts: null, waiting: false };
  const $ = (id) => document.getElementById(id);
  const count = (n) => n.toLocaleString("en");

  const about = () => state.about.sets[Number($("threshold-set").value)];
  const byOffset = () => $("mode").value === "offset";
  const first = () => (byOffset() ? -(about().offsets.length - 1) / 2 : 0);
  const threshold = () => Number($("at").value) / state.about.steps;
  const height = (row) => (byOffset() ? row[1] : row[2]);
  const digits = () => String(state.about.steps).length - 1;

  const start = (data) => {
    state.about = data;
    $("threshold-set").replaceChildren(...data.sets.map((set, n) => {
      const option = element("option", "", set.name);
      option.value = n;
      return option;
    }));
    const wanted = clipgap.address();
    $("threshold-set").value = Math.max(0, data.sets.findIndex((set) => set.name === wanted.get("set")));
    $("mode").value = wanted.get("mode") === "similarity" ? "similarity" : "offset";
    choose(wanted.get("at"));
  };

  // What is at hand for a test set, and where the slider begins: at τ, or at a near duplicate.
  const choose = (at = null) => {
    const hasGap = about().offsets !== null;
    $("mode").querySelector("[value=offset]").disabled = !hasGap;
    if (!hasGap) $("mode").value = "similarity";
    state.counts = Uint32Array.from(byOffset() ? about().offsets : about().similarities);
    $("name").textContent = byOffset() ? "δ" : "similarity";
    $("at").min = first();
    $("at").max = first() + state.counts.length - 1;
    const wanted = Math.round(Number(at) * state.about.steps);
    $("at").value = at === null || Number.isNaN(wanted) ? (byOffset() ? 0 : 0.95 * state.about.steps) : wanted;
    draw();
    show();
  };

  const draw = () => {
    const most = Math.max(1, about().scored);
    const last = state.counts.length - 1;
    const points = Array.from(state.counts, (n, i) => `L${((600 * i) / last).toFixed(1)} ${(118 - (114 * n) / most).toFixed(1)}`);
    $("area").setAttribute("d", `M0 118${points.join("")}L600 118Z`);
  };

  const removedRows = () => about().rows.filter((row) => height(row) !== null && height(row) > threshold());

  const show = () => {
    state.waiting = false;
    const place = Number($("at").value) - first();
    const removed = state.counts[place];
    const x = ((600 * place) / (state.counts.length - 1)).toFixed(1);
    $("marker").setAttribute("d", `M${x} 0V120`);
    const text = threshold().toFixed(digits()).replace("-", "−");
    $("value").textContent = byOffset() ? `τ ${threshold() < 0 ? "−" : "+"} ${text.replace("−", "")}` : text;
    $("at").setAttribute("aria-valuetext", $("value").textContent);
    $("count").textContent = `${count(removed)} of ${count(state.about.rows)} rows`;
    $("share").textContent = `removed for ${about().name}: ${((100 * removed) / Math.max(1, state.about.rows)).toFixed(2)}\u00a0%`;
    $("command").textContent = command();
    const rows = removedRows();
    if ($("threshold-order").value === "edge") rows.reverse(); // they come with the highest first
    $("listed").textContent = rows.length === removed
      ? `${count(Math.min(SHOWN, rows.length))} of ${count(rows.length)} rows are shown, each beside the test point that it is too near to.`
      : `${count(Math.min(SHOWN, rows.length))} of ${count(rows.length)} rows that are listed as examples of all heights; the command finds all ${count(removed)}.`;
    $("rows").replaceChildren(...rows.slice(0, SHOWN).map(card));
    const link = new URLSearchParams({ set: about().name, mode: $("mode").value, at: threshold() });
    clipgap.remember("thresholds", link);
    document.body.dataset.shown = `${about().name} ${$("mode").value} ${$("at").value}`;
  };

  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

  const command = () => {
    const rule = byOffset()
      ? `--prune ${quoted(about().name)}${threshold() ? ` --offset=${threshold()}` : ""}`
      : `--below ${threshold()} --by ${quoted(about().name)}`;
    return `clipgap split ${quoted(state.about.scan)} ${rule} -o KEEP`;
  };

  const picture = (number, key) => clipgap.picture(number, key, state.about.pack);

  const card = ([key, margin, similarity, file, caption, point, pointFile]) => {
    const made = element("figure", "pair");
    made.append(picture(file, key), picture(pointFile, point));
    const line = element("figcaption");
    const by = margin === null ? "" : `, ${Math.abs(margin).toFixed(3)} ${margin > 0 ? "above" : "below"} τ`;
    line.append(element("b", "", `${similarity.toFixed(3)}${by}`), element("bdi", "", key), element("bdi", "", `near ${point}`));
    made.append(line);
    if (caption) made.title = caption;
    return made;
  };

  const download = () => {
    const rows = removedRows().map((row) => [row[0], row[1], row[2], row[5], "drop"]);
    clipgap.saveTable("removed.csv", "key,margin,similarity,witness,decision", rows);
  };

  const copy = async () => {
    try {
      await navigator.clipboard.writeText($("command").textContent);
      $("copy").textContent = "Copied";
      setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
    } catch { // no leave: select it, for whoever copies by hand
      getSelection().selectAllChildren($("command"));
    }
  };

  const later = () => {
    if (!state.waiting) requestAnimationFrame(show);
    state.waiting = true;
  };

  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("threshold-set").addEventListener("change", () => choose());
  $("mode").addEventListener("change", () => choose());
  $("threshold-order").addEventListener("change", later);
  $("at").addEventListener("input", later);
  $("copy").addEventListener("click", copy);
  $("take").addEventListener("click", download);
  clipgap.begin("thresholds", () => load("data/thresholds.js").then(start));
})();
