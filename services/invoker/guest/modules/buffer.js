// Node's Buffer: the package of that name, with base64url, which it lacks, and with the conversions that matter for
// speed done by the engine instead of byte by byte in JavaScript.
const npm = require('../node_modules/buffer/index.js');

const { Buffer } = npm;
const { encode } = host;
const { decodeAll } = chatfn;
const { from, byteLength, isEncoding } = Buffer;
const { toString, write } = Buffer.prototype;
const { setPrototypeOf } = Object;
const { toBase64, toHex } = Uint8Array.prototype;

// Bundling renames it.
Object.defineProperty(Buffer, 'name', { value: 'Buffer', configurable: true });

const isUtf8 = (encoding) => encoding === undefined || encoding === null || /^utf-?8$/i.test(encoding);
const isUrlSafe = (encoding) => typeof encoding === 'string' && encoding.toLowerCase() === 'base64url';
// The package reads both alphabets as base64.
const known = (encoding) => (isUrlSafe(encoding) ? 'base64' : encoding);

const define = (target, methods) => {
  for (const name of Object.keys(methods)) {
    Object.defineProperty(target, name, { value: methods[name], writable: true, enumerable: true, configurable: true });
  }
};

define(Buffer, {
  from(value, encodingOrOffset, length) {
    if (typeof value !== 'string') return from(value, encodingOrOffset, length);
    if (isUtf8(encodingOrOffset)) return setPrototypeOf(encode(value), Buffer.prototype);
    return from(value, known(encodingOrOffset));
  },

  byteLength(value, encoding) {
    return typeof value === 'string' && isUtf8(encoding) ? encode(value).length : byteLength(value, known(encoding));
  },

  isEncoding(encoding) {
    return isUrlSafe(encoding) || isEncoding(encoding);
  },
});

define(Buffer.prototype, {
  toString(encoding, start, end) {
    if (start === undefined && end === undefined) {
      if (isUtf8(encoding)) return decodeAll(this);
      if (encoding === 'hex') return toHex.call(this);
      if (encoding === 'base64') return toBase64.call(this);
    }
    if (isUrlSafe(encoding)) return toBase64.call(this.subarray(start, end), { alphabet: 'base64url', omitPadding: true });
    return toString.call(this, encoding, start, end);
  },

  write(text, offset, length, encoding) {
    if (isUrlSafe(offset)) return write.call(this, text, 'base64');
    if (isUrlSafe(length)) return write.call(this, text, offset, 'base64');
    return write.call(this, text, offset, length, known(encoding));
  },
});
Buffer.prototype.toLocaleString = Buffer.prototype.toString;

module.exports = {
  Buffer,
  SlowBuffer: npm.SlowBuffer,
  INSPECT_MAX_BYTES: npm.INSPECT_MAX_BYTES,
  kMaxLength: npm.kMaxLength,
  constants: { MAX_LENGTH: npm.kMaxLength, MAX_STRING_LENGTH: 2 ** 30 - 1 },
  Blob: globalThis.Blob,
  atob: globalThis.atob,
  btoa: globalThis.btoa,
};
