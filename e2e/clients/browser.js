// The page for development in headless Chromium, a page for each kind of token, one after the other. Reports what each shows, as a line of
// JSON:
//   node browser.js CHROMIUM PAGE KIND…     e.g. fresh, fresh/query (sent in the query), short/subprotocol/renewed, expired
'use strict';
const { chromium } = require('playwright-core');

const [executablePath, address, ...kinds] = process.argv.slice(2);
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

// attempt tries a kind of token and gives what waits for the end of the attempt and reports it.
async function attempt(context, name) {
  const page = await context.newPage();
  page.setDefaultTimeout(15000);
  const problems = [];
  page.on('pageerror', err => problems.push(err.message));
  const [kind, sendBy = 'subprotocol', renewed] = name.split('/');
  const state = async (...states) => page.waitForSelector(states.map(s => `#status[data-state=${s}]`).join());
  const shown = id => page.locator('#' + id).innerText();
  const attribute = (id, name) => page.locator('#' + id).getAttribute(name);

  await page.goto(address);
  await page.selectOption('#token-kind', kind);
  await page.selectOption('#send-by', sendBy);
  await page.click('#connect');
  await state('open', 'refused');
  const report = { name, opened: (await attribute('status', 'data-state')) === 'open', protocol: await shown('protocol') };
  if (report.opened) {
    await page.fill('#text', 'hello from Chromium');
    await page.click('#send');
    await page.waitForSelector('#log [data-kind=in]:has-text("hello from Chromium")');
    report.frames = await page.locator('#log [data-kind=in] span').allInnerTexts();
    if (kind !== 'short') await page.click('#disconnect');
    if (renewed) {
      await page.click('#renew');
      await page.waitForSelector('#renewal[data-status]');
      report.renewed = await attribute('renewal', 'data-status');
    }
  }
  return async () => {
    if (renewed) await page.click('#disconnect'); // where it is still open
    if (report.opened) await state('closed');
    report.code = await shown('close-code');
    report.meaning = await shown('close-reason');
    report.status = await attribute('refusal', 'data-status');
    report.reason = await attribute('refusal', 'data-reason');
    report.refusal = await shown('refusal');
    await page.click('#fetch');
    await page.waitForSelector('#answer[data-status]');
    report.answered = await attribute('answer', 'data-status');
    report.answer = await shown('answer');
    report.problems = problems;
    console.log(JSON.stringify(report));
  };
}

async function main() {
  const browser = await chromium.launch({ executablePath, args, headless: true }); // in a directory of its own, which is removed
  try {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const ends = [];
    for (const kind of kinds) ends.push(await attempt(context, kind));
    for (const end of ends.reverse()) await end(); // what has begun first is looked at last
  } finally {
    await browser.close();
  }
}

main().catch(err => {
  console.error(err);
  process.exit(1);
});
