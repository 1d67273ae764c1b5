// The new bundle: it says the price after the quote as well.
(function () {
  "use strict";
  var HANDLER_MS = __HANDLER_MS__;
  var page = window.mbpPage;
  var button = document.getElementById("quote");
  var answer = document.getElementById("answer");

  button.addEventListener("click", function () {
    var end = performance.now() + HANDLER_MS[page.config.step % HANDLER_MS.length];
    fetch("/api/v1/quotes", {
      method: "POST",
      headers: {"Content-Type": "application/json", traceparent: page.traceparent()},
      body: JSON.stringify({market: page.config.market, side: "yes", amount: "10"})
    }).then(function (response) {
      return response.json();
    }).then(function (quote) {
      answer.textContent = quote.amount_out ? "you get " + quote.amount_out + ", then YES costs " + quote.price_after : quote.detail;
    }).catch(function (error) {
      answer.textContent = String(error);
    }).finally(function () {
      answer.dataset.done = "1";
    });
    while (performance.now() < end) {} // the work of the handler, of a known length
  });
  button.dataset.hydrated = "candidate";
})();
