// Starts a scene on the server, asks five times a second how it stands, and draws that.
"use strict";

const WAYS = {
  "unlocked": "no lock",
  "cache-lock": "cache.lock",
  "get-or-set": "get_or_set",
  "over-limit-cache-lock": "cache.lock, over the limit",
  "over-limit": "get_or_set, over the limit",
  "many-unlocked": "300 forecasts: no lock",
  "many-get-or-set": "300 forecasts: get_or_set alone",
  "many-rate-limit": "300 forecasts: with a rate limit",
};
const OUTCOMES = {
  "": "still waiting",
  fetched: "called the API and got the forecast",
  waited: "waited for the one who called",
  cache: "found it in the cache",
  stale: "got the old forecast at once",
  refused: "got an error: 429",
  failed: "got an error",
};
const EVERY = 200; // milliseconds

const form = document.getElementById("scenes");
const story = document.getElementById("story");
const timeline = document.getElementById("timeline");
let shown = null; // the picture on the screen, to draw it anew when the window changes
const longest = { one: 0.5, many: 0.5 }; // seconds that the longest run took so far: all of a kind are drawn to one scale
const answers = new Map(); // of each way that was tried: when its visitors got their answers, and of which kind

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (form.getAttribute("aria-busy") !== "true") play(event.submitter);
});
new ResizeObserver(() => shown && drawTimeline(shown)).observe(timeline.parentElement);

async function play(button) {
  setBusy(button, true);
  try {
    expect();
    bringIntoView(document.getElementById("happens"));
    tell(`${WAYS[button.value]}: the crowd gets ready …`);
    let picture = await ask({ method: "POST", body: new FormData(form, button) });
    while (picture.running) {
      draw(picture);
      await new Promise((resolve) => setTimeout(resolve, EVERY));
      picture = await ask();
    }
    if (picture.trouble) throw new Error(picture.trouble);
    draw(picture);
    tell(summary(picture));
    addResult(picture);
    visit(picture.path);
  } catch (error) {
    tell(`That did not work. ${error.message}`);
  } finally {
    setBusy(button, false);
  }
}

async function ask(options = {}) {
  const reply = await fetch(form.action, options);
  const picture = await reply.json();
  if (!reply.ok) throw new Error(picture.trouble);
  return picture;
}

// Buttons stay focusable while they do nothing: who came by keyboard keeps the place.
function setBusy(pressed, busy) {
  form.setAttribute("aria-busy", busy);
  for (const button of form.querySelectorAll("button")) {
    button.setAttribute("aria-disabled", busy);
    button.setAttribute("aria-pressed", button === pressed);
  }
}

// The picture has its place before there is anything to draw, so that it can be brought into view.
function expect() {
  const figure = document.querySelector("figure");
  if (!figure.hidden) return;
  figure.hidden = false;
  timeline.setAttribute("height", FIRST_ROW + 100 * rowHeight());
}

// What happens is below the buttons: not in view on a phone, and often not all of it elsewhere.
function bringIntoView(section) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const hidden = timeline.getBoundingClientRect().top > innerHeight * 0.6;
  if (hidden) section.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
}

function tell(text) {
  if (story.textContent !== text) story.textContent = text;
}

function draw(picture) {
  shown = picture;
  document.querySelector("figure").hidden = false;
  if (picture.running) tell(`${WAYS[picture.scene]}, ${picture.face} view: ${picture.phase} …`);
  drawCounters(picture.counters);
  drawLegend(picture.visitors);
  drawTimeline(picture);
}

function drawCounters(counters) {
  for (const place of document.querySelectorAll("[data-counter]")) {
    const name = place.dataset.counter;
    const value = counters[name];
    place.textContent = name === "longest_wait" ? (value ? seconds(value) : "–") : value || (name === "commands" ? "–" : 0);
    place.classList.toggle("bad", value > 0 && (name === "refused" || name === "failed"));
  }
}

