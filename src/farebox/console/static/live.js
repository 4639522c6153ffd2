// Keeps the page honest while it refreshes itself: no asking while nobody looks, and a clear word
// when the figures are no longer live. htmx does the asking (organization.html).
"use strict";

(() => {
  const page = document.documentElement;
  const live = document.getElementById("live");
  if (!live || !window.htmx) return;

  document.addEventListener("htmx:before:request", (event) => {
    if (document.hidden) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) live.dispatchEvent(new Event("seen"));
  });
  // An error page must not replace the figures: they stay, and say how old they are.
  document.addEventListener("htmx:before:response", (event) => {
    const response = event.detail.ctx.response;
    if (response.status >= 400 && !response.headers.has("hx-redirect")) {
      event.preventDefault();
      page.dataset.live = "lost";
    }
  });
  document.addEventListener("htmx:error", () => {
    page.dataset.live = "lost";
  });
  document.addEventListener("htmx:after:swap", () => {
    page.dataset.live = "live";
  });
  page.dataset.live = "live";
})();
