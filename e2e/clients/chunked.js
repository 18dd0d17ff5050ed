// Sends six requests with a body of unknown length, which fetch sends in chunks, one after the other, and prints the status and the
// body of each answer. Arguments: the address and the token.
const [url, token] = process.argv.slice(2);
(async () => {
  for (let n = 1; n <= 6; n++) {
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(`hello ${n}`));
        controller.close();
      },
    });
    const answer = await fetch(url, { method: 'POST', headers: { Authorization: `Bearer ${token}` }, body, duplex: 'half' });
    console.log(answer.status, await answer.text());
  }
})();
