"use strict";
// Keeps the parts marked data-live fresh; what the server sends is escaped there. Everything works without this.
(() => {
  const status = document.getElementById("live");
  const button = document.getElementById("pause");
  if (!status || !button) return;
  let paused = false, failures = 0, asking = false;

  const busy = (part) => {
    const selection = document.getSelection();
    return part.contains(document.activeElement) || (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
  };
  const say = (text, style) => { status.textContent = text; status.className = "chip " + style; };

  const look = async () => {
    if (paused || asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch("/live" + location.search, { cache: "no-store", redirect: "error" });
      if (answer.status === 401) { location.reload(); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(part.id);
        if (!next || busy(part) || next.innerHTML === part.innerHTML) continue;
        const known = new Set([...part.querySelectorAll("tr[data-id]")].map((row) => row.dataset.id));
        const open = new Set([...part.querySelectorAll("details[open][data-id]")].map((each) => each.dataset.id));
        part.replaceChildren(...next.childNodes);
        for (const each of part.querySelectorAll("details[data-id]")) if (open.has(each.dataset.id)) each.open = true;
        if (known.size) for (const row of part.querySelectorAll("tr[data-id]")) if (!known.has(row.dataset.id)) row.classList.add("fresh");
      }
      failures = 0;
      if (!paused) say("live", "good");
    } catch (error) {
      failures += 1;
      say("no answer for " + failures * 2 + " s", "bad");
    } finally {
      asking = false;
    }
  };

  const pause = () => {
    paused = !paused;
    button.textContent = paused ? "Go on (p)" : "Pause (p)";
    say(paused ? "paused" : "live", paused ? "warn" : "good");
  };
  button.hidden = false;
  button.addEventListener("click", pause);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "p") pause();
    if (event.key === "/") { event.preventDefault(); document.querySelector("#filters input")?.focus(); }
    const link = /^[1-9]$/.test(event.key) && document.querySelectorAll("nav a")[Number(event.key) - 1];
    if (link) link.click();
  });
  say("live", "good");
  setInterval(look, 2000);
})();
