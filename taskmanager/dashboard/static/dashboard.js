// Keeps a page current without flicker: fetches it again and changes what differs in place.
// Every page works without this file.

const PAUSE_MS = 5000;
const LONGEST_PAUSE_MS = 60000;

// Makes `old` like `fresh`. Keeps nodes that are alike, and with them focus and selection.
function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName || old.nodeType !== Node.ELEMENT_NODE) {
    if (!old.isEqualNode(fresh)) old.replaceWith(document.importNode(fresh, true));
    return;
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    // A person opens details, and this script shows what works with it alone.
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, at) => {
    if (at < before.length) morph(before[at], node);
    else old.append(document.importNode(node, true));
  });
  before.slice(after.length).forEach((node) => node.remove());
}

const somethingIsSelected = () => document.querySelector("form.selection input:checked") !== null;

async function refresh() {
  const answer = await fetch(location.href, { headers: { "X-Refresh": "1" }, cache: "no-store" });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(answer.status);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (somethingIsSelected()) return;
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(region.id);
    if (fresh) morph(region, fresh);
  }
  showWhatNeedsScript(document);
}

function keepCurrent() {
  let pause = PAUSE_MS;
  let timer;
  const plan = () => { timer = setTimeout(run, pause); };
  async function run() {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      if (!somethingIsSelected()) await refresh();
      pause = PAUSE_MS;
    } catch {
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
    plan();
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) run(); });
  plan();
}

function showWhatNeedsScript(root) {
  for (const element of root.querySelectorAll("[data-script][hidden]")) element.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it to copy";
  }
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    for (const box of document.querySelectorAll('form.selection input[name="id"]')) {
      box.checked = event.target.checked;
    }
  }
  if (event.target.matches("[data-go]")) event.target.form.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    document.getElementById("find")?.focus();
  }
});

showWhatNeedsScript(document);
if (document.querySelector("[data-live]")) keepCurrent();
