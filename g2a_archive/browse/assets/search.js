// Finds recordings by ID and days by date, in data scripts that are loaded when first needed.
"use strict";
(() => {
  const base = document.body.dataset.base;
  const form = document.getElementById("search");
  const box = document.getElementById("q");
  const picker = document.getElementById("day");
  const panel = document.getElementById("found");
  const told = document.getElementById("told");
  const hits = document.getElementById("hits");
  const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov",
    "dec"];
  const MOST = 20;
  const loading = new Map();
  let asked = 0;

  // A page from a file may not fetch(), but it may run a script that lies beside it.
  function load(key) {
    if (!loading.has(key)) {
      loading.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `${base}search/${key}.js`;
        script.onload = () => resolve(self.g2a[key]);
        script.onerror = () => {
          loading.delete(key);
          reject(new Error(key));
        };
        document.head.append(script);
      }));
    }
    return loading.get(key);
  }

  const pad = (number) => String(number).padStart(2, "0");
  const words = (day) => new Date(`${day}T00:00:00Z`).toLocaleDateString("en-GB", {
    weekday: "short", day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
  const several = (count) => `${count.toLocaleString("en")} recording${count === 1 ? "" : "s"}`;

  // "2014-05-06", "2014-05", "2014", "6.5.2014", "6 May 2014", "May 6, 2014", "May 2014".
  function date(text) {
    let found = text.match(/^(\d{4})(?:[-/.](\d{1,2})(?:[-/.](\d{1,2}))?)?$/);
    if (found) return join(found[1], found[2], found[3]);
    found = text.match(/^(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})$/);
    if (found) return join(found[3], found[2], found[1]);
    found = text.match(/^(?:(\d{1,2})\.?\s+)?([a-z]{3})[a-z]*\.?\s+(?:(\d{1,2}),?\s+)?(\d{4})$/i);
    const month = found ? MONTHS.indexOf(found[2].toLowerCase()) + 1 : 0;
    return month ? join(found[4], month, found[1] || found[3]) : "";
  }
  function join(year, month, day) {
    if (Number(month) > 12 || Number(day) > 31) return "";
    return year + (month ? `-${pad(month)}` : "") + (day ? `-${pad(day)}` : "");
  }

  const pageOf = (day, split) =>
    `${base}${split.includes(day.slice(0, 7)) ? day : day.slice(0, 7)}.html`;

  async function byDate(key) {
    const { days, split } = await load("days");
    const all = Object.keys(days);
    const matching = all.filter((day) => day.startsWith(key));
    if (key.length === 10) {
      if (matching.length) return [dayHit(key, days, split)];
      const after = all.findIndex((day) => day > key);
      const at = after < 0 ? all.length : after;
      const near = all.slice(Math.max(0, at - 1), at + 1);
      return near.map((day) => ({ ...dayHit(day, days, split), near: true }));
    }
    if (!matching.length) return [];
    const count = matching.reduce((sum, day) => sum + days[day], 0);
    const whole = { href: `${base}${key}.html`, text: key.length === 4 ? `All of ${key}` : key,
      note: several(count), days: count };
    const some = key.length === 7 ? matching : [];
    return [whole, ...some.map((day) => dayHit(day, days, split))];
  }
  function dayHit(day, days, split) {
    return { href: `${pageOf(day, split)}#d${day}`, text: words(day), note: several(days[day]) };
  }

  async function byId(prefix) {
    const shards = await load("shards");
    const keys = Object.keys(shards).sort()
      .filter((key) => key.startsWith(prefix) || prefix.startsWith(key));
    const found = [];
    for (const key of keys) {
      const rows = await load(`ids-${key}`);
      found.push(...rows.filter(([id]) => id.startsWith(prefix)));
      if (found.length > MOST) break;
    }
    const { split } = await load("days");
    found.sort((a, b) => (b[0] === prefix) - (a[0] === prefix));
    return found.map(([id, place, state]) => idHit(id, place, state, split));
  }
  function idHit(id, place, state, split) {
    if (place.endsWith(".html")) {
      const mark = state ? "o" : "r";
      return { id, href: `${base}${place}#${mark}${id}`, text: id, note: state || "no date" };
    }
    // "2014-05-06 12:30", and the part of the day's pages where that has several.
    const [day, , part] = place.split(" ");
    const page = part ? `${base}${day}-${part}.html` : pageOf(day, split);
    return { id, href: `${page}#r${id}`, text: id, note: place.slice(0, 16) };
  }

  async function find(text) {
    const mine = ++asked;
    const query = text.trim().replace(/\s+/g, " ");
    if (!query) return show([], "");
    const day = date(query);
    try {
      const days = day ? await byDate(day) : [];
      const ids = /^\d+$/.test(query) ? await byId(query) : [];
      // A later keystroke may have been answered first.
      if (mine === asked) show([...days, ...ids], message(query, day, days, ids), query);
    } catch (error) {
      if (mine === asked) show([], `The search index is not there (${error.message}).`);
    }
  }
  function message(query, day, days, ids) {
    if (!day && !/^\d+$/.test(query)) {
      return "Type a recording ID, or a date such as 2014-05-06 or 6 May 2014.";
    }
    if (days[0]?.near) return "Nothing on that day. The nearest days:";
    if (!days.length && !ids.length) return "Nothing found.";
    if (ids.length > MOST) return `The first ${MOST}; type more digits for fewer.`;
    if (!days.length) return `${several(ids.length)} found.`;
    return ids.length ? `A date, and ${several(ids.length)} by ID.` : "Found:";
  }

  function show(found, text, query = "") {
    told.textContent = text;
    hits.replaceChildren(...found.slice(0, MOST + 12).map((hit) => {
      const link = document.createElement("a");
      link.href = hit.href;
      const name = document.createElement("b");
      if (hit.id) {
        const mark = document.createElement("mark");
        mark.textContent = query;
        name.append(mark, hit.id.slice(query.length));
        name.className = "id";
      } else {
        name.textContent = hit.text;
      }
      const note = document.createElement("span");
      note.textContent = hit.note;
      link.append(name, note);
      const item = document.createElement("li");
      item.append(link);
      return item;
    }));
    panel.hidden = !text;
  }

  function step(event) {
    const links = [...hits.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const next = event.key === "ArrowDown" ? at + 1 : at - 1;
    if (next < -1 || next >= links.length) return;
    event.preventDefault();
    (links[next] || box).focus();
  }

  box.addEventListener("input", () => find(box.value));
  picker.addEventListener("change", () => {
    if (!picker.value) return;
    box.value = picker.value;
    find(picker.value);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await find(box.value);
    hits.querySelector("a")?.click();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      panel.hidden = true;
      box.focus();
    }
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && event.target !== picker) step(event);
  });
  document.addEventListener("click", (event) => {
    if (!form.contains(event.target) || event.target.closest("#hits a")) panel.hidden = true;
  });
  document.addEventListener("keydown", (event) => {
    const busy = event.target.closest("input, select, textarea, dialog");
    if (event.key !== "/" || busy || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    box.focus();
  });
  form.hidden = false;
})();
