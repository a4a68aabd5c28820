// crypto.subtle: digests and HMAC. The rest of the interface exists and says that it is not offered.

// What the standard calls them, with the length of a block, which is that of a generated key.
const ALGORITHMS = {
  'SHA-1': ['sha1', 64],
  'SHA-256': ['sha256', 64],
  'SHA-384': ['sha384', 128],
  'SHA-512': ['sha512', 128],
};

const refuse = (message, name = 'NotSupportedError') => {
  throw new DOMException(message, name);
};

const hashOf = (algorithm) => {
  const name = String(typeof algorithm === 'object' && algorithm !== null ? algorithm.name : algorithm).toUpperCase();
  if (!Object.hasOwn(ALGORITHMS, name)) refuse(`the hash '${name}' is not offered; there are ${Object.keys(ALGORITHMS).join(', ')}`);
  return name;
};

const needHmac = (algorithm, what) => {
  const name = typeof algorithm === 'object' && algorithm !== null ? algorithm.name : algorithm;
  if (String(name).toUpperCase() !== 'HMAC') refuse(`${what}: the algorithm '${name}' is not offered, only HMAC`);
};

const KEY = Symbol('key');

class CryptoKey {
  #bytes;

  constructor(token, bytes, hash, extractable, usages) {
    if (token !== KEY) throw new TypeError('CryptoKey has no public constructor: use crypto.subtle.importKey');
    this.#bytes = bytes;
    this.type = 'secret';
    this.extractable = extractable;
    this.algorithm = { name: 'HMAC', hash: { name: hash }, length: bytes.length * 8 };
    this.usages = usages;
    Object.freeze(this);
  }

  static bytesOf(key, usage) {
    if (!(key instanceof CryptoKey)) throw new TypeError('expected a CryptoKey');
    if (usage !== null && !key.usages.includes(usage)) refuse(`this key is not for '${usage}'`, 'InvalidAccessError');
    return key.#bytes;
  }
}

const { bytesOf } = CryptoKey;
delete CryptoKey.bytesOf;

const makeKey = (bytes, hash, extractable, usages) => {
  const wanted = [...usages];
  if (wanted.length === 0 || wanted.some((usage) => usage !== 'sign' && usage !== 'verify')) {
    refuse("an HMAC key is for 'sign', 'verify' or both", 'SyntaxError');
  }
  return new CryptoKey(KEY, bytes, hash, Boolean(extractable), Object.freeze(wanted));
};

const sign = (key, data, usage) => {
  const bytes = bytesOf(key, usage);
  return chatfn.digest(ALGORITHMS[key.algorithm.hash.name][0], bytes, chatfn.toBytes(data));
};

const equal = (a, b) => {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let at = 0; at < a.length; at++) difference |= a[at] ^ b[at];
  return difference === 0;
};

class SubtleCrypto {
  async digest(algorithm, data) {
    return chatfn.digest(ALGORITHMS[hashOf(algorithm)][0], null, chatfn.toBytes(data)).buffer;
  }

  async importKey(format, data, algorithm, extractable, usages) {
    needHmac(algorithm, 'importKey');
    const hash = hashOf(algorithm.hash);
    if (format === 'raw') return makeKey(chatfn.toBytes(data).slice(), hash, extractable, usages);
    if (format !== 'jwk') refuse(`importKey: the format '${format}' is not offered, only 'raw' and 'jwk'`);
    if (data?.kty !== 'oct' || typeof data.k !== 'string') refuse("a JSON web key for HMAC has kty 'oct' and k", 'DataError');
    return makeKey(Uint8Array.fromBase64(data.k, { alphabet: 'base64url' }), hash, extractable, usages);
  }

  async exportKey(format, key) {
    const bytes = bytesOf(key, null);
    if (!key.extractable) refuse('this key is not extractable', 'InvalidAccessError');
    if (format === 'raw') return bytes.slice().buffer;
    if (format !== 'jwk') refuse(`exportKey: the format '${format}' is not offered, only 'raw' and 'jwk'`);
    const k = bytes.toBase64({ alphabet: 'base64url', omitPadding: true });
    return { kty: 'oct', k, alg: `HS${key.algorithm.hash.name.slice(4)}`, ext: true, key_ops: [...key.usages] };
  }

  async generateKey(algorithm, extractable, usages) {
    chatfn.onlyInRuns('crypto.subtle.generateKey()');
    needHmac(algorithm, 'generateKey');
    const hash = hashOf(algorithm.hash);
    const bytes = new Uint8Array(algorithm.length === undefined ? ALGORITHMS[hash][1] : Math.ceil(algorithm.length / 8));
    chatfn.fillRandom(bytes);
    return makeKey(bytes, hash, extractable, usages);
  }

  async sign(algorithm, key, data) {
    needHmac(algorithm, 'sign');
    return sign(key, data, 'sign').buffer;
  }

  async verify(algorithm, key, signature, data) {
    needHmac(algorithm, 'verify');
    return equal(sign(key, data, 'verify'), chatfn.toBytes(signature));
  }
}

for (const name of ['decrypt', 'deriveBits', 'deriveKey', 'encrypt', 'unwrapKey', 'wrapKey']) {
  Object.defineProperty(SubtleCrypto.prototype, name, {
    value: async () => refuse(`crypto.subtle.${name} is not offered; there are digests and HMAC`),
    writable: true,
    configurable: true,
  });
}

Object.defineProperty(crypto, 'subtle', { value: new SubtleCrypto(), enumerable: true, configurable: true });
chatfn.define('CryptoKey', CryptoKey);
