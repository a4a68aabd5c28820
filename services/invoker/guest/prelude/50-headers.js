// Headers of requests and responses.

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

const checkName = (name) => {
  const text = String(name);
  if (!TOKEN.test(text)) throw new TypeError(`'${text}' is not a header name`);
  return text.toLowerCase();
};

const checkValue = (value) => {
  const text = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, '');
  if (/[\0\r\n]/.test(text) || /[^\0-\xff]/.test(text)) throw new TypeError('a header value holds a character that HTTP forbids');
  return text;
};

class Headers {
  #pairs = []; // [lower-case name, value]

  constructor(init) {
    if (init === undefined || init === null) return;
    const pairs = typeof init[Symbol.iterator] === 'function' ? init : Object.entries(init);
    for (const [name, value] of pairs) this.append(name, value);
  }

  append(name, value) {
    this.#pairs.push([checkName(name), checkValue(value)]);
  }

  set(name, value) {
    const key = checkName(name);
    const text = checkValue(value);
    this.#pairs = this.#pairs.filter((pair) => pair[0] !== key);
    this.#pairs.push([key, text]);
  }

  delete(name) {
    const key = checkName(name);
    this.#pairs = this.#pairs.filter((pair) => pair[0] !== key);
  }

  has(name) {
    const key = checkName(name);
    return this.#pairs.some((pair) => pair[0] === key);
  }

  get(name) {
    const key = checkName(name);
    const values = this.#pairs.filter((pair) => pair[0] === key).map((pair) => pair[1]);
    return values.length === 0 ? null : values.join(', ');
  }

  getSetCookie() {
    return this.#pairs.filter((pair) => pair[0] === 'set-cookie').map((pair) => pair[1]);
  }

  // Sorted and joined by name; cookies stay apart, since they may hold commas.
  *entries() {
    const names = [...new Set(this.#pairs.map((pair) => pair[0]))].sort();
    for (const name of names) {
      if (name === 'set-cookie') for (const cookie of this.getSetCookie()) yield [name, cookie];
      else yield [name, this.get(name)];
    }
  }

  *keys() {
    for (const [name] of this.entries()) yield name;
  }

  *values() {
    for (const [, value] of this.entries()) yield value;
  }

  forEach(callback, self) {
    for (const [name, value] of this.entries()) callback.call(self, value, name, this);
  }

  [Symbol.iterator]() {
    return this.entries();
  }
}

chatfn.define('Headers', Headers);
