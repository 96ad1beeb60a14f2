// The timeline: lanes with lifetimes and waits, for the time range in view.
"use strict";

(function timeline() {
  const view = document.getElementById("timeline-view");
  if (!view) return;
  const { lanes, duration_ms: all } = data.timeline;
  const end = Math.max(all, 0.001);
  const [ROW, TOP] = [20, 22];
  const KINDS = [["lives", 12, 4], ["zombie", 12, 4], ["waits", 6, 7]]; // the last lies on top
  const CLASSES = { lives: "lives", zombie: "zombies", waits: "waits" };
  let [from, until] = [0, end];
  let [width, gutter] = [0, 0];
  const hint = document.getElementById("timeline-hint");
  const range = document.getElementById("timeline-range");

  const x = (ms) => gutter + ((ms - from) / (until - from)) * (width - gutter);
  const at = (px) => from + ((px - gutter) / (width - gutter)) * (until - from);

  /** One path for all spans in view; spans closer than a pixel are merged. */
  function path(spans, y, height) {
    let d = "";
    let [left, right] = [-1, -1];
    const flush = () => (left >= 0 ? (d += `M${left} ${y}H${right}V${y + height}H${left}Z`) : "");
    for (const span of spans) {
      if (span.until < from || span.from > until) continue;
      const a = Math.max(gutter, Math.round(x(span.from) * 2) / 2);
      const b = Math.min(width, Math.max(a + 1, Math.round(x(span.until) * 2) / 2));
      if (left >= 0 && a <= right + 0.5) right = Math.max(right, b);
      else {
        flush();
        [left, right] = [a, b];
      }
    }
    flush();
    return d;
  }

  /** Round times, one for about every 120 pixels. */
  function ticks() {
    const rough = ((until - from) / (width - gutter)) * 120;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const out = [];
    for (let n = Math.ceil(from / step); n * step <= until && out.length < 40; n++) out.push(n * step);
    return out;
  }

  function short(name, pixels) {
    const max = Math.floor(pixels / 7.3);
    return name.length > max ? `${name.slice(0, max - 1)}…` : name;
  }

  /** Draws some of the lanes. */
  function drawing(lanes) {
    const height = TOP + lanes.length * ROW + 4;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "Lifetimes and waits" });
    lanes.forEach((lane, n) => {
      const y = TOP + n * ROW;
      if (n % 2) svg.append(draw("rect", { class: "odd", x: 0, y, width, height: ROW }));
    });
    for (const tick of ticks()) {
      svg.append(draw("path", { class: "grid", d: `M${x(tick)} ${TOP}V${height}` }));
      svg.append(draw("text", { class: "tick", x: x(tick) + 3, y: 14 }, tick === 0 ? "0" : time(tick)));
    }
    lanes.forEach((lane, n) => {
      const y = TOP + n * ROW;
      svg.append(draw("text", { x: 6, y: y + 14 }, short(lane.name, gutter - 12)));
      for (const [kind, tall, down] of KINDS) {
        const d = path(lane[kind], y + down, tall);
        if (d) svg.append(draw("path", { class: CLASSES[kind], d }));
      }
    });
    return svg;
  }

  function render(paper) {
    width = paper || Math.max(320, view.clientWidth);
    gutter = Math.min(250, width * 0.3);
    // A drawing is never split between sheets: several small ones leave no sheet empty.
    const many = paper ? 12 : lanes.length;
    const drawings = [];
    for (let n = 0; n < lanes.length; n += many) drawings.push(drawing(lanes.slice(n, n + many)));
    view.replaceChildren(...drawings);
    range.textContent = `${time(from)} to ${time(until)} of ${time(end)}`;
  }

  let wanted = 0;
  function show(a, b) {
    const size = Math.min(end, Math.max(b - a, end / 1e6, 1e-3));
    from = Math.min(Math.max(0, a), end - size);
    until = from + size;
    cancelAnimationFrame(wanted);
    wanted = requestAnimationFrame(() => render());
  }
  const zoom = (factor, centre = (from + until) / 2) =>
    show(centre - (centre - from) * factor, centre + (until - centre) * factor);
  const move = (part) => show(from + (until - from) * part, until + (until - from) * part);
  const ACTS = { in: () => zoom(0.5), out: () => zoom(2), left: () => move(-0.2), right: () => move(0.2),
    all: () => show(0, end) };
  const KEYS = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all", Home: "all" };

  for (const button of document.querySelectorAll("[data-act]"))
    button.addEventListener("click", ACTS[button.dataset.act]);
  view.addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : KEYS[event.key];
    if (!act) return;
    ACTS[act]();
    event.preventDefault();
  });
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    zoom(event.deltaY < 0 ? 0.8 : 1.25, at(event.clientX - view.getBoundingClientRect().left));
    event.preventDefault();
  }, { passive: false });

  let drag = null;
  view.addEventListener("pointerdown", (event) => (drag = { x: event.clientX, from, until }));
  addEventListener("pointerup", () => (drag = null));
  view.addEventListener("pointermove", (event) => {
    if (drag) {
      const by = ((drag.x - event.clientX) / (width - gutter)) * (drag.until - drag.from);
      show(drag.from + by, drag.until + by);
      return;
    }
    const box = view.getBoundingClientRect();
    const lane = lanes[Math.floor((event.clientY - box.top + view.scrollTop - TOP) / ROW)];
    hint.textContent = lane ? describe(lane, at(event.clientX - box.left)) : "";
  });

  function describe(lane, ms) {
    const name = lane.findings.length ? `${lane.name} (finding ${lane.findings.join(", ")})` : lane.name;
    const near = (until - from) / (width - gutter) * 2;
    const found = (spans) => spans.find((s) => s.from - near <= ms && ms <= s.until + near);
    const text = (s, what) => `${s.n > 1 ? `${s.n} times ` : ""}${what} ${time(s.sum)}, ${time(s.from)} to ${time(s.until)}`;
    const wait = found(lane.waits);
    if (wait) return `${name}: ${text(wait, "waited")}`;
    const zombie = found(lane.zombie);
    if (zombie) return `${name}: ${text(zombie, "zombie for")}`;
    const life = found(lane.lives);
    return life ? `${name}: ${text(life, "existed for")}` : name;
  }

  let printing = false;
  new ResizeObserver(() => !printing && view.clientWidth !== width && render()).observe(view);
  addEventListener("beforeprint", () => {
    printing = true;
    render(720); // about the width of paper, so that its text has the size of the rest
  });
  addEventListener("afterprint", () => {
    printing = false;
    render();
  });
  render();
})();
