// Randomness and hashes, both from the host. Math.random is seeded for each run by shim.c.

const CALL_HASH = 3;

// In step with engine/src/imports/hash.rs.
const HASHES = { md5: 1, sha1: 2, sha224: 3, sha256: 4, sha384: 5, sha512: 6 };
const FIRST = 1;
const LAST = 2;
const KEYED = 4;
const HEADER_BYTES = 6;
// More at once would keep the host busy beyond a deadline.
const PART_BYTES = 1 << 18;
// No hash here has blocks this long, and HMAC replaces keys longer than a block by their hash.
const MAX_KEY_BYTES = 1024;
const MAX_RANDOM_BYTES = 65_536;
const NO_KEY = new Uint8Array(0);

chatfn.hashes = Object.freeze(Object.keys(HASHES));

// The hash of bytes, or their HMAC if there is a key.
chatfn.digest = (algorithm, key, data) => {
  if (key !== null && key.length > MAX_KEY_BYTES) return chatfn.digest(algorithm, chatfn.digest(algorithm, null, key), data);
  let head = key ?? NO_KEY;
  let flags = FIRST | (key === null ? 0 : KEYED);
  for (let at = 0; ; at += PART_BYTES) {
    const part = data.subarray(at, at + PART_BYTES);
    if (at + PART_BYTES >= data.length) flags |= LAST;
    const question = new Uint8Array(HEADER_BYTES + head.length + part.length);
    question[0] = HASHES[algorithm];
    question[1] = flags;
    new DataView(question.buffer).setUint32(2, head.length, true);
    question.set(head, HEADER_BYTES);
    question.set(part, HEADER_BYTES + head.length);
    const answer = host.callBytes(CALL_HASH, question);
    if (flags & LAST) return new Uint8Array(answer);
    head = NO_KEY;
    flags = 0;
  }
};

// Fills a Uint8Array of any length.
chatfn.fillRandom = (bytes) => {
  for (let at = 0; at < bytes.length; at += MAX_RANDOM_BYTES) host.random(bytes.subarray(at, at + MAX_RANDOM_BYTES));
};

const isIntegerView = (view) => ArrayBuffer.isView(view) && !(view instanceof DataView)
  && !(view instanceof Float32Array) && !(view instanceof Float64Array);

class Crypto {
  getRandomValues(view) {
    chatfn.onlyInRuns('crypto.getRandomValues()');
    if (!isIntegerView(view)) throw new DOMException('getRandomValues needs a typed array of integers', 'TypeMismatchError');
    if (view.byteLength > MAX_RANDOM_BYTES) throw new DOMException(`getRandomValues fills at most ${MAX_RANDOM_BYTES} bytes`, 'QuotaExceededError');
    host.random(view);
    return view;
  }

  randomUUID() {
    chatfn.onlyInRuns('crypto.randomUUID()');
    const bytes = new Uint8Array(16);
    host.random(bytes);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = bytes.toHex();
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
  }
}

chatfn.define('crypto', new Crypto());