function drawLegend(visitors) {
  const items = Object.entries(OUTCOMES).map(([outcome, words]) => {
    const many = visitors.filter((visitor) => visitor.source === outcome && visitor.began !== null).length;
    if (!many) return "";
    const cross = isError(outcome) ? `<path class="mark" d="${crossAt(25, 6, 3)}"/>` : "";
    const line = `<line class="bar ${outcome}" x1="0" y1="6" x2="24" y2="6"/>${cross}`;
    return `<li data-outcome="${outcome}"><svg width="30" height="12" aria-hidden="true">${line}</svg>${many} ${words}</li>`;
  });
  document.getElementById("legend").innerHTML = items.join("");
}

// The picture: what the API saw at the top, then a line for each visitor, then the seconds.

const API_TOP = 18;
const API_HEIGHT = 30;
const FIRST_ROW = API_TOP + API_HEIGHT + 26;
const LEFT = 6;
const ROOM_FOR_LABELS = 190;

// On a phone, too, the whole crowd is in view.
function rowHeight() {
  return innerWidth < 640 ? 3 : 5;
}

function drawTimeline(picture) {
  const width = timeline.parentElement.clientWidth;
  const rows = inOrderOfAnswers(picture.visitors);
  // As high and as wide as it will become, as far as one knows: what grows all the time is hard to look at.
  const bottom = FIRST_ROW + picture.visitors.length * rowHeight() + 4;
  const kind = kindOf(picture);
  longest[kind] = Math.max(longest[kind], picture.over, ...rows.map((visitor) => visitor.ended ?? picture.now));
  const end = longest[kind] * 1.02;
  const x = (moment) => LEFT + (Math.max(0, moment) / end) * (width - LEFT - 4);
  const parts = [
    ...retryWindows(picture.calls, end).map((each) => windowPart(each, x, bottom)),
    axisPart(end, x, bottom),
    label(LEFT, API_TOP - 6, "weather API"),
    label(LEFT, FIRST_ROW - 8, "visitors"),
    ...(kind === "many"
      ? allowanceParts(picture, x, end)
      : picture.calls.map((call, index) => callPart(call, index, picture, x))),
    ...rows.map((visitor, row) => visitorPart(visitor, row, x, picture)),
    ...handouts(picture.calls, rows).map((each) => handoutPart(each, x)),
  ];
  timeline.setAttribute("viewBox", `0 0 ${width} ${bottom + 20}`);
  timeline.setAttribute("height", bottom + 20);
  timeline.innerHTML = parts.join("");
}

// Does each visitor want another forecast?
function kindOf(picture) {
  return picture.cities > 1 ? "many" : "one";
}

// What the API allows in a second, as a line; what it answered in each, and on top what it refused, as bars.
function allowanceParts(picture, x, end) {
  const bottom = API_TOP + API_HEIGHT;
  const unit = API_HEIGHT / 2 / picture.rate;
  const parts = [];
  for (let second = 0; second < end; second += 1) {
    const calls = picture.calls.filter((call) => Math.floor(call.at) === second);
    const refused = calls.filter((call) => call.retry_after).length;
    const used = (calls.length - refused) * unit;
    const over = Math.min(refused * unit, API_HEIGHT - used);
    const wide = Math.max(1, x(Math.min(second + 1, end)) - x(second) - 1);
    const title = `<title>second ${second + 1}: ${calls.length - refused} answered, ${refused} refused</title>`;
    parts.push(`<rect class="used" x="${x(second)}" y="${bottom - used}" width="${wide}" height="${used}">${title}</rect>`);
    parts.push(`<rect class="over" x="${x(second)}" y="${bottom - used - over}" width="${wide}" height="${over}">${title}</rect>`);
  }
  const y = bottom - API_HEIGHT / 2;
  parts.push(`<line class="allowed" x1="${x(0)}" y1="${y}" x2="${x(end)}" y2="${y}"/>`);
  return parts;
}

// Who has the answer stays where it is; who has not stands below.
function inOrderOfAnswers(visitors) {
  return visitors
    .filter((visitor) => visitor.began !== null)
    .sort((one, other) => (one.ended ?? Infinity) - (other.ended ?? Infinity) || one.began - other.began);
}

