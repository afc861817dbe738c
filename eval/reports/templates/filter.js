// Shows the clips and rows of a section that have the chosen verdict and kind; without it, all are shown.
for (const bar of document.querySelectorAll(".filter")) {
  const items = bar.parentElement.querySelectorAll("[data-answers]");
  const selects = bar.querySelectorAll("select");
  const update = () => {
    let shown = 0;
    for (const item of items) {
      item.hidden = ![...selects].every((one) => !one.value || item.dataset[one.name] === one.value);
      shown += !item.hidden;
    }
    bar.querySelector("output").textContent = `${shown} of ${items.length} shown`;
  };
  for (const one of selects) one.addEventListener("change", update);
  bar.hidden = false;
  update();
}
