// Draws the figures in the page's own colours, again when the reader switches between light and dark.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = () => window.innerWidth < 576;

  function themed(layout) {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--grid"), zerolinecolor: colour("--soft"), linecolor: colour("--line"), tickcolor: colour("--line") };
    const hoverlabel = { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink"), size: 13 }, align: "left" };
    const font = { color: colour("--ink"), size: narrow() ? 11 : 13, family: getComputedStyle(document.body).fontFamily };
    return {
      ...layout, font, hoverlabel, height: layout.height + (narrow() ? 60 : 0),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: { ...layout.xaxis, ...axis, nticks: narrow() ? 5 : undefined },
      yaxis: { ...layout.yaxis, ...axis },
    };
  }

  function draw() {
    for (const [id, figure] of Object.entries(figures)) {
      Plotly.react(id, figure.data, themed(figure.layout), { responsive: true, displayModeBar: false });
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
