"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const facts = (id) => { const e = document.getElementById(id); return e ? JSON.parse(e.textContent) : null; };

  // Light or dark: the system's choice until the button is pressed.
  const button = one("#theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const remember = (value) => { try { localStorage.setItem("sedet-theme", value); } catch { /* a file may have no storage */ } };
  const recall = () => { try { return localStorage.getItem("sedet-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`); };
  const saved = recall();
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; remember(root.dataset.theme); label(); });
  system.addEventListener("change", label);
  label();
  button.hidden = false;

  // The section that is read now.
  const links = new Map(all(".sections a").map((a) => [a.hash.slice(1), a]));
  const mark = (id) => links.forEach((a, key) => key === id ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current"));
  const sections = all("main section[id]").filter((s) => links.has(s.id));
  const follow = () => {
    const passed = sections.filter((s) => s.getBoundingClientRect().top < 120);
    mark((passed.at(-1) || sections[0] || {}).id);
  };
  document.addEventListener("scroll", follow, { passive: true });
  follow();

  // Values under the pointer.
  const tip = one("#tip");
  for (const figure of all(".chart[data-points]")) {
    const points = JSON.parse(figure.dataset.points);
    const svg = one("svg", figure);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const unit = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * unit, y = (event.clientY - box.top) * unit;
      let best = null, near = 24 * unit;
      for (const p of points) {
        const far = Math.hypot(p[0] - x, p[1] - y);
        if (far < near) { best = p; near = far; }
      }
      tip.hidden = !best;
      if (!best) return;
      tip.textContent = best[2];
      const left = box.left + best[0] / unit + 12;
      tip.style.left = `${Math.max(4, Math.min(left, root.clientWidth - tip.offsetWidth - 8)) + window.scrollX}px`;
      tip.style.top = `${box.top + best[1] / unit - 34 + window.scrollY}px`;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  // Precision and recall at a score.
  const sweep = facts("sweep");
  if (sweep && sweep.length) {
    const control = one("#sweep-control"), input = one("#sweep-score"), said = one("#sweep-said");
    const figure = one(".chart[data-cursor]");
    const ends = figure ? JSON.parse(figure.dataset.cursor) : null;
    const cursor = figure ? one('[id$="-cursor"]', figure) : null;
    const percent = (v) => v === null ? "–" : `${Math.round(100 * v)} %`;
    const show = () => {
      const row = sweep[Math.round(100 * input.value) - 1];
      const f1 = row[1] && row[2] ? (2 * row[1] * row[2] / (row[1] + row[2])).toFixed(2) : "–";
      said.textContent = `${row[0].toFixed(2)}: ${percent(row[1])} of the boxes are right, ${percent(row[2])} of the objects are found, F1 ${f1}, ${row[3] === null ? "–" : row[3].toFixed(1)} boxes an image`;
      if (cursor) {
        for (const path of all("path", cursor)) path.style.visibility = "visible";
        cursor.setAttribute("transform", `translate(${(ends[1] - ends[0]) * row[0]} 0)`);
      }
    };
    input.addEventListener("input", show);
    control.hidden = false;
    show();
  }

  // Galleries.
  const classes = facts("classes") || [];
  for (const form of all(".filters")) {
    const gallery = document.getElementById(form.dataset.for);
    const cards = all(".card", gallery);
    const more = document.getElementById(`${form.dataset.for}-more`);
    let most = Number(form.dataset.first);
    const count = one(".count", form), score = form.elements.score, kind = form.elements.kind, filled = form.elements.filled;
    const apply = () => {
      const least = Number(score.value), label = form.elements.class.value;
      one("output", score.parentElement).textContent = least.toFixed(2);
      let shown = 0, boxes = 0, fit = 0;
      for (const card of cards) {
        let keep = true;
        if (card.dataset.score !== undefined) {
          keep = (!kind.value || card.dataset.kind === kind.value) && (!label || card.dataset.class === label)
            && Number(card.dataset.score) >= least;
        } else {
          const found = new Map();
          for (const mark of all(".mark", card)) {
            const on = Number(mark.dataset.score) >= least && (!label || mark.dataset.class === label);
            mark.classList.toggle("off", !on);
            if (on) found.set(mark.dataset.class, (found.get(mark.dataset.class) || 0) + 1);
          }
          const parts = [...found].sort((a, b) => b[1] - a[1]).map(([c, n]) => `${n} ${classes[c]}`);
          const total = [...found.values()].reduce((a, b) => a + b, 0);
          const said = parts.join(", ") || "no boxes";
          one(".found-here", card).textContent = said;
          const image = one("img", card);
          image.dataset.name ||= image.alt;
          image.alt = `${image.dataset.name}: ${said}`;
          keep = !filled.checked || total > 0;
          if (keep) boxes += total;
        }
        fit += keep;
        keep = keep && shown < most;
        card.hidden = !keep;
        shown += keep;
      }
      more.hidden = shown === fit;
      more.textContent = `Show ${fit - shown} more`;
      count.textContent = kind ? `${fit} of ${cards.length} errors` : `${boxes} boxes on ${fit} images`;
      if (form.elements.boxes) gallery.classList.toggle("no-boxes", !form.elements.boxes.checked);
    };
    form.addEventListener("input", apply);
    more.addEventListener("click", () => {
      const first = cards.findIndex((card) => card.hidden);
      most = Infinity;
      apply();
      const next = cards.slice(first).find((card) => !card.hidden);
      if (next) { next.tabIndex = -1; next.focus(); }
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    apply();
  }
})();