// From each 429 to the end of its Retry-After; what overlaps is one window.
function retryWindows(calls, end) {
  const windows = [];
  for (const call of calls.filter((each) => each.retry_after)) {
    const last = windows.at(-1);
    if (last && call.at <= last.to) last.to = Math.max(last.to, call.at + call.retry_after);
    else windows.push({ from: call.at, to: call.at + call.retry_after, retryAfter: call.retry_after });
  }
  return windows.map((each) => ({ ...each, shownTo: Math.min(each.to, end) }));
}

function windowPart(each, x, bottom) {
  const from = x(each.from);
  const wide = x(each.shownTo) - from;
  // Not over what else stands there.
  const said = `Retry-After: ${each.retryAfter} s${each.to > each.shownTo ? " →" : ""}`;
  const words = from + wide < LEFT + ROOM_FOR_LABELS ? "" : said;
  return (
    `<rect class="window" x="${from}" y="${API_TOP}" width="${wide}" height="${bottom - API_TOP}"/>` +
    `<text class="window-label" text-anchor="end" x="${from + wide - 2}" y="${API_TOP - 6}">${words}</text>`
  );
}

function axisPart(end, x, bottom) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((each) => end / each <= 8) ?? 60;
  let part = "";
  for (let tick = 0; tick * step <= end; tick += 1) {
    const at = x(tick * step);
    const anchor = tick === 0 ? "start" : at > x(end) - 16 ? "end" : "middle";
    part += `<line class="axis" x1="${at}" y1="${API_TOP}" x2="${at}" y2="${bottom}"/>`;
    part += `<text text-anchor="${anchor}" x="${at}" y="${bottom + 15}">${+(tick * step).toFixed(1)} s</text>`;
  }
  return part;
}

function callPart(call, index, picture, x) {
  const many = picture.calls.length;
  const at = x(call.at);
  const crowded = many > 5;
  // Many calls come at once: they stand at five heights, so that one sees how many, and not how long.
  const y = API_TOP + (crowded ? 3 + (index % 5) * 6 : API_HEIGHT / 2);
  const who = /^\d+$/.test(call.caller) ? `visitor ${call.caller}` : "somebody else";
  const answer = call.retry_after ? `429, Retry-After: ${call.retry_after}` : "200";
  const title = `<title>${seconds(call.at)}: ${who} calls, answer ${answer}</title>`;
  if (call.retry_after) return `<path class="mark" d="${crossAt(at, y, 3)}">${title}</path>`;
  const until = crowded ? at : x(call.answered ?? picture.now);
  return (
    `<line class="call" x1="${at}" y1="${y}" x2="${until}" y2="${y}"/>` +
    `<circle class="mark answered" cx="${at}" cy="${y}" r="${crowded ? 3.5 : 5}">${title}</circle>`
  );
}

function visitorPart(visitor, row, x, picture) {
  const y = rowAt(row);
  const from = x(visitor.began);
  // Nobody is so fast as to be invisible.
  const to = Math.max(x(visitor.ended ?? picture.now), from + 8);
  const line = `<line class="bar ${visitor.source}" x1="${from}" y1="${y}" x2="${to}" y2="${y}"/>`;
  const cross = isError(visitor.source) ? `<path class="mark" d="${crossAt(to, y, 2)}"/>` : "";
  return `<g><title>${biography(visitor)}</title>${line}${cross}</g>`;
}

// From the moment at which the API has answered somebody, down to the last one who waited for that.
function handouts(calls, rows) {
  return calls.flatMap((call) => {
    const last = rows.findLastIndex((each) => each.source === "waited" && each.of === call.caller);
    return last < 0 || call.answered === null ? [] : [{ at: call.answered, to: last }];
  });
}

function handoutPart(each, x) {
  const at = x(each.at);
  return `<line class="handout" x1="${at}" y1="${API_TOP}" x2="${at}" y2="${rowAt(each.to) + 2}"/>`;
}

function rowAt(row) {
  return FIRST_ROW + (row + 0.5) * rowHeight();
}

function crossAt(x, y, size) {
  return `M${x - size} ${y - size}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}`;
}

function label(x, y, words) {
  return `<text x="${x}" y="${y}">${words}</text>`;
}

// In words

function isError(outcome) {
  return outcome === "refused" || outcome === "failed";
}

