/*
 * Refreshes the list of locks: fetches its part of the page every few seconds, and changes what is different in it.
 * What is the same stays the very same element, with its tick, its focus and what is selected in it.
 */
"use strict";
{
  const PATIENCE = 30_000; // ms that an answer may take
  const SHARE = 10; // the page is busy with refreshing for a tenth of the time at most

  const page = document.getElementById("changelist");
  const says = page.dataset;
  const news = document.getElementById("locksmith-news");
  const pauseButton = document.getElementById("locksmith-pause");
  const every = says.every * 1000;

  let timer;
  let paused = false;
  let over = false;
  let asking = false;
  let pause = every;

  // ---- when

  function plan() {
    clearTimeout(timer);
    if (!paused && !over && !document.hidden) timer = setTimeout(refresh, pause);
  }

  async function refresh() {
    clearTimeout(timer);
    if (asking) return;
    asking = true;
    const began = performance.now();
    try {
      const answer = await fetch(says.url, { redirect: "manual", signal: AbortSignal.timeout(PATIENCE) });
      if (answer.type === "opaqueredirect" || answer.status === 403) {
        over = true;
        complain(says.loggedOut);
      } else if (answer.ok) {
        show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      } else {
        complain(says.noAnswer);
      }
    } catch {
      complain(says.noAnswer);
    } finally {
      asking = false;
      pause = Math.max(every, SHARE * (performance.now() - began));
      plan();
    }
  }

  // ---- what is said

  function say(text, trouble = false) {
    page.classList.toggle("out-of-date", trouble);
    news.classList.toggle("errornote", trouble);
    if (news.textContent !== text) news.textContent = text; // said again only when it has changed
  }

  function complain(text) {
    say(text, true);
  }

  function allIsWell() {
    if (news.textContent !== says.gone) say(paused ? says.paused : "");
  }

  // ---- what is shown

  function show(fresh) {
    const trouble = fresh.querySelector(".errornote");
    if (trouble && !page.querySelector("[role=alert]")) {
      complain(trouble.textContent.trim()); // and what was seen last stays, for what it is worth
      return;
    }
    const list = document.getElementById("locksmith-list");
    const within = list.contains(document.activeElement);
    const ticked = ticks().length;
    const focused = document.activeElement;
    for (const part of [...fresh.body.children]) renew(document.getElementById(part.id), part);
    if (document.activeElement !== focused && focused.isConnected) focused.focus({ preventScroll: true }); // it moved
    if (within && document.activeElement === document.body) list.focus(); // what had the focus is gone
    if (ticks().length < ticked) say(says.gone);
    else allIsWell();
    count();
  }

  const keyOf = (node) => node.dataset?.key;

  // The node, from `place` on, that `fresh` is a newer state of. What has no key is not looked for behind what has one.
  function older(place, fresh) {
    const key = keyOf(fresh);
    let node = place;
    while (node && !(node.nodeName === fresh.nodeName && keyOf(node) === key)) {
      if (key === undefined && keyOf(node) !== undefined) return null;
      node = node.nextSibling;
    }
    return node;
  }

  function renew(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if ("own" in old.dataset) return; // this script's
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      // Which filters are folded is for the user to say.
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    // What has a key, as rows have, may have changed its place. What is left over behind the last one is gone.
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const match = older(place, child);
      if (!match) {
        old.insertBefore(child, place);
        continue;
      }
      if (keyOf(child) === undefined) while (place !== match) place = removed(place);
      if (match === place) place = match.nextSibling;
      else old.insertBefore(match, place);
      renew(match, child);
    }
    while (place) place = removed(place);
  }

  function removed(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  // ---- ticks

  function ticks(selector = ":checked") {
    return [...page.querySelectorAll(`.action-select${selector}`)];
  }

  function count() {
    const toggle = document.getElementById("action-toggle");
    if (!toggle) return;
    const all = ticks("").length;
    const selected = ticks().length;
    toggle.parentElement.hidden = false;
    toggle.checked = all > 0 && selected === all;
    toggle.indeterminate = selected > 0 && selected < all;
    page.querySelector(".action-counter").textContent = says.selected
      .replace("{selected}", selected)
      .replace("{all}", all);
  }

  page.addEventListener("change", (event) => {
    if (event.target.id === "action-toggle") {
      for (const box of ticks("")) box.checked = event.target.checked;
    }
    if (news.textContent === says.gone) say("");
    count();
  });

  // ---- begin

  pauseButton.hidden = false;
  pauseButton.addEventListener("click", () => {
    paused = !paused;
    pauseButton.textContent = paused ? says.resume : says.pause;
    if (paused) clearTimeout(timer);
    else refresh();
    allIsWell();
  });
  document.getElementById("locksmith-refresh").addEventListener("click", (event) => {
    if (over || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    refresh();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if (!paused && !over) refresh();
  });
  count();
  plan();
}
