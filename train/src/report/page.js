// What the pointer is at, above each plot, and when the page was written. The page says all else without it.
for (const figure of document.querySelectorAll("figure[data-readings]")) {
  const readings = JSON.parse(figure.dataset.readings);
  const output = figure.querySelector("output");
  for (const svg of figure.querySelectorAll("svg.plot")) {
    // The title of an svg pops up over it in most browsers; as a label it is read aloud just the same.
    const title = svg.querySelector("title");
    svg.setAttribute("aria-label", title.textContent);
    svg.setAttribute("aria-describedby", svg.querySelector("desc").id);
    svg.removeAttribute("aria-labelledby");
    title.remove();
    const area = svg.querySelector(".area");
    const rule = area.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "line"));
    const width = area.firstElementChild.width.baseVal.value;
    rule.setAttribute("class", "rule");
    rule.setAttribute("y2", area.firstElementChild.height.baseVal.value);
    const leave = () => { output.textContent = ""; rule.style.display = "none"; };
    const move = (event) => {
      const box = area.firstElementChild.getBoundingClientRect();
      const at = (event.clientX - box.left) / box.width;
      if (readings.length === 0) return;
      const near = readings.reduce((best, one) => Math.abs(one[0] - at) < Math.abs(best[0] - at) ? one : best);
      output.textContent = near[1];
      rule.style.display = "";
      rule.setAttribute("x1", near[0] * width);
      rule.setAttribute("x2", near[0] * width);
    };
    leave();
    area.addEventListener("pointermove", move);
    area.addEventListener("pointerdown", move);
    area.addEventListener("pointerleave", leave);
  }
}
document.getElementById("written").textContent = " · written " + new Date(document.lastModified).toLocaleString();
