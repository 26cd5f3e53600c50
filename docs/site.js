// A table that is wider than its page says that it scrolls, and can be scrolled by keyboard.
function markWideTables() {
  for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap")) {
    const wide = wrap.scrollWidth > wrap.clientWidth + 1;
    wrap.classList.toggle("wide", wide);
    if (wide) {
      wrap.tabIndex = 0;
      wrap.setAttribute("role", "region");
      wrap.setAttribute("aria-label", "Table: scroll sideways for more columns");
    }
  }
}
addEventListener("load", () => {
  // The theme wraps the tables itself, after this script was loaded.
  const observer = new ResizeObserver(markWideTables);
  observer.observe(document.body);
  markWideTables();
});
