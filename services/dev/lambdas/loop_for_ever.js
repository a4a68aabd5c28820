// What must not hurt anyone: a lambda that never ends.
async function lambda() {
  console.info('about to loop');
  while (true) {}
}
