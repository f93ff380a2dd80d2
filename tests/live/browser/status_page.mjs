// Opens the service's status page, waits until it shows the calls that were made, and prints what it says as JSON.
//
//     node status_page.mjs <base URL> <request id to wait for> <screenshot file> <Chromium>

import { chromium } from "playwright-core";

const [base, requestId, screenshot, executablePath] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
});
const page = await browser.newPage({ viewport: { width: 1100, height: 900 } });
const seen = { errors: [], outside: [] };
page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("request", (request) => new URL(request.url()).origin !== base && seen.outside.push(request.url()));

try {
  await page.goto(`${base}/debug/status`);
  await page.locator("#recent").getByText(requestId).waitFor();
  seen.rows = await page.locator("#recent tr").allInnerTexts();
  for (const id of ["calls", "p50", "hit-rate", "cache", "refused", "breaker"]) {
    seen[id] = await page.locator(`#${id}`).innerText();
  }
  seen.traces = await page.locator("#recent a").evaluateAll((links) => links.map((link) => link.href));
  seen.circuit = await page.locator(".state .on").getAttribute("id");
  await page.screenshot({ path: screenshot });
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
