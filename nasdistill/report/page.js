"use strict";
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const shown = {}; // which variant of a figure is on the page
  let view = "close", cost = "", ships = ""; // of the trade-off; ships: "" for fp32
  const finals = ["final", "recommended", "broken", "unshipped"];

  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const color = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  const repaint = (trace) => {
    const roles = trace.meta;
    if (!roles) return;
    const paint = Array.isArray(roles) ? roles.map(color) : color(roles);
    if (trace.marker) trace.marker.color = paint;
    if (trace.line) trace.line.color = paint;
    if (trace.error_x) trace.error_x.color = paint;
    if (trace.error_y) trace.error_y.color = paint;
    if (roles === "recommended") trace.marker.line = { width: 1.5, color: color("surface") };
  };

  const themed = (figure) => {
    const { data, layout } = structuredClone(figure);
    data.forEach(repaint);
    layout.font.color = color("text");
    layout.modebar = { ...layout.modebar, bgcolor: "rgba(0,0,0,0)", color: color("axis"),
      activecolor: color("accent") };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: color("surface"),
      bordercolor: color("axis"), font: { color: color("text") } };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) {
        Object.assign(layout[key], { gridcolor: color("grid"), linecolor: color("axis"),
          tickcolor: color("axis") });
      }
    }
    return { data, layout };
  };

  // A figure of shipped files holds the finals alone; all else is as in the one of fp32.
  const variant = (name) => {
    const figure = figures[name][shown[name]];
    if (name !== "trade-off" || !ships) return figure;
    const others = figures[name][cost].data.filter((trace) => !finals.includes(trace.meta));
    return { data: [...others, ...figure.data], layout: figure.layout };
  };

  const draw = (name) => {
    const box = document.getElementById(name);
    const { data, layout } = themed(variant(name));
    if (name === "trade-off" && view === "all") {
      const values = data.filter((t) => t.yaxis !== "y2" && t.meta !== "limit")
        .flatMap((t) => t.y).filter((y) => y !== null);
      layout.yaxis.range = [Math.max(0, Math.min(...values) - 3), layout.yaxis.range[1]];
    }
    return Plotly.react(box, data, layout, { responsive: true, displaylogo: false,
      plotlyServerURL: "",
      modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] });
  };
  const drawAll = () => Promise.all(Object.keys(figures).map(draw));

  const press = (button, kind) => {
    document.querySelectorAll(`button[data-${kind}]`).forEach((other) =>
      other.setAttribute("aria-pressed", String(other === button)));
  };
  const showTradeOff = () => {
    shown["trade-off"] = ships ? `${cost}/${ships}` : cost;
    document.querySelectorAll("[data-for]").forEach((note) => {
      note.hidden = note.dataset.for !== shown["trade-off"];
    });
    draw("trade-off");
  };
  document.querySelectorAll("button[data-cost]").forEach((button) =>
    button.addEventListener("click", () => {
      press(button, "cost");
      cost = button.dataset.cost;
      showTradeOff();
    }));
  document.querySelectorAll("button[data-ships]").forEach((button) =>
    button.addEventListener("click", () => {
      press(button, "ships");
      ships = button.dataset.ships;
      showTradeOff();
    }));
  document.querySelectorAll("button[data-view]").forEach((button) =>
    button.addEventListener("click", () => {
      press(button, "view");
      view = button.dataset.view;
      draw("trade-off");
    }));

  document.querySelectorAll("button[data-final]").forEach((button) =>
    button.addEventListener("click", () => {
      const chosen = button.dataset.final;
      press(button, "final");
      document.querySelectorAll("[data-of]").forEach((part) => {
        part.hidden = part.dataset.of !== chosen;
      });
      Object.keys(figures).filter((name) => chosen in figures[name]).forEach((name) => {
        shown[name] = chosen;
        draw(name);
      });
    }));

  // The theme follows the system; #light or #dark in the address, or the button, fixes it.
  const readHash = () => {
    const name = location.hash.slice(1);
    if (name === "light" || name === "dark") root.dataset.theme = name;
  };
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    location.hash = now === "dark" ? "light" : "dark";
  });
  addEventListener("hashchange", () => { readHash(); drawAll(); });
  dark.addEventListener("change", drawAll);

  readHash();
  Object.keys(figures).forEach((name) => { shown[name] = Object.keys(figures[name])[0]; });
  [cost, ships] = [...document.querySelectorAll('.bar [aria-pressed="true"]')].reduce(
    ([c, s], button) => [button.dataset.cost ?? c, button.dataset.ships ?? s], ["", ""]);
  if (ships) shown["trade-off"] = `${cost}/${ships}`;
  drawAll().then(() => { root.dataset.ready = "yes"; });
})();
