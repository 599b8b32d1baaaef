"use strict";

// Beside the page and not in it: the page's policy lets no inline script run.
SwaggerUIBundle({
  url: "openapi.json", // relative to the page, wherever the node is mounted
  dom_id: "#docs",
  validatorUrl: "none", // else a badge is asked of a host of others
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
});
