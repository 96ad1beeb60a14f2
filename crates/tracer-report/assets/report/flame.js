// The stacks of all findings: callers above; a function is as wide as its share of the stacks.
"use strict";

(function flame() {
  const view = document.getElementById("stacks-view");
  if (!view || !data.stacks) return;
  const hint = document.getElementById("stacks-hint");
  const REM = 1.5;
  const places = new Map(); // button -> { node, parent, depth }
  let top = data.stacks;

  function depth(node) {
    return 1 + Math.max(0, ...node.calls.map(depth));
  }

  function words(node) {
    const of = node.findings.length === 1 ? "finding" : "findings";
    return `${node.name}: ${node.stacks} of ${data.stacks.stacks} stacks, ${of} ${node.findings.join(", ")}`;
  }

  function render(focus) {
    places.clear();
    const buttons = [];
    const put = (node, parent, left, width, level) => {
      const button = make("button", { type: "button", tabindex: "-1", title: words(node) }, node.name);
      button.style.left = `${left * 100}%`;
      button.style.width = `${width * 100}%`;
      button.style.top = `${level * REM}rem`;
      places.set(button, { node, parent });
      buttons.push(button);
      let next = left;
      for (const call of node.calls) {
        const share = (call.stacks / node.stacks) * width;
        put(call, node, next, share, level + 1);
        next += share;
      }
    };
    put(top, null, 0, 1, 0);
    view.style.height = `${depth(top) * REM}rem`;
    view.replaceChildren(...buttons);
    buttons[0].tabIndex = 0;
    if (focus) buttons[0].focus();
  }

  const button = (node) => [...places].find(([, place]) => place.node === node)?.[0];
  function go(to) {
    if (!to) return;
    for (const other of places.keys()) other.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  }

  function zoom(node) {
    top = node === top ? data.stacks : node;
    render(true);
  }

  view.addEventListener("click", (event) => {
    const place = places.get(event.target);
    if (place) zoom(place.node);
  });
  const describe = (event) => {
    const place = places.get(event.target);
    hint.textContent = place ? words(place.node) : "";
  };
  view.addEventListener("pointerover", describe);
  view.addEventListener("focusin", describe);
  view.addEventListener("keydown", (event) => {
    const place = places.get(event.target);
    if (!place) return;
    const among = place.parent ? place.parent.calls : [place.node];
    const beside = (by) => button(among[among.indexOf(place.node) + by]);
    const acts = {
      ArrowUp: () => go(place.parent && button(place.parent)),
      ArrowDown: () => go(place.node.calls.length ? button(place.node.calls[0]) : null),
      ArrowLeft: () => go(beside(-1)),
      ArrowRight: () => go(beside(1)),
      Escape: () => zoom(top),
    };
    if (!acts[event.key]) return;
    acts[event.key]();
    event.preventDefault();
  });
  render(false);
})();

// For measurements: milliseconds from the request to the last drawing.
document.documentElement.dataset.drawnMs = Math.round(performance.now());
