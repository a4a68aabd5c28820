// Randomness from the host. Math.random is seeded for each run by shim.c.

const MAX_BYTES = 65_536;

const random = (length) => {
  const bytes = new Uint8Array(length);
  host.random(bytes);
  return bytes;
};

const isIntegerView = (view) => ArrayBuffer.isView(view) && !(view instanceof DataView)
  && !(view instanceof Float32Array) && !(view instanceof Float64Array);

chatfn.define('crypto', {
  getRandomValues(view) {
    chatfn.onlyInRuns('crypto.getRandomValues()');
    if (!isIntegerView(view)) throw new TypeError('getRandomValues needs a typed array of integers');
    if (view.byteLength > MAX_BYTES) throw new DOMException(`getRandomValues fills at most ${MAX_BYTES} bytes`, 'QuotaExceededError');
    host.random(view);
    return view;
  },

  randomUUID() {
    chatfn.onlyInRuns('crypto.randomUUID()');
    const bytes = random(16);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
  },
});
