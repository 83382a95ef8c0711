"use strict";
// Unpacks plotly, which the page carries compressed, and draws each figure in its place. Colours named after
// CSS variables are looked up when drawing, so that charts follow the page from light to dark and to paper.
(async () => {
  const places = [...document.querySelectorAll("[data-figure]")];
  if (!places.length) return;
  const read = (id) => document.getElementById(id).textContent;

  const unpack = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };

  const coloured = (value, key, style) => {
    if (Array.isArray(value)) return value.map((item) => coloured(item, key, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, k, style)]));
    }
    const named = key.endsWith("color") && typeof value === "string" && value.startsWith("--");
    return named ? style.getPropertyValue(value).trim() : value;
  };

  const draw = (figures) => {
    const style = getComputedStyle(document.documentElement);
    for (const place of places) {
      const { data, layout } = coloured(figures[place.dataset.figure], "", style);
      layout.font.family = style.fontFamily;
      if (place.clientWidth < 560 && layout.yaxis.ticktext) {
        // No room for names beside the plot: they go above their rows.
        layout.yaxis.ticklabelposition = "inside top";
        layout.margin.l = 16;
        layout.height *= 1.5;
      }
      Plotly.react(place, data, layout, { displayModeBar: false, responsive: true, showTips: false });
    }
  };

  try {
    const figures = JSON.parse(read("figures"));
    const script = document.createElement("script");
    script.textContent = await unpack(read("plotly"));
    document.head.append(script);
    places.forEach((place) => place.replaceChildren());
    draw(figures);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(figures));
    const paper = (on) => () => {
      document.documentElement.classList.toggle("paper", on);
      draw(figures);
    };
    addEventListener("beforeprint", paper(true));
    addEventListener("afterprint", paper(false));
  } catch (error) {
    places.forEach((place) => place.replaceChildren("This browser cannot draw the charts; the tables hold the numbers."));
    console.error(error);
  }
})();
