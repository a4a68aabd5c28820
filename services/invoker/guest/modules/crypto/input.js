// What Node's crypto takes as bytes, and how it complains.
const { Buffer } = require('buffer');

const invalid = (code, message, Kind = TypeError) => Object.assign(new Kind(message), { code });

const toBytes = (value, encoding) => {
  if (typeof value === 'string') return Buffer.from(value, encoding === 'buffer' ? 'utf8' : encoding);
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  throw invalid('ERR_INVALID_ARG_TYPE', 'expected a string, a Buffer, a typed array or an ArrayBuffer');
};

module.exports = { invalid, toBytes };
