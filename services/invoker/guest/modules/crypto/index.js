// Node's crypto, as far as it goes without streams: hashes, HMAC, randomness, comparison.
const { Buffer } = require('buffer');
const { createHash, createHmac, getHashes, hash } = require('./hash');
const keys = require('./keys');
const { invalid, toBytes } = require('./input');

const { crypto } = globalThis;
const MAX_INT_RANGE = 2 ** 48 - 1;
const MAX_BYTES = 2 ** 31 - 1;

const withCallback = (make, callback) => {
  if (callback === undefined) return make();
  const value = make();
  setImmediate(() => callback(null, value));
  return undefined;
};

const randomFillSync = (view, offset = 0, size = view.byteLength - offset) => {
  chatfn.onlyInRuns('crypto.randomFillSync()');
  chatfn.fillRandom(toBytes(view).subarray(offset, offset + size));
  return view;
};

const randomBytes = (size, callback) => {
  chatfn.onlyInRuns('crypto.randomBytes()');
  if (!Number.isInteger(size) || size < 0 || size > MAX_BYTES) throw invalid('ERR_OUT_OF_RANGE', `the size of randomBytes must be 0 to ${MAX_BYTES}`);
  return withCallback(() => {
    const bytes = Buffer.alloc(size);
    chatfn.fillRandom(bytes);
    return bytes;
  }, callback);
};

// A whole number of 48 bits, drawn again until it falls into a multiple of the range, so that all are equally likely.
const drawBelow = (range) => {
  const bytes = Buffer.alloc(6);
  const limit = 2 ** 48 - (2 ** 48 % range);
  for (;;) {
    chatfn.fillRandom(bytes);
    const drawn = bytes.readUIntBE(0, 6);
    if (drawn < limit) return drawn % range;
  }
};

const randomInt = (first, second, third) => {
  chatfn.onlyInRuns('crypto.randomInt()');
  const [min, max, callback] = typeof second === 'number' ? [first, second, third] : [0, first, second];
  if (!Number.isSafeInteger(min) || !Number.isSafeInteger(max) || max <= min || max - min > MAX_INT_RANGE) {
    throw invalid('ERR_OUT_OF_RANGE', `randomInt needs whole numbers, the second above the first by at most ${MAX_INT_RANGE}`);
  }
  return withCallback(() => min + drawBelow(max - min), callback);
};

const timingSafeEqual = (a, b) => {
  const [left, right] = [toBytes(a), toBytes(b)];
  if (left.length !== right.length) {
    throw invalid('ERR_CRYPTO_TIMING_SAFE_EQUAL_LENGTH', 'Input buffers must have the same byte length', RangeError);
  }
  let difference = 0;
  for (let at = 0; at < left.length; at++) difference |= left[at] ^ right[at];
  return difference === 0;
};

const missing = (name, instead) => () => {
  throw invalid('ERR_FEATURE_UNAVAILABLE_ON_PLATFORM', `crypto.${name} is not offered here${instead}`);
};

const ASYMMETRIC = ': use HMAC (HS256, HS384, HS512), or let a service of yours sign and verify';
const NO_CIPHERS = ': let a service of yours encrypt and decrypt';
const NO_DERIVATION = ': derive keys elsewhere, and keep them as secrets';

module.exports = {
  constants: {},
  createHash,
  createHmac,
  createSecretKey: keys.createSecretKey,
  createPrivateKey: keys.createPrivateKey,
  createPublicKey: keys.createPublicKey,
  KeyObject: keys.KeyObject,
  getHashes,
  getRandomValues: (view) => crypto.getRandomValues(view),
  hash,
  randomBytes,
  randomFillSync,
  randomInt,
  randomUUID: () => crypto.randomUUID(),
  subtle: crypto.subtle,
  timingSafeEqual,
  webcrypto: crypto,
  createSign: missing('createSign', ASYMMETRIC),
  createVerify: missing('createVerify', ASYMMETRIC),
  sign: missing('sign', ASYMMETRIC),
  verify: missing('verify', ASYMMETRIC),
  createCipheriv: missing('createCipheriv', NO_CIPHERS),
  createDecipheriv: missing('createDecipheriv', NO_CIPHERS),
  pbkdf2Sync: missing('pbkdf2Sync', NO_DERIVATION),
  scryptSync: missing('scryptSync', NO_DERIVATION),
};
