// What runs in the page: measures INP with web-vitals (loaded before this) and tells the collector once a view.
//
// The page sets `window.mbpRum = {url, page, env, view, trace_id, bundle, step}` first. A view without an interaction
// has no INP and sends nothing. The first value announces the visit; the value at the time the page is hidden is the
// view's, so that what was announced and never told can be counted as lost.
(function () {
  "use strict";
  var config = window.mbpRum;
  var chrome = /Chrom(?:e|ium)\/(\d+)/.exec(navigator.userAgent);
  var facts = {
    view: config.view, page: config.page, env: config.env, trace_id: config.trace_id, bundle: config.bundle,
    step: config.step, agent: chrome ? "chromium " + chrome[1] : "browser"
  };
  var announced = false;
  var sent = false;

  function send(path, more) {
    return navigator.sendBeacon(config.url + path, JSON.stringify(Object.assign({}, facts, more)));
  }

  webVitals.onINP(function (metric) {
    config.inp_ms = Math.round(metric.value);
    announced = announced || send("/visit", {});
  }, {reportAllChanges: true});

  function tell() {
    if (!sent && config.inp_ms !== undefined) {
      sent = send("/beacon", {inp_ms: config.inp_ms});
    }
  }

  // Registered after web-vitals' own, which takes in what is still in its queue when the page is hidden.
  document.addEventListener("visibilitychange", function () {
    if (document.visibilityState === "hidden") {
      tell();
    }
  }, true);
  addEventListener("pagehide", tell, true);
})();
