// Plays a recording in a dialog and copies checksums. Without it, the links open the files.
"use strict";
(() => {
  const SPEEDS = [0.5, 1, 1.5, 2, 4, 8];
  let player = null;
  let speed = 1;

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  function build() {
    const title = make("h2", { id: "playing" });
    const close = make("button", { type: "button", textContent: "Close" });
    const video = make("video", { controls: true, preload: "none", playsInline: true });
    const alarm = make("p", { className: "alarm", hidden: true });
    alarm.setAttribute("role", "alert");
    const before = make("button", { type: "button", textContent: "← Previous" });
    const after = make("button", { type: "button", textContent: "Next →" });
    const pace = make("select", {});
    pace.append(...SPEEDS.map((s) => make("option", { value: s, textContent: `${s}×` })));
    const file = make("a", { textContent: "Open the file" });
    const dialog = make("dialog", { className: "player" },
      make("header", {}, title, close), video, alarm,
      make("footer", {}, before, after, make("label", {}, "Speed ", pace), file));
    dialog.setAttribute("aria-labelledby", "playing");
    player = { dialog, title, video, alarm, before, after, pace, file, link: null };
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", stop);
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    before.addEventListener("click", () => play(neighbour(-1)));
    after.addEventListener("click", () => play(neighbour(1)));
    pace.addEventListener("change", () => { video.playbackRate = speed = Number(pace.value); });
    video.addEventListener("error", failed);
    document.body.append(dialog);
  }

  function neighbour(step) {
    const links = [...document.querySelectorAll("a.play")];
    return links[links.indexOf(player.link) + step];
  }

  function play(link) {
    if (!player) build();
    const { dialog, title, video, alarm, file, pace } = player;
    player.link = link;
    title.replaceChildren(link.dataset.name || "Recording", make("span", {
      className: "id", textContent: link.dataset.id }));
    file.href = link.href;
    alarm.hidden = true;
    const image = link.querySelector("img");
    if (image) video.poster = image.src; else video.removeAttribute("poster");
    video.setAttribute("aria-label", link.getAttribute("aria-label"));
    video.src = link.href;
    video.defaultPlaybackRate = video.playbackRate = speed;
    pace.value = String(speed);
    player.before.disabled = !neighbour(-1);
    player.after.disabled = !neighbour(1);
    if (!dialog.open) dialog.showModal();
    // Rejected where the next one is chosen first, or the file does not play: failed() tells.
    video.play().catch(() => {});
  }

  function failed() {
    if (!player.video.getAttribute("src")) return;
    player.alarm.textContent = "This browser cannot play the file, or the file is not there. " +
      "Try it in another player: " + decodeURI(player.link.getAttribute("href"));
    player.alarm.hidden = false;
  }

  function stop() {
    player.video.pause();
    player.video.removeAttribute("src");
    player.video.load();
    player.link.focus();
  }

  function offerCopies(details) {
    for (const code of details.querySelectorAll("code")) {
      const button = make("button", { type: "button", textContent: "Copy" });
      button.setAttribute("aria-label", "Copy the SHA-256");
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(code.textContent);
          button.textContent = "Copied";
        } catch {
          // Not allowed here: selected at least, it is one key away.
          getSelection().selectAllChildren(code);
        }
      });
      code.after(button);
    }
    details.dataset.copies = "offered";
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.play");
    const modified = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
    if (!link || modified || event.button) return;
    event.preventDefault();
    play(link);
  });
  document.addEventListener("toggle", (event) => {
    const details = event.target;
    if (!details.matches?.("details.sums") || !details.open || details.dataset.copies) return;
    if (navigator.clipboard) offerCopies(details);
  }, true);
})();
