(() => {
  "use strict";

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = button.closest(".paste").querySelector("pre").textContent;
      let copied = true;
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const area = document.createElement("textarea");
        area.value = text;
        document.body.append(area);
        area.select();
        copied = document.execCommand("copy");
        area.remove();
      }
      button.textContent = copied ? "Copied" : "Select and copy";
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }

  const holders = [...document.querySelectorAll("[data-chart]")];
  if (!holders.length) return;

  const say = (text) => {
    for (const wait of document.querySelectorAll(".chart .wait")) wait.textContent = text;
  };

  async function loadPlotly() {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), (c) => c.charCodeAt(0));
    const inflated = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const source = new Blob([await new Response(inflated).arrayBuffer()], { type: "text/javascript" });
    const script = document.createElement("script");
    script.src = URL.createObjectURL(source);
    await new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Error("plotly.js did not load"));
      document.head.append(script);
    });
    URL.revokeObjectURL(script.src);
  }

  // A viewBox lets the style sheet scale a chart to the paper's width.
  function scalable(holder) {
    for (const svg of holder.querySelectorAll("svg.main-svg")) {
      svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`);
    }
  }

  async function drawAll() {
    if (typeof DecompressionStream === "undefined") {
      say("This browser can't inflate the charts (it has no DecompressionStream); the figures and tables are complete.");
      return;
    }
    say("Drawing\u2026");
    try {
      await loadPlotly();
      const figures = JSON.parse(document.getElementById("charts").textContent);
      for (const holder of holders) {
        await new Promise((resolve) => { setTimeout(resolve, 0); });
        const { data, layout } = figures[holder.dataset.chart];
        holder.textContent = "";
        await Plotly.newPlot(holder, data, layout, { responsive: true, displayModeBar: false });
        holder.on("plotly_afterplot", () => scalable(holder));
        scalable(holder);
        holder.classList.add("drawn");
      }
    } catch (error) {
      say(`The charts could not be drawn (${error.message}); the figures and tables are complete.`);
    }
  }

  // Once the first frame is on the screen; a page that nobody looks at has none.
  const begin = () => setTimeout(drawAll, 0);
  if (document.visibilityState === "hidden") begin();
  else requestAnimationFrame(begin);
})();
