// Hydration is deferred: the page is painted and readable first, its bundle (preloaded) runs when the browser is idle.
(function () {
  "use strict";
  function hydrate() {
    var script = document.createElement("script");
    script.src = window.mbpPage.config.src;
    document.body.appendChild(script);
  }
  var idle = window.requestIdleCallback || function (work) { setTimeout(work, 1); };
  requestAnimationFrame(function () { idle(hydrate, {timeout: 1000}); });
})();
