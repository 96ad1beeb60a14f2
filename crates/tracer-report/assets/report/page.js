// Shared by all parts of the page: its data, functions that make elements, and buttons that copy commands.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

/** An HTML element with attributes and children; strings become text, never markup. */
function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** The same for SVG elements. */
function draw(name, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
}

/** Milliseconds in their largest fitting unit. */
function time(ms) {
  const units = [["µs", 1e-3], ["ms", 1], ["s", 1e3], ["min", 6e4], ["h", 3.6e6], ["days", 8.64e7]];
  let [unit, size] = units[0];
  for (const [name, value] of units) if (Math.abs(ms) >= value) [unit, size] = [name, value];
  return ms === 0 ? "0" : `${Number((ms / size).toPrecision(4))} ${unit}`;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // a page from a file may not have the clipboard
  }
}

for (const command of document.querySelectorAll(".command")) {
  const code = command.querySelector("code");
  const button = make("button", { type: "button", "aria-live": "polite" }, "Copy");
  button.addEventListener("click", async () => {
    const done = await copy(code.textContent);
    if (!done) getSelection().selectAllChildren(code);
    button.textContent = done || document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  command.append(button);
}

// Unfolds the stacks for printing, and folds them again afterwards.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll(".stack:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => folded.forEach((one) => (one.open = false)));
