// Bodies of requests and responses: always whole, never streamed.

const { Blob, URLSearchParams } = globalThis;

// [bytes or null, content type or null] of what `fetch` takes as a body.
chatfn.extractBody = (body) => {
  if (body === undefined || body === null) return [null, null];
  if (typeof body === 'string') return [host.encode(body), 'text/plain;charset=UTF-8'];
  if (body instanceof URLSearchParams) {
    return [host.encode(body.toString()), 'application/x-www-form-urlencoded;charset=UTF-8'];
  }
  if (body instanceof Blob) return [chatfn.blobBytes(body), body.type === '' ? null : body.type];
  if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) return [chatfn.toBytes(body).slice(), null];
  return [host.encode(String(body)), 'text/plain;charset=UTF-8'];
};

class Body {
  #bytes;
  #used = false;

  constructor(bytes) {
    this.#bytes = bytes;
  }

  get bodyUsed() {
    return this.#used;
  }

  #take() {
    if (this.#used) throw new TypeError('the body was read already');
    this.#used = this.#bytes !== null;
    return this.#bytes ?? new Uint8Array(0);
  }

  // The bytes, for a copy: the body stays readable.
  static peek(body) {
    if (body.#used) throw new TypeError('the body was read already');
    return body.#bytes;
  }

  async text() {
    return chatfn.decodeUtf8(this.#take());
  }

  async json() {
    return JSON.parse(chatfn.decodeUtf8(this.#take()));
  }

  async bytes() {
    return this.#take().slice();
  }

  async arrayBuffer() {
    return this.#take().slice().buffer;
  }

  async blob() {
    return new Blob([this.#take()], { type: this.headers.get('content-type') ?? '' });
  }

  async formData() {
    throw new DOMException('formData() is not offered here: use text(), json() or bytes()', 'NotSupportedError');
  }

  // Libraries look whether there is one, and read the whole body otherwise.
  get body() {
    return null;
  }
}

chatfn.peekBody = Body.peek;
delete Body.peek;
chatfn.Body = Body;
