"use strict";
for (const script of document.querySelectorAll("script[data-chart]")) {
  const options = { renderer: "svg", actions: false, ast: false };
  vegaEmbed("#" + script.dataset.chart, JSON.parse(script.textContent), options);
}