function seconds(number) {
  return `${number.toFixed(2)} s`;
}

function biography(visitor) {
  const who = `Visitor ${visitor.number}, server ${visitor.server}`;
  if (visitor.ended === null) return `${who}: waits`;
  const whom = visitor.source === "waited" ? ` (visitor ${visitor.of})` : "";
  return `${who}: ${OUTCOMES[visitor.source]}${whom}, after ${seconds(visitor.ended - visitor.began)}`;
}

function count(number, thing) {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}

function summary(picture) {
  const { calls, refused, served, failed, longest_wait: wait } = picture.counters;
  const sentences = [
    `${count(calls, "call")} of the API, ${refused ? `${refused} refused with a 429` : "none refused"}.`,
    `${count(served, kindOf(picture) === "many" ? "forecast" : "visitor")} served within ${seconds(wait)}${failed ? `; ${failed} got an error` : ""}.`,
    ...whoWaited(picture.visitors),
    ...aboutRetries(picture),
  ];
  return sentences.join(" ");
}

function whoWaited(visitors) {
  const waited = visitors.filter((visitor) => visitor.source === "waited");
  const callers = new Set(waited.map((visitor) => visitor.of));
  if (callers.size === 0) return [];
  const whom = callers.size === 1 ? `visitor ${waited[0].of}, who called for all` : `${callers.size} who called`;
  return [`${count(waited.length, "visitor")} waited for ${whom}.`];
}

function aboutRetries(picture) {
  if (!picture.scene.startsWith("over-limit")) return [];
  if (picture.counters.refused > 1) return ["Nobody told the others of the 429, and the old forecast was gone."];
  const stale = picture.visitors.filter((visitor) => visitor.source === "stale").length;
  return picture.calls.flatMap((call, index) => {
    const next = picture.calls[index + 1];
    if (!call.retry_after || !next) return [];
    const pause = `The API said Retry-After: ${call.retry_after} s, and the next call came after ${seconds(next.at - call.at)}.`;
    return [`${pause} Meanwhile ${count(stale, "visitor")} got the old forecast.`];
  });
}

function addResult(picture) {
  const { calls, refused, served, failed, commands, longest_wait: wait } = picture.counters;
  const id = `result-${picture.scene}-${picture.face}`;
  const row = document.getElementById(id) ?? document.createElement("tr");
  const figures = [calls, refused, served, failed, commands, wait ? seconds(wait) : "–"];
  const bad = [false, refused, false, failed, false, false];
  const cells = figures.map((figure, index) => `<td${bad[index] ? ' class="bad"' : ""}>${figure}</td>`);
  row.id = id;
  row.innerHTML = `<th scope="row">${WAYS[picture.scene]} <span class="quiet">${picture.face}</span></th>${cells.join("")}<td class="answers"></td>`;
  answers.set(id, { kind: kindOf(picture), visitors: picture.visitors });
  document.querySelector("#results tbody").append(row);
  document.getElementById("results").hidden = false;
  drawAnswers();
}

// A stroke for each answer, all rows to one scale.
function drawAnswers() {
  const both = longest.many > 0.5 ? `; of 300, to ${longest.many.toFixed(1)} s` : "";
  document.getElementById("axis-of-answers").textContent = `0 to ${longest.one.toFixed(1)} s${both}`;
  for (const [id, { kind, visitors }] of answers) {
    const strokes = visitors.map((each) => {
      const at = ((100 * each.ended) / longest[kind]).toFixed(2);
      return `<line class="answer ${each.source}" x1="${at}%" x2="${at}%" y1="${isError(each.source) ? 10 : 0}" y2="20"/>`;
    });
    const title = `${visitors.length} answers within ${seconds(Math.max(...visitors.map((each) => each.ended)))}`;
    document.querySelector(`#${id} .answers`).innerHTML = `<svg role="img" aria-label="${title}">${strokes.join("")}</svg>`;
  }
}

function visit(path) {
  const section = document.getElementById("visitor");
  const link = section.querySelector("a");
  link.href = path;
  link.textContent = path;
  section.querySelector("iframe").src = path;
  section.hidden = false;
}
