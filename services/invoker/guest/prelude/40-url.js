// URL and URLSearchParams. The host parses, so that a URL means here what it means where it is fetched.

const CALL_URL_PARSE = 1;
const CALL_URL_SET = 2;

const PARTS = ['href', 'origin', 'protocol', 'username', 'password', 'host', 'hostname', 'port', 'pathname', 'search', 'hash'];

// What the host parses at once, in bytes.
const MAX_URL = '64 KiB';
const MAX_URL_BYTES = 64 << 10;
const SHOWN = 100;

const ask = (kind, texts) => {
  const answer = host.call(kind, chatfn.toHostJson(texts));
  return answer === null ? null : JSON.parse(answer);
};

// Whether it is for its length that the host has no answer.
const isTooLong = (texts) => host.encode(chatfn.toHostJson(texts)).length > MAX_URL_BYTES;

const parse = (url, base) => ask(CALL_URL_PARSE, base === undefined ? [url] : [url, base]);

const invalid = (url) => {
  const error = new TypeError(url.length <= SHOWN ? `invalid URL: '${url}'`
    : `invalid URL, or one of more than ${MAX_URL}: '${url.slice(0, SHOWN)}…'`);
  error.code = 'ERR_INVALID_URL';
  return error;
};

const tooLong = () => new TypeError(`a URL has at most ${MAX_URL}`);

const percentDecode = (text) => {
  const spaced = text.replaceAll('+', ' ');
  if (!spaced.includes('%')) return spaced;
  const bytes = host.encode(spaced);
  const decoded = new Uint8Array(bytes.length);
  let length = 0;
  for (let i = 0; i < bytes.length; i++) {
    const hex = bytes[i] === 0x25 ? String.fromCharCode(bytes[i + 1], bytes[i + 2]) : '';
    if (/^[0-9a-fA-F]{2}$/.test(hex)) {
      decoded[length++] = parseInt(hex, 16);
      i += 2;
    } else {
      decoded[length++] = bytes[i];
    }
  }
  return chatfn.decodeUtf8(decoded.subarray(0, length));
};

// application/x-www-form-urlencoded keeps fewer characters than encodeURIComponent does.
const percentEncode = (text) =>
  encodeURIComponent(text.toWellFormed())
    .replace(/[!'()~]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
    .replaceAll('%20', '+');

class URLSearchParams {
  #pairs = [];
  #changed = null;

  constructor(init = '') {
    if (init !== null && typeof init === 'object') {
      const pairs = typeof init[Symbol.iterator] === 'function' ? init : Object.entries(init);
      for (const pair of pairs) {
        const [name, value, ...rest] = pair;
        if (value === undefined || rest.length > 0) throw new TypeError('each pair must have a name and a value');
        this.#pairs.push([String(name), String(value)]);
      }
    } else {
      this.#parse(String(init));
    }
  }

  #parse(text) {
    const query = text.startsWith('?') ? text.slice(1) : text;
    for (const part of query.split('&')) {
      if (part === '') continue;
      const at = part.indexOf('=');
      this.#pairs.push(at < 0 ? [percentDecode(part), ''] : [percentDecode(part.slice(0, at)), percentDecode(part.slice(at + 1))]);
    }
  }

  // The parameters of a URL, which follows what is changed here.
  static follow(text, changed) {
    const params = new URLSearchParams(text);
    params.#changed = changed;
    return params;
  }

  static replace(params, text) {
    params.#pairs = [];
    params.#parse(text);
  }

  #update() {
    this.#changed?.(this.toString());
  }

  get size() {
    return this.#pairs.length;
  }

  append(name, value) {
    this.#pairs.push([String(name), String(value)]);
    this.#update();
  }

  delete(name, value) {
    this.#pairs = this.#pairs.filter((pair) => pair[0] !== String(name) || (value !== undefined && pair[1] !== String(value)));
    this.#update();
  }

  get(name) {
    return this.#pairs.find((pair) => pair[0] === String(name))?.[1] ?? null;
  }

  getAll(name) {
    return this.#pairs.filter((pair) => pair[0] === String(name)).map((pair) => pair[1]);
  }

  has(name, value) {
    return this.#pairs.some((pair) => pair[0] === String(name) && (value === undefined || pair[1] === String(value)));
  }

  set(name, value) {
    const first = this.#pairs.find((pair) => pair[0] === String(name));
    if (first === undefined) {
      this.#pairs.push([String(name), String(value)]);
    } else {
      first[1] = String(value);
      this.#pairs = this.#pairs.filter((pair) => pair === first || pair[0] !== first[0]);
    }
    this.#update();
  }

  sort() {
    this.#pairs.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
    this.#update();
  }

  forEach(callback, self) {
    for (const [name, value] of this) callback.call(self, value, name, this);
  }

  *entries() {
    for (const pair of this.#pairs) yield [...pair];
  }

  *keys() {
    for (const pair of this.#pairs) yield pair[0];
  }

  *values() {
    for (const pair of this.#pairs) yield pair[1];
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  toString() {
    return this.#pairs.map(([name, value]) => `${percentEncode(name)}=${percentEncode(value)}`).join('&');
  }
}

const { follow, replace } = URLSearchParams;
delete URLSearchParams.follow;
delete URLSearchParams.replace;

class URL {
  #parts;
  #params = null;

  constructor(url, base) {
    this.#parts = parse(String(url), base === undefined ? undefined : String(base));
    if (this.#parts === null) throw invalid(String(url));
  }

  static canParse(url, base) {
    return parse(String(url), base === undefined ? undefined : String(base)) !== null;
  }

  static parse(url, base) {
    return URL.canParse(url, base) ? new URL(url, base) : null;
  }

  static {
    for (const [index, part] of PARTS.entries()) {
      const get = function () {
        return this.#parts[index];
      };
      const set = part === 'origin' ? undefined : function (value) {
        this.#set(part, String(value));
      };
      Object.defineProperty(URL.prototype, part, { get, set, enumerable: true, configurable: true });
    }
  }

  #set(part, value) {
    const texts = [this.#parts[0], part, value];
    const parts = ask(CALL_URL_SET, texts);
    if (parts === null) {
      // Setters ignore what they cannot use, except this one. What is too long was not even looked at.
      if (part === 'href') throw invalid(value);
      if (isTooLong(texts)) throw tooLong();
      return;
    }
    this.#parts = parts;
    if (this.#params !== null) replace(this.#params, this.search);
  }

  get searchParams() {
    this.#params ??= follow(this.search, (text) => {
      const parts = ask(CALL_URL_SET, [this.#parts[0], 'search', text]);
      if (parts === null) throw tooLong();
      this.#parts = parts;
    });
    return this.#params;
  }

  toString() {
    return this.href;
  }

  toJSON() {
    return this.href;
  }
}

chatfn.defineAll({ URL, URLSearchParams });
