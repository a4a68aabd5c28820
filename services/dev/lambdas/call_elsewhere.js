// Calls a host that the function's settings do not allow.
async function lambda() {
  await fetch('https://elsewhere.example.org/collect', { method: 'POST', body: 'data' });
}
