// Key objects. Secret keys work; keys of a pair are told apart from them, so that whoever is handed one can say why it
// is of no use.
const { Buffer } = require('buffer');
const { invalid, toBytes } = require('./input');

class KeyObject {
  #bytes;

  constructor(type, bytes) {
    this.type = type;
    this.#bytes = bytes;
  }

  get symmetricKeySize() {
    return this.type === 'secret' ? this.#bytes.length : undefined;
  }

  export({ format = 'buffer' } = {}) {
    if (format === 'jwk') return { kty: 'oct', k: this.#bytes.toString('base64url') };
    return Buffer.from(this.#bytes);
  }

  equals(other) {
    return other instanceof KeyObject && this.type === other.type && this.#bytes.equals(other.#bytes);
  }
}

const PEM = /-----BEGIN (?:[A-Z]+ )*(?:PRIVATE KEY|PUBLIC KEY|CERTIFICATE)-----/;

const pairKey = (type, name) => (input) => {
  const key = input?.key ?? input;
  const text = typeof key === 'string' ? key : Buffer.from(toBytes(key)).toString('latin1');
  if (!PEM.test(text)) throw invalid('ERR_INVALID_ARG_VALUE', `crypto.${name} needs a key in PEM format`);
  return new KeyObject(type, Buffer.from(text));
};

module.exports = {
  KeyObject,
  createSecretKey: (key, encoding) => new KeyObject('secret', Buffer.from(toBytes(key, encoding))),
  createPrivateKey: pairKey('private', 'createPrivateKey'),
  createPublicKey: pairKey('public', 'createPublicKey'),
};
