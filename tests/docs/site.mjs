// Opens pages of the built site, and prints what the browser saw of them as one line of JSON.
//
//     node site.mjs <base URL> <folder for screenshots> <Chromium> <page> ...

import { join } from "node:path";
import { chromium } from "playwright-core";

const [base, screenshots, executablePath, ...paths] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 1000 } });
const seen = { errors: [], outside: [], pages: {} };
page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
page.on("pageerror", (error) => seen.errors.push(String(error)));
page.on("request", (request) => new URL(request.url()).origin !== base && seen.outside.push(request.url()));

try {
  for (const path of paths) {
    const answer = await page.goto(`${base}/${path}`);
    await page.screenshot({ path: join(screenshots, `${path.replaceAll("/", "") || "start"}.png`) });
    seen.pages[path] = {
      status: answer.status(),
      title: await page.locator("h1").innerText(),
      diagrams: await page.locator(".diagram svg").evaluateAll((all) => all.map((svg) => svg.getBoundingClientRect())),
      width: await page.evaluate(() => document.documentElement.scrollWidth),
    };
  }
  await page.getByRole("textbox", { name: "Search" }).pressSequentially("circuit breaker");
  await page.locator(".md-search-result__item").first().waitFor({ timeout: 10_000 });
  seen.found = await page.locator(".md-search-result__item").count();
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
