// Opens the service's /docs as a user would, tries /translate, and prints what the page showed as one line of JSON.
//
//     node docs_page.mjs <base URL> <screenshot file> <Chromium>
//
// What the page loads from a CDN is answered from node_modules; nothing else outside of the service is let through.

import { readFile } from "node:fs/promises";
import { dirname, join, basename } from "node:path";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [base, screenshot, executablePath] = process.argv.slice(2);
const swaggerUi = dirname(createRequire(import.meta.url).resolve("swagger-ui-dist/package.json"));
const dot = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+P8fAAMDAQFLejogAAAAAElFTkSuQmCC",
  "base64",
);

const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
});
const page = await browser.newPage({ viewport: { width: 1100, height: 1300 } });
const seen = { errors: [], violations: [], outside: [] };

page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
page.on("pageerror", (error) => seen.errors.push(String(error)));
await page.exposeFunction("onViolation", (violation) => seen.violations.push(violation));
await page.addInitScript(() => {
  document.addEventListener("securitypolicyviolation", (event) =>
    window.onViolation(`${event.violatedDirective} ${event.blockedURI}`),
  );
});
await page.route("**/*", async (route) => {
  const url = new URL(route.request().url());
  if (url.origin === base) return route.continue();
  if (url.href.startsWith("https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/")) {
    const file = basename(url.pathname);
    const contentType = file.endsWith(".css") ? "text/css" : "text/javascript";
    return route.fulfill({ contentType, body: await readFile(join(swaggerUi, file)) });
  }
  if (url.href === "https://fastapi.tiangolo.com/img/favicon.png") {
    return route.fulfill({ contentType: "image/png", body: dot });
  }
  seen.outside.push(url.href);
  return route.abort();
});

try {
  await page.goto(`${base}/docs`);
  const operation = page.locator(".opblock", { has: page.locator('[data-path="/translate"]') });
  await operation.locator(".opblock-summary").click();
  await operation.getByRole("button", { name: "Try it out" }).click();
  await operation.locator("textarea").fill('{"text": "good morning"}');
  await operation.getByRole("button", { name: "Execute" }).click();
  const answer = operation.locator(".live-responses-table .response");
  seen.status = await answer.locator(".response-col_status").innerText();
  seen.answer = await answer.locator(".highlight-code pre, pre.microlight, .highlight-code code").first().innerText();
  await operation.scrollIntoViewIfNeeded();
  await page.screenshot({ path: screenshot });
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
