// Lines typed into the console of a page in headless Chromium, one after the other. Prints what the console shows, a line each, until
// something wanted is among it:
//   node console.js CHROMIUM PAGE WANTED LINE…
'use strict';
const { chromium } = require('playwright-core');

const [executablePath, address, wanted, ...lines] = process.argv.slice(2);
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
const patience = 15000; // ms

async function main() {
  const browser = await chromium.launch({ executablePath, args, headless: true });
  try {
    const page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage();
    const shown = new Promise((resolve, reject) => {
      page.on('console', message => {
        console.log(message.text());
        if (message.text().includes(wanted)) resolve();
      });
      setTimeout(() => reject(new Error(`the console does not show ${wanted}`)), patience).unref();
    });
    shown.catch(() => {}); // it is awaited below
    await page.goto(address);
    const devtools = await page.context().newCDPSession(page);
    for (const expression of lines) {
      const { exceptionDetails } = await devtools.send('Runtime.evaluate', { expression, replMode: true, awaitPromise: true });
      if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    }
    await shown;
  } finally {
    await browser.close();
  }
}

main().catch(err => {
  console.error(err);
  process.exit(1);
});
