// Draws the figures in the page's own colours, light or dark, and again when the reader's setting changes.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const soft = style.getPropertyValue("--soft").trim();
  const line = style.getPropertyValue("--line").trim();
  figures.forEach((figure, i) => {
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: soft, automargin: true };
    const layout = {
      hovermode: "x unified", ...figure.layout,
      xaxis: { ...axis, ...figure.layout.xaxis },
      yaxis: { ...axis, ...figure.layout.yaxis },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", size: 13 },
      margin: { l: 64, r: 16, t: 28, b: 44 },
      shapes: (figure.layout.shapes || []).map((mark) => ({ ...mark, line: { ...mark.line, color: soft } })),
      annotations: (figure.layout.annotations || []).map((said) => ({ ...said, font: { ...said.font, color: soft } })),
      hoverlabel: { bgcolor: style.getPropertyValue("--card").trim() },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
      legend: { orientation: "h", y: -0.28, x: 0 },
    };
    Plotly.react("chart" + i, figure.data, layout, {
      displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetScale2d"]],
    });
  });
}
draw();
dark.addEventListener("change", draw);
