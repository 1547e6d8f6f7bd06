"use strict";
// The sample of an audit, a row at a time. All text comes in as textContent, never as markup.

(() => {
  const { load, element } = clipgap;
  const KEYS = { n: "natural", a: "ambiguous", r: "rendition", x: "unseen" };
  const $ = (id) => document.getElementById(id);
  const count = (n) => n.toLocaleString("en");
  let rows = [];
  let pack = 1;
  let place = 0;

  // Decisions by shard and row, kept by the browser until they are forgotten.
  const remembered = `clipgap-audit ${location.pathname}`;
  const decisions = new Map((() => {
    try { return JSON.parse(localStorage.getItem(remembered)) ?? []; } catch { return []; }
  })());
  const nameOf = ({ shard, row }) => `${shard},${row}`;

  const show = () => {
    const { shard, row, key, picture, caption, url } = rows[place];
    const words = element("figcaption");
    words.append(element("bdi", "caption", caption));
    if (url && clipgap.isWeb(url)) {
      const link = element("a", "", " source");
      link.href = url;
      link.rel = "noopener noreferrer";
      words.append(link);
    }
    $("shown").replaceChildren(clipgap.picture(picture, key ?? `shard ${shard}, row ${row}`, pack), words);
    $("place").textContent = `${count(place + 1)} / ${count(rows.length)}`;
    $("previous").disabled = place === 0;
    $("next").disabled = place === rows.length - 1;
    told();
  };

  const told = () => {
    const mine = rows.filter((row) => decisions.has(nameOf(row))).length;
    $("status").textContent = `${count(mine)} of ${count(rows.length)} labelled`;
    for (const button of $("answers").children) {
      const chosen = decisions.get(nameOf(rows[place])) === button.textContent;
      button.setAttribute("aria-pressed", String(chosen));
    }
    try { localStorage.setItem(remembered, JSON.stringify([...decisions])); } catch { /* private */ }
  };

  const turn = (to) => {
    place = Math.min(Math.max(to, 0), rows.length - 1);
    show();
  };

  const decide = (label) => {
    decisions.set(nameOf(rows[place]), label);
    turn(place + 1);
  };

  // The last decision, which may be on the row before.
  const undo = () => {
    if (!decisions.has(nameOf(rows[place]))) turn(place - 1);
    decisions.delete(nameOf(rows[place]));
    told();
  };

  const download = () => {
    const decided = rows.filter((row) => decisions.has(nameOf(row)));
    const lines = decided.map((row) => [row.shard, row.row, row.key, decisions.get(nameOf(row))]);
    clipgap.saveTable("labels.csv", "shard,row,key,label", lines);
  };

  const start = (data) => {
    ({ rows, pack } = data);
    $("answers").replaceChildren(...data.labels.map((label) => {
      const button = element("button", "", label);
      button.type = "button";
      button.addEventListener("click", () => decide(label));
      return button;
    }));
    const open = rows.findIndex((row) => !decisions.has(nameOf(row)));
    turn(open < 0 ? 0 : open);
    document.body.dataset.ready = "yes";
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !rows.length) return;
    const act = {
      ArrowLeft: () => turn(place - 1),
      ArrowRight: () => turn(place + 1),
      u: undo,
    }[event.key] ?? (KEYS[event.key] && (() => decide(KEYS[event.key])));
    if (!act) return;
    event.preventDefault();
    act();
  });
  $("previous").addEventListener("click", () => turn(place - 1));
  $("next").addEventListener("click", () => turn(place + 1));
  $("download").addEventListener("click", download);
  $("forget").addEventListener("click", () => { decisions.clear(); told(); });
  clipgap.begin("audit", () => load("data/audit.js").then(start));
})();
