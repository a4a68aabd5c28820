// Hashes and HMAC. What is given to `update` is collected, and hashed by the host at `digest`.
const { Buffer } = require('buffer');
const { invalid, toBytes } = require('./input');
const { KeyObject } = require('./keys');

// What OpenSSL calls them, too: sha256, SHA-256, RSA-SHA256.
const canonical = (name) => {
  const short = String(name).toLowerCase().replace(/^rsa-/, '').replace(/^sha-/, 'sha');
  if (chatfn.hashes.includes(short)) return short;
  throw invalid('ERR_CRYPTO_INVALID_DIGEST', `Digest method not supported: ${name}; there are ${chatfn.hashes.join(', ')}`, Error);
};

class Digest {
  #algorithm;
  #key;
  #chunks;
  #done = false;

  constructor(algorithm, key, chunks = []) {
    this.#algorithm = algorithm;
    this.#key = key;
    this.#chunks = chunks;
  }

  #check() {
    if (this.#done) throw invalid('ERR_CRYPTO_HASH_FINALIZED', 'Digest already called', Error);
  }

  update(data, encoding) {
    this.#check();
    // A copy, since the caller may go on writing to its buffer.
    this.#chunks.push(typeof data === 'string' ? toBytes(data, encoding) : toBytes(data).slice());
    return this;
  }

  digest(encoding) {
    this.#check();
    this.#done = true;
    const data = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
    this.#chunks = [];
    const digest = Buffer.from(chatfn.digest(this.#algorithm, this.#key, data).buffer);
    return encoding === undefined || encoding === 'buffer' ? digest : digest.toString(encoding);
  }

  copy() {
    this.#check();
    return new Digest(this.#algorithm, this.#key, [...this.#chunks]);
  }
}

const createHash = (algorithm) => new Digest(canonical(algorithm), null);

const createHmac = (algorithm, key) => {
  const bytes = key instanceof KeyObject ? key.export() : toBytes(key);
  return new Digest(canonical(algorithm), bytes.slice());
};

module.exports = {
  createHash,
  createHmac,
  getHashes: () => [...chatfn.hashes],
  hash: (algorithm, data, encoding = 'hex') => createHash(algorithm).update(data).digest(encoding),
};
