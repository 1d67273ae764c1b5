// First in the page: who this view is. One W3C trace id goes with every API call of the view and with its beacon.
(function () {
  "use strict";
  var config = JSON.parse(document.getElementById("config").textContent);

  function hex(bytes) {
    return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), function (byte) {
      return byte.toString(16).padStart(2, "0");
    }).join("");
  }

  var trace = hex(16);
  window.mbpPage = {
    config: config,
    trace_id: trace,
    traceparent: function () { return "00-" + trace + "-" + hex(8) + "-01"; }
  };
  window.mbpRum = {
    url: config.rum, page: config.page, env: config.env, view: hex(16), trace_id: trace, bundle: config.bundle,
    step: config.step
  };
})();
